"""Layers looked at as one tree, without mounting anything: where a COPY lands, who ``--chown=app`` is, what a stage holds.

The union is that of overlayfs: the topmost layer that has a name decides; a whiteout hides what is below; an opaque
directory hides the contents below it; directories of one name are merged. A layer is either an unpacked directory
(:class:`DirectoryLayer`) or only a listing of what this very build has just written (:class:`ListedLayer`), so that a chain
of COPYs never unpacks anything.

Paths go down one component at a time through directories that were found to be directories, so no link of an image, however
made, leads out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from bayplan.build.trees import Kind, Node, read_link, resolve

#: A name that a layer hides.
_WHITEOUT = Node(Kind.OTHER, -1)


class LayerView(Protocol):
    """One layer: its own entries alone."""

    def lookup(self, path: str) -> Node | None: ...
    def names(self, path: str) -> Iterable[str]: ...
    def opaque(self, path: str) -> bool: ...
    def open(self, path: str) -> BinaryIO: ...
    def host_path(self, path: str) -> Path: ...


class DirectoryLayer:
    """An unpacked layer in overlayfs form (whiteouts are character devices 0:0)."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lookup(self, path: str) -> Node | None:
        full = f"{self.path}/{path}"
        try:
            info = os.lstat(full)
        except (FileNotFoundError, NotADirectoryError):
            return None
        mode = info.st_mode
        common = (stat.S_IMODE(mode), info.st_uid, info.st_gid, info.st_size, int(info.st_mtime))
        if stat.S_ISDIR(mode):
            return Node(Kind.DIRECTORY, *common)
        if stat.S_ISREG(mode):
            return Node(Kind.FILE, *common)
        if stat.S_ISLNK(mode):
            return Node(Kind.LINK, *common, link=read_link(full))
        if stat.S_ISCHR(mode) and info.st_rdev == 0:
            return _WHITEOUT
        return Node(Kind.OTHER, *common)

    def names(self, path: str) -> Iterable[str]:
        with os.scandir(f"{self.path}/{path}") as listing:
            return [entry.name for entry in listing]

    def opaque(self, path: str) -> bool:
        for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
            try:
                if os.getxattr(f"{self.path}/{path}", name, follow_symlinks=False) == b"y":
                    return True
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EPERM, errno.ENOTSUP):
                    raise
        return False

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(os.open(f"{self.path}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")

    def host_path(self, path: str) -> Path:
        return Path(f"{self.path}/{path}")


class LazyLayer:
    """A layer of the store that is unpacked when it is first looked at."""

    def __init__(self, unpacked: Callable[[], Path]) -> None:
        self._unpacked = unpacked
        self._inner: DirectoryLayer | None = None

    @property
    def _layer(self) -> DirectoryLayer:
        if self._inner is None:
            self._inner = DirectoryLayer(self._unpacked())
        return self._inner

    def lookup(self, path: str) -> Node | None:
        return self._layer.lookup(path)

    def names(self, path: str) -> Iterable[str]:
        return self._layer.names(path)

    def opaque(self, path: str) -> bool:
        return self._layer.opaque(path)

    def open(self, path: str) -> BinaryIO:
        return self._layer.open(path)

    def host_path(self, path: str) -> Path:
        return self._layer.host_path(path)


class ListedLayer:
    """A layer that this build wrote, known by its entries. A file's content makes it unpack (``unpacked``)."""

    def __init__(self, entries: Iterable[tuple[str, Node]], unpacked: Callable[[], Path]) -> None:
        self._nodes: dict[str, Node] = {}
        self._names: dict[str, list[str]] = {}
        self._unpacked = unpacked
        for path, node in entries:
            if path not in self._nodes:
                directory, _, name = path.rpartition("/")
                self._names.setdefault(directory, []).append(name)
            self._nodes[path] = node

    def lookup(self, path: str) -> Node | None:
        return self._nodes.get(path)

    def names(self, path: str) -> Iterable[str]:
        return self._names.get(path, ())

    def opaque(self, path: str) -> bool:
        del path
        return False

    def open(self, path: str) -> BinaryIO:
        return DirectoryLayer(self._unpacked()).open(path)

    def host_path(self, path: str) -> Path:
        return self._unpacked() / path


class MergedTree:
    """The union of ``layers``, topmost first; it satisfies :class:`bayplan.build.trees.Tree`."""

    def __init__(self, layers: Sequence[LayerView]) -> None:
        self._layers = tuple(layers)
        #: The layers that make up a merged directory; empty: not a directory.
        self._stacks: dict[str, tuple[LayerView, ...]] = {"": self._layers}

    def lookup(self, path: str) -> Node | None:
        if not path:
            return Node(Kind.DIRECTORY, 0o755)
        found = self._find(path)
        return found[1] if found else None

    def _find(self, path: str) -> tuple[LayerView, Node] | None:
        for layer in self._stack(path.rpartition("/")[0]):
            node = layer.lookup(path)
            if node is not None:
                return None if node is _WHITEOUT else (layer, node)
        return None

    def _stack(self, path: str) -> tuple[LayerView, ...]:
        known = self._stacks.get(path)
        if known is not None:
            return known
        found: list[LayerView] = []
        for layer in self._stack(path.rpartition("/")[0]):
            node = layer.lookup(path)
            if node is None:
                continue
            if node.kind is not Kind.DIRECTORY:
                break
            found.append(layer)
            if layer.opaque(path):
                break
        self._stacks[path] = tuple(found)
        return self._stacks[path]

    def whole(self, path: str) -> Path | None:
        """The host path of an entry where one unpacked layer holds all of it, else None."""
        found = self._find(path) if path else None
        if path and found is None:
            return None
        stack = self._stack(path)
        layer = stack[0] if len(stack) == 1 else found[0] if found and not stack else None
        return layer.host_path(path) if layer is not None else None

    def names(self, path: str) -> list[str]:
        seen: dict[str, bool] = {}
        for layer in self._stack(path):
            for name in layer.names(path):
                if name not in seen:
                    seen[name] = layer.lookup(f"{path}/{name}" if path else name) is not _WHITEOUT
        return sorted(name for name, there in seen.items() if there)

    def children(self, path: str) -> list[tuple[str, Node]]:
        prefix = f"{path}/" if path else ""
        return [(name, node) for name in self.names(path) if (node := self.lookup(prefix + name)) is not None]

    def open(self, path: str) -> BinaryIO:
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found[0].open(path)

    def read(self, path: str, limit: int) -> bytes:
        """The beginning of a file, links followed inside the tree; empty where there is none."""
        real = resolve(self, path)
        node = self.lookup(real)
        if node is None or node.kind is not Kind.FILE:
            return b""
        with self.open(real) as file:
            return file.read(limit)
