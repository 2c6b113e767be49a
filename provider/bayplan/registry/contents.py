"""What a manifest refers to, read before it is accepted.

The registry keeps a manifest's bytes as they came and looks only at what it must know: the blobs and manifests that have
to be there, the subject that makes it a referrer, and the type and annotations that its descriptor shows in a list of
referrers (OCI image and distribution specifications 1.1). Limits are the server's defence: size, depth and number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.records import dataclass, field
from bayplan.registry.faults import Fault, RegistryError

MANIFEST_LIMIT = 4 << 20
_MOST_CHILDREN = 10_000

_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"  # withdrawn before 1.1, still pushed by old tools
IMAGES = MediaType.MANIFESTS | {_ARTIFACT}
INDEXES = MediaType.INDEXES
_ELSEWHERE = ("nondistributable", "foreign")  # layers that stay with their vendor: never pushed


@dataclass(frozen=True, slots=True)
class Child:
    """One descriptor of a manifest. ``size`` in bytes as the manifest claims it."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """A manifest as the registry sees it."""

    media_type: str
    blobs: tuple[Child, ...] = ()
    manifests: tuple[Child, ...] = ()
    subject: Digest | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    config_type: str = ""


def _wrong(why: str) -> RegistryError:
    return RegistryError(Fault.MANIFEST_INVALID, f"the manifest {why}")


def read(content: bytes, media_type: str = "") -> Contents:
    """The contents of a manifest pushed with Content-Type ``media_type`` (blank: what the document says).

    Raises ``manifest-invalid`` or ``manifest-too-large``.
    """
    if len(content) > MANIFEST_LIMIT:
        raise RegistryError(Fault.MANIFEST_TOO_LARGE, f"a manifest has at most {MANIFEST_LIMIT} bytes")
    try:
        document = json.loads(content)
        if b"\\u" in content:
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise _wrong("is not JSON") from None
    if not isinstance(document, dict):
        raise _wrong("is not a JSON object")
    own = document.get("mediaType")
    if own is not None and not isinstance(own, str):
        raise _wrong("has a mediaType that is not text")
    given = media_type.partition(";")[0].strip().lower()
    # OCI leaves mediaType out at times; then the shape tells, as it does for every client.
    kind = (
        given
        or own
        or (MediaType.INDEX if "manifests" in document else MediaType.MANIFEST if "layers" in document else "")
    )
    if given and own and given != own:
        raise _wrong(f"says it is {own!r} and was sent as {given!r}")
    if document.get("schemaVersion") != 2 and kind != _ARTIFACT:
        raise _wrong("is not of schema version 2")
    if kind in INDEXES:
        return _index(document, kind)
    if kind in IMAGES:
        return _image(document, kind)
    raise _wrong(f"is of the type {kind[:100]!r}, which this registry does not take")


def _image(document: Mapping[str, Any], kind: str) -> Contents:
    blobs: list[Child] = []
    config_type = ""
    if kind != _ARTIFACT:
        config = _object(document.get("config"), "config")
        blobs.append(_child(config, "config"))
        config_type = str(config.get("mediaType") or "")
    for layer in _array(document, "blobs" if kind == _ARTIFACT else "layers"):
        if not _stays_elsewhere(layer):
            blobs.append(_child(layer, "layer"))
    return Contents(
        kind,
        tuple(blobs),
        (),
        _subject(document),
        _text(document, "artifactType") or config_type,
        _annotations(document),
        config_type,
    )


def _index(document: Mapping[str, Any], kind: str) -> Contents:
    manifests = tuple(_child(entry, "entry") for entry in _array(document, "manifests"))
    return Contents(kind, (), manifests, _subject(document), _text(document, "artifactType"), _annotations(document))


def _stays_elsewhere(layer: Mapping[str, Any]) -> bool:
    media_type = str(layer.get("mediaType") or "")
    return any(word in media_type for word in _ELSEWHERE)


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"has no object for its {what}")
    return value


def _array(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST_CHILDREN:
        raise _wrong(f"has no list of at most {_MOST_CHILDREN} {key}")
    return [_object(entry, key) for entry in value]


def _child(descriptor: Mapping[str, Any], what: str) -> Child:
    size = descriptor.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _wrong(f"has a {what} without a size")
    return Child(_digest(descriptor.get("digest"), what), size)


def _digest(text: object, what: str) -> Digest:
    try:
        return Digest.parse(text if isinstance(text, str) else "")
    except BayplanError:
        raise _wrong(f"has a {what} without a valid digest") from None


def _subject(document: Mapping[str, Any]) -> Digest | None:
    subject = document.get("subject")
    return None if subject is None else _digest(_object(subject, "subject").get("digest"), "subject")


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise _wrong(f"has a {key} that is not text")
    return value or ""


def _annotations(document: Mapping[str, Any]) -> Mapping[str, str]:
    value = document.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _wrong("has annotations that are not text")
    return value
