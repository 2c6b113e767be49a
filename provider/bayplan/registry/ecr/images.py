"""Images by the ECR API: put, got, listed, described, deleted, and what refers to one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.registry import contents, storage_class
from bayplan.registry.ecr.errors import EcrError, no_image
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Repository, StoredManifest
from bayplan.registry.rules import note_pull
from bayplan.registry.scanning import scanner as scans

_NO_IMAGE = frozenset({Fault.MANIFEST_UNKNOWN, Fault.TAG_UNKNOWN})


def _image(call: Call, one: Repository, row: StoredManifest, content: bytes, tag: str | None) -> Body:
    return {
        "registryId": call.account.number,
        "repositoryName": one.name,
        "imageId": {"imageDigest": str(row.digest), **({"imageTag": tag} if tag else {})},
        "imageManifest": content.decode("utf-8", "replace"),
        "imageManifestMediaType": row.media_type,
    }


@operation("PutImage")
def put_image(call: Call) -> Body:
    one = call.repository()
    content = str(call.get("imageManifest")).encode()
    digest, tag = Digest.of(content), call.get("imageTag")
    claimed = call.get("imageDigest")
    if claimed is not None and claimed != digest:
        raise EcrError(
            "ImageDigestDoesNotMatchException",
            f"The image digest '{claimed}' does not match the digest of the image manifest, '{digest}'",
        )
    try:
        parsed = contents.read(content, str(call.get("imageManifestMediaType", "")))
    except RegistryError as error:
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at 'ImageManifest' failed to satisfy constraint: '{error.message}'",
        ) from None
    _refuse_known(call, one, digest, tag)
    try:
        call.registry.put_manifest(one.name, tag or str(digest), content, str(call.get("imageManifestMediaType", "")))
    except RegistryError as error:
        if error.fault is not Fault.MANIFEST_BLOB_UNKNOWN:
            raise
        raise _missing(call, one, parsed) from None
    row = call.registry.resolve(one.name, str(digest))
    return {"image": _image(call, one, row, content, tag)}


def _refuse_known(call: Call, one: Repository, digest: Digest, tag: str | None) -> None:
    """An image that is there already under this tag, or at all where no tag is asked for, is told as such."""
    try:
        there = call.registry.resolve(one.name, tag or str(digest)).digest
    except RegistryError as error:
        if error.fault not in _NO_IMAGE:
            raise
        return
    if there == digest:
        named = f" and tag '{tag}'" if tag else ""
        raise EcrError(
            "ImageAlreadyExistsException",
            f"Image with digest '{digest}'{named} already exists in the repository with name '{one.name}' in registry with "
            f"id '{call.account.number}'",
        )


def _missing(call: Call, one: Repository, parsed: contents.Contents) -> EcrError:
    def absent(children: Iterable[contents.Child], known: Any) -> list[str]:
        found = []
        for child in children:
            try:
                known(one.name, child.digest)
            except RegistryError:
                found.append(f"'{child.digest}'")
        return found

    layers = absent(parsed.blobs, call.registry.blob)
    where = f"the repository with name '{one.name}' in the registry with id '{call.account.number}'"
    if layers:
        return EcrError(
            "LayersNotFoundException", f"The layers with digests {', '.join(layers)} do not exist in {where}"
        )
    images = absent(parsed.manifests, lambda name, digest: call.registry.resolve(name, str(digest)))
    return EcrError(
        "ReferencedImagesNotFoundException", f"The images with digests {', '.join(images)} do not exist in {where}"
    )


# -- by id ---------------------------------------------------------------------------------------------------------


def _failure(image: Mapping[str, str], code: str, reason: str) -> Body:
    return {"imageId": dict(image), "failureCode": code, "failureReason": reason}


def _wrong(image: Mapping[str, str]) -> Body | None:
    """What is wrong with an image's id by itself."""
    if not image.get("imageDigest") and not image.get("imageTag"):
        return _failure(image, "MissingDigestAndTag", "Invalid request parameters: both tag and digest cannot be null")
    digest = image.get("imageDigest")
    if digest is not None:
        try:
            Digest.parse(digest)
        except BayplanError as error:
            return _failure(image, "InvalidImageDigest", f"Invalid request parameters: {error}")
    return None


