"""Linux capabilities: Docker's default set, and what ``cap_add``, ``cap_drop`` and ``privileged`` make of it.

Source: moby daemon/pkg/oci/caps (defaults.go, utils.go); capabilities(7).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

from bayplan.errors import BayplanError, nearest

#: In the kernel's numbering (linux/capability.h).
NAMES = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)

#: moby caps/defaults.go
DEFAULT = tuple(
    "CAP_" + name
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


@functools.lru_cache(maxsize=1)
def available() -> frozenset[str]:
    """The capabilities that this process may hand on: its bounding set (proc(5), ``CapBnd``)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapBnd:"):
            mask = int(line.split()[1], 16)
            return frozenset(name for number, name in enumerate(NAMES) if mask >> number & 1)
    return frozenset(NAMES)


def normalise(name: str) -> str:
    """``net_admin`` -> ``CAP_NET_ADMIN``; ``all`` -> ``ALL``. Raises BayplanError ``unknown-capability``."""
    upper = name.strip().upper()
    if upper in ("ALL", "CAP_ALL"):
        return "ALL"
    full = upper if upper.startswith("CAP_") else "CAP_" + upper
    if full not in NAMES:
        near = nearest(full, NAMES)
        raise BayplanError(
            "unknown-capability",
            f"there is no capability {name}",
            hint=f"did you mean {near.removeprefix('CAP_')}?" if near else "see capabilities(7)",
        )
    return full


def granted(
    add: Iterable[str], drop: Iterable[str], *, privileged: bool, machine: frozenset[str] | None = None
) -> tuple[str, ...]:
    """The capabilities of a container, sorted as the kernel numbers them.

    ``ALL`` and privileged mean all that the machine has; one that was asked for by name and that the machine does not
    have is an error (``capability-missing``), as the container would not be what was declared.
    """
    have = available() if machine is None else machine
    added = {normalise(name) for name in add}
    dropped = {normalise(name) for name in drop}
    if privileged:
        return tuple(name for name in NAMES if name in have)
    missing = sorted(name for name in added - {"ALL"} if name not in have)
    if missing:
        raise BayplanError(
            "capability-missing",
            f"this machine cannot grant {', '.join(missing)}: it is not in the bounding set of this process",
            hint="leave it out of cap_add, or run where it is available",
        )
    base: set[str] = set(have) if "ALL" in added else set(DEFAULT)
    if "ALL" in dropped:
        base = set()
    chosen = (base | (added - {"ALL"})) - dropped
    return tuple(name for name in NAMES if name in chosen and name in have)
