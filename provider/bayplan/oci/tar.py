"""Layers as archives: a ustar/pax writer and reader (POSIX.1-2017 *pax*), for layers and nothing else.

Written archives are a function of what they are told: no names of owners, no access or change times, whole seconds. Entries
are plain ustar where they fit (names to 255 bytes, ids to 2 million, sizes to 8 GiB), else a pax header says the rest;
extended attributes are ``SCHILY.xattr.*`` as every container tool writes them. Python's tarfile is neither fast nor strict
enough for this: it costs four times as much, and reads what nobody should accept.

The reader takes what tools produce: ustar, pax (also global headers), GNU long names and base-256 numbers. Archives come
from strangers: every number is checked for what the kernel can take, headers are bounded, sparse files and archives that
end in the middle of something are refused.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping

from bayplan.errors import BayplanError
from bayplan.oci.compression import Readable
from bayplan.records import dataclass, field

BLOCK = 512
#: Bytes of all extended headers of one entry (or of all global ones): more is an attack.
_HEADER_LIMIT = 1 << 20
_MAX_ID = (1 << 32) - 2
_MAX_TIME = 1 << 40  # seconds; some 35,000 years
_MAX_SIZE = 1 << 62
_TIME = re.compile(rb"-?[0-9]{1,19}(\.[0-9]*)?")
_OCTAL = re.compile(rb"[0-7]+")
#: Mode, owner, group, size and time as nearly every tool writes them; the rest goes the long way.
_USUAL = re.compile(rb"([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{7})[\0 ]([0-7]{11})[\0 ]([0-7]{11})[\0 ]")

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_EXTENSIONS = frozenset((b"x", b"g", b"L", b"K"))
_KINDS = frozenset((REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEV, DIRECTORY, FIFO))
_XATTR = "SCHILY.xattr."
_PIECE = 1 << 20  # bytes that are read at once


@dataclass(slots=True)
class Entry:
    """One entry. ``name`` is relative, without ``./`` and a slash at its end; ``mtime`` in seconds; ``mode`` 12 bits.

    ``link`` is the target of a symbolic link, or the name of the entry that a hard link shares its content with.
    """

    name: str
    type: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: float = 0.0
    link: str = ""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


# -- writing -------------------------------------------------------------------------------------------------------


def header(entry: Entry) -> bytes:
    """The header blocks of an entry: one of ustar, behind a pax header where that cannot say it."""
    name = entry.name + ("/" if entry.type == DIRECTORY and entry.name and not entry.name.endswith("/") else "")
    raw = _bytes(name)
    link = _bytes(entry.link)
    records: list[tuple[str, bytes]] = []
    prefix, short = _split(raw)
    if short is None:
        records.append(("path", raw))
        prefix, short = b"", raw[:100]
    if len(link) > 100:
        records.append(("linkpath", link))
        link = link[:100]
    size = entry.size
    if size >= 1 << 33:
        records.append(("size", str(size).encode()))
        size = 0
    uid, gid = entry.uid, entry.gid
    if uid >= 1 << 21:
        records.append(("uid", str(uid).encode()))
        uid = 0
    if gid >= 1 << 21:
        records.append(("gid", str(gid).encode()))
        gid = 0
    mtime = math.floor(entry.mtime)
    if not 0 <= mtime < 1 << 33:
        records.append(("mtime", str(mtime).encode()))
        mtime = 0
    records.extend((_XATTR + key, entry.xattrs[key]) for key in sorted(entry.xattrs))
    head = _ustar(prefix, short, entry.mode, uid, gid, size, mtime, entry.type, link, entry.major, entry.minor)
    if not records:
        return head
    body = b"".join(_record(key, value) for key, value in records)
    pax = _ustar(b"", b"PaxHeaders.0/" + short[-80:].strip(b"/"), 0o644, 0, 0, len(body), mtime, b"x", b"", 0, 0)
    return b"".join((pax, body, padding(len(body)), head))


def padding(size: int) -> bytes:
    """What fills the last block of ``size`` bytes of content."""
    return b"\0" * (-size % BLOCK)


#: What ends an archive.
END = b"\0" * (2 * BLOCK)
_ZEROS = b"\0" * BLOCK


def _split(raw: bytes) -> tuple[bytes, bytes | None]:
    """ustar's prefix and name, or None where a name does not fit."""
    if not raw.isascii():
        return b"", None
    if len(raw) <= 100:
        return b"", raw
    if len(raw) > 256:
        return b"", None
    cut = raw.find(b"/", len(raw) - 101)
    while cut != -1:
        if cut <= 155 and 0 < len(raw) - cut - 1 <= 100:
            return raw[:cut], raw[cut + 1 :]
        cut = raw.find(b"/", cut + 1)
    return b"", None


