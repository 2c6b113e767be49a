"""The few system calls that the runtime needs and Python does not offer, and who a process is.

Mounts are made with mount(2) itself: forking ``mount`` costs more than the mount. A process is never named by its
number alone, because numbers are reused: :class:`Process` carries the start time too (proc(5), field 22 of ``stat``),
and the number counts only while both agree. Signals go through a pidfd, so that they cannot hit a stranger.

Standard library only: the exit hook imports this module in a bare interpreter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bayplan.records import dataclass

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
CLONE_NEWNS = 0x00020000

_TMPFS_MAGIC = 0x01021994
_PAGE = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError; ``data`` must fit a page (the kernel cuts longer text without a word)."""
    raw = data.encode()
    if len(raw) >= _PAGE:
        raise OSError(errno.E2BIG, f"mount options of {len(raw)} bytes do not fit a page", str(target))
    result = _libc.mount(
        source.encode(), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), raw if raw else None
    )
    _check(result, f"mount {fstype} on {target}")


def unmount(target: Path, flags: int = MNT_DETACH | UMOUNT_NOFOLLOW) -> bool:
    """umount2(2); False when nothing was mounted there or the path is gone. Raises OSError otherwise."""
    if _libc.umount2(os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
        return False
    raise OSError(number, f"unmount {target}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """unshare(2) of the calling thread."""
    _check(_libc.unshare(flags), "unshare")


def on_tmpfs(path: Path) -> bool:
    """Whether ``path`` lies on a tmpfs (statfs(2), ``f_type``)."""
    buffer = (ctypes.c_long * 64)()
    _check(_libc.statfs(os.fsencode(path), ctypes.byref(buffer)), f"statfs {path}")
    return buffer[0] == _TMPFS_MAGIC


def mounts_below(path: Path) -> list[Path]:
    """Mount points at or below ``path``, deepest first (proc(5), mountinfo; octal escapes undone)."""
    top = os.fsencode(path)
    found: list[bytes] = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        point = line.split(b" ", 5)[4]
        if b"\\" in point:
            point = point.decode("unicode_escape").encode("latin-1")
        if point == top or point.startswith(top + b"/"):
            found.append(point)
    return [Path(os.fsdecode(point)) for point in sorted(found, key=len, reverse=True)]


@contextlib.contextmanager
def private_mounts(drop: Path) -> Iterator[str]:
    """A mount namespace that is a copy of ours without ``drop``; yields ``/proc/PID/task/TID``, where it can be
    entered.

    A thread holds it, so nothing is forked, and it is gone when the block ends. What the host mounts afterwards does
    not show in it: take a fresh one for each use.
    """
    ready, done = threading.Event(), threading.Event()
    outcome: list[str | OSError] = []

    def hold() -> None:
        try:
            unshare(CLONE_NEWNS)
            mount("none", Path("/"), "none", MS_REC | MS_PRIVATE)
            unmount(drop)
            outcome.append(f"/proc/{os.getpid()}/task/{threading.get_native_id()}")
        except OSError as error:
            outcome.append(error)
        ready.set()
        done.wait()

    thread = threading.Thread(target=hold, name="bayplan-mounts", daemon=True)
    thread.start()
    ready.wait()
    try:
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        yield outcome[0]
    finally:
        done.set()
        thread.join()


def boot_id() -> str:
    """The kernel's name for this boot; process numbers of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_time(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class Process:
    """One process of this boot. ``start`` is in clock ticks since boot."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The live process with that number now, or None."""
        start = _start_time(pid)
        return None if start is None else cls(pid, start)

    @property
    def alive(self) -> bool:
        return _start_time(self.pid) == self.start

    def _open(self) -> int | None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            if error.errno == errno.EINVAL:  # the number of a thread, not of a process
                return None
            raise
        if not self.alive:
            os.close(descriptor)
            return None
        return descriptor

    def send(self, number: int) -> bool:
        """Send a signal; False when the process is gone."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait(self, timeout: float | None) -> bool:
        """Wait until the process has ended; False when ``timeout`` seconds passed before. Needs no parenthood."""
        descriptor = self._open()
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(None if timeout is None else max(0, int(timeout * 1000 + 0.999))))
        finally:
            os.close(descriptor)


def processes_with(*words: str, program: tuple[str, ...]) -> list[Process]:
    """Live processes that have each of ``words`` as one whole argument and whose first argument's last path part is in
    ``program``."""
    wanted = {word.encode() for word in words}
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            argv = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended while we looked
            continue
        if wanted <= set(argv) and Path(os.fsdecode(argv[0])).name in program:
            process = Process.of(int(entry))
            if process is not None:
                found.append(process)
    return found


def until(condition: Callable[[], bool], timeout: float, *, first: float = 0.0005, longest: float = 0.02) -> bool:
    """Ask ``condition()`` again and again, with growing pauses, until it holds or ``timeout`` seconds passed."""
    deadline = time.monotonic() + timeout
    pause = first
    while not condition():
        if time.monotonic() >= deadline:
            return bool(condition())
        time.sleep(pause)
        pause = min(pause * 1.5, longest)
    return True
