"""Uploads under way: blobs of which some bytes have come.

A session lives in the server that began it and holds the store's writer open, so that bytes are hashed once, on their
way to the disk, however the client cuts them. It ends by being finished, cancelled, or left alone too long; a server
that dies takes its sessions along, which the protocol foresees: the client is told BLOB_UPLOAD_UNKNOWN and begins anew.
"""

from __future__ import annotations

import errno
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bayplan.oci.digest import Digest
from bayplan.oci.store import BlobWriter, Store
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry
from bayplan.registry.trees import commit

_PIECE = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Upload:
    """One session. ``offset`` is the number of bytes that have come; one request at a time may work on it."""

    def __init__(self, store: Store, repository: str, algorithm: str) -> None:
        self.id = str(uuid.uuid4())
        self.repository = repository
        self.algorithm = algorithm
        self.seen = time.monotonic()
        self.ended = False
        self.least_part = 1 << 62  # bytes of the smallest part that came by the ECR API
        self._busy = threading.Lock()
        self._open = ExitStack()
        self.store = store
        self.writer: BlobWriter = self._open.enter_context(store.writer(algorithm))

    @property
    def offset(self) -> int:
        return self.writer.offset

    @property
    def busy(self) -> bool:
        return self._busy.locked()

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """The right to write. Raises ``upload-range`` while another request has it, ``upload-unknown`` after the end."""
        if not self._busy.acquire(blocking=False):
            raise RegistryError(Fault.UPLOAD_RANGE, "another request is writing to this upload")
        try:
            if self.ended:
                raise unknown(self.id)
            yield
        finally:
            self.seen = time.monotonic()
            self._busy.release()

    def end(self) -> None:
        """Give the writer back; what was not committed is gone."""
        self.ended = True
        self._open.close()


class Uploads:
    """The sessions of one server. ``idle``: seconds after which one that nobody touched is given up."""

    def __init__(self, registry: Registry, *, most: int = 1000, idle: float = 3600.0) -> None:
        self._registry = registry
        self._most = most
        self._idle = idle
        self._kept: dict[str, Upload] = {}
        self._beginning = 0
        self._guard = threading.Lock()

    def begin(self, repository: str, algorithm: str = "sha256") -> Upload:
        """Raises ``repository-unknown``, ``parameter-invalid`` (algorithm), ``registry-busy``."""
        if algorithm not in ("sha256", "sha512"):
            raise RegistryError(Fault.PARAMETER_INVALID, f"{algorithm[:40]!r} is not an algorithm this registry knows")
        self._registry.require(repository)
        with self._guard:
            if len(self._kept) + self._beginning >= self._most:
                raise RegistryError(Fault.BUSY, f"{self._most} uploads are under way")
            self._beginning += 1
        upload = None
        try:
            upload = Upload(self._registry.storage(repository), repository, algorithm)  # may wait for a key
        finally:
            with self._guard:
                self._beginning -= 1
                if upload is not None:
                    self._kept[upload.id] = upload
        return upload

    def get(self, repository: str, name: str) -> Upload:
        """Raises ``upload-unknown``."""
        with self._guard:
            upload = self._kept.get(name)
        if upload is None or upload.repository != repository or upload.ended:
            raise unknown(name)
        return upload

    def append(self, upload: Upload, pieces: Sequence[memoryview]) -> None:
        """Add bytes; the caller has claimed the upload. Raises ``store-full``."""
        try:
            for piece in pieces:
                upload.writer.write(piece)
        except OSError as error:
            self.drop(upload)
            raise _storage(error) from None

    def finish(self, upload: Upload, digest: Digest, pieces: Sequence[memoryview] = ()) -> int:
        """Make the bytes a blob of the repository, ``pieces`` the last of them, durable when this returns; its size. The session
        ends either way.

        Raises ``invalid-digest`` where the bytes are others, ``store-full``.
        """
        if pieces:
            self.append(upload, pieces)
        store = upload.store
        size = upload.offset
        try:
            with store.lease():
                if digest.algorithm == upload.algorithm:
                    commit(upload.writer, digest)
                else:
                    _rehash(store, commit(upload.writer, None), digest)
                self._registry.keep_blob(upload.repository, digest, size)
        except OSError as error:
            raise _storage(error) from None
        finally:
            self.drop(upload)
        return size

    def drop(self, upload: Upload) -> None:
        """End a session: finished, cancelled or broken."""
        with self._guard:
            self._kept.pop(upload.id, None)
        upload.end()

    @property
    def under_way(self) -> int:
        """How many sessions there are."""
        return len(self._kept)

    def sweep(self) -> int:
        """End the sessions that were left alone; how many."""
        before = time.monotonic() - self._idle
        with self._guard:
            stale = [upload for upload in self._kept.values() if upload.seen < before and not upload.busy]
        for upload in stale:
            self.drop(upload)
        return len(stale)

    def close(self) -> None:
        """End all sessions; no request may be under way."""
        with self._guard:
            kept, self._kept = self._kept, {}
        for upload in kept.values():
            upload.end()


def unknown(name: str) -> RegistryError:
    return RegistryError(Fault.UPLOAD_UNKNOWN, f"there is no upload {name[:80]}", hint="begin anew: uploads expire")


def _rehash(store: Store, stored: Digest, digest: Digest) -> None:
    # The client named another algorithm at the end than at the beginning. The copy under the first name has no
    # referrer, and the next collection takes it.
    with store.open(stored) as source, store.writer(digest.algorithm) as writer:
        while piece := source.read(_PIECE):
            writer.write(piece)
        commit(writer, digest)


def _storage(error: OSError) -> BaseException:
    if error.errno in _FULL:
        return RegistryError(Fault.STORE_FULL, "the disk of the content store is full")
    return error
