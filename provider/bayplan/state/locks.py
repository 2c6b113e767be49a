"""Locks that cannot go stale: they are ``flock`` on a file, so that they die with the process that holds them.

The file's content names the holder for whoever waits; it is information, not the lock. Calls of one process share a
lock (a face may apply several resources of one stack at once), counted per path.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from bayplan.errors import BayplanError

_POLL = 0.05  # seconds between tries while another process holds the lock


class Lock:
    """An exclusive lock on ``path``, shared by the threads of this process.

    ``with Lock(path, what, timeout=60): ...`` waits up to ``timeout`` seconds and then raises BayplanError ``locked``
    naming the holder (its process id, command and since when); as soon as ``cancelled()`` says so, BayplanError
    ``cancelled``. ``waited`` tells afterwards that somebody else had it: what was seen before may not be so any more.
    """

    _held: dict[Path, tuple[int, int]] = {}  # noqa: RUF012  (path -> (descriptor, count), guarded by _guard)
    _guard = threading.Lock()

    def __init__(
        self, path: Path, what: str, *, timeout: float = 60.0, cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self.cancelled = cancelled
        self.path = path
        self.what = what
        self.timeout = timeout
        self.waited = False

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self.timeout
        while True:
            with self._guard:
                if self.path in self._held:
                    descriptor, count = self._held[self.path]
                    self._held[self.path] = (descriptor, count + 1)
                    return self
                found = self._try()
                if found is not None:
                    self._held[self.path] = (found, 1)
                    return self
            self.waited = True
            if self.cancelled():
                raise BayplanError(
                    "cancelled", f"stopped while waiting for the lock of {self.what}; nothing was changed"
                )
            if time.monotonic() >= deadline:
                raise BayplanError(
                    "locked",
                    f"{self.what} is locked by {self._holder()}",
                    hint=f"wait for it, or give a longer --lock-timeout (now {self.timeout:g}s)",
                )
            time.sleep(_POLL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            descriptor, count = self._held[self.path]
            if count > 1:
                self._held[self.path] = (descriptor, count - 1)
                return
            del self._held[self.path]
            os.close(descriptor)

    def _try(self) -> int | None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise
        holder = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        return descriptor

    def _holder(self) -> str:
        try:
            holder = json.loads(self.path.read_text())
            return f"process {holder['pid']} since {holder['since']}"
        except (OSError, ValueError, KeyError):
            return "another process"
