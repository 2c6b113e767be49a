"""Writing layers into the store, entry by entry.

A layer is hashed twice in one pass: as an archive, which gives its diff ID, and compressed, which gives its blob's digest.
Both hashes, the compression and the disk run in threads of their own beside whoever reads the sources, since all of them
let go of the interpreter; a small layer is not worth the threads and is written without.

The compressor is always fed in pieces of one size, cut by position alone, so that equal content gives equal bytes whoever
wrote it and however it came.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.compression import Readable, decompressed, gzip_compressor, peek, sniff
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest, new_hash
from bayplan.oci.image import Layer
from bayplan.oci.store import BlobWriter, Store
from bayplan.oci.tar import Entry

#: How an archive says that a name is gone, and that what a folder held before is (image specification, *Whiteouts*).
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

_PIECE = 1 << 20
_QUEUED = 6  # pieces that may wait for a thread


class LayerWriter:
    """A layer in the making, entry by entry, in the order given. ``with LayerWriter(store) as w: ...; layer = w.finish()``.

    ``clamp`` (SOURCE_DATE_EPOCH) is the latest time that any entry may bear, in seconds. The caller holds a lease of the
    store until something refers to the layer. ``entries`` counts what was added.
    """

    def __init__(self, store: Store, *, clamp: int | None = None, compress: bool = True) -> None:
        self._blob: BlobWriter = store.writer()
        self._diff = new_hash("sha256")
        self._gzip = gzip_compressor() if compress else None
        self._clamp = clamp
        self._pending: list[bytes] = []
        self._size = 0
        self._lanes: list[_Lane] = []
        self.entries = 0

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes:
            lane.stop()
        self._blob.abort()

    def add(self, entry: Entry, content: Readable | bytes | None = None) -> None:
        """Append one entry; a regular file's ``content`` must have exactly ``entry.size`` bytes.

        Raises BayplanError ``file-changed`` where it has not, and what the store raises.
        """
        if self._clamp is not None and entry.mtime > self._clamp:
            entry.mtime = float(self._clamp)
        self.entries += 1
        self._write(tar.header(entry))
        if entry.type != tar.REGULAR:
            return
        if isinstance(content, bytes):
            left = entry.size - len(content)
            self._write(content)
        else:
            left = entry.size
            while left and content is not None:
                data = content.read(min(_PIECE, left))
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
        return self._close()

    def copy(self, archive: Readable) -> Layer:
        """Take the bytes of a whole archive as they are, its end among them, and finish."""
        while data := archive.read(_PIECE):
            self._write(data)
        return self._close()

    def _close(self) -> Layer:
        self._drain(everything=True)
        for lane in self._lanes:
            lane.finish()
        if self._gzip is not None:
            self._blob.write(self._gzip.flush())
        digest = self._blob.commit()
        media_type = MediaType.LAYER_GZIP if self._gzip is not None else MediaType.LAYER
        diff = Digest(f"sha256:{self._diff.hexdigest()}")
        return Layer(Descriptor(media_type, digest, self._blob.offset), diff)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _PIECE:
            self._drain(everything=False)

    def _drain(self, *, everything: bool) -> None:
        data = memoryview(b"".join(self._pending))
        whole = len(data) if everything else len(data) - len(data) % _PIECE
        if not everything and not self._lanes:
            self._lanes = [_Lane(self._diff.update), _Lane(self._pack)]
        for at in range(0, whole, _PIECE):
            piece = data[at : min(at + _PIECE, whole)]
            if self._lanes:
                for lane in self._lanes:
                    lane.put(piece)
            else:
                self._diff.update(piece)
                self._pack(piece)
        rest = bytes(data[whole:])
        self._pending = [rest] if rest else []
        self._size = len(rest)

    def _pack(self, piece: memoryview) -> None:
        packed = piece if self._gzip is None else self._gzip.compress(piece)
        if packed:
            self._blob.write(packed)


class _Lane:
    """A thread that does one thing with pieces, in their order. What fails in it is raised to who gives it the next."""

    def __init__(self, work: Callable[[memoryview], None]) -> None:
        self._work = work
        self._queue: queue.Queue[memoryview | None] = queue.Queue(_QUEUED)
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layer", daemon=True)
        self._thread.start()

    def put(self, piece: memoryview) -> None:
        if self._failed is not None:
            raise self._failed
        self._queue.put(piece)

    def stop(self) -> None:
        """End the thread, whatever became of it."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def finish(self) -> None:
        """Wait until all is done."""
        self.stop()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._failed is None:
                try:
                    self._work(piece)
                except BaseException as error:  # noqa: BLE001  (raised again where the layer is written)
                    self._failed = error


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
            return writer.copy(decompressed(whole))
    with store.writer() as blob:
        source: BinaryIO = decompressed(_Copied(whole, blob))
        diff = new_hash("sha256")
        while data := source.read(_PIECE):
            diff.update(data)
        digest = blob.commit()
        media_type = MediaType.LAYER_GZIP if kind == "gzip" else MediaType.LAYER_ZSTD
        return Layer(Descriptor(media_type, digest, blob.offset), Digest(f"sha256:{diff.hexdigest()}"))
