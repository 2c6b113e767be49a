"""Lifecycle policies by the ECR API: kept, shown beforehand, and carried out.

A preview is what the policy would take at this moment; it is made when it is asked for and kept with the repository. Policies
are carried out by the server, an hour after the last time (:func:`carry_out`), and by ``bayplan registry gc``.
"""

from __future__ import annotations

import json
import time

from bayplan.oci.digest import Digest
from bayplan.registry import retention
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.model import Repository
from bayplan.registry.registry import Registry

_POLICY, _EVALUATED, _PREVIEW = "lifecycle", "lifecycle-evaluated", "lifecycle-preview"


def _kept(registry: Registry, name: str) -> list[retention.Kept]:
    tags: dict[str, list[str]] = {}
    for tag in registry.tags(name):
        tags.setdefault(tag.digest, []).append(tag.name)
    return [
        retention.Kept(
            str(row.digest),
            tuple(tags.get(row.digest, ())),
            row.pushed,
            frozenset(registry.parents(name, row.digest)),
        )
        for row in registry.manifests(name)
        if row.subject is None  # what refers to an image goes with it
    ]


def carry_out(registry: Registry, name: str, now: float | None = None) -> list[tuple[str, int]]:
    """Expire what the policy of a repository takes; (digest, priority of the rule) of what went."""
    one = registry.describe(name)
    text = registry.document(one.uid, _POLICY)
    if text is None:
        return []
    moment = time.time() if now is None else now
    gone = [(image.digest, priority) for image, priority in _taken(registry, name, text, moment)]
    for digest, _ in gone:
        for row in registry.referrers(name, Digest.parse(digest)):
            registry.delete_manifest(name, row.digest)
        registry.delete_manifest(name, Digest.parse(digest))
    registry.set_document(one.uid, _EVALUATED, repr(moment))
    return gone


def _taken(registry: Registry, name: str, text: str, now: float) -> list[tuple[retention.Kept, int]]:
    return retention.expiring(retention.parse(text), _kept(registry, name), now)


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
            "action": {"type": "EXPIRE"},
            "appliedRulePriority": priority,
            **({"imageTags": list(image.tags)} if image.tags else {}),
        }
        for image, priority in _taken(call.registry, one.name, text, call.now)
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
        "summary": {"expiringImageTotalCount": len(preview["results"])},
        **more,
    }