def _ustar(
    prefix: bytes,
    name: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
    link: bytes,
    major: int,
    minor: int,
) -> bytes:
    block = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\x0000%64b%07o\0%07o\0%b%12b" % (
        name.ljust(100, b"\0"),
        mode & 0o7777,
        uid,
        gid,
        size,
        mtime,
        kind,
        link.ljust(100, b"\0"),
        b"\0" * 64,
        major,
        minor,
        prefix.ljust(155, b"\0"),
        b"\0" * 12,
    )
    return block[:148] + b"%06o\0 " % _sum(block) + block[156:]


def _record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) > len(str(len(rest))):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


# -- reading -------------------------------------------------------------------------------------------------------


class Buffered:
    """A stream read in large pieces, of which small ones are cut: a call of the stream a megabyte, not three an entry."""

    __slots__ = ("_stream", "at", "data")

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.data = b""
        self.at = 0

    def have(self, size: int) -> int:
        """How many bytes lie ready, after an attempt to have ``size``; fewer only at the stream's end."""
        parts = [self.data[self.at :]]
        there = len(parts[0])
        while there < size and (more := self._stream.read(_PIECE)):
            parts.append(more)
            there += len(more)
        self.data, self.at = b"".join(parts), 0
        return there


class Content:
    """The content of the entry that is being read; what is left unread is skipped."""

    __slots__ = ("_source", "left")

    def __init__(self, source: Buffered, size: int) -> None:
        self._source = source
        self.left = size

    def read(self, size: int = 1 << 20) -> bytes:
        """Up to ``size`` bytes, ``b""`` at the end. Raises BayplanError ``bad-archive`` when the archive ends early."""
        wanted = self.left if self.left < size else size
        if not wanted:
            return b""
        source = self._source
        start = source.at
        ready = len(source.data) - start
        if ready < wanted:
            if not ready:
                ready, start = source.have(1), 0
                if not ready:
                    raise bad_archive("it ends in the middle of a file")
            wanted = min(wanted, ready)
        end = source.at = start + wanted
        self.left -= wanted
        return source.data[start:end]


def entries(stream: Readable, *, ended: bool = False) -> Iterator[tuple[Entry, Content]]:
    """The entries of an archive in order, each with its content. The stream is read ahead.

    With ``ended`` the archive must have its end mark (layers need none: their digest tells whether they are whole). Raises
    BayplanError ``bad-archive``.
    """
    everywhere: dict[str, bytes] = {}
    own: dict[str, bytes] = {}
    extended = {b"g": 0, b"": 0}  # bytes of headers so far: global ones, and those of the coming entry
    source = Buffered(stream)
    while True:
        at = source.at
        if len(source.data) - at < BLOCK:
            there, at = source.have(BLOCK), 0
            if not there:
                if own or ended:
                    raise bad_archive("it is cut short")
                return
            if there < BLOCK:
                raise bad_archive("it is cut short")
        block = source.data[at : at + BLOCK]
        source.at = at + BLOCK
        if block == _ZEROS:
            if own:
                raise bad_archive("it is cut short")
            return
        kind = block[156:157]
        usual = _USUAL.match(block, 100)
        numbers = [int(one, 8) for one in usual.groups()] if usual else _numbers(block)
        size = numbers[3]
        if _sum(block) + 32 * 8 - sum(block[148:156]) != _number(block[148:156]):
            raise bad_archive("a header's checksum is wrong")
        if kind in _EXTENSIONS:
            whose = b"g" if kind == b"g" else b""
            extended[whose] += size + BLOCK
            if extended[whose] > _HEADER_LIMIT:
                raise bad_archive("an entry has extended headers of more than a megabyte")
            body = _exactly(source, size, "it ends in a header")
            if kind == b"x":
                own.update(_records(body))
            elif kind == b"g":
                everywhere.update(_records(body))
            else:
                own["path" if kind == b"L" else "linkpath"] = body.partition(b"\0")[0]
            continue
        entry = _entry(block, kind, numbers, {**everywhere, **own} if everywhere else own)
        if own:
            own = {}
        extended[b""] = 0
        content = Content(source, entry.size)
        yield entry, content
        while content.left:
            content.read()
        rest = -entry.size % BLOCK
        if len(source.data) - source.at < rest and source.have(rest) < rest:
            raise bad_archive("it ends in the middle of a block")
        source.at += rest


