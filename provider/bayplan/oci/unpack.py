"""Unpacking: a layer laid out beneath a folder that nothing in it can leave, in the form that overlayfs reads.

A layer comes from strangers. Every path is walked from the folder's descriptor one component at a time without following
links; a link in the way is resolved as if the folder were ``/``, as a chroot would. Numbers, names and kinds have been
checked by the reader (:mod:`.tar`); here depth, counts and bytes are limited, and what the kernel refuses becomes an error
of the archive.

"Gone" in overlayfs's form: a character device 0:0 in a name's place, and the attribute ``trusted.overlay.opaque`` on a
folder (``user.overlay.opaque`` where we are an ordinary user, who mounts with ``userxattr``). Whiteouts speak of the layers
below and never of the layer's own entries, whichever comes first. An ordinary user cannot give files away or make devices:
then everything belongs to that user, and devices are left out.
"""

from __future__ import annotations

import errno
import os
import queue
import shutil
import stat
import threading
from collections import OrderedDict
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import Readable, decompressed
from bayplan.oci.digest import Digest, new_hash
from bayplan.oci.layerwriter import OPAQUE, WHITEOUT
from bayplan.oci.pack import kept_xattr
from bayplan.oci.tar import Content, Entry, bad_archive

#: What one layer may unpack to; a bomb is larger.
MAX_BYTES = 256 << 30
MAX_ENTRIES = 10_000_000

_PIECE = 1 << 20
_AHEAD = 6  # pieces that are decompressed before they are wanted
_OPEN_FOLDERS = 64
_DEEPEST = 256
_LINKS = 40
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OURS = (errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def unpack(
    stream: Readable,
    folder: Path,
    *,
    expected: Digest | None = None,
    max_bytes: int = MAX_BYTES,
    max_entries: int = MAX_ENTRIES,
) -> Digest:
    """Unpack a layer (compressed or not) into the empty ``folder``, in overlayfs's form; returns its diff ID.

    Raises BayplanError ``bad-archive`` for what is broken or leads outside, ``digest-mismatch`` where the diff ID is not
    ``expected``, ``disk-full``. On an error the folder holds rubbish: unpack beside and rename.
    """
    with _Source(decompressed(stream), max_bytes) as source, _Beneath(folder) as beneath:
        name = ""
        try:
            for count, (entry, content) in enumerate(tar.entries(source)):  # type: ignore[arg-type]
                name = entry.name
                if count >= max_entries:
                    raise bad_archive(f"it holds more than {max_entries} entries")
                if entry.size > max_bytes:
                    raise bad_archive(f"it unpacks to more than {max_bytes} bytes")
                beneath.place(entry, content)
            beneath.finish()
            while source.read(_PIECE):
                pass
        except OSError as error:
            raise _told(error, name) from error
        diff = source.digest()
    if expected is not None and diff != expected:
        raise BayplanError("digest-mismatch", f"the layer's content is {diff}, not {expected} as its image says")
    return diff


def _told(error: OSError, name: str) -> BayplanError:
    if error.errno in _FULL:
        return BayplanError(
            "disk-full", f"there is no room to unpack {name[:200]}", hint="free some: bayplan system prune"
        )
    if error.errno in _OURS:
        return BayplanError("unwritable", f"{name[:200]} cannot be unpacked: {error.strerror}")
    return bad_archive(f"{name[:200]!r} cannot be made: {error.strerror}")


class _Source:
    """The archive's bytes: read, decompressed and hashed ahead in a thread, once there is more than one piece."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        self._left = most + (most >> 2) + (64 << 20)  # headers and padding come on top of contents
        self._most = most
        self._hash = new_hash("sha256")
        self._piece = b""
        self._at = 0
        self._count = 0
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue(_AHEAD)
        self._thread: threading.Thread | None = None
        self._stopped = False

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._stopped = True
            while self._thread.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    continue
            self._thread.join()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, fewer only at a piece's end; ``b""`` at the end."""
        at = self._at
        data = self._piece[at : at + size]
        if data:
            self._at = at + len(data)
            if len(data) == size:
                return data
        more = size - len(data)
        self._piece = self._next()
        self._at = min(more, len(self._piece))
        return data + self._piece[: self._at]

    def digest(self) -> Digest:
        """The digest of everything, which must have been read."""
        return Digest(f"sha256:{self._hash.hexdigest()}")

    def _next(self) -> bytes:
        self._count += 1
        if self._count == 1:
            return self._load()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="unpack", daemon=True)
            self._thread.start()
        piece = self._queue.get()
        if isinstance(piece, BaseException):
            self._queue.put(piece)
            raise piece
        if not piece:
            self._queue.put(b"")
        return piece

    def _load(self) -> bytes:
        data = self._stream.read(_PIECE)
        self._left -= len(data)
        if self._left < 0:
            raise bad_archive(f"it unpacks to more than {self._most} bytes")
        self._hash.update(data)
        return data

    def _run(self) -> None:
        try:
            data = b"-"
            while data and not self._stopped:
                data = self._load()
                self._queue.put(data)
        except BaseException as error:  # noqa: BLE001  (raised again where the archive is read)
            self._queue.put(error)


