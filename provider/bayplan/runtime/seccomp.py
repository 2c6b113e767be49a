"""The system-call filter of a container: the distribution's profile, brought into the OCI runtime's form.

Debian ships Docker's policy as data (``/usr/share/containers/seccomp.json``) in Docker's form, where a rule may
depend on capabilities, architecture and kernel version (moby ``profiles/seccomp``). An OCI runtime wants plain rules,
so the conditions are answered here, once per set of capabilities.

Only the machine's own architecture is emitted: compiling the filter is the largest single cost of a start, and each
further architecture doubles it. A 32-bit program is then killed by the filter's architecture check.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError

_ALLOW = "SCMP_ACT_ALLOW"
PROFILE = Path("/usr/share/containers/seccomp.json")

#: machine (uname) -> (libseccomp's constant, the word used by the profile's conditions)
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
    "riscv64": ("SCMP_ARCH_RISCV64", "riscv64"),
    "ppc64le": ("SCMP_ARCH_PPC64LE", "ppc64le"),
    "s390x": ("SCMP_ARCH_S390X", "s390x"),
    "armv7l": ("SCMP_ARCH_ARM", "arm"),
    "loongarch64": ("SCMP_ARCH_LOONGARCH64", "loong64"),
}

#: What Docker's policy allows only with a capability, while the distribution's always does; none: never.
_NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree"),
        ("CAP_SYS_ADMIN",),
    ),
    **dict.fromkeys(("setns", "umount", "umount2", "unshare"), ("CAP_SYS_ADMIN",)),
    **dict.fromkeys(("get_mempolicy", "mbind", "set_mempolicy"), ("CAP_SYS_NICE",)),
    **dict.fromkeys(("keyctl", "pivot_root"), ()),
    "pidfd_getfd": ("CAP_SYS_PTRACE",),
    "reboot": ("CAP_SYS_BOOT",),
    "syslog": ("CAP_SYS_ADMIN", "CAP_SYSLOG"),
}
_OWN = ("clone", "clone3", "socket")  # calls whose rules are made here, not taken from the profile
_NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags of clone(2)
_EPERM, _ENOSYS = 1, 38
_AF_ALG, _AF_VSOCK = 38, 40  # the address families that Docker refuses


def _own_rules(granted: set[str]) -> list[dict[str, Any]]:
    """Docker's rules on processes and sockets: no new namespaces without CAP_SYS_ADMIN, no way to the hypervisor."""
    rules: list[dict[str, Any]] = []
    if "CAP_SYS_ADMIN" in granted:
        rules.append({"names": ["clone", "clone3"], "action": _ALLOW})
    else:
        masked = {"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({"names": ["clone"], "action": _ALLOW, "args": [masked]})
        # Its flags lie in memory, where a filter cannot look: libraries fall back to clone on ENOSYS.
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    families = (("SCMP_CMP_LT", _AF_ALG), ("SCMP_CMP_EQ", _AF_ALG + 1), ("SCMP_CMP_GT", _AF_VSOCK))
    for operator, value in families:
        rules.append({"names": ["socket"], "action": _ALLOW, "args": [{"index": 0, "value": value, "op": operator}]})
    return rules


def _kernel(text: str) -> tuple[int, int]:
    """``6.18.44-fc`` -> (6, 18)."""
    parts = text.split("-", 1)[0].split(".")
    return int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()) or 0) if len(parts) > 1 else 0


def flatten(profile: dict[str, Any], capabilities: Iterable[str], machine: str, kernel: str) -> dict[str, Any]:
    """The profile for these capabilities (``CAP_X``), this machine and kernel as OCI ``linux.seccomp``. Pure.

    Source: runtime-spec config-linux.md (seccomp); moby profiles/seccomp/seccomp.go (includes, excludes).
    Raises BayplanError ``unsupported-machine`` for an architecture without a name in libseccomp.
    """
    if machine not in _ARCHITECTURES:
        raise BayplanError("unsupported-machine", f"no system-call filter is known for the architecture {machine}")
    constant, word = _ARCHITECTURES[machine]
    granted = set(capabilities)
    running = _kernel(kernel)

    def applies(rule: dict[str, Any]) -> bool:
        include, exclude = rule.get("includes") or {}, rule.get("excludes") or {}
        if any(cap in granted for cap in exclude.get("caps") or ()):
            return False
        if word in (exclude.get("arches") or ()):
            return False
        if exclude.get("minKernel") and running >= _kernel(exclude["minKernel"]):
            return False
        if any(cap not in granted for cap in include.get("caps") or ()):
            return False
        if include.get("arches") and word not in include["arches"]:
            return False
        return not (include.get("minKernel") and running < _kernel(include["minKernel"]))

    refused = {name for name, caps in _NEEDS.items() if not granted.intersection(caps)}
    rules = [*_own_rules(granted), {"names": sorted(refused), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}]
    for rule in profile["syscalls"]:
        if not applies(rule):
            continue
        names = [name for name in rule.get("names") or [rule["name"]] if name not in refused and name not in _OWN]
        if not names:
            continue
        flat: dict[str, Any] = {"names": names, "action": rule["action"]}
        if rule.get("errnoRet") is not None:
            flat["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            flat["args"] = rule["args"]
        rules.append(flat)
    out: dict[str, Any] = {
        "defaultAction": profile["defaultAction"],
        "architectures": [constant],
        "syscalls": rules,
    }
    if profile.get("defaultErrnoRet") is not None:
        out["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return out


@functools.lru_cache(maxsize=1)
def _profile() -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(PROFILE.read_bytes())
    except FileNotFoundError:
        raise BayplanError(
            "seccomp-missing",
            f"the system-call filter {PROFILE} is missing; containers are not started without it",
            hint="apt-get install golang-github-containers-common",
        ) from None
    return loaded


@functools.lru_cache(maxsize=16)
def default_filter(capabilities: frozenset[str]) -> dict[str, Any]:
    """The filter for a container with these capabilities on this machine. Read once per process; do not change it."""
    uname = os.uname()
    return flatten(_profile(), capabilities, uname.machine, uname.release)
