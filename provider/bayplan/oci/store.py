"""The content store: blobs by digest, one store a root, shared by build, registry and runtime.

A blob is verified while it is written, durable (file and folder) before its digest is given out, and never changed after.
Any number of processes write and read at once without a lock between them: a blob appears by an atomic rename, and two
writers of the same content are one.

**Garbage collection is online and exact.** :meth:`Store.collect` removes what cannot be reached from the digests that its
referrers give, at once: no grace by the clock. What keeps a blob alive before anything refers to it is a *lease*: a file that
its holder keeps locked, so that it ends with the holder's life. While a lease lives, whatever was written or touched since
it began stays. Who finds a blob there and is about to refer to it calls :meth:`Store.touch` under a lease first; touching and
removing exclude each other by a lock held for one blob's check.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest, new_hash
from bayplan.oci.root import Root

#: Bytes of the largest manifest that is read into memory (as registries allow).
MANIFEST_LIMIT = 4 * 1024 * 1024

#: Gives the digests that something refers to: manifests, indexes, or plain blobs.
Referrer = Callable[[], Iterable[Digest]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed: blobs, their bytes, and unpacked layers."""

    blobs: int = 0
    bytes: int = 0
    layers: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in the store: counts and bytes, of which ``free_*`` could be collected now."""

    blobs: int
    bytes: int
    free_blobs: int
    free_bytes: int
    layers: int
    layer_bytes: int


class Store:
    """The blobs of a root under ``root/oci``. Cheap to make; makes its folders when it first writes."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.folder = root.path / "oci"
        self._blobs = self.folder / "blobs"
        self._incoming = self.folder / "incoming"
        self._leases = self.folder / "leases"
        self._trash = self.folder / "trash"
        self.layers = self.folder / "layers"
        self._made = False

    def ensure(self) -> Store:
        """Make the folders. Idempotent."""
        if not self._made:
            self.root.ensure()
            for folder in (self._blobs, self._incoming, self._leases, self._trash, self.layers):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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
        """Store ``data``; returns its digest. Content that is there already costs no write."""
        digest = Digest.of(data, algorithm)
        if self.touch(digest):
            return digest
        with self.writer(algorithm) as writer:
            writer.write(data)
            return writer.commit(digest)

    def touch(self, digest: Digest) -> bool:
        """Mark a blob as about to be referred to; False when it is not there. Call it under a lease."""
        path = self.path(digest)
        if not path.exists():
            return False
        self.ensure()
        with self._deciding(shared=True):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def delete(self, digest: Digest) -> bool:
        """Remove one blob whoever refers to it; False when it was not there."""
        path = self.path(digest)
        self.ensure()
        with self._deciding(shared=False):
            return self._discard(path)

    # -- leases ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """While this is held (by a living process), nothing that was written or touched since it began is collected."""
        self.ensure()
        path = self._leases / f"{os.getpid()}-{secrets.token_hex(6)}"
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A collector that saw the file unlocked for an instant may have taken it for a dead one's.
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            os.close(descriptor)

    def _oldest_lease(self) -> float | None:
        """When the oldest living lease began; files of dead holders are removed."""
        oldest: float | None = None
        for entry in os.scandir(self._leases):
            try:
                descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                began = os.fstat(descriptor).st_mtime
                oldest = began if oldest is None else min(oldest, began)
            else:
                with contextlib.suppress(FileNotFoundError):
                    Path(entry.path).unlink()
            finally:
                os.close(descriptor)
        return oldest

    # -- collecting ------------------------------------------------------------------------------------------------

    def reachable(self, referrers: Sequence[Referrer]) -> tuple[set[Digest], set[str]]:
        """Digests that can be reached from the referrers', and the diff IDs of layers among them (as ``hex``)."""
        seen: set[Digest] = set()
        diffs: set[str] = set()
        stack = [digest for referrer in referrers for digest in referrer()]
        while stack:
            digest = stack.pop()
            if digest in seen:
                continue
            seen.add(digest)
            document = self._document(digest)
            if document is not None:
                stack.extend(_links(document))
                diffs.update(_diffs(document))
        return seen, diffs

    def _document(self, digest: Digest) -> dict[str, object] | None:
        """The JSON object that a blob is, or None (a layer, or absent)."""
        try:
            with self.path(digest).open("rb") as file:
                head = file.read(1)
                if head != b"{":
                    return None
                data = head + file.read(MANIFEST_LIMIT)
        except FileNotFoundError:
            return None
        try:
            loaded = json.loads(data)
        except ValueError:
            return None
        return loaded if isinstance(loaded, dict) else None

    def collect(self, referrers: Sequence[Referrer]) -> Collected:
        """Remove what nothing refers to. ``referrers`` must be all that there are for this root.

        Each candidate is checked again under the lock that :meth:`touch` takes, against a fresh look at the leases.
        """
        self.ensure()
        self._sweep_incoming()
        alive, diffs = self.reachable(referrers)
        blobs = size = layers = 0
        candidates = [(digest, stat) for digest, stat in self.blobs() if digest not in alive]
        if candidates:
            # Whoever wrote between the first look and now is seen by a second one.
            alive, diffs = self.reachable(referrers)
        for digest, stat in candidates:
            if digest in alive:
                continue
            with self._deciding(shared=False):
                if self._young(self.path(digest)):
                    continue
                if self._discard(self.path(digest)):
                    blobs += 1
                    size += stat.st_size
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self.layers)):
                if entry.name.partition(".")[0] in diffs:
                    continue
                with self._deciding(shared=False):
                    if not self._young(Path(entry.path)) and self._discard(Path(entry.path)):
                        layers += 1
        self._empty_trash()
        return Collected(blobs, size, layers)

    def usage(self, referrers: Sequence[Referrer]) -> Usage:
        """What lies here and how much of it nothing refers to; no effect."""
        alive, _ = self.reachable(referrers)
        count = size = free = free_size = 0
        for digest, stat in self.blobs():
            count += 1
            size += stat.st_size
            if digest not in alive:
                free += 1
                free_size += stat.st_size
        layers = layer_size = 0
        if self.layers.is_dir():
            for entry in os.scandir(self.layers):
                layers += 1
                layer_size += tree_size(Path(entry.path))
        return Usage(count, size, free, free_size, layers, layer_size)

    @contextlib.contextmanager
    def _deciding(self, *, shared: bool) -> Iterator[None]:
        """The lock between touching and removing. Held for one blob's check, never for a walk."""
        descriptor = os.open(self.folder / "gc.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _young(self, path: Path) -> bool:
        """Whether a living lease protects what lies at ``path``."""
        oldest = self._oldest_lease()
        if oldest is None:
            return False
        try:
            # Time stamps of files have the granularity of a tick (4 ms at worst).
            return path.stat().st_mtime >= oldest - 0.02
        except FileNotFoundError:
            return True

    def _discard(self, path: Path) -> bool:
        """Out of sight in one step; the deletion itself may take its time."""
        try:
            path.rename(self._trash / f"{path.name}.{secrets.token_hex(4)}")
        except FileNotFoundError:
            return False
        return True

    def _empty_trash(self) -> None:
        for entry in list(os.scandir(self._trash)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    Path(entry.path).unlink()

    def _sweep_incoming(self) -> None:
        """Drafts whose writer is dead: it holds its draft locked as long as it lives."""
        for entry in list(os.scandir(self._incoming)):
            try:
                descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_ctime > 1.0:
                    Path(entry.path).unlink(missing_ok=True)
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


class BlobWriter:
    """One blob in the making. ``with store.writer() as w: w.write(..); digest = w.commit(expected)``.

    Left without a commit, nothing remains. ``offset`` is the number of bytes written.
    """

    def __init__(self, store: Store, algorithm: str = "sha256") -> None:
        self._store = store
        self._algorithm = algorithm
        self._hash = new_hash(algorithm)
        self._path = store._incoming / f"{os.getpid()}-{secrets.token_hex(8)}"
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._file = os.fdopen(descriptor, "w+b", buffering=0)
        self.offset = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append ``chunk``, hashing it on the way."""
        self._hash.update(chunk)
        view = memoryview(chunk)
        while view:
            done = self._file.write(view)
            view = view[done:]
        self.offset += len(chunk)
        return len(chunk)

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
        os.fsync(self._file.fileno())
        target = self._store.path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_folder(target.parent.parent)
            sync_folder(target.parent.parent.parent)
        os.fchmod(self._file.fileno(), 0o400)
        os.utime(self._file.fileno())
        self._path.rename(target)
        sync_folder(target.parent)
        self._file.close()
        return digest

    def abort(self) -> None:
        """Leave nothing behind. Idempotent."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()


def sync_folder(path: Path) -> None:
    """fsync a folder, so that a rename in it survives a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_size(path: Path) -> int:
    """Bytes on disk below ``path``, hard links once."""
    total, seen = 0, set()
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118  (a hot loop over thousands of files)
                if (stat.st_dev, stat.st_ino) not in seen:
                    seen.add((stat.st_dev, stat.st_ino))
                    total += stat.st_blocks * 512
    return total


def no_blob(digest: str) -> BayplanError:
    return BayplanError("no-blob", f"there is no content {digest} in this store", hint="pull or build the image again")


def _links(document: dict[str, object]) -> Iterator[Digest]:
    """What a manifest or index refers to."""
    found: list[object] = [document.get("config"), document.get("subject")]
    for name in ("layers", "manifests", "blobs"):
        many = document.get(name)
        if isinstance(many, list):
            found.extend(many)
    for one in found:
        if isinstance(one, dict) and isinstance(one.get("digest"), str):
            with contextlib.suppress(BayplanError):
                yield Digest.parse(one["digest"])


def _diffs(document: dict[str, object]) -> Iterator[str]:
    """The diff IDs of an image configuration, as hex: the names of its unpacked layers."""
    rootfs = document.get("rootfs")
    if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
        for one in rootfs["diff_ids"]:
            if isinstance(one, str):
                yield one.partition(":")[2]
