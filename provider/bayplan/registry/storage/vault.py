"""A store whose blobs are sealed, or lie in a bucket, or both.

It is the root's kind of store in a folder of its own, so that leases, touching, commits by rename and collections are the same. What
differs is a blob's file: sealed (:mod:`.sealing`), or a stub that says under which key of the bucket the bytes lie. The object is
written before its stub, and removed after it: what a crash leaves is an object without a stub, which :meth:`Vault.sweep` takes
once it is old enough to be nobody's upload. A vault's objects begin with a name of its own, so that vaults, registries and whoever
else may share a bucket.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.lease import locked_file
from bayplan.oci.root import Root
from bayplan.oci.store import BlobWriter, Store, no_blob, sync_folder
from bayplan.records import dataclass
from bayplan.registry.storage.bucket import Bucket, ObjectReader
from bayplan.registry.storage.sealing import Keyring, Opened, Sealer, binding, clear_size, head_bytes, read_head

_ORPHANS_AGE = 24 * 3600.0  # seconds: longer than any upload takes
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Stub:
    """``size`` in clear, ``stored`` in the bucket, in bytes."""

    key: str
    size: int
    stored: int

    def to_bytes(self) -> bytes:
        return json.dumps({"key": self.key, "size": self.size, "stored": self.stored}).encode()


@dataclass(frozen=True, slots=True)
class DraftFile:
    """A file that is being made at ``path``."""

    path: Path
    file: BinaryIO

    def settle(self, target: Path, tick: int | None = None) -> None:
        """Durable, closed to writing, and under its name; with ``tick`` as the time of its last touch."""
        self.file.flush()
        descriptor = self.file.fileno()
        os.fsync(descriptor)
        if tick is not None:
            os.utime(descriptor, ns=(tick, tick))
        os.fchmod(descriptor, 0o400)
        self.path.replace(target)
        sync_folder(target.parent)


class Vault(Store):
    """``keys`` None: in clear; ``bucket`` None: on this file system; ``second``: a bucket that holds everything, too."""

    def __init__(
        self, folder: Path, keys: Keyring | None = None, bucket: Bucket | None = None, second: Bucket | None = None
    ) -> None:
        super().__init__(Root.at(folder))
        self.keys = keys
        self.bucket = bucket
        self.second = second
        self._pending = folder / "second-pending"
        self._own = folder / "objects"

    # -- reading -------------------------------------------------------------------------------------------------------

    def size(self, digest: Digest) -> int:
        if self.bucket is not None:
            return self._stub(digest).size
        try:
            with self.path(digest).open("rb") as file:
                stored = os.fstat(file.fileno()).st_size
                return stored if self.keys is None else clear_size(stored, read_head(file).size)
        except FileNotFoundError:
            raise no_blob(digest) from None

    def open(self, digest: Digest) -> BinaryIO:
        raw, stored = self._raw(digest)
        if self.keys is None:
            return raw
        return cast("BinaryIO", Opened(raw, stored, Digest.parse(digest), self.keys.unwrap))

    def _raw(self, digest: Digest) -> tuple[BinaryIO, int]:
        """The blob as it lies there, and its bytes there."""
        if self.bucket is not None:
            stub = self._stub(digest)
            buckets = [self.bucket, *([self.second] if self.second is not None else [])]
            reader = ObjectReader(buckets, stub.key, stub.stored)
            if self.keys is not None:
                reader.prepare(0)  # the head, and mostly what is read next, in one request
            return cast("BinaryIO", reader), stub.stored
        file = super().open(digest)
        return file, os.fstat(file.fileno()).st_size

    def _stub(self, digest: Digest) -> Stub:
        try:
            return Stub(**json.loads(self.path(digest).read_bytes()))
        except FileNotFoundError:
            raise no_blob(digest) from None
        except (ValueError, TypeError):
            raise BayplanError(
                "blob-damaged", f"what says where {digest} lies is broken", hint="push it again"
            ) from None

    # -- writing -------------------------------------------------------------------------------------------------------

    def writer(self, algorithm: str = "sha256") -> BlobWriter:
        return VaultWriter(self.ensure(), self, algorithm)

    def place(self, digest: Digest, file: BinaryIO, size: int) -> Stub:
        """Bring a finished file into the bucket; the stub for it. ``size`` in clear."""
        assert self.bucket is not None
        stored = file.seek(0, os.SEEK_END)
        key = f"{self._name()}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/{uuid.uuid4().hex}"
        stub = Stub(key, size, stored)
        self.bucket.put(stub.key, file, stored)
        if self.second is not None and not _taken(self.second, stub, file):
            self._owe(stub)
        return stub

    def _name(self) -> str:
        """What the keys of this vault's objects begin with: made once, by whoever comes first."""
        while True:
            with suppress(FileNotFoundError):
                return self._own.read_text(encoding="ascii")
            with self._draft() as draft:
                draft.file.write(uuid.uuid4().hex.encode())
                draft.file.flush()
                os.fsync(draft.file.fileno())
                with suppress(FileExistsError):
                    os.link(draft.path, self._own)
            sync_folder(self._own.parent)

    @contextmanager
    def _draft(self) -> Iterator[DraftFile]:
        """A file in the making that no collection takes; gone at the end of the block, if it was not renamed."""
        path = self.ensure().incoming / f"{os.getpid()}-{uuid.uuid4().hex}"
        with os.fdopen(locked_file(path), "w+b") as file:
            try:
                yield DraftFile(path, file)
            finally:
                path.unlink(missing_ok=True)

    def _owe(self, stub: Stub) -> None:
        """Note that the second bucket lacks an object; :meth:`settle` brings it."""
        self._pending.mkdir(exist_ok=True, mode=0o700)
        with self._draft() as draft:
            draft.file.write(stub.to_bytes())
            draft.settle(self._pending / stub.key.rpartition("/")[2])
        sync_folder(self._pending.parent)

    def owed(self) -> int:
        """How many objects the second bucket lacks."""
        return sum(1 for _ in self._pending.iterdir()) if self._pending.is_dir() else 0

    def settle(self) -> int:
        """Bring the second bucket what it lacks; how many objects. Raises BayplanError ``storage-unreachable``."""
        if self.second is None or self.bucket is None or not self._pending.is_dir():
            return 0
        done = 0
        for path in sorted(self._pending.iterdir()):
            stub = Stub(**json.loads(path.read_bytes()))
            if self.bucket.has(stub.key):  # or it was garbage, and is swept
                with cast("BinaryIO", ObjectReader([self.bucket], stub.key, stub.stored)) as reader:
                    self.second.put(stub.key, reader, stub.stored)
                done += 1
            path.unlink(missing_ok=True)
        return done

    # -- keys and garbage ----------------------------------------------------------------------------------------------

    def rekey(self) -> int:
        """Wrap the data keys of all blobs with the current key; how many had another one. The content is not sealed anew."""
        blobs = [digest for digest, _ in self.blobs()]
        if self.keys is None or not blobs:
            return 0
        current = self.keys.current()
        done = 0
        for digest in blobs:
            with self.lease():
                done += self.touch(digest) and self._rekey(digest, self.keys, current)
        return done

    def _rekey(self, digest: Digest, keys: Keyring, current: str) -> bool:
        raw, stored = self._raw(digest)
        with raw:
            head = read_head(raw)
            if head.id == current:
                return False
            id, wrapped = keys.wrap(keys.unwrap(head.id, head.wrapped))
            raw.seek(head.size)
            with self._draft() as draft:
                draft.file.write(head_bytes(id, wrapped, head.binding))
                while piece := raw.read(_PIECE):
                    draft.file.write(piece)
                if self.bucket is not None:
                    draft.file.flush()
                    stub = self.place(digest, draft.file, clear_size(stored, head.size))
                    draft.file.seek(0)
                    draft.file.truncate()
                    draft.file.write(stub.to_bytes())
                with self.leases.touching() as tick:  # who touched the blob meanwhile has a lower one
                    draft.settle(self.path(digest), tick)
        return True

    def sweep(self, age: float = _ORPHANS_AGE) -> int:
        """Remove objects of this vault that no stub names and that are older than ``age`` seconds, and parts of uploads that nobody
        ended; how many objects. Raises BayplanError ``storage-unreachable``."""
        if self.bucket is None:
            return 0
        known = set(self._keys_here())
        before = time.time() - age
        under = self._name() + "/"
        gone = 0
        for bucket in filter(None, (self.bucket, self.second)):
            old = [key for key, when in bucket.objects(under) if key not in known and when < before]
            bucket.delete(old)
            bucket.end_uploads(under, before)
            gone += len(old)
        return gone

    def _keys_here(self) -> Iterator[str]:
        for digest, _ in self.blobs():
            with suppress(BayplanError):
                yield self._stub(digest).key


