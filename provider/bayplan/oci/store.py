"""The content store: blobs by digest, one store a root, shared by build, registry and runtime.

A blob is verified while it is written, durable (file and folder) before its digest is given out, and never changed after.
Any number of processes write and read at once without a lock between them: a blob appears by an atomic rename, and two
writers of the same content are one. A blob whose folder has not been synced yet is still writable (0600); whoever wants to
rely on it syncs the folder first, so that nobody acknowledges what another process has only half finished.

Garbage collection is online and exact (:mod:`bayplan.oci.collect`). The rule for writers (:mod:`bayplan.oci.lease`): hold
:meth:`Store.lease` from before the content is written or touched until what refers to it stands; and call
:meth:`Store.touch` on content that was there already before referring to it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest, new_hash
from bayplan.oci.lease import Leases, locked_file
from bayplan.oci.root import Root
from bayplan.records import dataclass

#: Bytes of the largest manifest or configuration that is read into memory (as registries allow).
MANIFEST_LIMIT = 4 * 1024 * 1024

#: Gives the digests that something refers to: manifests, indexes, or plain blobs.
Referrer = Callable[[], Iterable[Digest]]

_UNSYNCED = 0o200  # the mode bit of a blob whose folder may not be durable yet


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed: blobs, their bytes, unpacked layers, and the bytes on disk of those."""

    blobs: int = 0
    bytes: int = 0
    layers: int = 0
    layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in the store: counts and bytes, of which ``free_*`` could be collected if nothing holds a lease.

    ``other_bytes`` is the rest below ``root/oci``: names, drafts, trash.
    """

    blobs: int
    bytes: int
    free_blobs: int
    free_bytes: int
    layers: int
    layer_bytes: int
    free_layers: int = 0
    free_layer_bytes: int = 0
    other_bytes: int = 0


class Store:
    """The blobs of a root under ``root/oci``. Cheap to make; makes its folders when it first writes."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.folder = root.path / "oci"
        self.leases = Leases(self.folder)
        self.layers = self.folder / "layers"
        self.incoming = self.folder / "incoming"
        self.unpacking = self.folder / "unpacking"
        self.trash = self.folder / "trash"
        self._blobs = self.folder / "blobs"
        self._made = False

    def ensure(self) -> Store:
        """Make the folders. Idempotent."""
        if not self._made:
            self.root.ensure()
            leases = self.folder / "leases"
            own = (self.folder, self._blobs, self.incoming, leases, self.trash, self.layers, self.unpacking)
            unsettled = [folder for folder in own if not _settled(folder)]
            if unsettled:
                # A blob is only as durable as the folders above it.
                sync_folder(self.folder)
                sync_folder(self.root.path)
                sync_folder(self.root.path.parent)
                for folder in unsettled:
                    folder.chmod(0o700)
            self._made = True
        return self

    # -- reading ---------------------------------------------------------------------------------------------------

    def path(self, digest: Digest) -> Path:
        """Where the blob lies or would lie."""
        digest = Digest.parse(digest)
        return self._blobs / digest.algorithm / digest.hex[:2] / digest.hex

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: Digest) -> int:
        """Bytes. Raises BayplanError ``no-blob``."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise no_blob(digest) from None

    def open(self, digest: Digest) -> BinaryIO:
        """The blob, open for reading at its start. Raises BayplanError ``no-blob``."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise no_blob(digest) from None

    def read(self, digest: Digest, limit: int = MANIFEST_LIMIT) -> bytes:
        """The whole blob, verified. Raises BayplanError ``no-blob``, ``blob-too-large`` or ``blob-damaged``."""
        digest = Digest.parse(digest)
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise BayplanError("blob-too-large", f"{digest} has more than {limit} bytes")
        if Digest.of(data, digest.algorithm) != digest:
            raise BayplanError(
                "blob-damaged", f"the stored content of {digest} is not its own any more", hint="pull or build it again"
            )
        return data

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """All blobs with their stat, in no order."""
        for algorithm in ("sha256", "sha512"):
            with contextlib.suppress(FileNotFoundError):
                for shard in os.scandir(self._blobs / algorithm):
                    for entry in os.scandir(shard.path):
                        with contextlib.suppress(FileNotFoundError):
                            yield Digest(f"{algorithm}:{entry.name}"), entry.stat()

    # -- writing ---------------------------------------------------------------------------------------------------

    def writer(self, algorithm: str = "sha256") -> BlobWriter:
        """A blob in the making; see :class:`BlobWriter`."""
        return BlobWriter(self.ensure(), algorithm)

    def put(self, data: bytes, algorithm: str = "sha256") -> Digest:
        """Store ``data``; returns its digest, durable. Content that is there already costs no write."""
        digest = Digest.of(data, algorithm)
        if self.touch(digest):
            return digest
        with self.writer(algorithm) as writer:
            writer.write(data)
            return writer.commit(digest)

    def touch(self, digest: Digest) -> bool:
        """Mark a blob as about to be referred to; False when it is not there. Call it under a lease.

        What it returns True for is durable. Of a manifest, what it refers to stays with it.
        """
        path = self.path(digest)
        if not path.exists():
            return False
        self.ensure()
        try:
            with self.leases.touching() as tick:
                os.utime(path, ns=(tick, tick))
            if path.stat().st_mode & _UNSYNCED:
                sync_folder(path.parent)
                path.chmod(0o400)
        except FileNotFoundError:
            return False
        return True

    def lease(self) -> AbstractContextManager[int]:
        """While this is held (by a living process), nothing that was written or touched since it began is collected."""
        return self.ensure().leases.hold()

    # -- garbage ---------------------------------------------------------------------------------------------------

    def collect(self, referrers: Sequence[Referrer]) -> Collected:
        """Remove what nothing refers to; ``referrers`` must be all that there are for this root.

        Online: see :func:`bayplan.oci.collect.collect`.
        """
        from bayplan.oci.collect import collect

        return collect(self, referrers)

    def usage(self, referrers: Sequence[Referrer]) -> Usage:
        """What lies here and how much of it nothing refers to; no effect."""
        from bayplan.oci.collect import usage

        return usage(self, referrers)


