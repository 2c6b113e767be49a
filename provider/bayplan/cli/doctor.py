"""What this machine can run, and what is missing, with the command that brings it.

Exits with 0 when containers can run here, else with 1. Nothing is changed, but that the OCI runtime is tried once on an
empty container (the answer is remembered until the next boot).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.cli import show
from bayplan.cli.options import add_places, root_of
from bayplan.errors import BayplanError
from bayplan.records import asdict, dataclass

if TYPE_CHECKING:
    from bayplan.oci.root import Root

_NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
_CONTROLLERS = ("memory", "cpu", "pids", "devices", "freezer")
_LEAST_FREE = 1 << 30  # bytes
_MARKS = {"ok": ("ok", "32"), "note": ("note", "36"), "warning": ("warning", "33"), "problem": ("PROBLEM", "31")}


@dataclass(frozen=True, slots=True)
class Finding:
    """``status`` is ``ok``, ``note``, ``warning`` (something will not work) or ``problem`` (containers cannot run)."""

    subject: str
    status: str
    message: str
    code: str = ""
    fix: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    add_places(parser)


def run(arguments: argparse.Namespace) -> int:
    root = root_of(arguments)
    found = [finding for check in _CHECKS for finding in check(root)]
    able = not any(one.status == "problem" for one in found)
    if arguments.json:
        show.document({"findings": [asdict(one) for one in found], "able": able, "root": str(root.path)})
        return 0 if able else 1
    colours = sys.stdout.isatty()
    width = max(len(one.subject) for one in found)
    for one in found:
        word, colour = _MARKS[one.status]
        mark = f"\x1b[{colour}m{word:<7}\x1b[0m" if colours else f"{word:<7}"
        show.say(f"{mark}  {one.subject:<{width}}  {one.message}")
        if one.fix:
            show.say(f"{'':<7}  {'':<{width}}  fix: {one.fix}")
    show.say("containers can run here" if able else "containers cannot run here yet")
    return 0 if able else 1


# -- the checks ----------------------------------------------------------------------------------------------------


def _rights(_: Root) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("rights", "ok", "root")
    else:
        yield Finding("rights", "problem", "containers need root here", "not-root", "run bayplan as root (sudo)")


def _kernel(_: Root) -> Iterator[Finding]:
    yield Finding("kernel", "ok", f"Linux {os.uname().release} on {os.uname().machine}")
    known = Path("/proc/filesystems").read_text(encoding="ascii").split()
    modules = Path(f"/lib/modules/{os.uname().release}/kernel/fs/overlayfs")
    if "overlay" in known:
        yield Finding("overlay", "ok", "overlayfs is there")
    elif modules.exists():
        yield Finding(
            "overlay", "warning", "overlayfs is a module that is not loaded", "overlay-module", "modprobe overlay"
        )
    else:
        yield Finding(
            "overlay", "problem", "this kernel has no overlayfs", "no-overlay", "use a kernel with CONFIG_OVERLAY_FS"
        )
    missing = [name for name in _NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
    if missing:
        text = f"this kernel lacks namespaces: {', '.join(missing)}"
        yield Finding(
            "namespaces", "problem", text, "no-namespaces", "use a kernel with CONFIG_NAMESPACES and its parts"
        )
    else:
        yield Finding("namespaces", "ok", ", ".join(_NAMESPACES))
    yield from _cgroups()


def _cgroups() -> Iterator[Finding]:
    base = Path("/sys/fs/cgroup")
    wanted: tuple[str, ...]
    if (base / "cgroup.controllers").exists():
        there = (base / "cgroup.controllers").read_text(encoding="ascii").split()
        version, wanted = "version 2", _CONTROLLERS[:3]
    else:
        there = [name for name in _CONTROLLERS if (base / name).is_dir()]
        hybrid = ", with version 2 beside it" if (base / "unified").is_dir() else ""
        version, wanted = f"version 1{hybrid}", _CONTROLLERS
    if not there:
        fix = "mount -t cgroup2 none /sys/fs/cgroup"
        yield Finding("cgroups", "problem", "control groups are not mounted", "no-cgroups", fix)
        return
    missing = [name for name in wanted if name not in there]
    if missing:
        fix = "boot with cgroup_enable=memory, or enable them in the parent group"
        yield Finding(
            "cgroups",
            "warning",
            f"{version}; without {', '.join(missing)}: such limits do not hold",
            "no-controller",
            fix,
        )
    else:
        yield Finding("cgroups", "ok", f"{version}: {', '.join(wanted)}")


def _oci_runtime(root: Root) -> Iterator[Finding]:
    from bayplan.runtime.ociruntime import find_program, known_bad, runtime_for

    try:
        found = runtime_for(root)
    except BayplanError as error:
        fix = error.hint if error.hint.startswith("apt-get") else "apt-get install runc crun"
        yield Finding("oci runtime", "problem", error.message, error.code, fix)
        return
    except OSError as error:
        yield Finding("oci runtime", "problem", f"none can be tried: {error}", "no-runtime", "run bayplan as root")
        return
    for name in dict.fromkeys((found.name, "crun", "runc")):
        program = found.program if name == found.name else find_program(name)
        if program is None:
            continue
        version, numbers = _version(program)
        text = f"{name} {version}"
        if name != found.name:
            yield Finding("oci runtime", "note", f"{text} is there too")
            continue
        hidden = " (in a mount namespace without cgroup version 2)" if found.hide else ""
        if name == "runc" and numbers and known_bad(numbers):
            yield Finding(
                "oci runtime",
                "warning",
                f"{text} works; it lacks the fixes of CVE-2025-31133, 52565, 52881 unless the distribution brought them",
                "runc-known-bad",
                "apt-get update && apt-get install --only-upgrade runc",
            )
        else:
            yield Finding("oci runtime", "ok", f"{text} works{hidden}")


def _version(program: str) -> tuple[str, tuple[int, ...]]:
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version", ()
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?\S*", said)
    return (found[0], tuple(int(part or 0) for part in found.groups())) if found else ("of unknown version", ())


def _programs(_: Root) -> Iterator[Finding]:
    from bayplan.runtime.ociruntime import find_program
    from bayplan.runtime.seccomp import PROFILE

    conmon = find_program("conmon")
    if conmon:
        yield Finding("conmon", "ok", f"conmon {_version(conmon)[0]}")
    else:
        text = "conmon is not installed: nothing could watch a container"
        yield Finding("conmon", "problem", text, "conmon-missing", "apt-get install conmon")
    if PROFILE.exists():
        yield Finding("seccomp", "ok", f"profile {PROFILE}")
    else:
        fix = "apt-get install golang-github-containers-common"
        yield Finding("seccomp", "problem", f"the default profile {PROFILE} is missing", "seccomp-missing", fix)
    from bayplan.runtime.prepare import find_init

    try:
        yield Finding("init", "ok", find_init())
    except BayplanError:
        text = "no static init program: containers with init cannot start"
        yield Finding("init", "note", text, "init-missing", "apt-get install catatonit")


def _networks(root: Root) -> Iterator[Finding]:
    from bayplan.runtime.net import Networks

    if os.geteuid() != 0:
        return
    found = Networks(root).diagnose()
    codes = {one.code for one in found}
    if "nft-missing" not in codes:
        yield Finding("nftables", "ok", "published ports and ways out can be made")
    if "dns-missing" not in codes:
        from bayplan.runtime.net.names import program

        path = program()
        yield Finding("names", "ok", f"aardvark-dns {_version(str(path))[0]}" if path else "aardvark-dns")
    for one in found:
        if one.code == "nft-missing":
            status = "problem"
        elif one.code == "forward-accepted":
            status = "note"
        else:
            status = "warning"
        fix = one.fix if one.fix != "nothing to do" else ""
        yield Finding("network", status, one.message, one.code, fix)


def _disk(root: Root) -> Iterator[Finding]:
    place = root.path
    while not place.exists():
        place = place.parent
    info = os.statvfs(place)
    free = info.f_bavail * info.f_frsize
    text = f"{show.size(free)} free for {root.path}"
    if not os.access(place, os.W_OK):
        yield Finding(
            "root", "problem", f"{root.path} cannot be written", "root-unusable", "run as root, or give --root"
        )
    elif free < _LEAST_FREE:
        yield Finding("disk", "warning", text, "disk-full", "bayplan system prune")
    else:
        yield Finding("disk", "ok", text)
    if info.f_files and info.f_favail < 10_000:
        yield Finding(
            "disk", "warning", f"only {info.f_favail} files can be made", "inodes-full", "bayplan system prune"
        )


def _agent(root: Root) -> Iterator[Finding]:
    from bayplan.runtime.agent import agent_running

    pid = agent_running(root)
    if pid is not None:
        yield Finding("agent", "ok", f"runs (process {pid})")
    else:
        text = "none runs: health is not watched between applies, and nothing starts at boot"
        yield Finding("agent", "note", text, "no-agent", "bayplan agent --install-unit, or bayplan agent --background")


_CHECKS: tuple[Callable[[Root], Iterator[Finding]], ...] = (
    _rights,
    _kernel,
    _oci_runtime,
    _programs,
    _networks,
    _disk,
    _agent,
)
