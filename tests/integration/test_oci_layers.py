"""Layers against the kernel and other tools: round trips, overlays, GNU tar, and archives made to do harm."""

from __future__ import annotations

import ctypes
import gzip
import io
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci import tar
from bayplan.oci.layer import LayerWriter, copy_layer, pack_tree, pack_upper, unpack
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked" / "fs"
    folder.mkdir(parents=True)
    (folder.parent / "secret").write_text("outside")
    return folder


def look(folder: Path) -> dict[str, tuple[object, ...]]:
    """A tree as plain data: kind, mode, owner, content or target, time, attributes, and who shares an inode."""
    found: dict[str, tuple[object, ...]] = {}
    inodes: dict[int, str] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        name, info = str(path.relative_to(folder)), path.lstat()
        content: object = ""
        if stat.S_ISREG(info.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif not stat.S_ISDIR(info.st_mode):
            content = info.st_rdev
        xattrs = {
            one: os.getxattr(path, one, follow_symlinks=False) for one in os.listxattr(path, follow_symlinks=False)
        }
        shared = inodes.setdefault(info.st_ino, name) if not stat.S_ISDIR(info.st_mode) else ""
        mode = oct(info.st_mode) if not stat.S_ISLNK(info.st_mode) else "link"
        found[name] = (mode, info.st_uid, info.st_gid, content, int(info.st_mtime), xattrs, shared)
    return found


def grow(folder: Path, seed: int) -> None:
    """A tree of everything that a layer can hold, at random."""
    dice = random.Random(seed)
    folders, files = [folder], []
    for number in range(60):
        parent = dice.choice(folders)
        name = dice.choice(["n", "ü", "\udcff", "a b", "long" * 40, "-rf", "new\nline"]) + str(number)
        path = parent / name
        kind = dice.choice(["file", "file", "file", "folder", "link", "hard", "fifo", "device", "empty", "large"])
        if kind == "folder":
            path.mkdir()
            folders.append(path)
        elif kind == "link":
            path.symlink_to(dice.choice(["../x", "/etc/passwd", "y" * 150, "gone"]))
        elif kind == "hard" and files:
            os.link(dice.choice(files), path)
            continue
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            path.write_bytes(dice.randbytes({"file": 700, "empty": 0, "large": 1_300_000}.get(kind, 3)))
            files.append(path)
        if kind != "link":
            os.chown(path, dice.randint(0, 3), dice.choice([0, 5, 3_000_000]))
            path.chmod(dice.choice([0o644, 0o4755, 0o2755, 0o1777, 0o400, 0]) | (0o700 if kind == "folder" else 0))
        if kind in ("file", "folder") and dice.random() < 0.4:
            os.setxattr(path, "user.note", dice.randbytes(20))
        if kind == "file" and dice.random() < 0.3:
            os.setxattr(path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (0, dice.randint(0, 1 << 31)), follow_symlinks=False)


def open_layer(store: Store, layer: object) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(store.read(layer.descriptor.digest, 1 << 30))))  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(6))
def test_a_tree_packed_and_unpacked_is_the_same_tree(store: Store, tmp_path: Path, out: Path, seed: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    grow(tree, seed)
    layer = pack_tree(store, tree)
    with store.open(layer.descriptor.digest) as stream:
        assert unpack(stream, out, expected=layer.diff_id) == layer.diff_id
    assert look(out) == look(tree)
    assert pack_tree(store, out) == layer  # so the layer is a function of the tree


def test_gnu_tar_and_tarfile_read_the_same_tree(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    grow(tree, 11)
    layer = pack_tree(store, tree)
    data = gzip.decompress(store.read(layer.descriptor.digest, 1 << 30))
    gnu, python = tmp_path / "gnu", tmp_path / "python"
    gnu.mkdir()
    python.mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", gnu],
        input=data,
        check=True,
        timeout=60,
    )
    assert look(gnu) == look(tree)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        archive.extractall(python, numeric_owner=True, filter="fully_trusted")

    def plain(folder: Path) -> dict[str, tuple[object, ...]]:
        """What tarfile can do: no attributes, no times of links."""
        return {name: (*one[:4], one[0] == "link" or one[4], one[6]) for name, one in look(folder).items()}

    assert plain(python) == plain(tree)


def test_what_gnu_tar_writes_is_unpacked_as_gnu_tar_does(tmp_path: Path, out: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    grow(tree, 12)
    for dialect in ("gnu", "pax"):
        attributes = ["--xattrs", "--xattrs-include=*"] if dialect == "pax" else []
        data = subprocess.run(
            ["tar", f"--format={dialect}", *attributes, "-cf", "-", "-C", tree, "."],
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        place = out / dialect
        place.mkdir()
        unpack(io.BytesIO(data), place)
        expected = look(tree)
        if dialect == "gnu":  # has no attributes
            expected = {name: (*one[:5], {}, one[6]) for name, one in expected.items()}
        assert look(place) == expected


def test_times_are_clamped_and_two_packings_are_one_layer(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "new").write_text("x")
    (tree / "sub" / "old").write_text("y")
    os.utime(tree / "sub" / "old", (0, 500))
    first = pack_tree(store, tree, clamp=1000)
    os.utime(tree / "new", (7, 2_000_000_000))
    assert pack_tree(store, tree, clamp=1000) == first
    with open_layer(store, first) as archive:
        assert {one.name: one.mtime for one in archive} == {".": 1000, "new": 1000, "sub": 1000, "sub/old": 500}


def test_large_layers_do_not_depend_on_how_their_bytes_came(store: Store) -> None:
    """The threads and the pieces leave no trace in the bytes."""
    data = random.Random(3).randbytes(200_000) * 40
    with LayerWriter(store) as writer:
        writer.add(Entry("big", size=len(data)), data)
        whole = writer.finish()

    class Trickle:
        def __init__(self) -> None:
            self.at, self.dice = 0, random.Random(4)

        def read(self, size: int = -1) -> bytes:
            piece = data[self.at : self.at + min(size, self.dice.randint(1, 300_000))]
            self.at += len(piece)
            return piece

    with LayerWriter(store) as writer:
        writer.add(Entry("big", size=len(data)), Trickle())
        assert writer.finish() == whole
    plain = gzip.decompress(store.read(whole.descriptor.digest, 1 << 30))
    assert copy_layer(store, io.BytesIO(plain)) == whole


def test_a_file_that_shrinks_while_it_is_read_is_told_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(BayplanError) as caught, LayerWriter(store) as writer:  # noqa: PT012
        writer.add(Entry("big", size=5_000_000), io.BytesIO(bytes(4_999_999)))
        writer.finish()
    assert caught.value.code == "file-changed"
    assert list(store.incoming.iterdir()) == []


# -- overlays ------------------------------------------------------------------------------------------------------


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[tuple[Path, Path, Path]]:
    """lower, upper and the mounted tree. ``lower`` is filled first."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (lower, upper, work, merged):
        folder.mkdir()
    (lower / "kept").write_text("kept")
    (lower / "removed").write_text("removed")
    (lower / "folder" / "deep").mkdir(parents=True)
    (lower / "folder" / "old").write_text("old")
    (lower / "again").mkdir()
    (lower / "again" / "stale").write_text("stale")
    mount_overlay([lower], upper, work, merged)
    yield lower, upper, merged
    libc().umount2(os.fsencode(merged), 2)


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def mount_overlay(lower: list[Path], upper: Path | None, work: Path | None, merged: Path) -> None:
    options = "lowerdir=" + ":".join(map(str, lower)) + ",index=off,metacopy=off,redirect_dir=off"
    if upper is not None:
        options += f",upperdir={upper},workdir={work}"
    assert libc().mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode()) == 0, os.strerror(
        ctypes.get_errno()
    )


def test_an_upper_folder_becomes_a_layer_that_says_what_is_gone(
    store: Store, overlay: tuple[Path, Path, Path], out: Path, tmp_path: Path
) -> None:
    lower, upper, merged = overlay
    (merged / "removed").unlink()
    (merged / "folder" / "old").unlink()
    (merged / "again" / "stale").unlink()
    (merged / "again").rmdir()
    (merged / "again").mkdir()
    (merged / "again" / "fresh").write_text("fresh")
    (merged / "new").write_text("new")
    (merged / "kept").chmod(0o600)
    expected = look(merged)
    layer = pack_upper(store, upper)
    with open_layer(store, layer) as archive:
        names = archive.getnames()
    assert names == [
        ".wh.removed",
        "again",
        "again/.wh..wh..opq",
        "again/fresh",
        "folder",
        "folder/.wh.old",
        "kept",
        "new",
    ]
    with store.open(layer.descriptor.digest) as stream:
        unpack(stream, out)
    assert stat.S_ISCHR((out / "removed").lstat().st_mode)
    assert os.getxattr(out / "again", "trusted.overlay.opaque") == b"y"
    other = tmp_path / "other"
    other.mkdir()
    mount_overlay([out, lower], None, None, other)
    try:
        found = look(other)
    finally:
        libc().umount2(os.fsencode(other), 2)
    assert {name: one for name, one in found.items() if name != "."} == {
        n: one for n, one in expected.items() if n != "."
    }
    # A whiteout on disk has no time of its own: what was unpacked a second later is another one's.
    assert pack_upper(store, out, clamp=0) == pack_upper(store, upper, clamp=0)


@pytest.mark.parametrize("first", ["whiteout", "folder"])
def test_a_folder_that_takes_the_place_of_a_removed_one_does_not_show_what_was_in_it(
    tmp_path: Path, out: Path, first: str
) -> None:
    lower, merged = tmp_path / "lower", tmp_path / "merged"
    (lower / "d").mkdir(parents=True)
    (lower / "d" / "old").write_text("old")
    merged.mkdir()
    gone = [(Entry(".wh.d"), b"")]
    here = [(Entry("d", tar.DIRECTORY, 0o755), b""), (Entry("d/new", size=1), b"n")]
    unpack(io.BytesIO(archive(*(gone + here if first == "whiteout" else here + gone))), out)
    mount_overlay([out, lower], None, None, merged)
    try:
        assert sorted(one.name for one in (merged / "d").iterdir()) == ["new"]
    finally:
        libc().umount2(os.fsencode(merged), 2)


def test_names_that_mean_removal_cannot_be_packed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".wh.file").write_text("")
    for pack in (pack_tree, pack_upper):
        with pytest.raises(BayplanError) as caught:
            pack(store, tmp_path / "tree")
        assert caught.value.code == "reserved-name"


def test_an_overlay_that_moved_instead_of_copying_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "upper" / "d").mkdir(parents=True)
    os.setxattr(tmp_path / "upper" / "d", "trusted.overlay.redirect", b"/elsewhere")
    with pytest.raises(BayplanError) as caught:
        pack_upper(store, tmp_path / "upper")
    assert caught.value.code == "overlay-form"


def test_trees_deeper_than_any_path_are_refused_not_followed(store: Store, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(300):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(BayplanError) as caught:
        pack_tree(store, tmp_path, skip=["root"])
    assert caught.value.code == "too-deep"


# -- archives made to do harm --------------------------------------------------------------------------------------


def archive(*members: tuple[Entry, bytes]) -> bytes:
    return b"".join(tar.header(entry) + data + tar.padding(len(data)) for entry, data in members) + tar.END


def link(name: str, target: str) -> tuple[Entry, bytes]:
    return Entry(name, tar.SYMLINK, link=target), b""


def file(name: str, data: bytes = b"evil", **more: object) -> tuple[Entry, bytes]:
    return Entry(name, size=len(data), **more), data  # type: ignore[arg-type]


def folder(name: str) -> tuple[Entry, bytes]:
    return Entry(name, tar.DIRECTORY, 0o755), b""


def hard(name: str, target: str) -> tuple[Entry, bytes]:
    return Entry(name, tar.HARDLINK, link=target), b""


REFUSED = {
    "path upwards": [file("../secret")],
    "path upwards in the middle": [file("a/../../secret")],
    "hard link upwards": [hard("x", "../secret")],
    "hard link through a link to the outside": [link("out", ".."), hard("x", "out/secret")],
    "hard link to an absolute path": [hard("x", "/etc/passwd")],
    "hard link to what comes later": [hard("x", "y"), file("y")],
    "hard link to itself": [file("x"), hard("x", "x")],
    "hard link to a folder": [folder("d"), hard("x", "d")],
    "hard link to a whiteout": [file(".wh.y", b""), hard("x", "y")],
    "links in a circle": [link("a", "b"), link("b", "a"), file("a/x")],
    "file as a folder": [file("f"), file("f/x")],
    "device that hides": [(Entry("x", tar.CHARACTER), b"")],
    "whiteout of nothing": [file(".wh.", b"")],
    "whiteout of the folder itself": [file("d/.wh..", b"")],
    "whiteout of the folder above": [file("d/.wh...", b"")],
    "path too deep": [file("d/" * 300 + "x")],
    "name too long": [file("n" * 300)],
    "name with a zero": [file("a\0b" * 60)],
    "attribute too large": [file("x", xattrs={"user.x": b"v" * 70_000})],
}


@pytest.mark.parametrize("name", REFUSED)
def test_archives_made_to_do_harm_are_refused(out: Path, name: str) -> None:
    with pytest.raises(BayplanError) as caught:
        unpack(io.BytesIO(archive(*REFUSED[name])), out)
    assert caught.value.code == "bad-archive"
    assert (out.parent / "secret").read_text() == "outside"
    assert sorted(one.name for one in out.parent.iterdir()) == ["fs", "secret"]


CONFINED = {
    "absolute path": ([file("/etc/x")], "etc/x"),
    "through an absolute link": ([link("out", "/"), file("out/x")], "x"),
    "through a link upwards": ([link("out", "../../.."), file("out/x")], "x"),
    "through a link to a link": ([link("a", "/tmp"), link("b", "a/../.."), file("b/x")], "x"),
    "over a link to a file outside": ([link("x", "../secret"), file("x")], "x"),
    "folder over a link to the outside": ([link("d", ".."), folder("d"), file("d/x")], "d/x"),
    "link over a folder, then through it": ([folder("d"), file("d/y"), link("d", ".."), file("d/x")], "x"),
    "usr merge": ([folder("usr/bin"), link("bin", "usr/bin"), file("bin/x")], "usr/bin/x"),
}


@pytest.mark.parametrize("name", CONFINED)
def test_paths_and_links_stay_inside(out: Path, name: str) -> None:
    members, expected = CONFINED[name]
    unpack(io.BytesIO(archive(*members)), out)
    assert (out / expected).read_bytes() == b"evil"
    assert not (out / expected).is_symlink()
    assert (out.parent / "secret").read_text() == "outside"
    assert sorted(one.name for one in out.parent.iterdir()) == ["fs", "secret"]


def test_the_last_of_several_entries_of_one_name_stands(out: Path) -> None:
    twice = [file("x", b"1"), hard("y", "x"), file("x", b"2"), folder("d"), file("d/in"), file("d", b"3"), folder("x")]
    unpack(io.BytesIO(archive(*twice)), out)
    assert (out / "y").read_bytes() == b"1"
    assert (out / "d").read_bytes() == b"3"
    assert (out / "x").is_dir()


def test_attributes_of_overlays_and_of_the_host_are_not_taken_from_an_archive(out: Path) -> None:
    hostile = {
        "trusted.overlay.redirect": b"/",
        "user.overlay.opaque": b"y",
        "security.selinux": b"x",
        "user.kept": b"1",
    }
    unpack(io.BytesIO(archive(file("x", xattrs=hostile))), out)
    assert os.listxattr(out / "x") == ["user.kept"]


def test_bombs_are_refused_by_what_they_unpack_to(out: Path) -> None:
    claimed = tar.header(Entry("big", size=1 << 40))
    with pytest.raises(BayplanError, match="more than"):
        unpack(io.BytesIO(claimed + bytes(1000)), out)
    zeros = archive(file("x", bytes(50_000)))
    with pytest.raises(BayplanError, match="more than 1000 bytes"):
        unpack(io.BytesIO(zeros), out, max_bytes=1000)
    behind_the_end = gzip.compress(archive(file("y")) + bytes(80 << 20))
    with pytest.raises(BayplanError, match="more than 1000 bytes"):
        unpack(io.BytesIO(behind_the_end), out, max_bytes=1000)
    many = archive(*(file(f"f{n}", b"") for n in range(50)))
    with pytest.raises(BayplanError, match="more than 49 entries"):
        unpack(io.BytesIO(many), out, max_entries=49)


def test_a_layer_that_is_not_what_its_image_says_is_refused(store: Store, out: Path, tmp_path: Path) -> None:
    one, other = archive(file("x", b"1")), archive(file("x", b"2"))
    diff = copy_layer(store, io.BytesIO(one)).diff_id
    with pytest.raises(BayplanError) as caught:
        unpack(io.BytesIO(other), out, expected=diff)
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("cut", [10, 600, 3_000_000])
def test_a_layer_that_is_cut_short_is_refused(out: Path, cut: int) -> None:
    data = gzip.compress(archive(file("x", random.Random(1).randbytes(4_000_000))), 1)
    with pytest.raises(BayplanError) as caught:
        unpack(io.BytesIO(data[:cut]), out)
    assert caught.value.code == "bad-archive"


def test_the_umask_leaves_no_trace(store: Store, out: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(io.BytesIO(archive(file("made/on/the/way", mode=0o644))), out)
    finally:
        os.umask(before)
    assert stat.S_IMODE((out / "made").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "made/on/the/way").stat().st_mode) == 0o644


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    assert libc().mount(b"tmpfs", os.fsencode(small), b"tmpfs", 0, b"size=1m") == 0
    try:
        with pytest.raises(BayplanError) as caught:
            unpack(io.BytesIO(archive(file("x", bytes(3 << 20)))), small)
        assert caught.value.code == "disk-full"
    finally:
        libc().umount2(os.fsencode(small), 2)