def _found(call: Call, one: Repository, image: Mapping[str, str]) -> StoredManifest | Body:
    """The manifest that an id means, or the failure to find it."""
    wrong = _wrong(image)
    if wrong is not None:
        return wrong
    digest, tag = image.get("imageDigest"), image.get("imageTag")
    try:
        row = call.registry.resolve(one.name, str(tag or digest))
    except RegistryError as error:
        if error.fault not in _NO_IMAGE:
            raise
        return _failure(image, "ImageNotFound", "Requested image not found")
    if digest and row.digest != digest:
        return _failure(image, "ImageTagDoesNotMatchDigest", f"the tag '{tag}' means '{row.digest}'")
    return row


def required_image(call: Call, one: Repository, image: Mapping[str, str]) -> StoredManifest:
    """The manifest that an id means. Raises EcrError ``InvalidParameterException``, ``ImageNotFoundException``."""
    row = _found(call, one, image)
    if isinstance(row, dict):
        if row["failureCode"] in ("MissingDigestAndTag", "InvalidImageDigest"):
            raise EcrError("InvalidParameterException", row["failureReason"])
        shown = ", ".join(f"{name}:'{value}'" for name, value in sorted(image.items()))
        raise no_image(one.name, call.account.number, shown)
    return row


@operation("BatchGetImage")
def batch_get_image(call: Call) -> Body:
    one = call.repository()
    accepted = call.get("acceptedMediaTypes")
    images: list[Body] = []
    failures: list[Body] = []
    for image in call.get("imageIds"):
        row = _found(call, one, image)
        if isinstance(row, dict):
            failures.append(row)
            continue
        if accepted and row.media_type not in accepted:
            failures.append(_failure(image, "ImageNotFound", "the image has none of the accepted media types"))
            continue
        if storage_class.state(call.registry, one.name, row.digest).is_archived:
            failures.append(_failure(image, "ImageInaccessible", "the image is archived"))
            continue
        _, content = call.registry.manifest(one.name, str(row.digest))
        note_pull(call.registry, one.name, row, call.principal)
        images.append(_image(call, one, row, content, image.get("imageTag")))
    return {"images": images, "failures": failures}


@operation("BatchDeleteImage")
def batch_delete_image(call: Call) -> Body:
    one = call.repository()
    gone: list[Body] = []
    failures: list[Body] = []
    for image in call.get("imageIds"):
        row = _found(call, one, image)
        if isinstance(row, dict):
            failures.append(row)
            continue
        tags = [tag.name for tag in call.registry.tags(one.name) if tag.digest == row.digest]
        tag = image.get("imageTag")
        if tag is not None and len(tags) > 1:
            call.registry.delete_tag(one.name, tag)
            gone.append({"imageDigest": str(row.digest), "imageTag": tag})
            continue
        parents = call.registry.parents(one.name, row.digest)
        if parents:
            reason = f"Requested image referenced by manifest list: [{', '.join(parents)}]"
            failures.append(_failure(image, "ImageReferencedByManifestList", reason))
            continue
        call.registry.delete_manifest(one.name, row.digest)
        gone += [{"imageDigest": str(row.digest), "imageTag": name} for name in tags] or [
            {"imageDigest": str(row.digest)}
        ]
    return {"imageIds": gone, "failures": failures}


# -- lists ---------------------------------------------------------------------------------------------------------


def _by_digest(call: Call, one: Repository) -> dict[Digest, list[str]]:
    tags: dict[Digest, list[str]] = {}
    for tag in call.registry.tags(one.name):
        tags.setdefault(tag.digest, []).append(tag.name)
    return tags


def _wanted(call: Call, tagged: bool) -> bool:
    status = (call.get("filter") or {}).get("tagStatus", "ANY")
    return bool(status == "ANY" or (status == "TAGGED") == tagged)


