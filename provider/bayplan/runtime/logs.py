"""The container's output, as conmon keeps it.

Each line is ``TIME STREAM TAG TEXT`` (the Kubernetes CRI log format): TIME in RFC 3339 with nanoseconds, STREAM
``stdout`` or ``stderr``, TAG ``F`` for a full line and ``P`` for a part of one. The log is rotated by renaming it and
telling conmon to reopen it, which loses no line; older files are ``ctr.log.1`` (youngest) and up.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from bayplan.records import dataclass
from bayplan.runtime import conmon
from bayplan.runtime.record import Files

MAX_BYTES = 10 << 20  # of one file before it is rotated
KEPT = 3  # rotated files that are kept
_POLL = 0.05  # seconds between looks at a log that is followed
_FRACTION = re.compile(r"\.(\d{6})\d*")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line or a part of one. ``text`` has its line feed unless it is a part; ``time`` as it was written down."""

    time: str
    stream: str
    text: bytes

    @property
    def timestamp(self) -> float:
        """Seconds since 1970."""
        from datetime import UTC, datetime

        return datetime.fromisoformat(_FRACTION.sub(r".\1", self.time)).astimezone(UTC).timestamp()


def parse(line: bytes) -> LogLine | None:
    """One line of the file, without its line feed; None for what is no log line (a torn write)."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr") or parts[2] not in (b"F", b"P"):
        return None
    text = parts[3] if len(parts) == 4 else b""
    return LogLine(
        parts[0].decode("ascii", "replace"), parts[1].decode("ascii"), text + (b"\n" if parts[2] == b"F" else b"")
    )


def _rotated(files: Files) -> list[Path]:
    """Older files, oldest first."""
    found = [files.log.with_name(f"{files.log.name}.{number}") for number in range(KEPT, 0, -1)]
    return [path for path in found if path.exists()]


def read(
    files: Files,
    *,
    follow: bool,
    tail: int | None,
    since: float | None,
    over: Callable[[], bool],
    cancel: Callable[[], bool] | None,
) -> Iterator[LogLine]:
    """Lines oldest first; at most the last ``tail`` of what is there now, none before ``since`` (seconds since 1970).

    ``over()`` says that no more can come; it is asked before the last look, so that nothing is missed.
    """
    kept: deque[LogLine] = deque(maxlen=tail)
    if tail is None:
        for path in _rotated(files):
            yield from _wanted(_lines_of(path), since)
    elif tail > 0:
        for path in _rotated(files):
            kept.extend(_wanted(_lines_of(path), since))
    source = _Followed(files.log)
    try:
        now = _wanted(source.lines(), since)
        if tail is None:
            yield from now
        else:
            kept.extend(now)
            yield from kept
        while follow and not (cancel is not None and cancel()):
            ended = over()
            came = False
            for line in _wanted(source.lines(), since):
                came = True
                yield line
            if ended and not came:
                return
            if not came:
                time.sleep(_POLL)
    finally:
        source.close()


def _wanted(lines: Iterator[LogLine], since: float | None) -> Iterator[LogLine]:
    for line in lines:
        if since is None or line.timestamp >= since:
            yield line


def _lines_of(path: Path) -> Iterator[LogLine]:
    source = _Followed(path)
    try:
        yield from source.lines()
    finally:
        source.close()


class _Followed:
    """A log file that may grow, and be replaced by a new one of the same path."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._rest = b""

    def lines(self) -> Iterator[LogLine]:
        """What came since the last call. A file that was rotated away is read to its end, then the next younger one."""
        while True:
            if self._descriptor < 0 and not self._open(self._path):
                return
            younger = self._younger()
            while chunk := os.read(self._descriptor, 1 << 16):
                *whole, self._rest = (self._rest + chunk).split(b"\n")
                for raw in whole:
                    line = parse(raw)
                    if line is not None:
                        yield line
            if younger is None:
                return
            held = self._descriptor
            if self._open(younger):
                os.close(held)

    def _open(self, path: Path) -> bool:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        self._rest = b""
        return True

    def _younger(self) -> Path | None:
        """The file after the one that is open, by where that one lies now; None when it is the youngest."""
        mine = os.fstat(self._descriptor)
        numbered = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, KEPT + 1)]
        chain = [self._path, *numbered]  # youngest first
        for position, path in enumerate(chain):
            try:
                if os.path.samestat(path.stat(), mine):
                    return chain[position - 1] if position else None
            except FileNotFoundError:
                if path == self._path:
                    return None  # renamed an instant ago; the new one is not there yet
        return numbered[-1] if mine.st_nlink == 0 and numbered[-1].exists() else None

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def tail_text(files: Files, count: int) -> str:
    """The last lines as text, for an error message."""
    lines = read(files, follow=False, tail=count, since=None, over=lambda: True, cancel=None)
    return b"".join(line.text for line in lines).decode("utf-8", "replace").rstrip("\n")


def rotate(files: Files, *, max_bytes: int = MAX_BYTES) -> bool:
    """Begin a new file when the log has grown past ``max_bytes``. Lock held. True when it did.

    A container that does not run has no monitor to tell: its log is simply renamed.
    """
    try:
        if files.log.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(KEPT, 0, -1):
        older = files.log.with_name(f"{files.log.name}.{number}")
        if older.exists() and number < KEPT:
            older.rename(files.log.with_name(f"{files.log.name}.{number + 1}"))
    files.log.rename(files.log.with_name(f"{files.log.name}.1"))
    conmon.reopen_log(files)
    return True
