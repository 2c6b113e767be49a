"""Room to work in: ``root/build/tmp/<pid>-<random>``, which never outlives its build for long.

Each build keeps a lock on its folder as long as it lives; the kernel drops it with the process, however that ends. The next
build takes what it can lock: it belongs to nobody any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import threading
from pathlib import Path
from types import TracebackType


class Scratch:
    """One build's own folder; empty subfolders of it on demand. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._all = folder
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(6)}"
        self._held = -1
        self._count = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Scratch:
        self._all.mkdir(mode=0o711, parents=True, exist_ok=True)
        reclaim(self._all)
        while True:
            self._path.mkdir(mode=0o711)
            try:
                self._held = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a build that starts this instant took it for a dead one's
            fcntl.flock(self._held, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._held), self._path.stat()):
                    return self
            os.close(self._held)  # somebody reclaimed it before it was locked

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        os.close(self._held)

    def folder(self) -> Path:
        """A new empty folder."""
        with self._lock:
            self._count += 1
            path = self._path / str(self._count)
        path.mkdir(mode=0o711)
        return path


def reclaim(folder: Path) -> int:
    """Remove what builds that are dead left behind. Returns how many folders went."""
    gone = 0
    for entry in list(os.scandir(folder)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            held = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # What was opened may be gone, and another of the same name in its place, which somebody works in.
                if os.path.samestat(os.fstat(held), Path(entry.path).stat()):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    gone += 1
            except BlockingIOError:
                continue
            finally:
                os.close(held)
    return gone
