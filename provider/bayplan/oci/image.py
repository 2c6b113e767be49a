"""Images: a manifest, its configuration, its layers (OCI image specification 1.1), read and written with types.

Docker's schema 2 has the same shape under other media types and is read as such; what is written is OCI.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import Descriptor, MediaType, Platform, bad_manifest
from bayplan.oci.digest import Digest
from bayplan.oci.store import MANIFEST_LIMIT, Store

_DEPTH = 4  # indexes in indexes


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: where its blob is, and the digest of its uncompressed archive."""

    descriptor: Descriptor
    diff_id: Digest


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """HEALTHCHECK of an image. Durations in seconds, None where the image leaves them to the default."""

    test: tuple[str, ...]
    interval: float | None = None
    timeout: float | None = None
    start_period: float | None = None
    start_interval: float | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about containers made from it. ``raw`` is the whole document, for what has no name here."""

    architecture: str = "amd64"
    os: str = "linux"
    variant: str = ""
    created: str = ""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    healthcheck: HealthConfig | None = None
    shell: tuple[str, ...] | None = None
    onbuild: tuple[str, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ImageConfig:
        """Raises BayplanError ``bad-manifest``."""
        inner = document.get("config") or {}
        rootfs = document.get("rootfs") or {}
        if not isinstance(inner, dict) or not isinstance(rootfs, dict):
            raise bad_manifest("the configuration has no valid config or rootfs")
        return cls(
            architecture=str(document.get("architecture") or "amd64"),
            os=str(document.get("os") or "linux"),
            variant=str(document.get("variant") or ""),
            created=str(document.get("created") or ""),
            env=_texts(inner.get("Env")) or (),
            entrypoint=_texts(inner.get("Entrypoint")),
            cmd=_texts(inner.get("Cmd")),
            user=str(inner.get("User") or ""),
            working_dir=str(inner.get("WorkingDir") or ""),
            exposed_ports=tuple(inner.get("ExposedPorts") or ()),
            volumes=tuple(inner.get("Volumes") or ()),
            labels={str(k): str(v) for k, v in (inner.get("Labels") or {}).items()},
            stop_signal=str(inner.get("StopSignal") or ""),
            healthcheck=_health(inner.get("Healthcheck")),
            shell=_texts(inner.get("Shell")),
            onbuild=_texts(inner.get("OnBuild")) or (),
            history=tuple(document.get("history") or ()),
            diff_ids=tuple(Digest.parse(str(one)) for one in rootfs.get("diff_ids") or ()),
            raw=document,
        )

    def to_json(self) -> dict[str, Any]:
        """The document as it is stored; keys that say nothing are left out."""
        inner: dict[str, Any] = {}
        if self.user:
            inner["User"] = self.user
        if self.exposed_ports:
            inner["ExposedPorts"] = {port: {} for port in sorted(self.exposed_ports)}
        if self.env:
            inner["Env"] = list(self.env)
        if self.entrypoint is not None:
            inner["Entrypoint"] = list(self.entrypoint)
        if self.cmd is not None:
            inner["Cmd"] = list(self.cmd)
        if self.volumes:
            inner["Volumes"] = {volume: {} for volume in sorted(self.volumes)}
        if self.working_dir:
            inner["WorkingDir"] = self.working_dir
        if self.labels:
            inner["Labels"] = dict(sorted(self.labels.items()))
        if self.stop_signal:
            inner["StopSignal"] = self.stop_signal
        if self.healthcheck is not None:
            inner["Healthcheck"] = _health_json(self.healthcheck)
        if self.shell is not None:
            inner["Shell"] = list(self.shell)
        if self.onbuild:
            inner["OnBuild"] = list(self.onbuild)
        document: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            document["variant"] = self.variant
        if self.created:
            document["created"] = self.created
        document["config"] = inner
        document["rootfs"] = {"type": "layers", "diff_ids": [str(one) for one in self.diff_ids]}
        if self.history:
            document["history"] = [dict(one) for one in self.history]
        return document


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one platform. ``digest`` is its manifest's; layers are lowest first."""

    digest: Digest
    media_type: str
    config_descriptor: Descriptor
    config: ImageConfig
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the layers as stored."""
        return sum(layer.descriptor.size for layer in self.layers)

    @classmethod
    def load(cls, store: Store, digest: Digest, platform: Platform | None = None) -> Image:
        """The image at ``digest``; of an index, the one for ``platform`` (this machine's where None).

        Raises BayplanError ``no-blob``, ``bad-manifest``, ``no-platform``.
        """
        digest, document = _manifest(store, Digest.parse(digest), platform or Platform.here())
        config_descriptor = Descriptor.from_json(document.get("config"))
        descriptors = [Descriptor.from_json(one) for one in _list(document, "layers")]
        try:
            config = ImageConfig.from_json(json.loads(store.read(config_descriptor.digest)))
        except ValueError as error:
            raise bad_manifest("its configuration is not JSON") from error
        if len(config.diff_ids) != len(descriptors):
            raise bad_manifest(f"{len(descriptors)} layers, but {len(config.diff_ids)} diff IDs")
        layers = tuple(Layer(one, diff) for one, diff in zip(descriptors, config.diff_ids, strict=True))
        media_type = str(document.get("mediaType") or MediaType.MANIFEST)
        return cls(digest, media_type, config_descriptor, config, layers, document.get("annotations") or {})


def assemble(
    store: Store, config: ImageConfig, layers: Sequence[Layer], annotations: Mapping[str, str] | None = None
) -> Digest:
    """Write configuration and manifest of an image whose layers are stored; returns the manifest's digest.

    The diff IDs are those of ``layers``, whatever ``config`` says. Equal arguments give equal bytes.
    """
    from dataclasses import replace

    document = replace(config, diff_ids=tuple(layer.diff_id for layer in layers)).to_json()
    data = canonical_json(document)
    with store.lease():
        for layer in layers:
            if not store.touch(layer.descriptor.digest):
                raise BayplanError("no-blob", f"the layer {layer.descriptor.digest} is not in this store")
        config_digest = store.put(data)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MediaType.MANIFEST,
            "config": Descriptor(MediaType.CONFIG, config_digest, len(data)).to_json(),
            "layers": [layer.descriptor.to_json() for layer in layers],
        }
        if annotations:
            manifest["annotations"] = dict(sorted(annotations.items()))
        return store.put(canonical_json(manifest))


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """Compact JSON in the order given: the bytes that a digest is taken of."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def parse_manifest(data: bytes) -> dict[str, Any]:
    """A manifest or index as a document. Raises BayplanError ``bad-manifest``."""
    if len(data) > MANIFEST_LIMIT:
        raise bad_manifest(f"it has {len(data)} bytes, {MANIFEST_LIMIT} are allowed")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad_manifest("it is not JSON") from error
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise bad_manifest("its schemaVersion is not 2")
    return document


def _manifest(store: Store, digest: Digest, platform: Platform) -> tuple[Digest, dict[str, Any]]:
    """The manifest at ``digest``, through indexes to the platform's."""
    for _ in range(_DEPTH):
        document = parse_manifest(store.read(digest))
        if "manifests" not in document:
            return digest, document
        digest = _choose([Descriptor.from_json(one) for one in _list(document, "manifests")], platform)
    raise bad_manifest(f"more than {_DEPTH} indexes in each other")


def _choose(descriptors: Sequence[Descriptor], platform: Platform) -> Digest:
    """The descriptor for a platform: exact first, then without regard to the variant, then one that names none."""
    wanted = [one for one in descriptors if (one.platform or {}).get("os") != "unknown"]
    for exact in (True, False):
        for one in wanted:
            named = one.platform or {}
            same = named.get("os") == platform.os and named.get("architecture") == platform.architecture
            if same and (not exact or (named.get("variant") or "") == platform.variant):
                return one.digest
    unnamed = [one for one in wanted if not one.platform]
    if len(unnamed) == 1:
        return unnamed[0].digest
    there = ", ".join(
        "/".join(str(v) for k, v in (one.platform or {}).items() if k in ("os", "architecture", "variant"))
        for one in wanted
    )
    raise BayplanError("no-platform", f"the image has nothing for {platform}", hint=f"it is made for {there or 'none'}")


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    found = document.get(name) or []
    if not isinstance(found, list) or len(found) > 10_000:
        raise bad_manifest(f"its {name} are not a list of sound length")
    return found


def _texts(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise bad_manifest("a list of texts is not one")
    return tuple(str(one) for one in value)


def _health(value: object) -> HealthConfig | None:
    if not isinstance(value, dict) or not value.get("Test"):
        return None

    def seconds(name: str) -> float | None:
        found = value.get(name)
        return found / 1e9 if isinstance(found, (int, float)) and found else None

    retries = value.get("Retries")
    return HealthConfig(
        _texts(value.get("Test")) or (),
        seconds("Interval"),
        seconds("Timeout"),
        seconds("StartPeriod"),
        seconds("StartInterval"),
        retries if isinstance(retries, int) and retries else None,
    )


def _health_json(health: HealthConfig) -> dict[str, Any]:
    out: dict[str, Any] = {"Test": list(health.test)}
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value is not None:
            out[name] = round(value * 1e9)
    if health.retries is not None:
        out["Retries"] = health.retries
    return out
