"""Sealed blobs: authenticated encryption in chunks, so that ranges can be read and nothing else.

A blob has a data key of its own (256 bits), which stands wrapped in its head. The content is AES-256-GCM in chunks of 64 KiB; a
chunk's nonce is its number and whether it is the last (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, 2015), so
that none can be changed, moved, repeated, left out or cut off unnoticed. The head is bound to the blob's digest and size under the
data key: a sealed file is worth nothing under another name, and one of another length is not even opened. The head can be written
anew with the key wrapped by another one (rotation); the body stays.

    magic  key id (u16 length, bytes)  wrapped key (u16 length, bytes)  binding (32 bytes)  chunks
"""

from __future__ import annotations

import hmac
import io
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Protocol

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.records import dataclass

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CHUNK = 64 << 10  # bytes in clear
TAG = 16
_MAGIC = b"bayplan sealed 1\n"
_BINDING = 32
_LARGEST_HEAD = 8192


class Keyring(Protocol):
    """Wraps data keys."""

    def new(self) -> tuple[bytes, str, bytes]:
        """(a fresh data key, the id of what it is wrapped with, the wrapped key)."""

    def unwrap(self, id: str, wrapped: bytes) -> bytes:
        """Raises BayplanError ``sealing-key`` where the key is not there or the wrapped one is not its own."""

    def current(self) -> str:
        """The id that :meth:`new` wraps with now."""

    def wrap(self, key: bytes) -> tuple[str, bytes]:
        """Wrap a data key with the current key."""


@dataclass(frozen=True, slots=True)
class Head:
    """``size`` is that of the head itself, where the chunks begin."""

    id: str
    wrapped: bytes
    binding: bytes
    size: int


def head_bytes(id: str, wrapped: bytes, binding: bytes) -> bytes:
    name = id.encode()
    return _MAGIC + struct.pack(">H", len(name)) + name + struct.pack(">H", len(wrapped)) + wrapped + binding


def read_head(file: BinaryIO) -> Head:
    """The head of a sealed file at its start. Raises BayplanError ``blob-damaged``."""
    data = file.read(_LARGEST_HEAD)
    try:
        if not data.startswith(_MAGIC):
            raise ValueError
        at = len(_MAGIC)
        (length,) = struct.unpack_from(">H", data, at)
        id = data[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (length,) = struct.unpack_from(">H", data, at)
        wrapped = data[at + 2 : at + 2 + length]
        at += 2 + length
        binding = data[at : at + _BINDING]
        if len(wrapped) != length or len(binding) != _BINDING:
            raise ValueError
    except (ValueError, struct.error):
        raise damaged("its head is not whole") from None
    return Head(id, wrapped, binding, at + _BINDING)


def binding(key: bytes, digest: Digest, size: int) -> bytes:
    """What binds a data key to the blob that it is for, of ``size`` bytes in clear."""
    return hmac.digest(key, f"bayplan blob {digest} of {size}".encode(), "sha256")


def damaged(why: str) -> BayplanError:
    return BayplanError("blob-damaged", f"a sealed blob was changed: {why}", hint="push it again")


def clear_size(sealed: int, head: int) -> int:
    """Bytes in clear of a sealed file of ``sealed`` bytes whose head has ``head``. Raises BayplanError ``blob-damaged``."""
    full, rest = divmod(sealed - head, CHUNK + TAG)
    if sealed < head + TAG or 0 < rest < TAG or (full and rest == TAG):  # only an empty blob has an empty chunk
        raise damaged("it is cut short")
    return full * CHUNK + (rest - TAG if rest else 0)


def _cipher(key: bytes) -> AESGCM:
    # 7 MB of memory that a server without sealed repositories does not need.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


class Sealer:
    """Seals one blob as it comes. The last chunk is known at the end, so that one is always held back."""

    def __init__(self, key: bytes) -> None:
        self._cipher = _cipher(key)
        self._held = bytearray()
        self._number = 0

    def update(self, piece: bytes | bytearray | memoryview) -> Iterator[bytes]:
        self._held += piece
        at = 0
        while len(self._held) - at > CHUNK:
            yield self._cipher.encrypt(_nonce(self._number, False), bytes(self._held[at : at + CHUNK]), None)
            self._number += 1
            at += CHUNK
        del self._held[:at]

    def last(self) -> bytes:
        return self._cipher.encrypt(_nonce(self._number, True), bytes(self._held), None)


class Opened(io.RawIOBase):
    """A sealed blob, read as if it were not: seekable, every chunk checked before a byte of it is given out."""

    def __init__(self, raw: BinaryIO, sealed: int, digest: Digest, unwrap: Callable[[str, bytes], bytes]) -> None:
        """``sealed``: bytes of the whole file. Raises BayplanError ``blob-damaged``, ``sealing-key``."""
        self._raw = raw
        try:
            head = read_head(raw)
            key = unwrap(head.id, head.wrapped)
            self._start = head.size
            self.length = clear_size(sealed, head.size)
            if not hmac.compare_digest(binding(key, digest, self.length), head.binding):
                raise damaged("it is the content of another digest, or not all of it")
        except BaseException:
            raw.close()
            raise
        self._cipher = _cipher(key)
        self._last = max(0, (self.length - 1) // CHUNK)
        self._at = 0
        self._chunk = -1
        self._clear = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._at, 2: self.length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def prepare(self, start: int) -> None:
        """Have the chunk of ``start`` opened. Raises BayplanError ``blob-damaged``, ``storage-unreachable``."""
        self._load(min(start // CHUNK, self._last))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        done = 0
        for piece in self._pieces(len(buffer)):
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def read(self, size: int = -1) -> bytes:
        """Like a buffered file: all that is asked for, as far as there is so much."""
        return b"".join(self._pieces(self.length if size < 0 else size))

    def _pieces(self, most: int) -> Iterator[bytes]:
        """The next ``most`` bytes, or as many as there are."""
        if self.length == 0:
            self._load(0)  # an empty blob has a chunk that says so
        wanted = min(most, max(0, self.length - self._at))
        while wanted > 0:
            self._load(self._at // CHUNK)
            start = self._at % CHUNK
            piece = self._clear[start : start + wanted]
            self._at += len(piece)
            wanted -= len(piece)
            yield piece

    def _load(self, number: int) -> None:
        if number == self._chunk:
            return
        self._raw.seek(self._start + number * (CHUNK + TAG))
        sealed = self._raw.read(CHUNK + TAG)
        from cryptography.exceptions import InvalidTag

        try:
            self._clear = self._cipher.decrypt(_nonce(number, number == self._last), sealed, None)
        except (InvalidTag, ValueError):
            raise damaged(f"chunk {number} is not its own") from None
        self._chunk = number

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
