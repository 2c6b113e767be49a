"""Layers: written from sources, from trees and from the upper folder of an overlay; unpacked beneath a folder they cannot leave.

A layer is written straight into the store while it is made: hashed twice (as archive, which gives the diff ID, and
compressed, which gives the blob's digest) in one pass. Unpacking trusts nothing: every path is walked from the root's
descriptor one component at a time without following links, and a link in the way is resolved as if the root were ``/``.

Whiteouts are files ``.wh.NAME`` in an archive and character devices 0:0 on disk; an opaque folder holds ``.wh..wh..opq``
and carries ``trusted.overlay.opaque=y`` (OCI image specification 1.1, *Image Layer Filesystem Changeset*; the kernel's
``overlayfs.rst``).
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import Readable, decompressed, gzip_compressor, peek, sniff
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest, new_hash
from bayplan.oci.image import Layer
from bayplan.oci.store import BlobWriter, Store
from bayplan.oci.tar import Content, Entry, bad_archive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_OPAQUE_XATTR = "trusted.overlay.opaque"
_CHUNK = 1 << 20
_OPEN_FOLDERS = 64
_LINKS = 40
#: What one layer may unpack to; a bomb is larger.
MAX_BYTES = 256 << 30
MAX_ENTRIES = 20_000_000


class LayerWriter:
    """A layer in the making, entry by entry, in the order given. ``with LayerWriter(store) as w: ...; layer = w.finish()``.

    ``clamp`` (SOURCE_DATE_EPOCH) is the latest time that any entry may bear, in seconds.
    """

    def __init__(self, store: Store, *, clamp: int | None = None, compress: bool = True) -> None:
        self._blob: BlobWriter = store.writer()
        self._diff = new_hash("sha256")
        self._gzip = gzip_compressor() if compress else None
        self._clamp = clamp
        self._pending: list[bytes] = []
        self._size = 0
        self.entries = 0

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._blob.abort()

    def add(self, entry: Entry, content: BinaryIO | bytes | None = None) -> None:
        """Append one entry; a regular file's ``content`` must have exactly ``entry.size`` bytes."""
        if self._clamp is not None and entry.mtime > self._clamp:
            entry.mtime = float(self._clamp)
        self.entries += 1
        self._write(tar.header(entry))
        if entry.type != tar.REGULAR or not entry.size:
            return
        if isinstance(content, bytes):
            left = entry.size - len(content)
            self._write(content)
        else:
            left = entry.size
            while left and content is not None:
                data = content.read(min(_CHUNK, left))
                if not data:
                    break
                left -= len(data)
                self._write(data)
        if left:
            raise BayplanError(
                "file-changed",
                f"{entry.name} changed while it was read",
                hint="run the command again when it is at rest",
            )
        self._write(tar.padding(entry.size))

    def whiteout(self, name: str, mtime: float = 0.0) -> None:
        """Say that ``name`` of the layers below is gone."""
        folder, _, last = name.rpartition("/")
        self.add(Entry(f"{folder}/{WHITEOUT}{last}" if folder else f"{WHITEOUT}{last}", mode=0o600, mtime=mtime))

    def opaque(self, folder: str, mtime: float = 0.0) -> None:
        """Say that everything in ``folder`` of the layers below is gone."""
        self.add(Entry(f"{folder}/{OPAQUE}" if folder else OPAQUE, mode=0o600, mtime=mtime))

    def finish(self) -> Layer:
        """End the archive; the layer is durable in the store when this returns."""
        self._write(tar.END)
        return self.close()

    def close(self) -> Layer:
        """As :meth:`finish`, of an archive that brought its own end."""
        self._drain()
        if self._gzip is not None:
            self._blob.write(self._gzip.flush())
        digest = self._blob.commit()
        media_type = MediaType.LAYER_GZIP if self._gzip is not None else MediaType.LAYER
        diff = Digest(f"sha256:{self._diff.hexdigest()}")
        return Layer(Descriptor(media_type, digest, self._blob.offset), diff)

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._drain()

    def _drain(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        self._diff.update(data)
        packed = data if self._gzip is None else self._gzip.compress(data)
        if packed:
            self._blob.write(packed)


# -- packing -------------------------------------------------------------------------------------------------------


def pack_tree(store: Store, folder: Path, *, clamp: int | None = None, skip: Iterable[str] = ()) -> Layer:
    """A whole folder as a layer: names sorted, hard links kept, sockets left out. ``skip`` are names at its top."""
    return _pack(store, folder, clamp, overlay=False, skip=frozenset(skip))


def pack_upper(store: Store, upper: Path, *, clamp: int | None = None) -> Layer:
    """The upper folder of an overlay as a layer, with whiteouts and opaque folders in the archive's form."""
    return _pack(store, upper, clamp, overlay=True, skip=frozenset())


def _pack(store: Store, folder: Path, clamp: int | None, *, overlay: bool, skip: frozenset[str]) -> Layer:
    linked: dict[tuple[int, int], str] = {}
    with LayerWriter(store, clamp=clamp) as writer:
        stack = [""]
        while stack:
            name = stack.pop()
            path = os.path.join(folder, name) if name else os.fspath(folder)  # noqa: PTH118  (a hot loop)
            info = os.lstat(path)
            if stat.S_ISCHR(info.st_mode) and overlay and info.st_rdev == 0:
                writer.whiteout(name, info.st_mtime)
                continue
            xattrs = _xattrs(path, overlay=overlay)
            if name or not overlay:
                _pack_one(writer, path, name, info, xattrs, linked)
            if stat.S_ISDIR(info.st_mode):
                if overlay and _is_opaque(path):
                    writer.opaque(name, info.st_mtime)
                children = sorted(child for child in os.listdir(path) if name or child not in skip)
                stack.extend(f"{name}/{child}" if name else child for child in reversed(children))
        return writer.finish()


def _pack_one(
    writer: LayerWriter,
    path: str,
    name: str,
    info: os.stat_result,
    xattrs: Mapping[str, bytes],
    linked: dict[tuple[int, int], str],
) -> None:
    entry = Entry(
        name or ".",
        mode=stat.S_IMODE(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        mtime=info.st_mtime,
        xattrs=xattrs,
    )
    mode = info.st_mode
    if stat.S_ISREG(mode):
        if info.st_nlink > 1:
            first = linked.setdefault((info.st_dev, info.st_ino), name)
            if first != name:
                entry.type, entry.link, entry.xattrs = tar.HARDLINK, first, {}
                writer.add(entry)
                return
        entry.size = info.st_size
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a hot loop)
            writer.add(entry, file)
        return
    if stat.S_ISDIR(mode):
        entry.type = tar.DIRECTORY
    elif stat.S_ISLNK(mode):
        entry.type, entry.link = tar.SYMLINK, os.readlink(path)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        entry.type = tar.CHARACTER if stat.S_ISCHR(mode) else tar.BLOCKDEV
        entry.major, entry.minor = os.major(info.st_rdev), os.minor(info.st_rdev)
    elif stat.S_ISFIFO(mode):
        entry.type = tar.FIFO
    else:
        return  # a socket is a process's, not an image's
    writer.add(entry)


def _xattrs(path: str, *, overlay: bool) -> dict[str, bytes]:
    """Extended attributes that belong in a layer: not the kernel's or overlayfs's own."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    found: dict[str, bytes] = {}
    for name in names:
        if name.startswith(("system.", "trusted.overlay.", "user.overlay.")) or name == "security.selinux":
            continue
        if overlay and name.startswith("trusted."):
            continue
        with contextlib.suppress(OSError):
            found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def _is_opaque(path: str) -> bool:
    for name in (_OPAQUE_XATTR, "user.overlay.opaque"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
    return False


# -- unpacking -----------------------------------------------------------------------------------------------------


class _Hashing:
    """A stream that hashes what is read of it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.hash = new_hash("sha256")

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.hash.update(data)
        return data


def unpack(stream: BinaryIO, folder: Path, *, expected: Digest | None = None) -> Digest:
    """Unpack a layer (compressed or not) into the empty ``folder``, in overlayfs's form; returns its diff ID.

    Raises BayplanError ``bad-archive`` for what is broken or leads outside, ``digest-mismatch`` where the diff ID is not
    ``expected``. On an error the folder holds rubbish: unpack beside and rename.
    """
    hashing = _Hashing(decompressed(stream))
    buffered = io.BufferedReader(_Raw(hashing), 1 << 18)
    with _Beneath(folder) as beneath:
        total = count = 0
        for entry, content in tar.entries(buffered):
            total += entry.size
            count += 1
            if total > MAX_BYTES or count > MAX_ENTRIES:
                raise bad_archive("it unpacks to more than any image holds")
            beneath.place(entry, content)
        beneath.finish()
    while buffered.read(_CHUNK):
        pass
    diff = Digest(f"sha256:{hashing.hash.hexdigest()}")
    if expected is not None and diff != expected:
        raise BayplanError("digest-mismatch", f"the layer's content is {diff}, not {expected} as its image says")
    return diff


class _Raw(io.RawIOBase):
    """A raw stream over :class:`_Hashing`, for a buffer in front of it."""

    def __init__(self, inner: _Hashing) -> None:
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        data = self._inner.read(len(view))
        view[: len(data)] = data
        return len(data)


class _Beneath:
    """Makes entries beneath a folder and nowhere else. Folders are kept open, the most recently used ones."""

    def __init__(self, folder: Path) -> None:
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._times: dict[tuple[str, ...], float] = {}

    def __enter__(self) -> _Beneath:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._folders.values():
            os.close(descriptor)
        os.close(self._root)

    def place(self, entry: Entry, content: Content) -> None:
        """Make one entry. An earlier one of the same name gives way (a folder stays, with new attributes)."""
        parts = _parts(entry.name)
        if not parts:
            if entry.type == tar.DIRECTORY:
                self._attributes(self._root, ".", entry, ())
            return
        parent = self._real(parts[:-1])
        name = parts[-1]
        descriptor = self._open(parent)
        if name.startswith(WHITEOUT):
            self._whiteout(descriptor, parent, name)
            return
        path = (*parent, name)
        if entry.type == tar.DIRECTORY:
            self._make_folder(descriptor, path, entry)
            return
        self._clear(descriptor, path)
        if entry.type == tar.REGULAR:
            self._make_file(descriptor, name, entry, content)
        elif entry.type == tar.HARDLINK:
            self._make_link(descriptor, name, entry)
        elif entry.type == tar.SYMLINK:
            os.symlink(entry.link, name, dir_fd=descriptor)
            self._attributes(descriptor, name, entry, None)
        else:
            kinds = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCKDEV: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
            if entry.type == tar.CHARACTER and not entry.major and not entry.minor:
                raise bad_archive(f"{entry.name} is a device 0:0, which would hide a file of another layer")
            os.mknod(name, kinds[entry.type] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=descriptor)
            self._attributes(descriptor, name, entry, None)

    def finish(self) -> None:
        """Times of folders, which everything made in them has changed."""
        for path, mtime in self._times.items():
            with contextlib.suppress(BayplanError, OSError):
                os.utime(self._open(path), (mtime, mtime))

    # -- paths -----------------------------------------------------------------------------------------------------

    def _real(self, parts: tuple[str, ...], links: int = 0) -> tuple[str, ...]:
        """``parts`` with symbolic links on the way resolved inside the root; folders that lack are made."""
        if parts in self._folders:
            return parts
        done: tuple[str, ...] = ()
        for index, part in enumerate(parts):
            if (*done, part) in self._folders:
                done = (*done, part)
                continue
            descriptor = self._open(done)
            try:
                info = os.stat(part, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=descriptor)
            else:
                if stat.S_ISLNK(info.st_mode):
                    if links >= _LINKS:
                        raise bad_archive(f"links at {'/'.join(parts)} lead in a circle")
                    target = os.readlink(part, dir_fd=descriptor)
                    start = () if target.startswith("/") else done
                    return self._real((*_joined(start, target), *parts[index + 1 :]), links + 1)
                if not stat.S_ISDIR(info.st_mode):
                    raise bad_archive(f"{'/'.join((*done, part))} is no folder, and something lies in it")
            done = (*done, part)
        return done

    def _open(self, parts: tuple[str, ...]) -> int:
        """A folder's descriptor; ``parts`` are free of links."""
        if not parts:
            return self._root
        found = self._folders.get(parts)
        if found is not None:
            self._folders.move_to_end(parts)
            return found
        above = self._open(parts[:-1])
        try:
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except OSError as error:
            raise bad_archive(f"{'/'.join(parts)} is no folder: {error.strerror}") from None
        self._folders[parts] = descriptor
        while len(self._folders) > _OPEN_FOLDERS:
            _, oldest = self._folders.popitem(last=False)
            os.close(oldest)
        return descriptor

    def _forget(self, path: tuple[str, ...]) -> None:
        """Close what is open at and below ``path``, before it goes."""
        for key in [key for key in self._folders if key[: len(path)] == path]:
            os.close(self._folders.pop(key))
        for key in [key for key in self._times if key[: len(path)] == path]:
            del self._times[key]

    # -- making ----------------------------------------------------------------------------------------------------

    def _clear(self, descriptor: int, path: tuple[str, ...]) -> None:
        try:
            os.unlink(path[-1], dir_fd=descriptor)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._forget(path)
            import shutil

            shutil.rmtree(path[-1], dir_fd=descriptor)

    def _make_folder(self, descriptor: int, path: tuple[str, ...], entry: Entry) -> None:
        try:
            os.mkdir(path[-1], 0o700, dir_fd=descriptor)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(path[-1], dir_fd=descriptor, follow_symlinks=False).st_mode):
                os.unlink(path[-1], dir_fd=descriptor)
                os.mkdir(path[-1], 0o700, dir_fd=descriptor)
        self._attributes(descriptor, path[-1], entry, path)

    def _make_file(self, descriptor: int, name: str, entry: Entry, content: Content) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=descriptor)
        try:
            while data := content.read(_CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            os.fchown(file, entry.uid, entry.gid)
            os.fchmod(file, entry.mode)
            for key, value in entry.xattrs.items():
                _set_xattr(file, key, value)
            os.utime(file, (entry.mtime, entry.mtime))
        finally:
            os.close(file)

    def _make_link(self, descriptor: int, name: str, entry: Entry) -> None:
        target = _parts(entry.link)
        if not target:
            raise bad_archive(f"{entry.name} is a hard link to nothing")
        above = self._real(target[:-1])
        try:
            os.link(target[-1], name, src_dir_fd=self._open(above), dst_dir_fd=descriptor, follow_symlinks=False)
        except FileNotFoundError:
            raise bad_archive(f"{entry.name} is a hard link to {entry.link}, which does not come before it") from None

    def _whiteout(self, descriptor: int, parent: tuple[str, ...], name: str) -> None:
        if name == OPAQUE:
            os.setxattr(f"/proc/self/fd/{descriptor}", _OPAQUE_XATTR, b"y")
            return
        hidden = name.removeprefix(WHITEOUT)
        if not hidden or hidden in (".", ".."):
            raise bad_archive(f"{'/'.join((*parent, name))} is a whiteout of nothing")
        try:
            os.mknod(hidden, stat.S_IFCHR | 0o600, 0, dir_fd=descriptor)
        except FileExistsError:
            return  # the layer brings the name itself: only what lies below is hidden, and that it does anyway

    def _attributes(self, descriptor: int, name: str, entry: Entry, path: tuple[str, ...] | None) -> None:
        """Owner, mode, extended attributes and time of what is no regular file; of a folder (``path``) the time comes last."""
        os.chown(name, entry.uid, entry.gid, dir_fd=descriptor, follow_symlinks=False)
        if entry.type != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=descriptor)
        for key, value in entry.xattrs.items():
            with contextlib.suppress(OSError):
                os.setxattr(f"/proc/self/fd/{descriptor}/{name}", key, value, follow_symlinks=False)
        if path is None:
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=descriptor, follow_symlinks=False)
        else:
            self._times[path] = entry.mtime