def _taken(second: Bucket, stub: Stub, file: BinaryIO) -> bool:
    """Whether a second bucket took an object; one that did not answer a moment ago is not waited for."""
    if second.away:
        return False
    try:
        second.put(stub.key, file, stub.stored)
    except BayplanError:
        return False
    return True


class VaultWriter(BlobWriter):
    """A blob on its way into a vault: sealed while it is written, so that nothing of it ever lies in clear."""

    def __init__(self, store: Store, vault: Vault, algorithm: str) -> None:
        super().__init__(store, algorithm)
        self._vault = vault
        self._sealer: Sealer | None = None
        if vault.keys is not None:
            try:
                self._key, self._id, self._wrapped = vault.keys.new()
            except BaseException:
                self.abort()
                raise
            self._sealer = Sealer(self._key)
            self._put(head_bytes(self._id, self._wrapped, bytes(32)))

    def _append(self, chunk: bytes | bytearray | memoryview) -> None:
        if self._sealer is None:
            self._put(chunk)
            return
        for sealed in self._sealer.update(chunk):
            self._put(sealed)

    def _finish(self, digest: Digest) -> None:
        if self._sealer is not None:
            self._put(self._sealer.last())
            self._file.seek(0)
            self._put(head_bytes(self._id, self._wrapped, binding(self._key, digest, self.offset)))
        if self._vault.bucket is not None:
            stub = self._vault.place(digest, cast("BinaryIO", self._file), self.offset)
            self._file.seek(0)
            self._file.truncate()
            self._put(stub.to_bytes())
