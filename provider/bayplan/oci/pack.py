"""Packing: a folder, or the upper folder of an overlay, as a layer.

The walk goes by descriptors of folders and never by long paths, follows no link, and takes names in their order, so that a
layer is a function of what lies there. In each folder what says that something is gone comes before what is there, as the
image specification asks of writers.

An overlay says "gone" in ways of its own (the kernel's ``overlayfs.rst``): character devices 0:0, and the attribute
``trusted.overlay.opaque`` (``user.overlay.opaque`` where the mount was an ordinary user's).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.image import Layer
from bayplan.oci.layerwriter import WHITEOUT, LayerWriter
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry

_SMALL = 1 << 20  # bytes of a file that is read in one piece
_DEEPEST = 256  # folders in each other
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_PARTIAL = tuple(f"{space}.overlay.{name}" for space in ("trusted", "user") for name in ("redirect", "metacopy"))


def pack_tree(store: Store, folder: Path, *, clamp: int | None = None, skip: Iterable[str] = ()) -> Layer:
    """A whole folder as a layer: names sorted, hard links kept, sockets left out. ``skip`` are names at its top.

    ``clamp`` (SOURCE_DATE_EPOCH) is the latest time that an entry bears. Raises BayplanError ``unreadable``,
    ``file-changed``, ``reserved-name``, ``too-deep``.
    """
    return _Packing(store, clamp, overlay=False).pack(folder, frozenset(skip))


def pack_upper(store: Store, upper: Path, *, clamp: int | None = None) -> Layer:
    """The upper folder of an overlay as a layer, with whiteouts and opaque folders in the archive's form.

    The overlay must have been mounted with ``metacopy=off,redirect_dir=off``. Raises as :func:`pack_tree`, and
    ``overlay-form`` where it was not.
    """
    return _Packing(store, clamp, overlay=True).pack(upper, frozenset())


def kept_xattr(name: str) -> bool:
    """Whether an extended attribute belongs to an image: not the kernel's own, not overlayfs's, not the host's policy."""
    if name == "security.capability":
        return True
    space, _, rest = name.partition(".")
    return space in ("user", "trusted") and not rest.startswith("overlay.")


