"""Control groups: what a container uses, whether it is frozen, and the end of what is left in one. Versions 1 and 2.

Numbers are read from the files themselves: asking the OCI runtime costs a process each time. Version 1 has one tree per
controller below ``/sys/fs/cgroup/<controller>``, version 2 has one for all (kernel: cgroup-v1/*.rst, cgroup-v2.rst).
A file that is not there (a controller that is not enabled) counts as 0, never as an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bayplan.records import dataclass
from bayplan.runtime.kernel import Process, until
from bayplan.runtime.ociruntime import CGROUPS, cgroups_unified

_NO_LIMIT = 1 << 60  # version 1 says "no limit" with a number near 2^63
_KILL_TIMEOUT = 5.0
_MAKE_TRIES = 50
_AWAKE = 0.05  # seconds that the kernel is quick for after a move
_woken = -_AWAKE


@dataclass(frozen=True, slots=True)
class Stats:
    """Use of one container at ``time`` (seconds since 1970). ``cpu`` is seconds of processor time since the start;
    sizes are bytes; ``memory`` is without the page cache that can be dropped (as ``docker stats``); None is without
    limit."""

    time: float
    cpu: float = 0.0
    memory: int = 0
    memory_limit: int | None = None
    pids: int = 0
    pids_limit: int | None = None
    read_bytes: int = 0
    written_bytes: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:  # not enabled, or the group has just ended (ENODEV)
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _limit(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _pairs(path: Path) -> dict[str, int]:
    """``key value`` lines."""
    out = {}
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if value.strip().isdigit():
            out[key] = int(value)
    return out


def folder(cgroup: str, controller: str, *, base: Path = CGROUPS, unified: bool | None = None) -> Path:
    """The group's folder for a controller."""
    one = cgroups_unified() if unified is None else unified
    return base / cgroup.lstrip("/") if one else base / controller / cgroup.lstrip("/")


def wake() -> None:
    """Begin what the next move of a process between groups waits for.

    The kernel lets a move wait for a grace period of all processors (``cgroup_threadgroup_rwsem``: 10 ms and more), and others
    that follow soon go at once. A runtime's first act is such a move; so a thread moves this process to where it is,
    while the rest of a start goes on. Without effect, and without harm where it is refused.
    """
    global _woken
    if time.monotonic() - _woken < _AWAKE:
        return
    _woken = time.monotonic()
    threading.Thread(target=_move_nowhere, name="bayplan-cgroup", daemon=True).start()