@operation("ListImages")
def list_images(call: Call) -> Body:
    one = call.repository()
    tags, states = _by_digest(call, one), storage_class.states(call.registry, one.uid)
    found: list[Body] = []
    for row in call.registry.manifests(one.name):
        named = tags.get(row.digest, [])
        if _wanted(call, bool(named)) and _of_status(call, row, states):
            found += [{"imageDigest": str(row.digest), "imageTag": tag} for tag in named] or [
                {"imageDigest": str(row.digest)}
            ]
    page, more = call.page(found)
    return {"imageIds": page, **more}


@operation("DescribeImages")
def describe_images(call: Call) -> Body:
    one = call.repository()
    tags, sizes = _by_digest(call, one), call.registry.sizes(one.name)
    states = storage_class.states(call.registry, one.uid)
    ids = call.get("imageIds")
    if ids is not None:
        rows: dict[Digest, StoredManifest] = {}
        for image in ids:
            row = required_image(call, one, image)
            rows[row.digest] = row
        return {"imageDetails": [_detail(call, one, row, tags, sizes, states) for row in rows.values()]}
    found = [
        row
        for row in call.registry.manifests(one.name)
        if _wanted(call, row.digest in tags) and _of_status(call, row, states)
    ]
    page, more = call.page(found)
    return {"imageDetails": [_detail(call, one, row, tags, sizes, states) for row in page], **more}


def _of_status(call: Call, row: StoredManifest, states: Mapping[str, storage_class.State]) -> bool:
    """Whether the call's filter wants an image in this storage class; by itself it wants those that can be pulled."""
    status = (call.get("filter") or {}).get("imageStatus", "ACTIVE")
    archived = row.digest in states and states[row.digest].is_archived
    return bool(status == "ANY" or (status == "ARCHIVED") == archived)


def _detail(
    call: Call,
    one: Repository,
    row: StoredManifest,
    tags: Mapping[Digest, list[str]],
    sizes: Mapping[str, int],
    states: Mapping[str, storage_class.State],
) -> Body:
    storage = states.get(row.digest, storage_class.State())
    found: Body = {
        "registryId": call.account.number,
        "repositoryName": one.name,
        "imageDigest": str(row.digest),
        "imageSizeInBytes": sizes.get(row.digest, 0),
        "imagePushedAt": row.pushed,
        "imageManifestMediaType": row.media_type,
        "imageStatus": "ARCHIVED" if storage.is_archived else "ACTIVE",
    }
    if storage.archived is not None:
        found["lastArchivedAt"] = storage.archived
    if storage.activated is not None:
        found["lastActivatedAt"] = storage.activated
    if row.digest in tags:
        found["imageTags"] = tags[row.digest]
    if row.config_type or row.artifact_type:
        found["artifactMediaType"] = row.config_type or row.artifact_type
    if row.pulled is not None:
        found["lastRecordedPullTime"] = row.pulled
    scan = scans.kept(call.registry, one.uid, row.digest)
    if scan is not None:
        found["imageScanStatus"] = {name: scan[name] for name in ("status", "description") if scan.get(name)}
        if scan["status"] == "COMPLETE":
            found["imageScanFindingsSummary"] = {
                "imageScanCompletedAt": scan["completed"],
                "vulnerabilitySourceUpdatedAt": scan["source"],
                "findingSeverityCounts": scan["counts"],
            }
    if row.subject is not None:
        found["subjectManifestDigest"] = str(row.subject)
    return found


@operation("ListImageReferrers")
def list_image_referrers(call: Call) -> Body:
    one = call.repository()
    subject = str(call.get("subjectId")["imageDigest"])
    try:
        digest = Digest.parse(subject)
    except BayplanError as error:
        raise EcrError("InvalidParameterException", f"Invalid parameter at 'subjectId.imageDigest': {error}") from None
    kinds = (call.get("filter") or {}).get("artifactTypes") or []
    rows = [row for row in call.registry.referrers(one.name, digest) if not kinds or row.artifact_type in kinds]
    page, more = call.page(rows, 50)
    found = [
        {
            "digest": str(row.digest),
            "mediaType": row.media_type,
            "size": row.size,
            "artifactStatus": "ACTIVE",
            **({"artifactType": row.artifact_type} if row.artifact_type else {}),
            **({"annotations": json.loads(json.dumps(dict(row.annotations)))} if row.annotations else {}),
        }
        for row in page
    ]
    return {"referrers": found, **more}