class _Packing:
    def __init__(self, store: Store, clamp: int | None, *, overlay: bool) -> None:
        self._store = store
        self._clamp = clamp
        self._overlay = overlay
        self._linked: dict[tuple[int, int], str] = {}

    def pack(self, folder: Path, skip: frozenset[str]) -> Layer:
        try:
            with LayerWriter(self._store, clamp=self._clamp) as writer:
                self._walk(writer, folder, skip)
                return writer.finish()
        except OSError as error:
            if error.filename is None:
                raise
            raise BayplanError(
                "unreadable", f"{folder}: {error.filename!r} cannot be read: {error.strerror}"
            ) from error

    def _walk(self, writer: LayerWriter, folder: Path, skip: frozenset[str]) -> None:
        """Depth first; each level is a folder's descriptor, its name with ``/``, and what is left of its names."""
        top = os.open(folder, _FLAGS & ~os.O_NOFOLLOW | os.O_DIRECTORY)
        levels: list[tuple[int, str, list[tuple[str, os.stat_result]]]] = [(top, "", [])]
        try:
            if not self._overlay:
                info = os.fstat(top)
                writer.add(_entry(".", info, tar.DIRECTORY, self._xattrs(top)))
            levels[0] = (top, "", self._inside(writer, top, "", skip))
            while levels:
                descriptor, prefix, left = levels[-1]
                if not left:
                    levels.pop()
                    os.close(descriptor)
                    continue
                name, info = left.pop()
                path = prefix + name
                if not stat.S_ISDIR(info.st_mode):
                    self._one(writer, descriptor, name, path, info)
                    continue
                if len(levels) > _DEEPEST:
                    raise BayplanError("too-deep", f"{path[:200]}...: more than {_DEEPEST} folders in each other")
                below = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=descriptor)
                levels.append((below, path + "/", []))
                writer.add(_entry(path, info, tar.DIRECTORY, self._xattrs(below)))
                levels[-1] = (below, path + "/", self._inside(writer, below, path, frozenset()))
        finally:
            for descriptor, _, _ in levels:
                os.close(descriptor)

    def _inside(
        self, writer: LayerWriter, descriptor: int, path: str, skip: frozenset[str]
    ) -> list[tuple[str, os.stat_result]]:
        """A folder's entries, last name first, after its whiteouts have been written."""
        with os.scandir(descriptor) as found:
            entries = [(one.name, one.stat(follow_symlinks=False)) for one in found if one.name not in skip]
        entries.sort(key=lambda one: one[0], reverse=True)
        if self._overlay:
            if _is_opaque(descriptor):
                writer.opaque(path, os.fstat(descriptor).st_mtime)
            gone = [one for one in entries if stat.S_ISCHR(one[1].st_mode) and one[1].st_rdev == 0]
            if gone:
                for name, info in reversed(gone):
                    writer.whiteout(f"{path}/{name}" if path else name, info.st_mtime)
                entries = [one for one in entries if not (stat.S_ISCHR(one[1].st_mode) and one[1].st_rdev == 0)]
        for name, _ in entries:
            if name.startswith(WHITEOUT):
                raise BayplanError(
                    "reserved-name",
                    f"{path}/{name} cannot be kept in a layer",
                    hint="names that begin with .wh. say that a file is gone; give it another name",
                )
        return entries

    def _one(self, writer: LayerWriter, folder: int, name: str, path: str, info: os.stat_result) -> None:
        mode = info.st_mode
        if info.st_nlink > 1 and not stat.S_ISSOCK(mode):
            first = self._linked.setdefault((info.st_dev, info.st_ino), path)
            if first != path:
                entry = _entry(path, info, tar.HARDLINK, {})
                entry.link = first
                writer.add(entry)
                return
        if stat.S_ISREG(mode):
            self._file(writer, folder, name, path, info)
        elif stat.S_ISLNK(mode):
            entry = _entry(path, info, tar.SYMLINK, {})
            entry.link = os.readlink(name, dir_fd=folder)
            writer.add(entry)
        elif stat.S_ISFIFO(mode):
            writer.add(_entry(path, info, tar.FIFO, {}))
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            entry = _entry(path, info, tar.CHARACTER if stat.S_ISCHR(mode) else tar.BLOCKDEV, {})
            entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
            writer.add(entry)
        # what is left is a socket: a process's, not an image's

    def _file(self, writer: LayerWriter, folder: int, name: str, path: str, info: os.stat_result) -> None:
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
        try:
            entry = _entry(path, info, tar.REGULAR, self._xattrs(descriptor))
            entry.size = info.st_size
            if info.st_size > _SMALL:
                with os.fdopen(os.dup(descriptor), "rb", buffering=0) as file:
                    writer.add(entry, file)
                return
            data = os.read(descriptor, info.st_size) if info.st_size else b""
            writer.add(entry, data)
        finally:
            os.close(descriptor)

    def _xattrs(self, descriptor: int) -> Mapping[str, bytes]:
        names = os.listxattr(descriptor)
        if not names:
            return {}
        if self._overlay and any(name in _PARTIAL for name in names):
            raise BayplanError(
                "overlay-form",
                "an overlay moved or split a file in a way that layers cannot say",
                hint="mount it with metacopy=off,redirect_dir=off",
            )
        return {name: os.getxattr(descriptor, name) for name in names if kept_xattr(name)}


def _entry(name: str, info: os.stat_result, kind: bytes, xattrs: Mapping[str, bytes]) -> Entry:
    # The whole second is taken of the integer: near its end the floating number is already the next.
    mtime = info.st_mtime_ns // 1_000_000_000
    return Entry(name, kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, 0, mtime, xattrs=xattrs)


def _is_opaque(descriptor: int) -> bool:
    return any(name in _OPAQUE and os.getxattr(descriptor, name) == b"y" for name in os.listxattr(descriptor))