def _move_nowhere() -> None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            group = CGROUPS / controllers.removeprefix("name=") / path.lstrip("/") / "cgroup.procs"
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(group, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(descriptor, b"0")
                finally:
                    os.close(descriptor)
                return


def stats(cgroup: str, *, base: Path = CGROUPS, unified: bool | None = None) -> Stats:
    """What the group uses now."""
    one = cgroups_unified() if unified is None else unified
    if one:
        here = base / cgroup.lstrip("/")
        memory = _number(here / "memory.current")
        inactive = _pairs(here / "memory.stat").get("inactive_file", 0)
        read = written = 0
        for line in _text(here / "io.stat").splitlines():
            for word in line.split()[1:]:
                key, _, value = word.partition("=")
                read += int(value) if key == "rbytes" else 0
                written += int(value) if key == "wbytes" else 0
        return Stats(
            time=time.time(),
            cpu=_pairs(here / "cpu.stat").get("usage_usec", 0) / 1e6,
            memory=max(0, memory - inactive),
            memory_limit=_limit(here / "memory.max"),
            pids=_number(here / "pids.current"),
            pids_limit=_limit(here / "pids.max"),
            read_bytes=read,
            written_bytes=written,
        )

    def at(controller: str, name: str) -> Path:
        return base / controller / cgroup.lstrip("/") / name

    memory = _number(at("memory", "memory.usage_in_bytes"))
    inactive = _pairs(at("memory", "memory.stat")).get("total_inactive_file", 0)
    read = written = 0
    for line in _text(at("blkio", "blkio.throttle.io_service_bytes")).splitlines():
        words = line.split()
        if len(words) == 3:
            read += int(words[2]) if words[1] == "Read" else 0
            written += int(words[2]) if words[1] == "Write" else 0
    return Stats(
        time=time.time(),
        cpu=_number(at("cpuacct", "cpuacct.usage")) / 1e9,
        memory=max(0, memory - inactive),
        memory_limit=_limit(at("memory", "memory.limit_in_bytes")),
        pids=_number(at("pids", "pids.current")),
        pids_limit=_limit(at("pids", "pids.max")),
        read_bytes=read,
        written_bytes=written,
    )


def network_bytes(pid: int) -> tuple[int, int]:
    """(received, sent) of all interfaces but ``lo`` in the network namespace of a process (proc(5), ``net/dev``)."""
    received = sent = 0
    for line in _text(Path(f"/proc/{pid}/net/dev")).splitlines()[2:]:
        name, _, rest = line.partition(":")
        words = rest.split()
        if name.strip() != "lo" and len(words) >= 9:
            received += int(words[0])
            sent += int(words[8])
    return received, sent


def frozen(cgroup: str, *, base: Path = CGROUPS, unified: bool | None = None) -> bool:
    """Whether the group is paused, or about to be: freezing takes a moment after it was asked for."""
    one = cgroups_unified() if unified is None else unified
    if one:
        return _text(folder(cgroup, "", base=base, unified=True) / "cgroup.freeze").strip() == "1"
    state = _text(folder(cgroup, "freezer", base=base, unified=False) / "freezer.state").strip()
    return state in ("FREEZING", "FROZEN")


def still(cgroup: str, *, base: Path = CGROUPS, unified: bool | None = None) -> bool:
    """Whether every process of a paused group stands still."""
    one = cgroups_unified() if unified is None else unified
    if one:
        return _pairs(folder(cgroup, "", base=base, unified=True) / "cgroup.events").get("frozen", 0) == 1
    return _text(folder(cgroup, "freezer", base=base, unified=False) / "freezer.state").strip() == "FROZEN"


def oom_killed(cgroup: str, *, base: Path = CGROUPS, unified: bool | None = None) -> bool:
    """Whether the kernel killed a process of the group for want of memory; ask before the group is removed."""
    one = cgroups_unified() if unified is None else unified
    name = "memory.events" if one else "memory.oom_control"
    return _pairs(folder(cgroup, "memory", base=base, unified=one) / name).get("oom_kill", 0) > 0


def accounts_swap(*, base: Path = CGROUPS, unified: bool | None = None) -> bool:
    """Whether a limit on memory and swap together can be set: a kernel may be built or booted without.

    Version 2 shows it in any group but the topmost; where no group has the memory controller yet, the kernel's having
    swap at all has to do.
    """
    one = cgroups_unified() if unified is None else unified
    if not one:
        return (base / "memory" / "memory.memsw.limit_in_bytes").exists()
    for group in base.iterdir():
        if (group / "memory.max").exists():
            return (group / "memory.swap.max").exists()
    return Path("/proc/swaps").exists()


def lift_pids_limit(cgroup: str) -> None:
    """Let the group have as many processes as it likes."""
    path = folder(cgroup, "pids") / "pids.max"
    if path.exists():
        path.write_text("max")


def lift_cpu_quota(cgroup: str) -> None:
    """Let the group use the processors as it likes."""
    for name, text in (("cpu.max", "max"), ("cpu.cfs_quota_us", "-1")):
        path = folder(cgroup, "cpu") / name
        if path.exists():
            path.write_text(text)


def _trees() -> Iterator[Path]:
    """The mounted hierarchies."""
    if cgroups_unified():
        yield CGROUPS
        return
    with contextlib.suppress(OSError):
        for entry in sorted(CGROUPS.iterdir()):
            if not entry.is_symlink() and (entry / "cgroup.procs").exists():
                yield entry


def members(cgroup: str) -> list[Process]:
    """Every process in the group, in any hierarchy."""
    found: set[int] = set()
    for tree in _trees():
        for directory, _, _ in os.walk(tree / cgroup.lstrip("/")):
            found.update(int(pid) for pid in _text(Path(directory) / "cgroup.procs").split())
    return [process for process in map(Process.of, sorted(found)) if process is not None]


def make(cgroup: str) -> None:
    """Make the group in every hierarchy, empty, before the OCI runtime enters it.

    It would do that itself, but between the making of the group above and of this one, another container's end could
    take the upper one away (:func:`drop_parent`): a start would fail for nothing. What cannot be made here is left to
    the runtime, which says why in its own words.
    """
    parent, _, name = cgroup.strip("/").rpartition("/")
    for tree in _trees():
        for _ in range(_MAKE_TRIES):
            try:
                (tree / parent).mkdir(exist_ok=True)
                (tree / parent / name).mkdir(exist_ok=True)
                break
            except FileNotFoundError:  # taken away in this instant
                continue
            except OSError:
                break


def thaw(cgroup: str, *, base: Path = CGROUPS, unified: bool | None = None) -> None:
    """Let a paused group go on; one that has just ended is no error. (The OCI runtimes refuse to, for one whose init was
    killed meanwhile: version 2 lets a frozen process be killed, version 1 does not.)"""
    one = cgroups_unified() if unified is None else unified
    name, word = ("cgroup.freeze", "0") if one else ("freezer.state", "THAWED")
    path = folder(cgroup, "freezer", base=base, unified=one) / name
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never made: the kernel's files are there or not
        try:
            os.write(descriptor, word.encode())
        finally:
            os.close(descriptor)


def destroy(cgroup: str) -> None:
    """Kill every process of the group and remove it from every hierarchy; nothing to do is no error."""
    trees = [tree / cgroup.lstrip("/") for tree in _trees()]
    there = [tree for tree in trees if tree.exists()]
    if not there:
        return
    for tree in there:
        # Version 2 since Linux 5.14: all at once, those below too, however fast they fork.
        if (tree / "cgroup.kill").exists():
            with contextlib.suppress(OSError):  # it has just ended
                (tree / "cgroup.kill").write_text("1")
    for process in members(cgroup):
        process.send(signal.SIGKILL)
    thaw(cgroup)

    def removed() -> bool:
        for process in members(cgroup):
            process.send(signal.SIGKILL)
        for tree in there:
            for directory, _, _ in os.walk(tree, topdown=False):
                with contextlib.suppress(OSError):  # a process in it is not yet gone: the next round
                    Path(directory).rmdir()
        return not any(tree.exists() for tree in there)

    until(removed, _KILL_TIMEOUT)


def children(cgroup: str) -> list[str]:
    """Names of the groups inside a group, in any hierarchy."""
    found: set[str] = set()
    for tree in _trees():
        with contextlib.suppress(FileNotFoundError):
            found.update(entry.name for entry in os.scandir(tree / cgroup.lstrip("/")) if entry.is_dir())
    return sorted(found)


def drop_parent(cgroup: str) -> None:
    """Remove the group above, when nothing is left in it."""
    parent = cgroup.rpartition("/")[0].lstrip("/")
    for tree in _trees():
        with contextlib.suppress(OSError):  # other containers are in it, or it is not there
            (tree / parent).rmdir()
