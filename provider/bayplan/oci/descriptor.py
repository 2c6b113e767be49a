"""Descriptors and media types: how one piece of content refers to another (OCI image specification 1.1, *Descriptor*)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.records import dataclass, field


class MediaType:
    """The media types that are known here; content of others is stored and passed through."""

    INDEX = "application/vnd.oci.image.index.v1+json"
    MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    CONFIG = "application/vnd.oci.image.config.v1+json"
    LAYER = "application/vnd.oci.image.layer.v1.tar"
    LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
    EMPTY = "application/vnd.oci.empty.v1+json"
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

    INDEXES = frozenset({INDEX, DOCKER_LIST})
    MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on: ``linux/arm64/v8``."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/architecture[/variant]``. Raises BayplanError ``bad-platform``."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise BayplanError(
                "bad-platform", f"'{text}' is not a platform", hint="write linux/amd64 or linux/arm64/v8"
            )
        return cls(*parts)

    @classmethod
    def here(cls) -> Platform:
        """This machine, in the names of Go's runtime, as images have them."""
        import os

        machine = os.uname().machine
        names = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le"}
        return cls("linux", names.get(machine, machine), "v7" if machine == "armv7l" else "")

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content by digest, size in bytes and media type."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] | None = None
    artifact_type: str = ""
    data: str | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.platform:
            out["platform"] = dict(self.platform)
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        if self.data is not None:
            out["data"] = self.data
        return out

    @classmethod
    def from_json(cls, data: object) -> Descriptor:
        """Raises BayplanError ``bad-manifest`` for anything that is not a descriptor."""
        if not isinstance(data, dict):
            raise bad_manifest("a descriptor is not an object")
        size = data.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise bad_manifest(f"a descriptor's size is {size!r}")
        digest, media_type = data.get("digest"), data.get("mediaType")
        if not isinstance(digest, str) or not isinstance(media_type, str):
            raise bad_manifest("a descriptor lacks its digest or media type")
        annotations, platform = data.get("annotations") or {}, data.get("platform")
        if not isinstance(annotations, dict) or not isinstance(platform, (dict, type(None))):
            raise bad_manifest("a descriptor's annotations or platform are not objects")
        return cls(
            media_type,
            Digest.parse(digest),
            size,
            annotations,
            platform,
            str(data.get("artifactType") or ""),
            data.get("data"),
        )


def bad_manifest(what: str) -> BayplanError:
    return BayplanError(
        "bad-manifest", f"the manifest is not valid: {what}", hint="the image is broken; make or pull it again"
    )
