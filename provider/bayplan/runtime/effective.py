"""What a container runs, once its image's configuration and its own declaration are laid over each other. Pure.

The rules are Docker's (moby daemon/commit.go merge, image-spec config.md): an entrypoint that is declared drops the
image's command; variables are merged by name; the image's user, working directory, stop signal, health check and
volumes hold where nothing is declared.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError, nearest
from bayplan.records import dataclass, field
from bayplan.runtime.codec import health_from, health_json
from bayplan.runtime.spec import ContainerSpec, Health

if TYPE_CHECKING:
    from bayplan.oci.image import HealthConfig, ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class ImageDefaults:
    """What an image's configuration says about running it (image-spec config.md, Docker's Healthcheck besides)."""

    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    health: Health | None = None

    @classmethod
    def of(cls, config: ImageConfig) -> ImageDefaults:
        return cls(
            env=dict(entry.partition("=")[::2] for entry in config.env),
            entrypoint=config.entrypoint or (),
            command=config.cmd or (),
            user=config.user,
            working_dir=config.working_dir,
            volumes=tuple(sorted(config.volumes)),
            stop_signal=config.stop_signal,
            health=None if config.healthcheck is None else health_of(config.healthcheck),
        )


def health_of(config: HealthConfig) -> Health:
    """An image's health check, Docker's defaults where it is silent."""
    default = Health(test=())
    return Health(
        test=config.test,
        interval=config.interval or default.interval,
        timeout=config.timeout or default.timeout,
        start_period=config.start_period or default.start_period,
        start_interval=config.start_interval or default.start_interval,
        retries=config.retries or default.retries,
    )


@dataclass(frozen=True, slots=True)
class Effective:
    """The result. ``env`` is without what is declared on the container: that may be secret and is added when it
    starts."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    user: str
    stop_signal: int
    health: Health | None
    volumes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "argv": list(self.argv),
            "env": dict(self.env),
            "working_dir": self.working_dir,
            "user": self.user,
            "stop_signal": self.stop_signal,
            "health": None if self.health is None else health_json(self.health),
            "volumes": list(self.volumes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Effective:
        return cls(
            argv=tuple(data["argv"]),
            env=dict(data["env"]),
            working_dir=data["working_dir"],
            user=data["user"],
            stop_signal=data["stop_signal"],
            health=health_from(data["health"]),
            volumes=tuple(data["volumes"]),
        )


def effective(spec: ContainerSpec, image: ImageDefaults) -> Effective:
    """Raises BayplanError ``no-command``, ``bad-signal``, ``bad-path``."""
    entrypoint = image.entrypoint if spec.entrypoint is None else tuple(word for word in spec.entrypoint if word)
    inherited = image.command if spec.entrypoint is None else ()
    argv = entrypoint + (inherited if spec.command is None else spec.command)
    if not argv:
        raise BayplanError(
            "no-command",
            f"the container {spec.name} has nothing to run: neither it nor its image has an entrypoint or a command",
            hint="give it a command",
        )
    declared = spec.health
    if declared is not None and not declared.test and image.health is not None:
        raise BayplanError("bad-health", "a health check needs a test")
    health = image.health if declared is None else declared
    if health is not None and health.test[:1] in ((), ("NONE",)):
        health = None
    working_dir = spec.working_dir or image.working_dir or "/"
    if not working_dir.startswith("/"):
        raise BayplanError("bad-path", f"the working directory {working_dir} is not absolute")
    return Effective(
        argv=argv,
        env=dict(image.env),
        working_dir=working_dir,
        user=spec.user or image.user or "0",
        stop_signal=signal_number(spec.stop_signal or image.stop_signal or "SIGTERM"),
        health=health,
        volumes=image.volumes,
    )


def environment(image: Mapping[str, str], own: Mapping[str, str], *, hostname: str, tty: bool) -> tuple[str, ...]:
    """``K=V`` words: Docker's own first, then the image's, then the container's, each name once."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        merged["TERM"] = "xterm"
    merged.update(image)
    merged.update(own)
    return tuple(f"{name}={value}" for name, value in merged.items())


def signal_number(text: str) -> int:
    """``SIGTERM``, ``term``, ``15``, ``SIGRTMIN+3`` -> number. Raises BayplanError ``bad-signal``."""
    word = text.strip().upper()
    if word.isdigit():
        if 1 <= int(word) <= signal.SIGRTMAX:
            return int(word)
        raise BayplanError("bad-signal", f"there is no signal {text}")
    name = word if word.startswith("SIG") else "SIG" + word
    base, sign, offset = name.partition("+") if "+" in name else name.partition("-")
    try:
        number = int(signal.Signals[base]) + (int(sign + offset) if sign else 0)
    except (KeyError, ValueError):
        near = nearest(name, [each.name for each in signal.Signals])
        raise BayplanError(
            "bad-signal", f"there is no signal {text}", hint=f"did you mean {near}?" if near else ""
        ) from None
    if not 1 <= number <= signal.SIGRTMAX:
        raise BayplanError("bad-signal", f"there is no signal {text}")
    return number
