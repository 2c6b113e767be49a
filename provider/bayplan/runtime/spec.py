"""What a container is told to be: the words of the runtime core.

These are plain frozen values in the runtime's own vocabulary (Docker's and the OCI runtime specification's words); who
writes them, a stack or a command by hand, is not known here. Sizes are bytes, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from bayplan.records import dataclass, field


class RestartPolicy(StrEnum):
    """When a container that ended is started again (Docker's ``--restart``)."""

    NO = "no"
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True, slots=True)
class Port:
    """A published port. ``host_ip`` ``""`` means every IPv4 address of the machine; ``host`` 0 lets the kernel
    choose."""

    container: int
    host: int = 0
    host_ip: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Mount:
    """``type`` is ``bind`` (source: absolute path), ``volume`` (source: volume name) or ``tmpfs`` (size in bytes)."""

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """A health check (Docker's HEALTHCHECK). ``test`` starts with ``CMD`` or ``CMD-SHELL``; ``("NONE",)`` disables."""

    test: tuple[str, ...]
    interval: float = 30.0
    timeout: float = 30.0
    start_period: float = 0.0
    start_interval: float = 5.0
    retries: int = 3
    on_unhealthy: str = "none"  # or "restart"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A network that the container joins, and the extra names it answers to there."""

    network: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that makes one container. None means: what the image says, or Docker's default."""

    name: str
    image: str  # manifest digest in the root's store
    image_name: str = ""  # as the user wrote it, for display
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: frozenset[str] = frozenset()  # names whose values never reach a disk in clear
    working_dir: str | None = None
    user: str | None = None
    hostname: str | None = None
    ports: tuple[Port, ...] = ()
    networks: tuple[Attachment, ...] = ()  # empty: the root's default network
    network_mode: str = "bridge"  # or "none", "host"
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    memory: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    restart: RestartPolicy = RestartPolicy.NO
    restart_retries: int = 0  # on-failure[:N]; 0 is without limit
    health: Health | None = None
    stop_signal: str | None = None
    stop_timeout: float = 10.0
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    init: bool = False
    tty: bool = False
    open_stdin: bool = False
