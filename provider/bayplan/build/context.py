"""The build context: a directory seen through its ``.dockerignore``, and what is remembered of its files' contents.

Modes are normalised to what content control keeps too: a file is 0755 where its owner may execute it, else 0644;
directories are 0755; owners are 0:0. So a checkout under another umask or another user is the same context. Sockets are
left out as BuildKit does.

Hashing ten thousand files takes a tenth of a second; looking at their inodes takes half of that. A *stamp* (device,
inode, size, mtime, ctime in nanoseconds) stands for the content as long as it is the same: :class:`ContextDigests`
remembers the digests by the stamps of a whole selection, and by file. A file touched so shortly before it was hashed that
the clock might not tell the next change is never remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

from bayplan.build.patterns import BadPattern, PathFilter, ignore_lines
from bayplan.build.selection import Selection
from bayplan.build.trees import Kind, Node, read_link, stamp_of
from bayplan.build.writing import write_whole
from bayplan.errors import BayplanError, Where
from bayplan.oci.fingerprint import Fingerprints

#: A change within this time of the hashing may leave the stamp as it is (a kernel tick and then some), nanoseconds.
_CLOCK_STEP = 50_000_000


class ContextTree:
    """The files of a context that are not ignored, read lazily: only directories that a COPY needs are looked at."""

    def __init__(self, root: Path, ignored: PathFilter) -> None:
        self.root = root
        self._top = os.path.realpath(root)
        self._ignored = ignored
        self._directories: dict[str, dict[str, Node]] = {}

    def lookup(self, path: str) -> Node | None:
        directory, _, name = path.rpartition("/")
        if not name:
            return Node(Kind.DIRECTORY, 0o755)
        if directory and not self._reaches(directory):
            return None
        return self._read(directory).get(name)

    def names(self, path: str) -> list[str]:
        if path and not self._reaches(path):
            return []
        return sorted(self._read(path))

    def children(self, path: str) -> list[tuple[str, Node]]:
        if path and not self._reaches(path):
            return []
        return sorted(self._read(path).items())

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(os.open(f"{self._top}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")

    def path(self, path: str) -> str:
        """The host path of an entry."""
        return f"{self._top}/{path}"

    def _reaches(self, path: str) -> bool:
        """True where every component of ``path`` is a directory of the context (a link is none)."""
        if path in self._directories:
            return True
        node = self.lookup(path)
        return node is not None and node.kind is Kind.DIRECTORY

    def _read(self, path: str) -> dict[str, Node]:
        found = self._directories.get(path)
        if found is None:
            found = self._directories[path] = self._scan(path)
        return found

    def _scan(self, path: str) -> dict[str, Node]:
        prefix = f"{path}/" if path else ""
        filtered = bool(self._ignored)
        out: dict[str, Node] = {}
        with os.scandir(f"{self._top}/{path}") as listing:
            for entry in listing:
                relative = prefix + entry.name
                excluded = filtered and self._ignored.excludes(relative)
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    if excluded and (self._ignored.excludes_all_below(relative) or not self._scan_into(relative)):
                        continue
                    out[entry.name] = Node(Kind.DIRECTORY, 0o755, mtime=int(info.st_mtime))
                elif not excluded:
                    node = _node(info, entry.path)
                    if node is not None:
                        out[entry.name] = node
        return out

    def _scan_into(self, path: str) -> bool:
        """For a directory that is ignored itself: whether anything below it is taken back."""
        found = self._directories[path] = self._scan(path)
        return bool(found)


def _node(info: os.stat_result, path: str) -> Node | None:
    mode = info.st_mode
    if stat.S_ISREG(mode):
        stamp = stamp_of(info)
        permissions = 0o755 if mode & 0o100 else 0o644
        return Node(Kind.FILE, permissions, 0, 0, info.st_size, int(info.st_mtime), "", stamp, info.st_ctime_ns)
    if stat.S_ISLNK(mode):
        return Node(Kind.LINK, 0o777, mtime=int(info.st_mtime), link=read_link(path))
    return None if stat.S_ISSOCK(mode) else Node(Kind.OTHER, mode & 0o777)


def open_context(context: Path, dockerfile: Path) -> ContextTree:
    """The context as its ignore file shows it: ``<Dockerfile>.dockerignore`` first, else the context's own.

    Raises BayplanError ``context-missing`` or ``bad-pattern``.
    """
    if not context.is_dir():
        hint = "context: takes a folder; a build from an archive or a Git address is not offered"
        raise BayplanError("context-missing", f"the build context {context} is not a folder", hint=hint)
    for candidate in (dockerfile.with_name(dockerfile.name + ".dockerignore"), context / ".dockerignore"):
        try:
            text = candidate.read_text(encoding="utf-8", errors="surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            return ContextTree(context, PathFilter(ignore_lines(text)))
        except BadPattern as error:
            raise BayplanError("bad-pattern", str(error), where=Where(str(candidate))) from None
    return ContextTree(context, PathFilter(()))


class ContextDigests:
    """Content digests of a context's selections, remembered between builds under ``folder`` (by the context's place).

    Two levels: the stamps of a whole selection, so that an unchanged context costs its stats alone; and each file's
    (:class:`bayplan.oci.fingerprint.Fingerprints`), so that a changed one costs the files that changed.
    """

    def __init__(self, folder: Path, tree: ContextTree) -> None:
        self._tree = tree
        name = hashlib.blake2b(os.fsencode(os.path.realpath(tree.root)), digest_size=12).hexdigest()
        self._sums_path = folder / f"{name}.sums"
        self._files = Fingerprints(folder / f"{name}.files")
        self._sums = _load(self._sums_path)
        self._began = time.time_ns()
        self._fresh: dict[str, str] = {}
        self._contents: dict[str, bytes] = {}

    def of(self, selection: Selection) -> str:
        """The content digest of a selection of this context (hex). Raises BayplanError ``unreadable``."""
        stamps = selection.digest(lambda _, node: node.stamp.encode(), owners=False)
        known = self._sums.get(stamps)
        if known:
            return known
        content = selection.digest(self.content, owners=False)
        self._sums[stamps] = content
        newest = max((node.changed for _, node in selection.entries()), default=0)
        if newest < self._began - _CLOCK_STEP:
            self._fresh[stamps] = content
        return content

    def content(self, path: str, node: Node) -> bytes:
        """The SHA-256 of one file. Raises BayplanError ``unreadable``."""
        del node
        known = self._contents.get(path)
        if known is None:
            known = self._contents[path] = bytes.fromhex(self._files.file(Path(self._tree.path(path))))
        return known

    def save(self) -> None:
        """Remember what was hashed. What cannot be written is only slower next time."""
        self._files.save()
        if not self._fresh:
            return
        with contextlib.suppress(OSError):
            self._sums_path.parent.mkdir(parents=True, exist_ok=True)
            kept = dict([*_load(self._sums_path).items()][-64:])
            write_whole(self._sums_path, json.dumps({**kept, **self._fresh}).encode())


def _load(path: Path) -> dict[str, str]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
