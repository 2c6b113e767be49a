"""Archives that ADD unpacks: tar, plain or compressed, known by content and never by name."""

from __future__ import annotations

from typing import BinaryIO

from bayplan.errors import BayplanError
from bayplan.oci.compression import decompressed


def open_archive(file: BinaryIO) -> BinaryIO | None:
    """The tar stream in ``file``, decompressed; None where it is no archive.

    A compressed file that holds no tar is no archive: it is copied as it is. ``file`` stays the caller's to close.
    """
    try:
        head = decompressed(file).read(512)
    except BayplanError:
        head = b""  # it only looked compressed
    file.seek(0)
    return decompressed(file) if _is_header(head) else None


def _is_header(block: bytes) -> bool:
    """True for a tar header: its checksum holds (so old archives without a magic are known too)."""
    if len(block) < 512 or not any(block):
        return False
    field = block[148:156].strip(b" \0")
    try:
        wanted = int(field, 8)
    except ValueError:
        return False
    return wanted == sum(block[:148]) + 8 * 32 + sum(block[156:512])
