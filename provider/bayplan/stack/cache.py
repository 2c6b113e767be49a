"""What files said last time: trees kept by the hash of their text, in the user's cache folder.

Reading a file of 10,000 resources costs 100 ms, most of it making event objects, and checking them 40; loading the tree
again costs 5, and the YAML library is not even imported. With the tree goes which of its resources are more than plain:
all others were found right by the kinds before. The key is the content itself with the versions of this format, of Python
and of the kinds, so an entry can never be stale. The format is ``marshal``: plain values only, no code runs in reading it;
a digest in front keeps a torn or damaged file out.

The cache is a convenience and nothing else: a folder that cannot be made, is not ours or is writable for others is not
used; an entry that cannot be read is parsed again; failures are silent, since a read-only home is no mistake of anybody.
Files of variables never come here: they may hold values that nobody wants on a disk twice.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import cast

from bayplan.records import dataclass
from bayplan.stack.reader import collector_paused
from bayplan.stack.scalars import Tree

#: Counts up when the reader builds other trees of the same text.
FORMAT = 1
#: Bytes of all entries together; the least recently used go first.
MAX_TOTAL = 256 << 20
#: Entries, for folders full of small files.
MAX_ENTRIES = 512

_DIGEST = 32


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """``$XDG_CACHE_HOME/bayplan/stacks`` (XDG base directory specification), or below ``~/.cache``."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return None
        base = home + "/.cache"
    return Path(base) / "bayplan" / "stacks"


@dataclass(frozen=True, slots=True)
class Known:
    """A tree from the cache. ``special`` are the keys under ``resources`` that are not known to be plain and right."""

    value: Tree
    special: frozenset[str]


class ParseCache:
    """Trees by content. ``folder`` None: nothing is kept. ``kinds`` stands for the version of the kinds."""

    def __init__(self, folder: Path | None, kinds: str = "") -> None:
        self.folder = folder
        self.kinds = kinds

    def get(self, data: bytes) -> Known | None:
        """What ``data`` was read as before, or None."""
        if self.folder is None:
            return None
        path = self.folder / self._key(data)
        try:
            if not _ours(self.folder):
                return None
            entry = path.read_bytes()
            body = memoryview(entry)[_DIGEST:]
            if blake2b(body, digest_size=_DIGEST).digest() != entry[:_DIGEST]:
                return None
            with collector_paused():
                # The folder is ours alone, the digest holds, and marshal runs no code.
                value, special = marshal.loads(body)  # noqa: S302
            os.utime(path)
        except (OSError, ValueError, EOFError, TypeError):
            return None
        return Known(value, frozenset(special))

    def put(self, data: bytes, known: Known) -> None:
        """Keeps what a text without mistakes of form says; one with mistakes is about to change."""
        if self.folder is None:
            return
        try:
            body = marshal.dumps((known.value, list(known.special)))
        except ValueError:  # deeper than marshal goes
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _ours(self.folder):
                return
            name = self._key(data)
            passing = self.folder / f".{name}.{os.getpid()}"
            try:
                descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "wb") as out:
                    out.write(blake2b(body, digest_size=_DIGEST).digest())
                    out.write(body)
                passing.replace(self.folder / name)
            except OSError:
                passing.unlink(missing_ok=True)
                raise
            self._bound()

    def _key(self, data: bytes) -> str:
        """The name of the entry for a text. (marshal's own format goes with Python's version.)"""
        versions = f"bayplan {FORMAT} {sys.hexversion:x} {marshal.version} {self.kinds}".encode()
        return blake2b(data, digest_size=32, key=blake2b(versions).digest()).hexdigest()

    def _bound(self) -> None:
        """Removes the least recently used entries past the bounds."""
        found = []
        with os.scandir(cast("Path", self.folder)) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                found.append((status.st_mtime_ns, status.st_size, entry.path))
        found.sort(reverse=True)
        total = 0
        for count, (_, length, path) in enumerate(found, start=1):
            total += length
            if total > MAX_TOTAL or count > MAX_ENTRIES:
                Path(path).unlink(missing_ok=True)


def _ours(folder: Path) -> bool:
    """Whether only this user can write to the folder (what lies there is trusted by its digest alone)."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
