"""Content digests of files and folders that cost a stat where nothing changed.

A file's stamp (device, inode, size, and its times of content and of status in nanoseconds) stands for its content as long as
it is the same. What was hashed is remembered in a cache file whose loss costs time and nothing else. A file that changed
within the clock's granularity before it was hashed is not remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

from bayplan.errors import BayplanError

_STEP = 50_000_000  # nanoseconds: coarser than any kernel's time stamps
_KEPT = 200_000


class Fingerprints:
    """Remembered digests in ``cache`` (a file). Use one for a look, then :meth:`save`."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[object]] | None = None
        self._fresh: dict[str, list[object]] = {}
        self._began = time.time_ns()

    def file(self, path: Path) -> str:
        """SHA-256 of a file's content, as hex. Raises BayplanError ``unreadable``."""
        try:
            info = path.stat()
            stamp = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
            known = self._index().get(os.fspath(path))
            if known is not None and known[:-1] == stamp:
                return str(known[-1])
            digest = hashlib.sha256()
            with path.open("rb", buffering=0) as file:
                while data := file.read(1 << 20):
                    digest.update(data)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise BayplanError(
                "unreadable", f"{path} cannot be read: {error.strerror}", hint="look at its path and mode"
            ) from error
        steady = after.st_ctime_ns < self._began - _STEP and after.st_ctime_ns == info.st_ctime_ns
        if steady:
            self._fresh[os.fspath(path)] = [*stamp, digest.hexdigest()]
        return digest.hexdigest()

    def tree(self, folder: Path) -> str:
        """One digest of a folder's names, kinds, modes, owners, links and contents; times do not count."""
        digest = hashlib.sha256()
        stack = [""]
        try:
            while stack:
                name = stack.pop()
                path = folder / name
                info = path.lstat()
                line = [name, stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid]
                if stat.S_ISREG(info.st_mode):
                    line.append(self.file(path))
                elif stat.S_ISLNK(info.st_mode):
                    line.append(os.readlink(path))
                elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                    line.append(info.st_rdev)
                elif stat.S_ISDIR(info.st_mode):
                    children = sorted(os.listdir(path), reverse=True)
                    stack.extend(f"{name}/{child}" if name else child for child in children)
                digest.update(json.dumps(line).encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise BayplanError("unreadable", f"{folder} cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    def of(self, path: Path) -> str:
        """The fingerprint of a file or a folder. Raises BayplanError ``unreadable``."""
        return self.tree(path) if path.is_dir() else self.file(path)

    def save(self) -> None:
        """Write down what was hashed; what cannot be written is only slower the next time."""
        if not self._fresh:
            return
        rows = dict([*{**self._index(), **self._fresh}.items()][-_KEPT:])
        with contextlib.suppress(OSError):
            self._cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", dir=self._cache.parent)
            with os.fdopen(handle, "w") as file:
                json.dump(rows, file, separators=(",", ":"))
            Path(name).replace(self._cache)

    def _index(self) -> dict[str, list[object]]:
        if self._known is None:
            try:
                loaded = json.loads(self._cache.read_bytes())
                self._known = loaded if isinstance(loaded, dict) else {}
            except (OSError, ValueError):
                self._known = {}
        return self._known