class BlobWriter:
    """One blob in the making. ``with store.writer() as w: w.write(..); digest = w.commit(expected)``.

    Left without a commit, nothing remains; what a killed process leaves is swept by the next collection. ``offset`` is the
    number of bytes written.
    """

    def __init__(self, store: Store, algorithm: str = "sha256") -> None:
        self._store = store
        self._algorithm = algorithm
        self._hash = new_hash(algorithm)
        self._path = store.incoming / f"{os.getpid()}-{os.urandom(8).hex()}"
        self._file = os.fdopen(locked_file(self._path), "w+b", buffering=0)
        self.offset = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append ``chunk``, hashing it on the way. Raises OSError where the disk refuses it."""
        self._hash.update(chunk)
        self._append(chunk)
        self.offset += len(chunk)
        return len(chunk)

    def _append(self, chunk: bytes | bytearray | memoryview) -> None:
        """Bring ``chunk`` into the file; a store of another kind does it in its way."""
        self._put(chunk)

    def _finish(self, digest: Digest) -> None:
        """Bring the file into the form that is kept, before it is made durable; here it has it."""

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def commit(self, expected: Digest | None = None) -> Digest:
        """Make the blob visible and durable. Raises BayplanError ``digest-mismatch`` when the content is another."""
        digest = Digest(f"{self._algorithm}:{self._hash.hexdigest()}")
        if expected is not None and digest != expected:
            self.abort()
            raise BayplanError(
                "digest-mismatch",
                f"the content is {digest}, not {expected} as announced",
                hint="it was damaged on the way",
            )
        if self._store.touch(digest):
            self.abort()
            return digest
        self._finish(digest)
        descriptor = self._file.fileno()
        os.fsync(descriptor)
        target = self._store.path(digest)
        for folder in (target.parent.parent, target.parent):
            if not _settled(folder):
                sync_folder(folder.parent)
                folder.chmod(0o700)
        with self._store.leases.touching() as tick:
            os.utime(descriptor, ns=(tick, tick))
            self._path.rename(target)
        sync_folder(target.parent)
        os.fchmod(descriptor, 0o400)
        self._file.close()
        return digest

    def abort(self) -> None:
        """Leave nothing behind. Idempotent."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


def _settled(folder: Path) -> bool:
    """Whether a folder is there for good. One that was missing is made, closed to others, whatever the umask.

    What was made bears a mark (the sticky bit) until the folder above it has been synced by somebody: two writers of one new folder
    must both know that its name may not be durable yet.
    """
    with contextlib.suppress(FileNotFoundError):
        return not folder.stat().st_mode & stat.S_ISVTX
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700 | stat.S_ISVTX)
    return False  # made here, or by somebody else a moment ago


def sync_folder(path: Path) -> None:
    """fsync a folder, so that a rename in it survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Bring all that was written on the file system of ``path`` to the disk (syncfs(2)). Raises OSError."""
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fspath(path))
    finally:
        os.close(descriptor)


def tree_size(path: Path) -> int:
    """Bytes on disk below ``path``, hard links once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(os.path.join(folder, name))  # noqa: PTH118  (a hot loop over thousands of files)
                if info.st_nlink == 1 or (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * 512
    return total


def no_blob(digest: str) -> BayplanError:
    return BayplanError("no-blob", f"there is no content {digest} in this store", hint="pull or build the image again")
