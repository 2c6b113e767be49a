"""What large files said last time: trees kept by the hash of their text, in the user's cache folder.

Reading a file of 10,000 resources costs 100 ms, most of it making event objects; loading the tree again costs 5, and the
YAML library is not even imported. The key is the content itself with the format's and Python's version, so an entry can
never be stale. The format is ``marshal``: plain values only, no code runs in reading it; a digest in front keeps a torn or
damaged file out.

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

from bayplan.stack.reader import Reading, collector_paused

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


class ParseCache:
    """Trees by content. ``folder`` None: nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, data: bytes) -> Reading | None:
        """What ``data`` was read as before, or None."""
        if self.folder is None:
            return None
        path = self.folder / _key(data)
        try:
            if not _ours(self.folder):
                return None
            entry = path.read_bytes()
            body = memoryview(entry)[_DIGEST:]
            if blake2b(body, digest_size=_DIGEST).digest() != entry[:_DIGEST]:
                return None
            with collector_paused():
                value = marshal.loads(body)  # noqa: S302 -- the folder is ours alone, the digest holds, and no code runs
            os.utime(path)
        except (OSError, ValueError, EOFError, TypeError):
            return None
        return Reading(value)

    def put(self, data: bytes, reading: Reading) -> None:
        """Keeps ``reading``; flawed ones are not kept, since a file with mistakes is about to change."""
        if self.folder is None or reading.flawed:
            return
        try:
            body = marshal.dumps(reading.value)
        except ValueError:  # deeper than marshal goes
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _ours(self.folder):
                return
            name = _key(data)
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


def _key(data: bytes) -> str:
    """The name of the entry for a text: content, our format, marshal's format (it goes with Python's version)."""
    versions = f"bayplan {FORMAT} {sys.hexversion:x} {marshal.version}".encode()
    return blake2b(data, digest_size=32, key=versions[:64]).hexdigest()


def _ours(folder: Path) -> bool:
    """Whether only this user can write to the folder (what lies there is trusted by its digest alone)."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
