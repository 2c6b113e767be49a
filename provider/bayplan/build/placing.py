"""Where copied files land: a selection + the tree below -> the entries of a layer.

A layer is written straight from the sources; no root file system is made for a COPY. So what a copy into a mounted tree
would meet has to be looked up: the destination is followed through the links of the image below (``/bin`` may be
``usr/bin``), and each directory on the way stands in the layer with the attributes it has below, because in a stack of
layers the topmost one decides about a directory's mode and owner.

Like BuildKit: an existing destination keeps its attributes, directories inside take the source's, a file is never
put in the place of a directory. Unlike BuildKit, a source directory that meets a link to a directory goes through the link
instead of failing (``COPY rootfs/ /`` onto a merged ``/usr``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from bayplan.build import trees
from bayplan.build.archives import open_archive
from bayplan.build.merged import MergedTree
from bayplan.build.owners import Chmod, owner
from bayplan.build.selection import Picked, Selection
from bayplan.build.steps import CopyStep, WorkdirStep
from bayplan.build.trees import Kind, Node, Tree
from bayplan.errors import BayplanError, Where
from bayplan.oci import tar
from bayplan.records import dataclass, replace

_TYPES = {Kind.FILE: tar.REGULAR, Kind.DIRECTORY: tar.DIRECTORY, Kind.LINK: tar.SYMLINK}
_KINDS = {tar.REGULAR: Kind.FILE, tar.HARDLINK: Kind.FILE, tar.DIRECTORY: Kind.DIRECTORY, tar.SYMLINK: Kind.LINK}
_RESERVED = ".wh."


@dataclass(frozen=True, slots=True)
class Placed:
    """One entry of the layer. ``data`` is a small content; ``open`` opens a large one, ``stamp`` says what it must be."""

    entry: tar.Entry
    data: bytes | None = None
    open: Callable[[], BinaryIO] | None = None
    stamp: str = ""
    stream: tar.Content | None = None


class _Sight(Tree):
    """The tree below together with what this layer has placed so far."""

    def __init__(self, below: Tree) -> None:
        self._below = below
        self.placed: dict[str, Node] = {}

    def lookup(self, path: str) -> Node | None:
        found = self.placed.get(path)
        if found is not None:
            return found
        if self.placed:
            parent = path.rpartition("/")[0]
            while parent:
                above = self.placed.get(parent)
                if above is not None and above.kind is not Kind.DIRECTORY:
                    return None
                parent = parent.rpartition("/")[0]
        return self._below.lookup(path)

    def names(self, path: str) -> list[str]:
        return self._below.names(path)

    def children(self, path: str) -> list[tuple[str, Node]]:
        return self._below.children(path)

    def open(self, path: str) -> BinaryIO:
        return self._below.open(path)


class Placing:
    """Places the files of one step. ``below`` is the image so far; ``epoch`` replaces every time where it is given."""

    def __init__(self, below: MergedTree, where: Where, epoch: int | None) -> None:
        self._image = below
        self._sight = _Sight(below)
        self._where = where
        self._epoch = epoch
        self._new = (0, 0)  # the owner of directories that have to be made
        self._chown: tuple[int, int] | None = None
        self._chmod: Chmod | None = None

    @property
    def placed(self) -> dict[str, Node]:
        """What the layer holds: path -> entry."""
        return self._sight.placed

    # -- the steps -------------------------------------------------------------------------------------------------

    def workdir(self, step: WorkdirStep) -> Iterator[Placed]:
        """Nothing where the directory is there."""
        try:
            self._new = owner(step.user, self._image) if step.user else (0, 0)
        except BayplanError as error:
            error.where = self._where
            raise
        path = trees.resolve(self._sight, step.path)
        node = self._node(path)
        if node is None:
            yield from self._directories(path)
        elif node.kind is not Kind.DIRECTORY:
            raise self._conflict(f"WORKDIR {step.path} is a file in the image")

    def copy(self, step: CopyStep, selection: Selection, source: Tree) -> Iterator[Placed]:
        """The entries of a COPY or ADD, parents first."""
        try:
            self._chown = owner(step.chown, self._image) if step.chown else None
            self._chmod = Chmod(step.chmod) if step.chmod else None
        except BayplanError as error:
            error.where = self._where
            raise
        self._new = self._chown or (0, 0)
        written = step.dest.strip("/")
        dest = written if step.link else trees.resolve(self._sight, written)
        into = step.dest.endswith("/")
        several = len(selection.picked) + len(step.documents) > 1
        if several and not into and not any(each.directory for each in selection.picked):
            hint = f"write {step.dest}/"
            raise self._conflict(f"{step.verb} of several files needs a destination that ends with /", hint)
        for picked in selection.picked:
            if picked.keeps_name:
                yield from self._kept(picked, dest, source)
            elif picked.directory:
                yield from self._tree(picked, dest, source)
            else:
                yield from self._file(picked, dest, into, source, step)
        for name, data in step.documents:
            node = Node(Kind.FILE, 0o644, size=len(data), mtime=int(time.time()))
            target = self._target(dest, name, into)
            yield from self._directories(target.rpartition("/")[0])
            yield self._put(target, node, data=data)
        if into and not selection.picked and not step.documents:
            yield from self._directories(dest)

    # -- sources ---------------------------------------------------------------------------------------------------

    def _file(self, picked: Picked, dest: str, into: bool, source: Tree, step: CopyStep) -> Iterator[Placed]:
        _, path, node = picked.entries[0]
        if step.unpack and node.kind is Kind.FILE:
            with source.open(path) as file:
                archive = open_archive(file)
                if archive is not None:
                    yield from self._unpacked(archive, dest)
                    trees.check_stamp(path, file, node.stamp)
                    return
        target = self._target(dest, picked.name, into)
        yield from self._directories(target.rpartition("/")[0])
        yield self._source(target, path, node, source)

    def _target(self, dest: str, name: str, into: bool) -> str:
        node = self._node(dest)
        if into or (node is not None and node.kind is Kind.DIRECTORY):
            if node is not None and node.kind is not Kind.DIRECTORY:
                raise self._conflict(f"/{dest} is a file in the image, not a directory")
            return f"{dest}/{name}" if dest else name
        return dest

    def _tree(self, picked: Picked, dest: str, source: Tree) -> Iterator[Placed]:
        """A directory's contents into ``dest``."""
        there = self._node(dest)
        if there is not None and there.kind is not Kind.DIRECTORY:
            raise self._conflict(f"/{dest} is a file in the image; a directory cannot be copied onto it")
        if there is not None:
            yield from self._directories(dest)
        else:
            yield from self._directories(dest.rpartition("/")[0])
            yield self._put(dest, picked.entries[0][2])
        # Where each source directory went, and whether anything was there before: below a new one nothing can conflict.
        went: dict[str, tuple[str, bool]] = {"": (dest, there is not None)}
        for below, path, node in picked.entries[1:]:
            directory, _, name = below.rpartition("/")
            base, old = went[directory]
            target = f"{base}/{name}" if base else name
            known = self._sight.lookup(target) if old else None
            if node.kind is not Kind.DIRECTORY:
                if known is not None and known.kind is Kind.DIRECTORY:
                    raise self._conflict(f"/{target} is a directory in the image; a file cannot take its place")
                yield self._source(target, path, node, source)
                continue
            if known is not None and known.kind is Kind.LINK:
                target = trees.resolve(self._sight, target)
                known = self._node(target)
                if known is not None and known.kind is Kind.DIRECTORY:
                    yield from self._directories(target)
                    went[below] = (target, True)
                    continue
            if known is not None and known.kind is not Kind.DIRECTORY:
                raise self._conflict(f"/{target} is a file in the image; a directory cannot take its place")
            went[below] = (target, known is not None)
            yield self._put(target, node)

    def _kept(self, picked: Picked, dest: str, source: Tree) -> Iterator[Placed]:
        """``--parents``: the source under its own path below ``dest``."""
        whole = trees.resolve(self._sight, f"{dest}/{picked.name}")
        if picked.directory:
            yield from self._tree(picked, whole, source)
            return
        yield from self._directories(whole.rpartition("/")[0])
        yield self._source(whole, picked.entries[0][1], picked.entries[0][2], source)

    def _unpacked(self, archive: BinaryIO, dest: str) -> Iterator[Placed]:
        """An archive's entries below ``dest``; its own owners, modes and times unless the step says otherwise."""
        yield from self._directories(dest)
        for entry, content in tar.entries(archive):
            name = trees.normal(entry.name)
            if not name:
                continue
            directory, _, last = name.rpartition("/")
            parent = trees.resolve(self._sight, f"{dest}/{directory}")
            target = f"{parent}/{last}" if parent else last
            known = self._node(target)
            if entry.type == tar.DIRECTORY and known is not None and known.kind is Kind.LINK:
                target = trees.resolve(self._sight, target)
                known = self._node(target)
            if entry.type != tar.DIRECTORY and known is not None and known.kind is Kind.DIRECTORY:
                raise self._conflict(f"/{target} is a directory in the image; a file cannot take its place")
            link = entry.link
            if entry.type == tar.HARDLINK:
                link = trees.resolve(self._sight, f"{dest}/{trees.normal(entry.link)}")
            kind = _KINDS.get(entry.type, Kind.OTHER)
            node = Node(kind, entry.mode, entry.uid, entry.gid, entry.size, int(entry.mtime), link)
            yield from self._directories(parent)
            placed = self._put(target, node, unpacked=entry, link=link)
            yield replace(placed, stream=content) if entry.type == tar.REGULAR else placed

    # -- entries ---------------------------------------------------------------------------------------------------

    def _node(self, path: str) -> Node | None:
        return self._sight.lookup(path) if path else Node(Kind.DIRECTORY, 0o755)

    def _directories(self, path: str) -> Iterator[Placed]:
        """``path`` and what is above it, as they are below or new, each once."""
        if not path or path in self._sight.placed:
            return
        yield from self._directories(path.rpartition("/")[0])
        node = self._sight.lookup(path)
        if node is None:
            uid, gid = self._new
            made = Node(
                Kind.DIRECTORY, 0o755, uid, gid, mtime=self._epoch if self._epoch is not None else int(time.time())
            )
            yield self._record(path, made)
        elif node.kind is Kind.DIRECTORY:
            yield self._record(path, node)
        else:
            raise self._conflict(f"/{path} is a file in the image, not a directory")

    def _record(self, path: str, node: Node) -> Placed:
        self._sight.placed[path] = node
        return Placed(tar.Entry(path, tar.DIRECTORY, node.mode, node.uid, node.gid, 0, node.mtime))

    def _source(self, target: str, path: str, node: Node, source: Tree) -> Placed:
        if node.kind is Kind.FILE:
            return self._put(target, node, open_=lambda: source.open(path))
        return self._put(target, node)

    def _put(
        self,
        target: str,
        node: Node,
        *,
        data: bytes | None = None,
        open_: Callable[[], BinaryIO] | None = None,
        unpacked: tar.Entry | None = None,
        link: str = "",
    ) -> Placed:
        if not target:
            raise self._conflict("the destination is / and the source a file; name it, or end the destination with /")
        if target.rpartition("/")[2].startswith(_RESERVED):
            hint = "names that begin with .wh. mark deletions in layers"
            raise self._conflict(f"/{target} cannot be stored in an image layer", hint)
        uid, gid = self._chown or (node.uid, node.gid)
        mode = self._chmod.apply(node) if self._chmod and node.kind is not Kind.LINK else node.mode
        mtime = node.mtime if self._epoch is None else self._epoch
        # Without its stamp: that belongs to the source, and a later stage may copy from this layer.
        self._sight.placed[target] = node._replace(mode=mode, uid=uid, gid=gid, mtime=mtime, stamp="")
        if unpacked is not None:
            entry = replace(unpacked, name=target, link=link, uid=uid, gid=gid, mode=mode)
            if self._epoch is not None:
                entry = replace(entry, mtime=min(self._epoch, int(entry.mtime)))
            return Placed(entry)
        kind = _TYPES.get(node.kind)
        if kind is None:
            hint = "leave it out with .dockerignore"
            raise self._conflict(
                f"/{target} would be a device or a pipe; only files, folders and links are copied", hint
            )
        size = node.size if kind == tar.REGULAR else 0
        entry = tar.Entry(target, kind, mode, uid, gid, size, mtime, node.link)
        return Placed(entry, data, open_, node.stamp)

    def _conflict(self, message: str, hint: str = "") -> BayplanError:
        return BayplanError("copy-conflict", message, where=self._where, hint=hint)
