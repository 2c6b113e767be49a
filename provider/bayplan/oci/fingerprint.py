"""Content digests of files and folders that cost a stat where nothing changed.

A file's stamp (device, inode, size, and its times of content and of status in nanoseconds) stands for its content as long as
it is the same; the stamps of a whole tree stand for the tree. So an unchanged tree costs its stats, and a changed one the
files that changed. What was hashed is remembered in cache files whose loss costs time and nothing else.

A change within the clock's granularity before the look could be followed by another that leaves the same stamp: what is as
new as that is hashed and not remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

from bayplan.errors import BayplanError

_STEP = 50_000_000  # nanoseconds: coarser than any kernel's time stamps
_MOST_FILES = 200_000
_MOST_TREES = 500
_DEEPEST = 256  # folders in each other
_PIECE = 1 << 20


class Fingerprints:
    """Remembered digests in ``cache`` and, for trees, ``cache`` + ``.trees``. Use one for a look, then :meth:`save`.

    Safe from any number of threads; processes overwrite each other's caches, whole.
    """

    def __init__(self, cache: Path) -> None:
        self._files = _Remembered(cache, _MOST_FILES)
        self._trees = _Remembered(cache.with_name(cache.name + ".trees"), _MOST_TREES)

    def file(self, path: Path) -> str:
        """SHA-256 of a file's content, as hex. Links are followed. Raises BayplanError ``unreadable``."""
        try:
            return self._file(os.fspath(path), path.stat())
        except OSError as error:
            raise _unreadable(path, error) from error

    def tree(self, folder: Path) -> str:
        """One digest (hex) of a folder's names, kinds, modes, owners, links, attributes and contents; times do not count.

        Raises BayplanError ``unreadable``.
        """
        began = time.time_ns()
        try:
            known = self._trees.get(_look(os.fspath(folder), None))
            if known is None:
                entries: list[tuple[str, os.stat_result]] = []
                key = _look(os.fspath(folder), entries)
                known = self._content(os.fspath(folder), entries)
                if max(info.st_ctime_ns for _, info in entries) < began - _STEP:
                    self._trees.put(key, known)
        except OSError as error:
            raise _unreadable(folder, error) from error
        return known

    def of(self, path: Path) -> str:
        """The fingerprint of a file or a folder. Raises BayplanError ``unreadable``."""
        return self.tree(path) if path.is_dir() else self.file(path)

    def save(self) -> None:
        """Write down what was hashed; what cannot be written is only slower the next time."""
        self._files.save()
        self._trees.save()

    # -- content ---------------------------------------------------------------------------------------------------

    def _content(self, folder: str, entries: list[tuple[str, os.stat_result]]) -> str:
        digest = hashlib.sha256()
        inodes: dict[tuple[int, int], str] = {}
        for name, info in entries:
            path = f"{folder}/{name}"
            mode = info.st_mode
            line: list[object] = [name, mode, info.st_uid, info.st_gid]
            if stat.S_ISREG(mode):
                line.append(self._file(path, info))
                if info.st_nlink > 1:
                    line.append(inodes.setdefault((info.st_dev, info.st_ino), name))
            elif stat.S_ISLNK(mode):
                line.append(os.readlink(path))
            elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                line.append(info.st_rdev)
            if not stat.S_ISLNK(mode):
                line.extend((one, os.getxattr(path, one, follow_symlinks=False).hex()) for one in _attributes(path))
            digest.update(json.dumps(line).encode())
        return digest.hexdigest()

    def _file(self, path: str, info: os.stat_result) -> str:
        key = _stamp(info)
        known = self._files.get(key)
        if known is not None:
            return known
        began = time.time_ns()
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a hot loop)
            while data := file.read(_PIECE):
                digest.update(data)
            after = os.fstat(file.fileno())
        found = digest.hexdigest()
        if _stamp(after) == key and after.st_ctime_ns < began - _STEP:
            self._files.put(key, found)
        return found


def _stamp(info: os.stat_result) -> str:
    return "%x.%x.%x.%x.%x" % (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)  # noqa: UP031


def _attributes(path: str) -> list[str]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without attributes
        return []
    return sorted(name for name in names if name == "security.capability" or name.startswith("user."))


def _look(folder: str, into: list[tuple[str, os.stat_result]] | None) -> str:
    """The stamp of a tree; all that is in it (itself as ``""``), in a fixed order by relative name, goes ``into``."""
    top = Path(folder).stat()
    if into is not None:
        into.append(("", top))
    stamps = [f"{top.st_mode} {top.st_uid} {top.st_gid} {top.st_ctime_ns}"]
    stack = [("", 0)]
    while stack:
        above, depth = stack.pop()
        if depth > _DEEPEST:
            raise BayplanError("too-deep", f"{folder}: more than {_DEEPEST} folders in each other")
        with os.scandir(f"{folder}/{above}") as names:
            entries = sorted([(one.name, one.stat(follow_symlinks=False)) for one in names])
        prefix = f"{above}/" if above else ""
        below = []
        for name, info in entries:
            mode, path = info.st_mode, prefix + name
            if into is not None:
                into.append((path, info))
            stamps.append(
                f"{path}\0{mode} {info.st_uid} {info.st_gid} {info.st_size} {info.st_ino} {info.st_dev}"
                f" {info.st_mtime_ns} {info.st_ctime_ns}"
            )
            if mode & 0o170000 == stat.S_IFDIR:
                below.append((path, depth + 1))
        stack.extend(reversed(below))
    return hashlib.sha256("\n".join(stamps).encode("utf-8", "surrogateescape")).hexdigest()


class _Remembered:
    """Digests by stamp, in one file that is read when it is first asked and written whole."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[str, str] | None = None
        self._used: dict[str, str] = {}
        self._changed = False

    def get(self, key: str) -> str | None:
        with self._lock:
            if self._known is None:
                self._known = self._load()
            found = self._known.get(key)
            if found is not None:
                self._used[key] = found
            return found

    def put(self, key: str, value: str) -> None:
        with self._lock:
            if self._known is not None:
                self._known[key] = value
            self._used[key] = value
            self._changed = True

    def save(self) -> None:
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            # What this look used comes last and is kept longest.
            rows = {key: value for key, value in self._load().items() if key not in self._used} | self._used
            data = json.dumps(dict([*rows.items()][-self._most :]), separators=(",", ":"))
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".", dir=self._path.parent)
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(data)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)

    def _load(self) -> dict[str, str]:
        try:
            loaded = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return loaded if isinstance(loaded, dict) and all(isinstance(one, str) for one in loaded.values()) else {}


def _unreadable(path: Path, error: OSError) -> BayplanError:
    return BayplanError(
        "unreadable", f"{error.filename or path} cannot be read: {error.strerror}", hint="look at its path and mode"
    )
