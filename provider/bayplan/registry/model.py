"""The registry's words as data, and the grammar of its names.

Names follow the OCI distribution specification ("Pulling manifests"); lengths and mutability follow Amazon ECR's API
(CreateRepository), because repositories carry ECR's property names in stack files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any

from bayplan.oci.digest import Digest
from bayplan.records import dataclass, field
from bayplan.registry.faults import Fault, RegistryError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
LONGEST_REPOSITORY = 256
MOST_RESOURCE_TAGS = 50


class TagMutability(StrEnum):
    """Whether a tag may be moved to another digest (ECR's imageTagMutability)."""

    MUTABLE = "MUTABLE"
    IMMUTABLE = "IMMUTABLE"
    IMMUTABLE_WITH_EXCLUSION = "IMMUTABLE_WITH_EXCLUSION"
    MUTABLE_WITH_EXCLUSION = "MUTABLE_WITH_EXCLUSION"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository. ``tags`` are resource tags (ECR's ``tags``), ``labels`` say whose it is; ``created`` is Unix time.

    ``uid`` tells this repository from an earlier one of the same name.
    """

    name: str
    uid: str
    created: float
    mutability: TagMutability = TagMutability.MUTABLE
    tags: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    #: What the ECR API says of it besides, in that API's words (JSON): ``imageTagMutabilityExclusionFilters``,
    #: ``encryptionConfiguration``, ``imageScanningConfiguration``.
    details: Mapping[str, Any] = field(default_factory=dict)

    def keeps(self, tag: str) -> bool:
        """Whether the tag may not be moved once it is there."""
        filters = self.details.get("imageTagMutabilityExclusionFilters") or ()
        excluded = any(_wildcard(one["filter"]).fullmatch(tag) for one in filters)
        if self.mutability is TagMutability.IMMUTABLE_WITH_EXCLUSION:
            return not excluded
        if self.mutability is TagMutability.MUTABLE_WITH_EXCLUSION:
            return excluded
        return self.mutability is TagMutability.IMMUTABLE


@lru_cache(maxsize=256)
def _wildcard(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))))


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest of a repository. ``size`` in bytes, ``pushed`` Unix time of its first push (later tags move it not),
    ``pulled`` of a pull, as far as one was recorded; ``config_type`` the media type of its configuration."""

    digest: Digest
    media_type: str
    size: int
    pushed: float
    artifact_type: str = ""
    subject: Digest | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    pulled: float | None = None
    config_type: str = ""


@dataclass(frozen=True, slots=True)
class Tag:
    """A name of a manifest within its repository; ``pushed`` is when it last moved."""

    name: str
    digest: Digest
    pushed: float


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a manifest push did."""

    digest: Digest
    tags: tuple[str, ...]
    subject: Digest | None


def repository_name(name: str) -> str:
    """``name`` if it is one. Raises ``bad-repository-name``."""
    if len(name) > LONGEST_REPOSITORY or not _REPOSITORY.fullmatch(name):
        raise RegistryError(
            Fault.NAME_INVALID,
            f"{name[:80]!r} is not a repository name",
            hint="lower-case letters and digits, parted by . _ - or /, at most 256 characters: team/app",
        )
    return name


def tag_name(name: str) -> str:
    """``name`` if it is a tag. Raises ``bad-tag``."""
    if not _TAG.fullmatch(name):
        raise RegistryError(
            Fault.TAG_INVALID,
            f"{name[:80]!r} is not a tag",
            hint="letters, digits and . _ - (not at the start), at most 128 characters",
        )
    return name


def digest_name(text: str) -> Digest:
    """``text`` as a digest. Raises ``invalid-digest`` as this core's error."""
    from bayplan.errors import BayplanError

    try:
        return Digest.parse(text)
    except BayplanError as error:
        raise RegistryError(Fault.DIGEST_INVALID, error.message) from None
