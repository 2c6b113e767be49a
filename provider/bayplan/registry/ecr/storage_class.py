"""Storage classes of images by the ECR API; :mod:`bayplan.registry.storage_class` keeps them."""

from __future__ import annotations

from bayplan.registry import storage_class
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.images import required_image
from bayplan.registry.ecr.operations import Body, Call, operation


@operation("UpdateImageStorageClass")
def update_image_storage_class(call: Call) -> Body:
    """An image comes out of the archive at once here, so that ``ACTIVATING`` is never seen."""
    one = call.repository()
    row = required_image(call, one, call.get("imageId"))
    target = str(call.get("targetStorageClass"))
    if target == storage_class.ARCHIVE:
        states = storage_class.states(call.registry, one.uid)
        holding = [
            parent for parent in call.registry.parents(one.name, row.digest)
            if not (parent in states and states[parent].is_archived)
        ]  # fmt: skip
        if row.subject is not None or holding:
            why = "it goes with its subject" if row.subject is not None else f"the index {holding[0]} names it"
            raise EcrError(
                "ImageStorageClassUpdateNotSupportedException",
                f"the image {row.digest} cannot be archived by itself: {why}",
            )
    after = storage_class.move(call.registry, one.uid, str(row.digest), target, call.now)
    return {
        "registryId": call.account.number,
        "repositoryName": one.name,
        "imageId": {**call.get("imageId"), "imageDigest": str(row.digest)},
        "imageStatus": "ARCHIVED" if after.is_archived else "ACTIVE",
    }