def _set_xattr(file: int, key: str, value: bytes) -> None:
    try:
        os.setxattr(file, key, value)
    except OSError as error:
        # A file system without such attributes keeps the file; what must not get lost silently is a capability.
        if error.errno not in (errno.ENOTSUP, errno.EPERM) or key == "security.capability":
            raise BayplanError(
                "xattr-refused",
                f"the file system does not take the attribute {key}",
                hint="keep the root on ext4, xfs or btrfs",
            ) from error


def _parts(name: str) -> tuple[str, ...]:
    """The components of an entry's name. Raises BayplanError ``bad-archive`` for one that leads upwards."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise bad_archive(f"the name {name[:200]!r} leads outside")
    if len(parts) > 512:
        raise bad_archive("a path of more than 512 folders")
    return parts


def _joined(start: tuple[str, ...], target: str) -> tuple[str, ...]:
    """``target`` seen from ``start``, never above the root: as a chroot would see it."""
    done = list(start)
    for part in target.split("/"):
        if part == "..":
            if done:
                done.pop()
        elif part not in ("", "."):
            done.append(part)
    return tuple(done)


# -- copying -------------------------------------------------------------------------------------------------------


class _Copied:
    """A stream that writes to a blob what is read of it."""

    def __init__(self, stream: Readable, blob: BlobWriter) -> None:
        self._stream = stream
        self._blob = blob

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._blob.write(data)
        return data


def copy_layer(store: Store, stream: Readable) -> Layer:
    """A layer as another tool wrote it, taken into the store, with its diff ID.

    gzip and zstd stay byte for byte as they are; a plain archive, xz and bzip2 become gzip, as registries carry it. The
    entries are looked at when it is unpacked. Raises BayplanError ``bad-archive`` for broken compression.
    """
    head, whole = peek(stream)
    kind = sniff(head)
    if kind not in ("gzip", "zstd"):
        with LayerWriter(store) as writer:
            source = decompressed(whole)
            while data := source.read(_CHUNK):
                writer._write(data)
            return writer.close()
    with store.writer() as blob:
        source = decompressed(_Copied(whole, blob))
        diff = new_hash("sha256")
        while data := source.read(_CHUNK):
            diff.update(data)
        digest = blob.commit()
        media_type = MediaType.LAYER_GZIP if kind == "gzip" else MediaType.LAYER_ZSTD
        return Layer(Descriptor(media_type, digest, blob.offset), Digest(f"sha256:{diff.hexdigest()}"))
