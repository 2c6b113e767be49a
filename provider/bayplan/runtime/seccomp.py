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

    rules = []
    for rule in profile["syscalls"]:
        if not applies(rule):
            continue
        flat: dict[str, Any] = {"names": rule.get("names") or [rule["name"]], "action": rule["action"]}
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