class _Beneath:
    """Makes entries beneath a folder and nowhere else. Folders are kept open, the most recently used ones."""

    def __init__(self, folder: Path) -> None:
        self._root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: OrderedDict[tuple[str, ...], int] = OrderedDict()
        self._times: dict[tuple[str, ...], float] = {}
        self._whiteouts: set[tuple[str, ...]] = set()
        self._privileged = os.geteuid() == 0
        self._opaque = "trusted.overlay.opaque" if self._privileged else "user.overlay.opaque"

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
                self._finished(self._root, entry)
                self._times[()] = entry.mtime
            return
        parent = self._real(parts[:-1])
        folder, name = self._open(parent), parts[-1]
        path = (*parent, name)
        if name.startswith(WHITEOUT):
            self._whiteout(folder, parent, name)
        elif entry.type == tar.DIRECTORY:
            self._folder(folder, path, entry)
        elif entry.type == tar.REGULAR:
            self._file(folder, path, entry, content)
        elif entry.type == tar.HARDLINK:
            self._link(path, entry)
        elif entry.type == tar.SYMLINK:
            self._clear(folder, path)
            os.symlink(entry.link, name, dir_fd=folder)
            if self._privileged:
                os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
            os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)
        else:
            self._device(folder, path, entry)

    def finish(self) -> None:
        """Times of folders, which everything made in them has changed."""
        for path, mtime in self._times.items():
            os.utime(self._open(path), (mtime, mtime))

    # -- paths -----------------------------------------------------------------------------------------------------

    def _real(self, parts: tuple[str, ...], links: int = 0) -> tuple[str, ...]:
        """``parts`` with symbolic links on the way resolved inside the root; folders that lack are made."""
        if not parts or parts in self._folders:
            return parts
        done: tuple[str, ...] = ()
        for index, part in enumerate(parts):
            if (*done, part) not in self._folders:
                folder = self._open(done)
                try:
                    info = os.stat(part, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    self._make_folder(folder, (*done, part))
                else:
                    if stat.S_ISLNK(info.st_mode):
                        if links >= _LINKS:
                            raise bad_archive(f"links at {'/'.join(parts)[:200]} lead in a circle")
                        target = os.readlink(part, dir_fd=folder)
                        start = () if target.startswith("/") else done
                        return self._real((*_joined(start, target), *parts[index + 1 :]), links + 1)
                    if (*done, part) in self._whiteouts:
                        self._make_folder(folder, (*done, part))
                    elif not stat.S_ISDIR(info.st_mode):
                        raise bad_archive(f"{'/'.join((*done, part))[:200]} is no folder, and something lies in it")
            done = (*done, part)
            if len(done) > _DEEPEST:
                raise bad_archive(f"a path of more than {_DEEPEST} folders")
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
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        self._folders[parts] = descriptor
        while len(self._folders) > _OPEN_FOLDERS:
            _, oldest = self._folders.popitem(last=False)
            os.close(oldest)
        return descriptor

    def _forget(self, path: tuple[str, ...]) -> None:
        """Close what is open at and below ``path``, before it goes."""
        depth = len(path)
        for key in [key for key in self._folders if key[:depth] == path]:
            os.close(self._folders.pop(key))
        for times in [key for key in self._times if key[:depth] == path]:
            del self._times[times]
        self._whiteouts = {key for key in self._whiteouts if key[:depth] != path}

    # -- making ----------------------------------------------------------------------------------------------------

    def _clear(self, folder: int, path: tuple[str, ...]) -> None:
        """Make room: what an earlier entry put there goes."""
        try:
            os.unlink(path[-1], dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._forget(path)
            shutil.rmtree(path[-1], dir_fd=folder)
        self._whiteouts.discard(path)

    def _make_folder(self, folder: int, path: tuple[str, ...]) -> None:
        """A new folder, 0755 whatever the umask; in a whiteout's place an opaque one: what lies below stays gone."""
        was_gone = path in self._whiteouts
        if was_gone:
            self._clear(folder, path)
        os.mkdir(path[-1], 0o755, dir_fd=folder)
        made = self._open(path)
        os.fchmod(made, 0o755)
        if was_gone:
            os.setxattr(made, self._opaque, b"y")

    def _folder(self, folder: int, path: tuple[str, ...], entry: Entry) -> None:
        try:
            made = self._open(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if path not in self._whiteouts:
                self._clear(folder, path)
            self._make_folder(folder, path)
            made = self._open(path)
        self._finished(made, entry)
        self._times[path] = entry.mtime

    def _file(self, folder: int, path: tuple[str, ...], entry: Entry, content: Content) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(path[-1], flags, 0o600, dir_fd=folder)
        except FileExistsError:
            self._clear(folder, path)
            file = os.open(path[-1], flags, 0o600, dir_fd=folder)
        try:
            while content.left:
                data = content.read(_PIECE)
                done = os.write(file, data)
                while done < len(data):
                    done += os.write(file, memoryview(data)[done:])
            self._finished(file, entry)
            os.utime(file, (entry.mtime, entry.mtime))
        finally:
            os.close(file)

    def _link(self, path: tuple[str, ...], entry: Entry) -> None:
        target = _parts(entry.link)
        missing = bad_archive(f"{entry.name[:200]} is a hard link to {entry.link[:200]}, which does not come before it")
        if not target:
            raise missing
        real = (*self._real(target[:-1]), target[-1])
        if real == path or real in self._whiteouts:
            raise missing
        self._clear(self._open(path[:-1]), path)
        # Opening the second folder may close what was opened for the first.
        above = os.dup(self._open(real[:-1]))
        try:
            folder = self._open(path[:-1])
            os.link(real[-1], path[-1], src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            raise missing from None
        finally:
            os.close(above)

    def _device(self, folder: int, path: tuple[str, ...], entry: Entry) -> None:
        kinds = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCKDEV: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        if entry.type == tar.CHARACTER and not entry.major and not entry.minor:
            raise bad_archive(f"{entry.name[:200]} is a device 0:0, which would hide a file of another layer")
        if entry.type != tar.FIFO and not self._privileged:
            return
        self._clear(folder, path)
        os.mknod(path[-1], kinds[entry.type] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=folder)
        if self._privileged:
            os.chown(path[-1], entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        os.chmod(path[-1], entry.mode, dir_fd=folder)
        os.utime(path[-1], (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def _whiteout(self, folder: int, parent: tuple[str, ...], name: str) -> None:
        if name == OPAQUE:
            os.setxattr(f"/proc/self/fd/{folder}", self._opaque, b"y")
            return
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise bad_archive(f"{'/'.join((*parent, name))[:200]} is a whiteout of nothing")
        if hidden.startswith(WHITEOUT):
            return  # a mark of AUFS (.wh..wh.plnk and the like) that means nothing here
        path = (*parent, hidden)
        try:
            os.mknod(hidden, stat.S_IFCHR | 0o600, 0, dir_fd=folder)
        except FileExistsError:
            # The layer brings the name itself. A file hides what is below anyway; a folder must be told to.
            if stat.S_ISDIR(os.stat(hidden, dir_fd=folder, follow_symlinks=False).st_mode):
                os.setxattr(self._open(path), self._opaque, b"y")
            return
        self._whiteouts.add(path)

    def _finished(self, descriptor: int, entry: Entry) -> None:
        """Owner, mode and extended attributes, in this order: each may undo what comes behind it."""
        if self._privileged:
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        for key, value in entry.xattrs.items():
            if kept_xattr(key):
                self._set_xattr(descriptor, key, value)

    def _set_xattr(self, descriptor: int, key: str, value: bytes) -> None:
        if not self._privileged and not key.startswith("user."):
            return
        try:
            os.setxattr(descriptor, key, value)
        except OSError as error:
            if error.errno in _FULL or error.errno in (errno.ERANGE, errno.E2BIG, errno.EINVAL):
                raise
            raise BayplanError(
                "xattr-refused",
                f"the file system does not take the attribute {key[:100]}",
                hint="keep the root on ext4, xfs or btrfs",
            ) from error


def _parts(name: str) -> tuple[str, ...]:
    """The components of an entry's name. Raises BayplanError ``bad-archive`` for one that leads upwards."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise bad_archive(f"the name {name[:200]!r} leads outside")
    if len(parts) > _DEEPEST:
        raise bad_archive(f"a path of more than {_DEEPEST} folders")
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
