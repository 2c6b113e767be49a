"""What keeps content alive before anything refers to it: leases, and the one clock that they share.

A collection must not take what somebody is about to refer to. Who writes or finds content to refer to holds a *lease*: a
file that is locked as long as its holder lives, so that none is ever stale. While it lives, whatever was written or touched
since it began stays.

"Since" is not told by the wall clock, which may step back. Every lease, every touch and every collection takes a *tick*
from one file under the root: nanoseconds of the clock while that moves on, and otherwise one more than the last. A touch
writes its tick as the content's modification time. So whoever began later has the higher tick, whatever the clock does.
(After a loss of power the file may be old; then no lease lives either, and ticks that are too high only keep content.)

The file is also the lock between touching (shared) and removing (exclusive). It is held for one check, never for a walk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TICK = 8  # bytes of a tick in a file
_SECOND = 1_000_000_000


class Leases:
    """The leases and the clock of one store; ``folder`` is ``root/oci`` and must exist when they are used. Any thread may hold some.

    Where ``spares`` are wanted (by a server, whose writes are many and small), a lease that was given up leaves its file, locked
    and with the tick 0, for the next one: making and removing a file for each would be most of what such a write costs. They go
    with :meth:`close`, and what a killed process leaves goes with the next collection.
    """

    #: How many files may wait for the next lease.
    spares = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "leases"
        self._clock = folder / "gc.lock"
        self._spare: list[tuple[int, int, Path]] = []  # the process that made it, its descriptor, its name

    def close(self) -> None:
        """Leave no file behind; no lease may be held."""
        self.spares = 0
        while self._spare:
            process, descriptor, path = self._spare.pop()
            if process == os.getpid():
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
            with contextlib.suppress(OSError):
                os.close(descriptor)

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """A lease, given up at the end of the block or with the process. Yields its tick."""
        process, descriptor, path = self._taken()
        try:
            with self._locked(fcntl.LOCK_EX) as clock:
                tick = self._advance(clock)
                os.pwrite(descriptor, tick.to_bytes(_TICK, "big"), 0)
            yield tick
        finally:
            self._give_up(process, descriptor, path)

    def _taken(self) -> tuple[int, int, Path]:
        process = os.getpid()
        while True:
            try:
                spare = self._spare.pop()
            except IndexError:
                path = self._folder / f"{process}-{os.urandom(6).hex()}"
                return process, locked_file(path), path
            if spare[0] == process and os.fstat(spare[1]).st_nlink:
                return spare
            os.close(spare[1])  # it belongs to the process that this one was forked from, or somebody removed it

    def _give_up(self, process: int, descriptor: int, path: Path) -> None:
        if process == os.getpid() and len(self._spare) < self.spares:
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, bytes(_TICK), 0)
                self._spare.append((process, descriptor, path))
                return
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(descriptor)

    @contextlib.contextmanager
    def touching(self) -> Iterator[int]:
        """For writing a tick on content: it is not lower than any lease's that lives, and nothing is removed meanwhile."""
        with self._locked(fcntl.LOCK_SH) as clock:
            yield max(_read(clock), time.time_ns())

    @contextlib.contextmanager
    def removing(self) -> Iterator[None]:
        """For one check and one removal: nothing is touched meanwhile."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def boundary(self) -> int:
        """The tick from which on content is to be kept by a collection that begins now.

        It is the oldest living lease's, or the present one: what is referred to from now on is touched first, and bears a
        higher tick. Files of dead holders are removed.
        """
        with self._locked(fcntl.LOCK_EX) as clock:
            oldest = self._advance(clock)
            for entry in list(os.scandir(self._folder)):
                try:
                    descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(entry.path).unlink(missing_ok=True)
                except BlockingIOError:
                    # One that has no tick is none at present, or waits for the clock and will be younger than this.
                    oldest = min(oldest, _read(descriptor) or oldest)
                finally:
                    os.close(descriptor)
        return oldest

    def _advance(self, clock: int) -> int:
        tick = max(_read(clock) + 1, time.time_ns())
        os.pwrite(clock, tick.to_bytes(_TICK, "big"), 0)
        return tick

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        descriptor = os.open(self._clock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield descriptor
        finally:
            os.close(descriptor)


def protected(info: os.stat_result, boundary: int) -> bool:
    """Whether content with this stat was written or touched at or after ``boundary``."""
    tick = info.st_mtime_ns
    if tick % _SECOND == 0:
        tick += _SECOND - 1  # a file system without fractions of a second
    return tick >= boundary


def locked_file(path: Path) -> int:
    """A new file that is locked for as long as its descriptor is open (the caller closes it)."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody saw it unlocked for an instant and took it for a dead one's


def _read(descriptor: int) -> int:
    return int.from_bytes(os.pread(descriptor, _TICK, 0), "big")
