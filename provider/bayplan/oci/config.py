"""An image's configuration: what it says about containers made from it (OCI image specification 1.1, *Image Configuration*).

Docker's own fields (HEALTHCHECK, SHELL, ONBUILD) are read and written as Docker has them. Documents come from strangers:
every shape is checked here, so that no reader behind has to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayplan.oci.descriptor import bad_manifest
from bayplan.oci.digest import Digest
from bayplan.records import dataclass, field

_MOST = 10_000  # entries of any list or map


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
    def from_json(cls, document: object) -> ImageConfig:
        """Raises BayplanError ``bad-manifest``, ``invalid-digest``."""
        if not isinstance(document, dict):
            raise bad_manifest("its configuration is not an object")
        inner = _object(document.get("config"), "config")
        rootfs = _object(document.get("rootfs"), "rootfs")
        history = _many(document.get("history"), "history")
        if not all(isinstance(one, dict) for one in history):
            raise bad_manifest("its history is not a list of objects")
        labels = _object(inner.get("Labels"), "Labels")
        return cls(
            architecture=_text(document, "architecture") or "amd64",
            os=_text(document, "os") or "linux",
            variant=_text(document, "variant"),
            created=_text(document, "created"),
            env=_texts(inner, "Env") or (),
            entrypoint=_texts(inner, "Entrypoint"),
            cmd=_texts(inner, "Cmd"),
            user=_text(inner, "User"),
            working_dir=_text(inner, "WorkingDir"),
            exposed_ports=tuple(_object(inner.get("ExposedPorts"), "ExposedPorts")),
            volumes=tuple(_object(inner.get("Volumes"), "Volumes")),
            labels={key: str(value) for key, value in labels.items()},
            stop_signal=_text(inner, "StopSignal"),
            healthcheck=_health(inner),
            shell=_texts(inner, "Shell"),
            onbuild=_texts(inner, "OnBuild") or (),
            history=tuple(history),
            diff_ids=tuple(Digest.parse(str(one)) for one in _many(rootfs.get("diff_ids"), "diff_ids")),
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


def _object(value: object, name: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MOST:
        raise bad_manifest(f"its {name} is not an object of sound size")
    return value


def _many(value: object, name: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST:
        raise bad_manifest(f"its {name} is not a list of sound length")
    return value


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_manifest(f"its {name} is not text")
    return value


def _texts(holder: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    many = _many(value, name)
    if not all(isinstance(one, str) for one in many):
        raise bad_manifest(f"its {name} is not a list of texts")
    return tuple(many)


def _health(inner: Mapping[str, Any]) -> HealthConfig | None:
    value = _object(inner.get("Healthcheck"), "Healthcheck")
    if not value.get("Test"):
        return None

    def seconds(name: str) -> float | None:
        found = value.get(name)
        if not isinstance(found, (int, float)) or isinstance(found, bool) or not 0 < found < 1e19:
            return None
        return found / 1e9

    retries = value.get("Retries")
    return HealthConfig(
        _texts(value, "Test") or (),
        seconds("Interval"),
        seconds("Timeout"),
        seconds("StartPeriod"),
        seconds("StartInterval"),
        retries if isinstance(retries, int) and retries > 0 else None,
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
