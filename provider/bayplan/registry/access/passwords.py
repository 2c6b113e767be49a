"""Users with passwords of their own: an ``htpasswd`` file with bcrypt hashes, as Apache and the distribution registry read it.

The file is read again when it changes. A hash is made to take long, so one that was right is remembered for a while, as a digest
under a key that dies with the process; a name that is not there costs as much as a wrong password, so that nobody learns names.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
import time
from pathlib import Path

from bayplan.errors import BayplanError, Where

_HASH = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
_NAME = re.compile(r"[\w+=,.@-]{1,64}", re.ASCII)
_REMEMBERED = 300.0  # seconds
_MOST = 1000


class Passwords:
    """The users of a file. Any thread may ask."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._guard = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._hashes: dict[str, bytes] = {}
        self._key = os.urandom(32)
        self._right: dict[bytes, float] = {}
        self.load()

    def load(self) -> None:
        """Read the file where it has changed. Raises BayplanError ``bad-htpasswd``."""
        try:
            info = self._file.stat()
            stamp = (info.st_mtime_ns, info.st_ino, info.st_size)
            if stamp == self._stamp:
                return
            text = self._file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise BayplanError("bad-htpasswd", f"{self._file} cannot be read: {reason}") from None
        hashes = {}
        for number, row in enumerate(text.splitlines(), 1):
            if not row.strip() or row.startswith("#"):
                continue
            name, _, hash = row.strip().partition(":")
            if not _NAME.fullmatch(name) or name in ("AWS", "root") or not _HASH.fullmatch(hash):
                raise BayplanError(
                    "bad-htpasswd",
                    "this is no NAME:HASH with a bcrypt hash",
                    where=Where(str(self._file), number),
                    hint="htpasswd -B makes one; AWS and root are no names for it",
                )
            hashes[name] = hash.encode("ascii")
        with self._guard:
            self._stamp, self._hashes = stamp, hashes
            self._right.clear()

    def has(self, name: str) -> bool:
        """Whether there is such a user now."""
        self.load()
        return name in self._hashes

    def check(self, name: str, password: str) -> bool:
        """Whether ``password`` is the user's. Takes tens of milliseconds where it was not right lately."""
        import bcrypt

        self.load()
        known = self._hashes.get(name)
        digest = hmac.digest(self._key, f"{name}\0{password}".encode(), "sha256")
        now = time.monotonic()
        with self._guard:
            if known is not None and self._right.get(digest, 0.0) > now:
                return True
        given = password.encode("utf-8")[:72]  # more than bcrypt looks at
        tried = known or next(iter(self._hashes.values()), b"$2b$10$" + b"." * 53)
        right = bcrypt.checkpw(given, tried) and known is not None
        if right:
            with self._guard:
                if self._hashes.get(name) == known:
                    if len(self._right) >= _MOST:
                        self._right.clear()
                    self._right[digest] = now + _REMEMBERED
        return right
