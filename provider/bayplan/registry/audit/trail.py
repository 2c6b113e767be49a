"""The trail: records appended as lines to ``root/registry/audit/events.jsonl`` (0600), which is rotated by size and age.

A record of a call that changed something is in the file before the caller is answered, one of a read within a twentieth of a second.
Files are only appended to (``O_APPEND``, one write for whole lines), so that several servers of one root share them; whoever finds
the file too large gives it the name of the time, under a lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bayplan.records import dataclass

CURRENT = "events.jsonl"
_DELAY = 0.05
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """``size``: bytes of a file before the next one begins; ``age``: seconds that a full file is kept, None for ever."""

    size: int = 64 << 20
    age: float | None = None


class Trail:
    """Writes the records of one server. Any thread may write."""

    def __init__(self, folder: Path, keeping: Keeping | None = None) -> None:
        self._folder = folder
        self._keeping = keeping or Keeping()
        self._guard = threading.Lock()
        self._waiting: list[bytes] = []
        self._flusher: threading.Timer | None = None
        self._file = -1
        self._inode = 0
        self._looked = 0.0
        self.failure = ""

    def write(self, record: Mapping[str, Any], *, now: bool = True) -> None:
        """Append a record; with ``now`` it is in the file when this returns. What cannot be written is told by ``failure``, and
        kept for the next try within reason."""
        self.append(json.dumps(record, separators=(",", ":")).encode() + b"\n", now=now)

    def append(self, line: bytes, *, now: bool) -> None:
        """:meth:`write` of what is a line already."""
        with self._guard:
            self._waiting.append(line)
            if now or len(self._waiting) > 1000:
                self._flush()
            elif self._flusher is None:
                self._flusher = threading.Timer(_DELAY, self._late)
                self._flusher.daemon = True
                self._flusher.start()

    def close(self) -> None:
        """Write what waits, and make it durable."""
        with self._guard:
            self._flush()
            if self._file >= 0:
                with suppress(OSError):
                    os.fsync(self._file)
                os.close(self._file)
                self._file = -1

    def _late(self) -> None:
        with self._guard:
            self._flusher = None
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        try:
            self._follow()
            written = os.write(self._file, data)
            if written < len(data):  # a disk that is full in the middle of a line: the line is ended, the rest waits
                os.write(self._file, b"\n")
                raise OSError(28, "no space left")
            self.failure = ""
            self._waiting.clear()
        except OSError as error:
            self.failure = error.strerror or str(error)
            del self._waiting[:-10_000]

    def _follow(self) -> None:
        """Have the current file open; it may have been moved by another server, or be full."""
        moment = time.monotonic()
        if (
            self._file >= 0
            and moment - self._looked < _LOOK_SECONDS
            and os.fstat(self._file).st_size < self._keeping.size
        ):
            return
        self._looked = moment
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._locked():
            path = self._folder / CURRENT
            with suppress(FileNotFoundError):
                if path.stat().st_size >= self._keeping.size:
                    self._rotate(path)
            with suppress(FileNotFoundError):
                if self._file >= 0 and path.stat().st_ino == self._inode:
                    return
            if self._file >= 0:
                os.close(self._file)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._inode = os.fstat(self._file).st_ino

    def _rotate(self, path: Path) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        number = 0
        while (target := self._folder / f"events-{stamp}-{number:03d}.jsonl").exists():
            number += 1
        path.rename(target)
        if self._keeping.age is not None:
            for old in files(self._folder)[:-1]:
                with suppress(FileNotFoundError):
                    if old.name != CURRENT and old.stat().st_mtime < time.time() - self._keeping.age:
                        old.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def files(folder: Path) -> list[Path]:
    """The trail's files, oldest first."""
    current = folder / CURRENT
    full = sorted(folder.glob("events-*.jsonl"))
    return [*full, current] if current.exists() else full
