"""The access log: one line per request, for people or as one JSON object.

A file is opened again when it was moved away (``logrotate`` needs no signal), and looked at for that once a second. A log that
cannot be written is told once on standard error and never stops a request.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TextIO

from bayplan.errors import BayplanError
from bayplan.registry.configuration import LogFormat, Logging
from bayplan.registry.exchange import Access

_LOOK_SECONDS = 1.0


def line(access: Access, format: LogFormat) -> str:
    """One request's line, without its end."""
    if format is LogFormat.TEXT:
        return str(access)
    path, _, query = access.target.partition("?")
    said = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(access.when)) + f".{int(access.when % 1 * 1000):03d}Z",
        "peer": access.peer,
        "who": access.who,
        "method": access.method,
        "path": path,
        "query": query,
        "status": int(access.status),
        "received": access.received,
        "sent": access.sent,
        "seconds": round(access.seconds, 6),
        "agent": access.agent,
        "request_id": access.id,
    }
    return json.dumps({name: value for name, value in said.items() if value != ""}, separators=(",", ":"))


class AccessLog:
    """Writes the lines. Raises BayplanError ``log-unwritable`` where the file cannot be opened at the start."""

    def __init__(self, logging: Logging) -> None:
        self._format = logging.format
        self._path = logging.file
        self._file: TextIO = sys.stderr
        self._inode = 0
        self._looked = 0.0
        self._told = False
        if self._path is not None and self._format is not LogFormat.NONE:
            try:
                self._open(self._path)
            except OSError as error:
                raise BayplanError("log-unwritable", f"{self._path} cannot be written: {error.strerror}") from None

    def __call__(self, access: Access) -> None:
        if self._format is LogFormat.NONE:
            return
        try:
            if self._path is not None:
                self._follow(self._path)
            self._file.write(line(access, self._format) + "\n")
            self._file.flush()
            self._told = False
        except OSError as error:
            if not self._told:
                self._told = True
                sys.stderr.write(f"the access log cannot be written: {error.strerror}\n")

    def close(self) -> None:
        if self._file is not sys.stderr:
            self._file.close()

    def _open(self, path: Path) -> None:
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
        if self._file is not sys.stderr:
            self._file.close()
        self._file = file
        self._inode = path.stat().st_ino

    def _follow(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            moved = path.stat().st_ino != self._inode
        except FileNotFoundError:
            moved = True
        if moved:
            self._open(path)
