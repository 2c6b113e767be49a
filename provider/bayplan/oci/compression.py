"""Compressed streams: gzip (ISA-L), zstd, xz and bzip2 in, gzip out.

gzip is written by ISA-L at a fixed level without a time stamp, and is fed in pieces of one size, so that equal content gives
equal bytes; what other tools wrote is recognised by its first bytes, never by a media type that somebody else claims.

Whatever a stream says of itself, reading it takes a bounded amount of memory: output is asked for in pieces, windows and
dictionaries are limited. A stream that stops before its own end is refused, also where a library would take it for done.
"""

from __future__ import annotations

from typing import Any, BinaryIO, Protocol, cast

from bayplan.errors import BayplanError

#: ISA-L's level, part of every digest that is written: another one would make other blobs of the same content.
LEVEL = 1
_GZIP_WINDOW = 31  # 15 bits, gzip framing
_PIECE = 1 << 18
#: Bytes that a decompressor may hold: zstd's window and xz's dictionary (``xz -9`` needs 65 MiB, ``zstd --long`` 128 MiB).
_WINDOW = 1 << 27
_XZ_MEMORY = 1 << 28
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh", "bzip2"))
_SKIPPABLE = b"\x2a\x4d\x18"


class Compressor(Protocol):
    """A running compression."""

    def compress(self, data: bytes | memoryview, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Readable(Protocol):
    """Anything that gives bytes; ``b""`` is the end."""

    def read(self, size: int = ..., /) -> bytes: ...


class _Decompressor(Protocol):
    """What the decompressors of ISA-L, lzma and bz2 have in common."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def gzip_compressor() -> Compressor:
    """gzip without name and time (RFC 1952), as ISA-L writes it at level 1."""
    from isal import isal_zlib

    return cast(Compressor, isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW))


def sniff(head: bytes) -> str:
    """The compression that a stream's first bytes show: ``gzip``, ``zstd``, ``xz``, ``bzip2``, or ``""``."""
    if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:
        return "zstd"  # a skippable frame first, as zstd:chunked and seekable files may have it
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def peek(stream: Readable) -> tuple[bytes, Readable]:
    """The first 6 bytes of ``stream``, and a stream that still has them."""
    if hasattr(stream, "peek"):
        found = bytes(cast(Any, stream).peek(6)[:6])
        if len(found) == 6:
            return found, stream
    head = b""
    while len(head) < 6 and (data := stream.read(6 - len(head))):
        head += data
    return head, _Again(head, stream)


def decompressed(stream: Readable) -> BinaryIO:
    """``stream`` with whatever compression its first bytes show undone. What is returned can only be read, ahead.

    Its ``read`` gives up to ``size`` bytes, and raises BayplanError ``bad-archive`` for what is broken or cut short.
    """
    head, whole = peek(stream)
    kind = sniff(head)
    if kind == "gzip":
        return cast(BinaryIO, _Inflating(whole, kind))
    if kind == "zstd":
        return cast(BinaryIO, _Zstd(whole))
    if kind:
        return cast(BinaryIO, _Inflating(whole, kind))
    return cast(BinaryIO, whole)


class _Again:
    """A stream whose first bytes were read and are given again."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._rest.read(size)
        head, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return head + self._rest.read(size if size < 0 else size - len(head)) if len(head) != size else head


def _decompressor(kind: str) -> _Decompressor:
    if kind == "gzip":
        from isal import igzip_lib

        return cast(_Decompressor, igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP))
    if kind == "xz":
        import lzma

        return cast(_Decompressor, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))
    import bz2

    return cast(_Decompressor, bz2.BZ2Decompressor())


class _Inflating:
    """gzip, xz or bzip2, one or several streams after each other; zeros after the last one are padding."""

    def __init__(self, stream: Readable, kind: str) -> None:
        self._stream = stream
        self._kind = kind
        self._inner: _Decompressor | None = _decompressor(kind)
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE << 2), b""))
        while (inner := self._inner) is not None and size:
            data, self._left = self._left, b""
            if not data and inner.needs_input and not (data := self._stream.read(_PIECE)):
                raise _broken(f"the {self._kind} stream ends too early")
            try:
                out = inner.decompress(data, size)
            except Exception as error:
                # Each library has errors of its own; what the source itself raises is told as it is.
                if isinstance(error, (BayplanError, MemoryError)):
                    raise
                raise _broken(str(error)) from error
            if inner.eof:
                self._next(inner.unused_data)
            if out:
                return out
        return b""

    def _next(self, rest: bytes) -> None:
        """What follows a stream's end: padding, another stream, or nothing."""
        while not (rest := rest.lstrip(b"\0")):
            if not (rest := self._stream.read(_PIECE)):
                self._inner = None
                return
        self._left, self._inner = rest, _decompressor(self._kind)


class _Zstd:
    """zstd, any number of frames. The library takes a cut frame for a whole one, so the frames are counted beside it."""

    def __init__(self, stream: Readable) -> None:
        import zstandard

        self._frames = _Frames(stream)
        self._error = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        self._inner = decompressor.stream_reader(cast(Any, self._frames), read_size=_PIECE, read_across_frames=True)

    def read(self, size: int = -1) -> bytes:
        try:
            out = self._inner.read(size)
        except self._error as error:
            raise _broken(str(error)) from error
        if not out and size:
            self._frames.end()
        return out


class _Frames:
    """Passes a zstd stream on and follows its frames and blocks (RFC 8878, section 3.1), so that an early end is known."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._skip = 0  # bytes of content before the next header
        self._head = b""  # a header that is not whole yet
        self._inside = False  # between a frame's header and its last block
        self._tail = 0  # bytes of checksum behind the last block

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._follow(data)
        return data

    def end(self) -> None:
        """Raises where the stream ended within a frame."""
        if self._inside or self._skip or self._head:
            raise _broken("the zstd stream ends too early")

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            wanted = 3 if self._inside else self._wanted()
            piece = data[at : at + wanted - len(self._head)]
            self._head += piece
            at += len(piece)
            if len(self._head) < (3 if self._inside else self._wanted()):
                continue
            if self._inside:
                self._block(int.from_bytes(self._head, "little"))
            else:
                self._frame(self._head)
            self._head = b""

    def _wanted(self) -> int:
        """Bytes of the frame header that has begun: all of them are known from its first five."""
        head = self._head
        if len(head) < 5:
            return 5
        if head[1:4] == _SKIPPABLE:
            return 8
        single, flag = head[4] >> 5 & 1, head[4] >> 6
        return 5 + (1 - single) + (0, 1, 2, 4)[head[4] & 3] + ((single, 2, 4, 8)[flag])

    def _frame(self, head: bytes) -> None:
        if head[1:4] == _SKIPPABLE and head[0] & 0xF0 == 0x50:
            self._skip = int.from_bytes(head[4:8], "little")
        elif head[:4] == b"\x28\xb5\x2f\xfd":
            self._inside, self._tail = True, 4 * (head[4] >> 2 & 1)
        else:
            raise _broken("what follows a zstd frame is none")

    def _block(self, header: int) -> None:
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        self._skip = 1 if kind == 1 else size
        if last:
            self._inside = False
            self._skip += self._tail


def _broken(why: str) -> BayplanError:
    return BayplanError(
        "bad-archive", f"the compressed data is broken: {why}", hint="the layer or archive was damaged; get it again"
    )
