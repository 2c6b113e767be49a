"""The OCI runtime configuration of a container: what Docker would write, as plain data. Pure.

Defaults are moby's (``daemon/pkg/oci/defaults.go``): namespaces, mounts, masked and read-only paths, devices. The
shape is runtime-spec ``config.md`` and ``config-linux.md``. Everything that had to be looked up on the machine (user
numbers, mount sources, the network namespace, the filter) comes in as arguments, so that a test can compare the
result as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayplan.records import dataclass, field

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_DEVICES = ((1, 3), (1, 5), (1, 8), (1, 9), (5, 0), (5, 1))  # null zero random urandom tty console

#: Directories that the runtime mounts on; they must exist in the root file system.
MOUNT_DIRECTORIES = ("/proc", "/sys", "/dev")
CPU_PERIOD = 100_000  # microseconds


@dataclass(frozen=True, slots=True)
class User:
    """Numbers of the container's user, and the groups that it is in besides."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class Limits:
    """``memory`` in bytes, ``cpus`` in whole processors; None is without limit. ``swap``: the kernel accounts swap."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    swap: bool = False

    def resources(self) -> dict[str, Any]:
        """OCI ``linux.resources``, without devices. Swap as Docker does: as much again as the memory."""
        out: dict[str, Any] = {}
        if self.memory is not None:
            out["memory"] = {"limit": self.memory}
            if self.swap:
                out["memory"]["swap"] = self.memory * 2
        if self.cpus is not None:
            out["cpu"] = {"quota": round(self.cpus * CPU_PERIOD), "period": CPU_PERIOD}
        if self.pids is not None:
            out["pids"] = {"limit": self.pids}
        return out


@dataclass(frozen=True, slots=True)
class Binding:
    """One further mount: ``type`` is ``bind`` or ``tmpfs``."""

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    size: int | None = None
    executable: bool = False  # tmpfs only; Docker mounts them noexec

    def as_oci(self) -> dict[str, Any]:
        if self.type == "tmpfs":
            options = ["nosuid", "nodev", "mode=1777"] + ([] if self.executable else ["noexec"])
            if self.size is not None:
                options.append(f"size={self.size}")
            if self.read_only:
                options.append("ro")
            return {"destination": self.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        return {
            "destination": self.target,
            "type": "bind",
            "source": self.source,
            "options": ["rbind", "rprivate", "ro" if self.read_only else "rw"],
        }


@dataclass(frozen=True, slots=True)
class Device:
    """A device node of the host, for privileged containers."""

    path: str
    type: str  # "c" or "b"
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one container or build step runs with; :meth:`config` is its ``config.json``."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    hostname: str
    rootfs: str
    cgroup: str  # path below the cgroup mounts, "/bayplan-HASH/ID"
    capabilities: tuple[str, ...]
    seccomp: Mapping[str, Any] | None
    network: str = ""  # path of a network namespace; "" makes a new empty one; "host" shares the host's
    bindings: tuple[Binding, ...] = ()
    limits: Limits = Limits()
    read_only: bool = False
    terminal: bool = False
    privileged: bool = False
    devices: tuple[Device, ...] = ()
    masked: tuple[str, ...] = ()  # besides the fixed ones: what depends on the machine
    unified: bool = False  # cgroup v2
    annotations: Mapping[str, str] = field(default_factory=dict)

    def process(self) -> dict[str, Any]:
        """OCI ``process``; an exec takes it too."""
        return process(self.argv, self.env, self.cwd, self.user, self.capabilities, terminal=self.terminal)

    def config(self) -> dict[str, Any]:
        """OCI ``config.json``."""
        namespaces: list[dict[str, str]] = [{"type": name} for name in ("mount", "uts", "pid", "ipc")]
        if self.network != "host":
            namespaces.append({"type": "network", "path": self.network} if self.network else {"type": "network"})
        if self.unified:
            namespaces.append({"type": "cgroup"})
        linux: dict[str, Any] = {
            "namespaces": namespaces,
            "cgroupsPath": self.cgroup,
            "resources": {"devices": self._device_rules(), **self.limits.resources()},
        }
        if self.privileged:
            linux["devices"] = [
                {
                    "path": device.path,
                    "type": device.type,
                    "major": device.major,
                    "minor": device.minor,
                    "fileMode": device.mode,
                    "uid": device.uid,
                    "gid": device.gid,
                }
                for device in self.devices
            ]
        else:
            linux["maskedPaths"] = [*_MASKED, *self.masked]
            linux["readonlyPaths"] = list(_READ_ONLY)
            if self.seccomp is not None:
                linux["seccomp"] = self.seccomp
        if self.network not in ("host",):
            # As Docker: unprivileged ports and ping need no capability inside the container's own network.
            linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
        return {
            "ociVersion": "1.0.2",
            **({"annotations": dict(self.annotations)} if self.annotations else {}),
            "process": self.process(),
            "root": {"path": self.rootfs, "readonly": self.read_only},
            "hostname": self.hostname,
            "mounts": self._mounts(),
            "linux": linux,
        }

    def _device_rules(self) -> list[dict[str, Any]]:
        if self.privileged:
            return [{"allow": True, "access": "rwm"}]
        allowed = [
            {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"} for major, minor in _DEVICES
        ]
        return [{"allow": False, "access": "rwm"}, *allowed]

    def _mounts(self) -> list[dict[str, Any]]:
        ro = [] if self.privileged else ["ro"]
        base: list[dict[str, Any]] = [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", *ro),
            _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", *ro),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            {
                "destination": "/dev/shm",  # noqa: S108  (a mount point inside the container)
                "type": "tmpfs",
                "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
            },
        ]
        own = {binding.target for binding in self.bindings}
        kept = [mount for mount in base if mount["destination"] not in own]
        # A mount inside another mount comes after it.
        ordered = sorted(self.bindings, key=lambda binding: binding.target.rstrip("/").count("/"))
        return kept + [binding.as_oci() for binding in ordered]


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}


def process(
    argv: Sequence[str],
    env: Sequence[str],
    cwd: str,
    user: User,
    capabilities: Sequence[str],
    *,
    terminal: bool = False,
) -> dict[str, Any]:
    """OCI ``process``. A user other than root keeps no effective capability (moby: WithCapabilities)."""
    held = list(capabilities)
    effective = held if user.uid == 0 else []
    return {
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "args": list(argv),
        "env": list(env),
        "cwd": cwd,
        "capabilities": {"bounding": held, "effective": effective, "permitted": effective},
        "noNewPrivileges": False,
    }
