"""Compressed streams: gzip (isal), zstd, xz and bzip2 in, gzip out.

gzip is written by ISA-L at a fixed level without a time stamp, so that equal content gives equal bytes; what other tools
wrote is recognised by its first bytes, never by a media type that somebody else claims.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Protocol, cast

from bayplan.errors import BayplanError

_LEVEL = 1
_GZIP_WINDOW = 31  # 15 bits, gzip framing


class Compressor(Protocol):
    """A running compression."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def gzip_compressor() -> Compressor:
    """gzip without name and time (RFC 1952), as ISA-L writes it at level 1."""
    from isal import isal_zlib

    return cast(Compressor, isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW))


class _Peekable(Protocol):
    def peek(self, size: int = ..., /) -> bytes: ...


def decompressed(stream: BinaryIO) -> BinaryIO:
    """``stream`` with whatever compression its first bytes show undone."""
    buffered = cast(
        BinaryIO, stream if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream), 1 << 17)
    )
    head = cast(_Peekable, buffered).peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        from isal import igzip

        opener: Any = igzip.IGzipFile
        return cast(BinaryIO, Guarded(opener(fileobj=buffered, mode="rb")))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(buffered, read_across_frames=True)
        return cast(BinaryIO, Guarded(cast(BinaryIO, reader)))
    if head.startswith(b"\xfd7zXZ\0"):
        import lzma

        return cast(BinaryIO, Guarded(cast(BinaryIO, lzma.LZMAFile(buffered))))
    if head.startswith(b"BZh"):
        import bz2

        return cast(BinaryIO, Guarded(cast(BinaryIO, bz2.BZ2File(buffered))))
    return buffered


class Guarded:
    """A decompressor whose own errors become ours: a broken layer is told as such, never as a traceback."""

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner

    def read(self, size: int = -1) -> bytes:
        try:
            return self._inner.read(size)
        except (OSError, EOFError, ValueError) as error:
            raise _broken(error) from error
        except Exception as error:
            if type(error).__module__.split(".")[0] in ("zlib", "isal", "zstandard", "lzma", "_lzma"):
                raise _broken(error) from error
            raise


def _broken(error: Exception) -> BayplanError:
    return BayplanError(
        "bad-archive", f"the compressed data is broken: {error}", hint="the layer or archive was damaged; get it again"
    )
