"""A store whose blobs are sealed, or lie in a bucket, or both.

It is the root's kind of store in a folder of its own, so that leases, touching, commits by rename and collections are the same. What
differs is a blob's file: sealed (:mod:`.sealing`), or a stub that says under which key of the bucket the bytes lie. The object is
written before its stub, and removed after it: what a crash leaves is an object without a stub, which :meth:`Vault.sweep` takes
once it is old enough to be nobody's upload.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
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
            return cast("BinaryIO", ObjectReader(buckets, stub.key, stub.stored)), stub.stored
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
        stub = Stub(f"{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/{uuid.uuid4().hex}", size, stored)
        self.bucket.put(stub.key, file, stored)
        if self.second is not None:
            try:
                self.second.put(stub.key, file, stored)
            except BayplanError:
                self._owe(stub)
        return stub

    def _owe(self, stub: Stub) -> None:
        """Note that the second bucket lacks an object; :meth:`settle` brings it."""
        self._pending.mkdir(exist_ok=True, mode=0o700)
        path = self._pending / stub.key.rpartition("/")[2]
        path.write_bytes(stub.to_bytes())
        sync_folder(self._pending)

    def settle(self) -> int:
        """Bring the second bucket what it lacks; how many objects. Raises BayplanError ``storage-unreachable``."""
        if self.second is None or self.bucket is None or not self._pending.is_dir():
            return 0
        done = 0
        for path in sorted(self._pending.iterdir()):
            stub = Stub(**json.loads(path.read_bytes()))
            reader = cast("BinaryIO", ObjectReader([self.bucket], stub.key, stub.stored))
            with reader:
                self.second.put(stub.key, reader, stub.stored)
            path.unlink()
            done += 1
        return done

    # -- keys and garbage ----------------------------------------------------------------------------------------------

    def rekey(self) -> int:
        """Wrap the data keys of all blobs with the current key; how many had another one. The content is not sealed anew."""
        if self.keys is None:
            return 0
        done = 0
        for digest in [digest for digest, _ in self.blobs()]:
            with self.lease():
                done += self.touch(digest) and self._rekey(digest, self.keys)
        return done

    def _rekey(self, digest: Digest, keys: Keyring) -> bool:
        raw, stored = self._raw(digest)
        with raw:
            head = read_head(raw)
            if head.id == keys.current():
                return False
            id, wrapped = keys.wrap(keys.unwrap(head.id, head.wrapped))
            raw.seek(head.size)
            draft = self.incoming / f"{os.getpid()}-{uuid.uuid4().hex}"
            with draft.open("x+b") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(head_bytes(id, wrapped, head.binding))
                while piece := raw.read(_PIECE):
                    file.write(piece)
                if self.bucket is not None:
                    stub = self.place(digest, file, clear_size(stored, head.size))
                    file.seek(0)
                    file.truncate()
                    file.write(stub.to_bytes())
                file.flush()
                os.fsync(file.fileno())
                target = self.path(digest)
                info = target.stat()
                os.utime(file.fileno(), ns=(info.st_atime_ns, info.st_mtime_ns))
                os.fchmod(file.fileno(), 0o400)
            draft.replace(target)
            sync_folder(target.parent)
        return True

    def sweep(self, age: float = _ORPHANS_AGE) -> int:
        """Remove objects of the bucket that no stub names and that are older than ``age`` seconds; how many."""
        if self.bucket is None:
            return 0
        known = set(self._keys_here())
        gone = 0
        for bucket in filter(None, (self.bucket, self.second)):
            old = [key for key, when in bucket.objects() if key not in known and when < time.time() - age]
            bucket.delete(old)
            gone += len(old)
        return gone

    def _keys_here(self) -> Iterator[str]:
        for digest, _ in self.blobs():
            with suppress(BayplanError):
                yield self._stub(digest).key


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
            self._put(head_bytes(self._id, self._wrapped, binding(self._key, digest)))
        if self._vault.bucket is not None:
            stub = self._vault.place(digest, cast("BinaryIO", self._file), self.offset)
            self._file.seek(0)
            self._file.truncate()
            self._put(stub.to_bytes())
