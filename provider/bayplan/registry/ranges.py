"""Ranges of bytes: what a download asks for (RFC 9110, section 14) and where a chunk of an upload lies."""

from __future__ import annotations

import re

from bayplan.registry.faults import Fault, RegistryError

_ASKED = re.compile(r"bytes=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*")
_CHUNK = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?")


def served_range(header: str, size: int) -> range | None:
    """The bytes that a ``Range`` header asks of ``size``, or None where all are to be sent.

    Several ranges, other units and what cannot be read are ignored, as the RFC allows. Raises ``range-invalid`` for a
    range that begins behind the end, or behind its own end.
    """
    match = _ASKED.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    if start >= size or start >= stop:
        raise RegistryError(Fault.RANGE_INVALID, f"the blob has {size} bytes, of which the range names none")
    return range(start, stop)


def content_range(header: str) -> range:
    """The bytes that a chunk says it is: ``0-99`` as the distribution specification writes it. Raises ``upload-range``."""
    match = _CHUNK.fullmatch(header.strip())
    if match is None or int(match[2]) + 1 < int(match[1]):
        raise RegistryError(Fault.UPLOAD_RANGE, "Content-Range is not START-END")
    return range(int(match[1]), int(match[2]) + 1)
