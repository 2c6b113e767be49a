"""What can be copied from: one face for the build context, a stage and an image.

A tree is read by relative paths with ``/`` (``""`` is its root), never through the host's path resolution: symbolic links
are followed by :func:`resolve` alone, inside the tree, so that no link leads out of it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import BinaryIO, NamedTuple, Protocol

from bayplan.build.patterns import has_wildcard, wildcard
from bayplan.errors import BayplanError

_MOST_LINKS = 40


class Kind(StrEnum):
    FILE = "f"
    DIRECTORY = "d"
    LINK = "l"
    OTHER = "o"  # device, socket, pipe


class Node(NamedTuple):
    """What lstat says of one entry. ``mode`` holds the permission bits only; ``mtime`` whole Unix seconds.

    ``stamp`` changes whenever the content may have changed, ``changed`` is when the inode last did (nanoseconds); both are
    known of the context alone (:mod:`bayplan.build.context`).
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: str = ""
    stamp: str = ""
    changed: int = 0


class Tree(Protocol):
    """A tree of files to copy from or to look destinations up in."""

    def lookup(self, path: str) -> Node | None:
        """The entry itself (links are not followed), or None."""
        ...

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty where ``path`` is not one."""
        ...

    def children(self, path: str) -> list[tuple[str, Node]]:
        """The entries of a directory, sorted by name; empty where ``path`` is not one."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A regular file's content."""
        ...


def resolve(tree: Tree, path: str) -> str:
    """``path`` with every symbolic link followed inside ``tree``, the last one too; ``..`` never leaves the root.

    What does not exist is taken as it is written. Raises BayplanError ``bad-path`` for a loop of links.
    """
    done: list[str] = []
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    links = 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if done:
                done.pop()
            continue
        here = "/".join([*done, part])
        node = tree.lookup(here)
        if node is None or node.kind is not Kind.LINK:
            done.append(part)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise BayplanError("bad-path", f"too many symbolic links on the way to /{path}")
        if node.link.startswith("/"):
            done.clear()
        left.extend(reversed(node.link.split("/")))
    return "/".join(done)


def walk(tree: Tree, path: str) -> Iterator[tuple[str, Node]]:
    """Everything below directory ``path``, parents first, sorted: (path relative to ``path``, entry)."""
    stack = [(path, "")]
    while stack:
        where, relative = stack.pop()
        below: list[tuple[str, str]] = []
        prefix = f"{relative}/" if relative else ""
        for name, node in tree.children(where):
            short = prefix + name
            yield short, node
            if node.kind is Kind.DIRECTORY:
                below.append((f"{where}/{name}" if where else name, short))
        stack.extend(reversed(below))


def glob(tree: Tree, pattern: str) -> list[str]:
    """The paths that match a COPY wildcard, sorted. ``*`` stays within one name, ``**`` crosses directories."""
    parts = pattern.split("/")
    at = next((i for i, part in enumerate(parts) if has_wildcard(part)), len(parts))
    start = "/".join(parts[:at])
    if "**" in pattern:
        matcher = wildcard(pattern)
        prefix = f"{start}/" if start else ""
        return sorted(prefix + rest for rest, _ in walk(tree, start) if matcher.fullmatch(prefix + rest))
    found = [start]
    for part in parts[at:]:
        matcher = wildcard(part) if has_wildcard(part) else re.compile(re.escape(part))
        found = [
            f"{directory}/{name}" if directory else name
            for directory in found
            for name in tree.names(resolve(tree, directory))
            if matcher.fullmatch(name)
        ]
    return sorted(found)


def normal(path: str) -> str:
    """A COPY source as a path of the tree: from its root, ``..`` cut at the root."""
    return posixpath.normpath("/" + path).strip("/")


def read_link(path: str) -> str:
    """A link's text exactly as it stands (Path.readlink would tidy it, and the image would differ from its source)."""
    return os.readlink(path)


def stamp_of(info: os.stat_result) -> str:
    """What changes whenever a file's content may have changed. (Text: thousands of tuples keep the collector busy.)"""
    return f"{info.st_dev}.{info.st_ino}.{info.st_size}.{info.st_mtime_ns}.{info.st_ctime_ns}"


def check_stamp(name: str, file: BinaryIO, stamp: str) -> None:
    """Make sure that an open file is still the one that was hashed. Raises BayplanError ``file-changed``."""
    if stamp and stamp_of(os.fstat(file.fileno())) != stamp:
        hint = "run the command again when it is at rest"
        raise BayplanError("file-changed", f"{name} changed while it was read", hint=hint)
