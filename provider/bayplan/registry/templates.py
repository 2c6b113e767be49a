"""Repository creation templates: what a repository is like that a push, a pull through or a replication makes.

A template is for the names below its prefix (``team`` is for ``team/app``), ``ROOT`` for all; the longest prefix counts. It stands
in the words of ECR's API (RepositoryCreationTemplate) as a document of the registry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from bayplan.registry.access.authorizer import REPOSITORY_POLICY
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Repository, TagMutability
from bayplan.registry.registry import Registry

PREFIX = "creation-template/"
LIFECYCLE = "lifecycle"
ROOT = "ROOT"
_DETAILS = ("encryptionConfiguration", "imageTagMutabilityExclusionFilters")


class Purpose(StrEnum):
    """What a template is applied for (``appliedFor``)."""

    PUSH = "CREATE_ON_PUSH"
    PULL_THROUGH = "PULL_THROUGH_CACHE"
    REPLICATION = "REPLICATION"


def covers(prefix: str, name: str) -> bool:
    """Whether a prefix of ECR's (rules of the cache, templates) is for the repository ``name``."""
    return prefix == ROOT or name.startswith(prefix.rstrip("/") + "/")


def find(registry: Registry, name: str, purpose: Purpose) -> Mapping[str, Any] | None:
    """The template for a repository, or None."""
    found: list[tuple[int, Mapping[str, Any]]] = []
    for key, text in registry.documents("", PREFIX):
        prefix = key.removeprefix(PREFIX)
        if covers(prefix, name):
            template = json.loads(text)
            if purpose in template.get("appliedFor", ()):
                found.append((0 if prefix == ROOT else len(prefix), template))
    return max(found, key=lambda one: one[0])[1] if found else None


def make(registry: Registry, name: str, template: Mapping[str, Any]) -> Repository:
    """The repository ``name``, made as the template says where there is none yet, its policies with it or not at all."""
    documents = {REPOSITORY_POLICY: template.get("repositoryPolicy"), LIFECYCLE: template.get("lifecyclePolicy")}
    try:
        return registry.create_repository(
            name,
            mutability=TagMutability(template.get("imageTagMutability", "MUTABLE")),
            tags={one["Key"]: one["Value"] for one in template.get("resourceTags", ())},
            details={key: template[key] for key in _DETAILS if template.get(key)},
            documents={key: text for key, text in documents.items() if text},
        )
    except RegistryError as error:
        if error.fault is not Fault.NAME_EXISTS:
            raise
        return registry.describe(name)  # somebody else was first
