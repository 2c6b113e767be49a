"""The tar reader and writer: what is written is read by Python's tarfile as it was meant; what is hostile is refused."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.tar import Entry

_NAMES = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=6).map("/".join)
_TYPES = {tar.REGULAR: "isreg", tar.DIRECTORY: "isdir", tar.SYMLINK: "issym", tar.HARDLINK: "islnk", tar.FIFO: "isfifo"}


@st.composite
def _entries(draw: st.DrawFn) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from(list(_TYPES)))
    content = draw(st.binary(max_size=1500)) if kind == tar.REGULAR else b""
    owner = st.integers(0, 7) | st.integers(0, (1 << 32) - 2)
    entry = Entry(
        draw(_PATHS),
        kind,
        draw(st.integers(0, 0o7777)),
        draw(owner),
        draw(owner),
        len(content),
        draw(st.integers(-5, 1 << 34)),
        draw(_PATHS) if kind in (tar.SYMLINK, tar.HARDLINK) else "",
        xattrs=draw(
            st.dictionaries(_NAMES.map(lambda n: "user." + n.replace("=", "-")), st.binary(max_size=80), max_size=2)
        ),
    )
    return entry, content


def archive(*members: tuple[Entry, bytes]) -> bytes:
    return b"".join(tar.header(e) + data + tar.padding(len(data)) for e, data in members) + tar.END


def read(data: bytes, *, ended: bool = False) -> list[tuple[Entry, bytes]]:
    found = []
    for entry, content in tar.entries(io.BytesIO(data), ended=ended):
        parts = []
        while piece := content.read():
            parts.append(piece)
        found.append((entry, b"".join(parts)))
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(_entries(), max_size=6))
def test_what_is_written_is_read_back_and_by_tarfile(members: list[tuple[Entry, bytes]]) -> None:
    data = archive(*members)
    ours = read(data, ended=True)
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as theirs:
        infos = theirs.getmembers()
        assert len(ours) == len(infos) == len(members)
        for (meant, content), (entry, got), info in zip(members, ours, infos, strict=True):
            assert got == content
            name = entry.name.rstrip("/") if entry.type == tar.DIRECTORY else entry.name
            assert (name, entry.type, entry.mode) == (meant.name, meant.type, meant.mode)
            assert (entry.uid, entry.gid, entry.mtime, entry.link) == (meant.uid, meant.gid, meant.mtime, meant.link)
            assert dict(entry.xattrs) == dict(meant.xattrs)
            assert (info.name, info.mode, info.uid, info.gid) == (meant.name, meant.mode, meant.uid, meant.gid)
            assert (info.mtime, info.linkname) == (meant.mtime, meant.link)
            assert getattr(info, _TYPES[meant.type])()
            if meant.type == tar.REGULAR:
                file = theirs.extractfile(info)
                assert file is not None
                assert file.read() == content


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(_entries(), max_size=4), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_what_tarfile_writes_is_read(members: list[tuple[Entry, bytes]], dialect: int) -> None:
    out = io.BytesIO()
    kinds = {tar.REGULAR: tarfile.REGTYPE, tar.DIRECTORY: tarfile.DIRTYPE, tar.SYMLINK: tarfile.SYMTYPE}
    kinds |= {tar.HARDLINK: tarfile.LNKTYPE, tar.FIFO: tarfile.FIFOTYPE}
    with tarfile.open(fileobj=out, mode="w", format=dialect, encoding="utf-8", errors="surrogateescape") as theirs:
        for entry, content in members:
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.linkname = kinds[entry.type], entry.mode, entry.link
            info.uid, info.gid, info.mtime, info.size = entry.uid, entry.gid, int(entry.mtime), len(content)
            theirs.addfile(info, io.BytesIO(content))
    for (meant, content), (entry, got) in zip(members, read(out.getvalue(), ended=True), strict=True):
        assert got == content
        assert (entry.name.rstrip("/"), entry.type, entry.mode) == (meant.name.rstrip("/"), meant.type, meant.mode)
        assert (entry.uid, entry.gid, entry.mtime, entry.link) == (meant.uid, meant.gid, meant.mtime, meant.link)


def test_equal_entries_give_equal_bytes_and_no_owner_names() -> None:
    entry = Entry("a" * 300, mtime=1.9, xattrs={"user.b": b"2", "user.a": b"1"})
    again = Entry("a" * 300, mtime=1.1, xattrs={"user.a": b"1", "user.b": b"2"})
    assert tar.header(entry) == tar.header(again)
    with tarfile.open(fileobj=io.BytesIO(tar.header(entry) + tar.END)) as theirs:
        (info,) = theirs.getmembers()
    assert (info.uname, info.gname) == ("", "")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_no_damage_gives_anything_but_an_error_or_entries(data: st.DataObject) -> None:
    """Bytes changed anywhere (with the checksum made right again) end in an error of ours, never in a traceback."""
    sound = bytearray(archive((Entry("dir/file", size=5, xattrs={"user.x": b"1"}), b"hello"), (Entry("n" * 200), b"")))
    for _ in range(data.draw(st.integers(1, 6))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    for at in range(0, len(sound) - 511, 512):
        block = sound[at : at + 512]
        if data.draw(st.booleans()):
            sound[at + 148 : at + 156] = b"%06o\0 " % (sum(block) + 256 - sum(block[148:156]))
    try:
        for entry, content in read(bytes(sound)):
            assert len(content) == entry.size >= 0
    except BayplanError as error:
        assert error.code == "bad-archive"  # noqa: PT017


def header(**fields: object) -> bytes:
    """A header with raw bytes in some of its fields, its checksum right."""
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "type": 156, "major": 329, "minor": 337}
    block = bytearray(tar.header(Entry("file")))
    for name, value in fields.items():
        assert isinstance(value, bytes)
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b"%06o\0 " % (sum(block) + 256 - sum(block[148:156]))
    return bytes(block)


def pax(*records: tuple[str, bytes], kind: bytes = b"x") -> bytes:
    body = b"".join(tar._record(key, value) for key, value in records)
    block = bytearray(tar.header(Entry("PaxHeaders.0/file", size=len(body))))
    block[156:157] = kind
    block[148:156] = b"%06o\0 " % (sum(block) + 256 - sum(block[148:156]))
    return bytes(block) + body + tar.padding(len(body))


HOSTILE = {
    "negative size": header(size=b"-0000000001\0"),
    "negative size in base 256": header(size=b"\xff" * 12),
    "size of python's own octal": header(size=b"0o000000010\0"),
    "size with underscores": header(size=b"1_000000000\0"),
    "endless size": header(size=b"\x80" + b"\xff" * 11),
    "owner out of range": header(uid=b"\x80" + b"\xff" * 7),
    "device out of range": header(type=b"3", major=b"7777777\0"),
    "sparse": header(type=b"S"),
    "unknown kind": header(type=b"V"),
    "wrong checksum": header()[:148] + b"000001\0 " + header()[156:],
    "sparse in pax": pax(("GNU.sparse.major", b"1")) + header(),
    "time that is none": pax(("mtime", b"nan")) + header(),
    "time beyond all": pax(("mtime", b"9" * 18)) + header(),
    "owner that is no number": pax(("uid", b"-1")) + header(),
    "record that reaches beyond": pax(("path", b"xxxx")).replace(b"13 path=xxxx", b"99 path=xxxx") + header(),
    "record of no length": pax(("path", b"xxxx")).replace(b"13 path=xxxx", b"00 path=xxxx") + header(),
    "headers without end": pax(("comment", b"x" * 600_000)) * 2 + header(),
    "many headers": b"".join(pax((f"k{n}", b"x")) for n in range(3000)) + header(),
    "global headers without end": pax(("comment", b"x" * 600_000), kind=b"g") * 2 + header(),
    "huge header": header(type=b"x", size=b"00777777777\0"),
    "end within a file": header(size=b"00000001000\0") + b"short",
    "end within a header": header()[:300],
    "extended header of nothing": pax(("path", b"x")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(name: str) -> None:
    with pytest.raises(BayplanError) as caught:
        read(HOSTILE[name] + (b"" if name.startswith("end") else tar.END))
    assert caught.value.code == "bad-archive"


def test_an_archive_without_its_end_is_refused_where_nothing_else_tells_that_it_is_whole() -> None:
    data = archive((Entry("file", size=1), b"x"))[: -len(tar.END)]
    assert [entry.name for entry, _ in read(data)] == ["file"]
    with pytest.raises(BayplanError, match="cut short"):
        read(data, ended=True)
