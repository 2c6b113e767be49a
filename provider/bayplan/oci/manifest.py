"""Manifests and indexes, read with types (OCI image specification 1.1, *Image Manifest* and *Image Index*).

Docker's schema 2 has the same shape under other media types and is read as such; what is written is OCI. A document comes
from strangers: its size, its depth and the number of its parts are limited.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import Descriptor, MediaType, Platform, bad_manifest
from bayplan.oci.digest import Digest
from bayplan.oci.store import MANIFEST_LIMIT
from bayplan.records import dataclass, field

_MOST = 10_000  # layers of a manifest, manifests of an index


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of one platform, or an artifact."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    media_type: str = MediaType.MANIFEST
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document in the order in which it is stored."""
        out: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        out["config"] = self.config.to_json()
        out["layers"] = [one.to_json() for one in self.layers]
        return _ending(out, self.subject, self.annotations)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, mostly one a platform."""

    manifests: tuple[Descriptor, ...] = ()
    media_type: str = MediaType.INDEX
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document in the order in which it is stored."""
        out: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        out["manifests"] = [one.to_json() for one in self.manifests]
        return _ending(out, self.subject, self.annotations)

    def choose(self, platform: Platform) -> Digest:
        """The manifest for ``platform``: exact, else of the nearest variant that it runs, else the only one unnamed.

        Attestations (platform ``unknown``) are no images. Raises BayplanError ``no-platform``.
        """
        wanted = [one for one in self.manifests if (one.platform or {}).get("os") != "unknown"]
        fitting = [
            (_distance(platform, one.platform), at, one) for at, one in enumerate(wanted) if one.platform is not None
        ]
        near = [(distance, at, one) for distance, at, one in fitting if distance is not None]
        if near:
            return min(near)[2].digest
        unnamed = [one for one in wanted if not one.platform]
        if len(unnamed) == 1:
            return unnamed[0].digest
        there = ", ".join(
            "/".join(str(one.platform[key]) for key in ("os", "architecture", "variant") if one.platform.get(key))
            for one in wanted
            if one.platform
        )
        hint = f"it is made for {there or 'none'}"
        raise BayplanError("no-platform", f"the image has nothing for {platform}", hint=hint)


def load_json(data: bytes, what: str) -> Any:
    """JSON from a stranger. Raises BayplanError ``bad-manifest``, also where it is nested too deeply."""
    if len(data) > MANIFEST_LIMIT:
        raise bad_manifest(f"its {what} has {len(data)} bytes, {MANIFEST_LIMIT} are allowed")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_manifest(f"its {what} is not JSON") from error


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A manifest or index as a document. Raises BayplanError ``bad-manifest``."""
    document = load_json(data, "document")
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise bad_manifest("its schemaVersion is not 2")
    return document


def read_manifest(data: bytes) -> Manifest | Index:
    """A manifest or index with types. Raises BayplanError ``bad-manifest``, ``invalid-digest``."""
    document = parse_manifest(data)
    annotations = document.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise bad_manifest("its annotations are not an object")
    subject = Descriptor.from_json(document["subject"]) if document.get("subject") is not None else None
    artifact_type = str(document.get("artifactType") or "")
    media_type = document.get("mediaType")
    if media_type is not None and not isinstance(media_type, str):
        raise bad_manifest("its mediaType is not text")
    # A document that is both an image and an index is read differently by different tools (CVE-2021-41190).
    if "manifests" in document and ("layers" in document or "config" in document):
        raise bad_manifest("it is a manifest and an index at once")
    if "manifests" in document:
        if media_type in MediaType.MANIFESTS:
            raise bad_manifest("it is an index and calls itself a manifest")
        return Index(_parts(document, "manifests"), media_type or MediaType.INDEX, subject, artifact_type, annotations)
    if media_type in MediaType.INDEXES:
        raise bad_manifest("it calls itself an index and has no manifests")
    config = Descriptor.from_json(document.get("config"))
    layers = _parts(document, "layers")
    return Manifest(config, layers, media_type or MediaType.MANIFEST, subject, artifact_type, annotations)


def canonical_json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Compact JSON in the order given: the bytes that a digest is taken of."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _parts(document: Mapping[str, Any], name: str) -> tuple[Descriptor, ...]:
    found = document.get(name) or []
    if not isinstance(found, list) or len(found) > _MOST:
        raise bad_manifest(f"its {name} are not a list of sound length")
    return tuple(Descriptor.from_json(one) for one in found)


def _ending(out: dict[str, Any], subject: Descriptor | None, annotations: Mapping[str, str]) -> dict[str, Any]:
    if subject is not None:
        out["subject"] = subject.to_json()
    if annotations:
        out["annotations"] = dict(sorted(annotations.items()))
    return out


def _distance(wanted: Platform, named: Mapping[str, Any]) -> int | None:
    """How far an image's platform is from the wanted one: 0 is exact, None does not run."""
    if named.get("os") != wanted.os or named.get("architecture") != wanted.architecture:
        return None
    have = str(named.get("variant") or "")
    default = {"arm": "v7", "arm64": "v8", "amd64": "v1"}.get(wanted.architecture, "")
    if have == wanted.variant:
        return 0
    ours, theirs = _level(wanted.variant or default), _level(have or default)
    if ours is None or theirs is None:
        return 100
    # A machine runs what was made for an older one, and the nearest is the best.
    return 1 + ours - theirs if theirs <= ours else None


def _level(variant: str) -> int | None:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isdecimal() and len(digits) < 4 else None


def check_parts(layers: Sequence[Descriptor], diff_ids: Sequence[Digest]) -> None:
    """An image's manifest and configuration must speak of the same layers. Raises BayplanError ``bad-manifest``."""
    if len(layers) != len(diff_ids):
        raise bad_manifest(f"{len(layers)} layers, but {len(diff_ids)} diff IDs")
