"""Requests of the distribution API by their paths: which endpoint each is for, what it asks of policies, of which scope a token is.

The words are those of the specification ("Endpoints"), of ECR's actions, and of distribution's token specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bayplan.registry.access.model import Principal
from bayplan.registry.exchange import Request
from bayplan.registry.faults import Fault, RegistryError

PATHS = tuple(
    (re.compile(pattern), endpoint)
    for pattern, endpoint in (
        (r"/v2/?", "root"),
        (r"/v2/_catalog", "catalog"),
        (r"/v2/(?P<name>.+)/tags/list", "tags"),
        (r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)", "manifest"),
        (r"/v2/(?P<name>.+)/blobs/uploads/?", "uploads"),
        (r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[^/]+)", "upload"),
        (r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)", "blob"),
        (r"/v2/(?P<name>.+)/referrers/(?P<digest>[^/]+)", "referrers"),
    )
)
_NAME = re.compile(r"[a-z0-9._/-]{1,255}")
#: What a policy allows or denies, by method and endpoint, as ECR asks for it behind its own registry.
_ACTIONS = {
    ("GET", "tags"): "ecr:ListImages",
    ("GET", "referrers"): "ecr:BatchGetImage",
    ("GET", "manifest"): "ecr:BatchGetImage",
    ("PUT", "manifest"): "ecr:PutImage",
    ("DELETE", "manifest"): "ecr:BatchDeleteImage",
    ("GET", "blob"): "ecr:GetDownloadUrlForLayer",
    ("HEAD", "blob"): "ecr:BatchCheckLayerAvailability",
    ("DELETE", "blob"): "ecr:BatchDeleteImage",
    ("POST", "uploads"): "ecr:InitiateLayerUpload",
    ("GET", "upload"): "ecr:UploadLayerPart",
    ("PATCH", "upload"): "ecr:UploadLayerPart",
    ("PUT", "upload"): "ecr:CompleteLayerUpload",
    ("DELETE", "upload"): "ecr:CompleteLayerUpload",
}

#: What a bearer token must be for, by the action that a policy is asked for (distribution's token specification).
_SCOPES = {
    "ecr:DescribeRepositories": "*",
    "ecr:ListImages": "pull",
    "ecr:BatchGetImage": "pull",
    "ecr:GetDownloadUrlForLayer": "pull",
    "ecr:BatchCheckLayerAvailability": "pull",
    "ecr:BatchDeleteImage": "delete",
}
CATALOG = "_catalog"


def action_of(method: str, endpoint: str) -> str:
    """What a policy allows or denies of a request."""
    read = "GET" if method == "HEAD" and endpoint != "blob" else method
    return _ACTIONS.get((read, endpoint), "ecr:DescribeRepositories")


def parameters_of(named: Mapping[str, str]) -> dict[str, Any]:
    """A request in the words of ECR's API, for the audit trail."""
    found: dict[str, Any] = {"repositoryName": named["name"]} if "name" in named else {}
    reference = named.get("reference")
    if reference is not None:
        found["imageId"] = {"imageDigest" if ":" in reference else "imageTag": reference}
    for name, key in (("digest", "layerDigest"), ("upload", "uploadId")):
        if named.get(name):
            found[key] = named[name]
    return found


def within_scope(principal: Principal, action: str, name: str | None) -> None:
    """Raises RegistryError ``unauthorized`` where the caller's bearer token is for something else."""
    if principal.scopes is not None and (name or CATALOG, _SCOPES.get(action, "push")) not in principal.scopes:
        raise RegistryError(
            Fault.UNAUTHORIZED, "the token is not for this", hint="fetch one for the scope that is named"
        )


def scope_of(request: Request) -> str:
    """The scope that a client is to ask a bearer token for, to make this request; empty where none is needed."""
    for pattern, endpoint in PATHS:
        match = pattern.fullmatch(request.path)
        if match is None:
            continue
        if endpoint == "catalog":
            return "registry:catalog:*"
        name = match.groupdict().get("name")
        if name is None:
            return ""
        method = "GET" if request.method == "HEAD" and endpoint != "blob" else request.method
        kind = _SCOPES.get(_ACTIONS.get((method, endpoint), ""), "push")
        scopes = [f"repository:{name}:{'pull,push' if kind == 'push' else kind}"] if _NAME.fullmatch(name) else []
        source = request.parameters().get("from", [""])[-1] if endpoint == "uploads" else ""
        if _NAME.fullmatch(source):
            scopes.append(f"repository:{source}:pull")
        return " ".join(scopes)
    return ""