def _exactly(source: Buffered, size: int, what: str) -> bytes:
    """``size`` bytes, and what fills their last block is skipped."""
    whole = size + -size % BLOCK
    if source.have(whole) < whole:
        raise bad_archive(what)
    body = source.data[source.at : source.at + size]
    source.at += whole
    return body


def _sum(block: bytes) -> int:
    """The sum of a block's bytes. Adler-32's lower half is that sum and one, as long as it stays below 65521."""
    half = BLOCK // 2
    return (zlib.adler32(block[:half]) & 0xFFFF) + (zlib.adler32(block[half:]) & 0xFFFF) - 2


def _numbers(block: bytes) -> list[int]:
    """Mode, owner, group, size and time of a header."""
    places = ((100, 108), (108, 116), (116, 124), (124, 136))
    return [*(_number(block[start:end]) for start, end in places), _number(block[136:148], signed=True)]


def _entry(block: bytes, kind: bytes, numbers: list[int], records: Mapping[str, bytes]) -> Entry:
    mode, uid, gid, size, seconds = numbers
    name = block[:100].partition(b"\0")[0]
    if block[257:262] == b"ustar" and block[262:263] != b" " and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    link = block[157:257].partition(b"\0")[0]
    mtime = float(seconds)
    xattrs: dict[str, bytes] = {}
    for key, value in records.items():
        if key == "path":
            name = value
        elif key == "linkpath":
            link = value
        elif key == "size":
            size = _decimal(value)
        elif key == "uid":
            uid = _decimal(value)
        elif key == "gid":
            gid = _decimal(value)
        elif key == "mtime":
            mtime = _time(value)
        elif key.startswith(_XATTR):
            xattrs[key.removeprefix(_XATTR)] = value
        elif key.startswith("GNU.sparse"):
            raise bad_archive("it holds a sparse file", "make it again without --sparse")
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if name.endswith(b"/") else REGULAR
    if kind == b"S":
        raise bad_archive("it holds a sparse file", "make it again without --sparse")
    if kind not in _KINDS:
        raise bad_archive(f"an entry is of the unknown type {kind!r}")
    if not 0 <= size <= _MAX_SIZE or abs(mtime) > _MAX_TIME or max(uid, gid) > _MAX_ID:
        raise bad_archive("a size, time or owner is out of range")
    major = minor = 0
    if kind in (CHARACTER, BLOCKDEV):
        major, minor = _number(block[329:337]), _number(block[337:345])
        if major >= 1 << 12 or minor >= 1 << 20:
            raise bad_archive("a device number is out of range")
    return Entry(
        name=name.decode("utf-8", "surrogateescape"),
        type=kind,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        size=size if kind == REGULAR else 0,
        mtime=mtime,
        link=link.decode("utf-8", "surrogateescape"),
        major=major,
        minor=minor,
        xattrs=xattrs,
    )


def _time(value: bytes) -> float:
    """Seconds with a fraction; the whole ones stay what they are, also where the fraction is nearly one."""
    if not _TIME.fullmatch(value):
        raise bad_archive("a time is not a number")
    whole, _, fraction = value.partition(b".")
    if whole.startswith(b"-") or not fraction:
        return float(value)
    return min(float(value), math.nextafter(int(whole) + 1, 0))


def _records(body: bytes) -> dict[str, bytes]:
    """pax records: ``LENGTH KEY=VALUE\\n``."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at)
        length = _decimal(body[at:space]) if space != -1 else 0
        record = body[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < 5 or at + length > len(body) or not equals or not value.endswith(b"\n"):
            raise bad_archive("a pax header is broken")
        found[key.decode("utf-8", "surrogateescape")] = value[:-1]
        at += length
    return found


def _number(raw: bytes, *, signed: bool = False) -> int:
    """An octal number, or GNU's base 256; ``signed`` for times before 1970."""
    if raw[0] & 0x80:
        if raw[0] & 0x40:
            if not signed:
                raise bad_archive("a number is negative")
            return int.from_bytes(raw, "big", signed=True)
        return int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
    text = raw.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not _OCTAL.fullmatch(text):
        raise bad_archive("a number in a header is not octal")
    return int(text, 8)


def _decimal(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 20:
        raise bad_archive("a number in a pax header is not decimal")
    return int(raw)


def bad_archive(what: str, hint: str = "the layer or archive is broken, or was made to do harm") -> BayplanError:
    return BayplanError("bad-archive", f"the archive is not valid: {what}", hint=hint)
