"""Lifecycle policies by the ECR API: kept, shown beforehand, and carried out.

A preview is what the policy would take at this moment; it is made when it is asked for and kept with the repository. Policies
are carried out by the server, an hour after the last time (:func:`carry_out`), and by ``bayplan registry gc``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from bayplan.oci.digest import Digest
from bayplan.registry import retention, storage_class
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.model import Repository
from bayplan.registry.registry import Registry

_POLICY, _EVALUATED, _PREVIEW = "lifecycle", "lifecycle-evaluated", "lifecycle-preview"


def _kept(registry: Registry, name: str, uid: str) -> list[retention.Kept]:
    tags: dict[str, list[str]] = {}
    for tag in registry.tags(name):
        tags.setdefault(tag.digest, []).append(tag.name)
    states = storage_class.states(registry, uid)
    return [
        retention.Kept(
            str(row.digest),
            tuple(tags.get(row.digest, ())),
            row.pushed,
            frozenset(registry.parents(name, row.digest)),
            states[row.digest].archived if row.digest in states and states[row.digest].is_archived else None,
            states[row.digest].activated if row.digest in states else None,
            row.pulled,
        )
        for row in registry.manifests(name)
        if row.subject is None  # what refers to an image goes with it
    ]


def carry_out(
    registry: Registry, name: str, now: float | None = None, in_use: Callable[[], AbstractSet[Digest]] | None = None
) -> list[tuple[retention.Kept, retention.Rule]]:
    """Expire and archive what the policy of a repository takes; what it took. ``in_use``: digests of images that stay, because
    a container runs from them."""
    one = registry.describe(name)
    text = registry.document(one.uid, _POLICY)
    if text is None:
        return []
    moment = time.time() if now is None else now
    gone = _taken(registry, one, text, moment)
    kept = set(in_use()) if gone and in_use is not None else set()
    kept |= {Digest.parse(parent) for digest in tuple(kept) for parent in registry.parents(name, digest)}
    gone = [(image, rule) for image, rule in gone if rule.transition or image.digest not in kept]
    for image, rule in gone:
        digest = Digest.parse(image.digest)
        if rule.transition:
            storage_class.move(registry, one.uid, digest, storage_class.ARCHIVE, moment)
            continue
        for row in registry.referrers(name, digest):
            registry.delete_manifest(name, row.digest)
        registry.delete_manifest(name, digest)
    registry.set_document(one.uid, _EVALUATED, repr(moment))
    return gone


def _taken(registry: Registry, one: Repository, text: str, now: float) -> list[tuple[retention.Kept, retention.Rule]]:
    return retention.taken(retention.parse(text), _kept(registry, one.name, one.uid), now)


def _checked(text: str) -> str:
    try:
        retention.parse(text)
    except retention.RetentionError as error:
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at 'LifecyclePolicyText' failed to satisfy constraint: 'Lifecycle policy validation "
            f"failure: {error}'",
        ) from None
    return text


def _policy(call: Call, one: Repository) -> str:
    text = call.registry.document(one.uid, _POLICY)
    if text is None:
        raise EcrError(
            "LifecyclePolicyNotFoundException",
            f"Lifecycle policy does not exist for the repository with name '{one.name}' in the registry with id "
            f"'{call.account.number}'",
        )
    return text


def _named(call: Call, one: Repository, text: str) -> Body:
    return {"registryId": call.account.number, "repositoryName": one.name, "lifecyclePolicyText": text}


def _evaluated(call: Call, one: Repository) -> Body:
    when = call.registry.document(one.uid, _EVALUATED)
    return {} if when is None else {"lastEvaluatedAt": float(when)}


@operation("PutLifecyclePolicy")
def put_lifecycle_policy(call: Call) -> Body:
    one = call.repository()
    text = _checked(str(call.get("lifecyclePolicyText")))
    call.registry.set_document(one.uid, _POLICY, text)
    return _named(call, one, text)


@operation("GetLifecyclePolicy")
def get_lifecycle_policy(call: Call) -> Body:
    one = call.repository()
    return {**_named(call, one, _policy(call, one)), **_evaluated(call, one)}


@operation("DeleteLifecyclePolicy")
def delete_lifecycle_policy(call: Call) -> Body:
    one = call.repository()
    text = _policy(call, one)
    found = {**_named(call, one, text), **_evaluated(call, one)}
    call.registry.set_document(one.uid, _POLICY, None)
    return found


@operation("StartLifecyclePolicyPreview")
def start_lifecycle_policy_preview(call: Call) -> Body:
    one = call.repository()
    given = call.get("lifecyclePolicyText")
    text = _checked(str(given)) if given is not None else _policy(call, one)
    results = [
        {
            "imageDigest": image.digest,
            "imagePushedAt": image.pushed,
            "action": {"type": "TRANSITION", "targetStorageClass": "ARCHIVE"}
            if rule.transition
            else {"type": "EXPIRE"},
            "appliedRulePriority": rule.priority,
            "storageClass": "STANDARD" if image.archived is None else "ARCHIVE",
            **({"imageTags": list(image.tags)} if image.tags else {}),
        }
        for image, rule in _taken(call.registry, one, text, call.now)
    ]
    call.registry.set_document(one.uid, _PREVIEW, json.dumps({"policy": text, "results": results}))
    return {**_named(call, one, text), "status": "IN_PROGRESS"}


@operation("GetLifecyclePolicyPreview")
def get_lifecycle_policy_preview(call: Call) -> Body:
    one = call.repository()
    kept = call.registry.document(one.uid, _PREVIEW)
    if kept is None:
        raise EcrError(
            "LifecyclePolicyPreviewNotFoundException",
            f"Lifecycle policy preview does not exist for the repository with name '{one.name}' in the registry with id "
            f"'{call.account.number}'",
        )
    preview = json.loads(kept)
    status = (call.get("filter") or {}).get("tagStatus", "ANY")
    wanted = {(image.get("imageDigest"), image.get("imageTag")) for image in call.get("imageIds") or ()}
    found = [
        result
        for result in preview["results"]
        if (status == "ANY" or (status == "TAGGED") == ("imageTags" in result))
        and (
            not wanted
            or (result["imageDigest"], None) in wanted
            or any(
                (None, tag) in wanted or (result["imageDigest"], tag) in wanted for tag in result.get("imageTags", ())
            )
        )
    ]
    page, more = call.page(found)
    return {
        **_named(call, one, preview["policy"]),
        "status": "COMPLETE",
        "previewResults": page,
        "summary": _summary(preview["results"]),
        **more,
    }


def _summary(results: list[Body]) -> Body:
    moving = sum(one["action"]["type"] == "TRANSITION" for one in results)
    found: Body = {"expiringImageTotalCount": len(results) - moving}
    if moving:
        found["transitioningImageTotalCounts"] = [{"targetStorageClass": "ARCHIVE", "imageTotalCount": moving}]
    return found
