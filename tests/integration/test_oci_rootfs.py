"""Base images from root file systems: one content gives one digest, whatever packed it, as far as that is promised."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci.archive import PATH, exists, load_rootfs
from bayplan.oci.descriptor import Platform
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.layer import unpack
from bayplan.oci.root import Root
from bayplan.oci.store import Store

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root")).ensure()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root file system with one of everything."""
    top = tmp_path / "tree"
    for folder in ("bin", "etc/deep/er", "tmp", "usr/share/ü", "var"):
        (top / folder).mkdir(parents=True)
    (top / "bin/tool").write_bytes(b"#!/bin/sh\n" * 300)
    (top / "bin/tool").chmod(0o4755)
    os.link(top / "bin/tool", top / "bin/also")
    (top / "bin/sh").symlink_to("tool")
    (top / "etc/empty").touch(mode=0o600)
    (top / "etc/a.b").write_text("sorted by bytes")
    (top / "etc/a-b").write_text("sorted by bytes")
    (top / "etc/deep/er" / ("long" * 40)).write_text("x")
    (top / "usr/share/ü/\udcff").write_text("no UTF-8")
    (top / "usr/share/link").symlink_to("/" + "far/" * 40)
    (top / "var/large").write_bytes(os.urandom(3 << 20))
    (top / "tmp").chmod(0o1777)
    os.mkfifo(top / "var/fifo")
    os.mknod(top / "var/null", 0o666 | 0o020000, os.makedev(1, 3))
    os.chown(top / "etc/a.b", 1000, 3_000_000)
    os.setxattr(top / "bin/tool", "user.note", b"kept\0bytes")
    # cap_net_bind_service=ep, revision 2
    os.setxattr(top / "etc/empty", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    for number, (folder, names, files) in enumerate(sorted(os.walk(top))):
        for name in (*names, *files):
            os.utime(
                Path(folder) / name,
                ns=(0, (1_700_000_000 + number) * 10**9 + 999_999_999),
                follow_symlinks=False,
            )
    os.utime(top, ns=(0, 1_600_000_000 * 10**9))
    return top


def tar(tree: Path, target: Path, *options: str, names: tuple[str, ...] = (".",)) -> Path:
    command = ["tar", "-C", tree, "-cf", target, "--numeric-owner", "--xattrs", "--xattrs-include=*", *options, *names]
    subprocess.run(command, check=True, timeout=60)
    return target


def archived(path: Path, *entries: tuple[str, dict[str, object]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, more in entries:
            info = tarfile.TarInfo(name)
            for key, value in more.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def refused(store: Store, path: Path) -> str:
    with pytest.raises(BayplanError) as caught:
        load_rootfs(store, path)
    store.collect([])
    assert store.usage([]).blobs == 0
    return caught.value.code


def test_a_folder_and_its_sorted_archive_in_any_compression_are_one_image(
    store: Store, tree: Path, tmp_path: Path
) -> None:
    digest = load_rootfs(store, tree)
    for name, options in {
        "plain": ("--format=pax", "--pax-option=delete=atime,delete=ctime"),
        "gzip": ("--format=pax", "--gzip"),
        "xz": ("--format=pax", "--xz"),
        "zstd": ("--format=pax", "--zstd"),
        "bzip2": ("--format=pax", "--bzip2"),
    }.items():
        assert load_rootfs(store, tar(tree, tmp_path / name, "--sort=name", *options)) == digest, name


def test_dialects_and_the_spelling_of_names_make_no_difference(store: Store, tree: Path, tmp_path: Path) -> None:
    names = tuple(sorted(os.listdir(tree)))
    given = {
        load_rootfs(store, tar(tree, tmp_path / name, "--sort=name", "--no-xattrs", *options, names=names))
        for name, options in {
            "gnu": ("--format=gnu",),
            "pax": ("--format=pax",),
            "dots": ("--format=gnu", "--transform=flags=r;s,^,.//./,"),
            "absolute": ("--format=pax", "--absolute-names", "--transform=flags=rh;s,^,/,"),
        }.items()
    }
    assert len(given) == 1


def test_one_order_is_one_digest_and_another_order_another(store: Store, tmp_path: Path) -> None:
    one, two = ("a", {"size": 3}), ("b", {"size": 4})
    first = load_rootfs(store, archived(tmp_path / "1", one, two))
    assert load_rootfs(store, archived(tmp_path / "2", one, two)) == first
    assert load_rootfs(store, archived(tmp_path / "3", two, one)) != first


def test_the_image_unpacks_to_the_tree_it_was_made_of(store: Store, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    [layer] = Image.load(store, load_rootfs(store, tree)).layers
    with store.open(layer.descriptor.digest) as stream:
        unpack(stream, out, expected=layer.diff_id)
    assert listing(out) == listing(tree)


def listing(top: Path) -> list[str]:
    """Everything below a folder: kind, mode, owner, links, size, time, target, attributes."""
    lines = []
    for folder, names, files in os.walk(top):
        for path in (Path(folder) / name for name in (*names, *files)):
            info = path.lstat()
            link = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            extra = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            }
            shown = (info.st_mode, info.st_uid, info.st_gid, info.st_rdev, int(info.st_mtime_ns // 10**9), link, extra)
            lines.append(f"{path.relative_to(top)!r} {shown} {0 if path.is_dir() else info.st_nlink}")
    return sorted(lines)


def test_the_image_says_its_platform_and_a_path_and_nothing_else(store: Store, tree: Path) -> None:
    digest = load_rootfs(store, tree, platform=Platform("linux", "arm64", "v8"))
    config = Image.load(store, digest, Platform("linux", "arm64", "v8")).config
    assert (config.os, config.architecture, config.variant, config.env) == ("linux", "arm64", "v8", (PATH,))
    assert config.created == ""
    assert exists(store, digest)
    assert not exists(store, Digest.of(b"another"))


def test_sockets_are_left_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    bare = load_rootfs(store, tmp_path / "tree")
    stamp = (tmp_path / "tree").stat().st_mtime_ns
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "tree" / "s"))
        os.link(tmp_path / "tree" / "s", tmp_path / "tree" / "t")
        os.utime(tmp_path / "tree", ns=(stamp, stamp))
        assert load_rootfs(store, tmp_path / "tree") == bare


def test_what_is_no_root_file_system_is_told(store: Store, tmp_path: Path) -> None:
    assert refused(store, tmp_path / "nothing") == "no-rootfs"
    (tmp_path / "text").write_text("hello\n" * 200)
    assert refused(store, tmp_path / "text") == "bad-archive"
    (tmp_path / "empty").touch()
    assert refused(store, tmp_path / "empty") == "bad-archive"
    assert refused(store, archived(tmp_path / "end")) == "bad-archive"
    (tmp_path / "device").symlink_to("/dev/null")
    assert refused(store, tmp_path / "device") == "bad-archive"


CHARACTER = {"type": tarfile.CHRTYPE, "devmajor": 0, "devminor": 0}
HOSTILE: dict[str, list[tuple[str, dict[str, object]]]] = {
    "upwards": [("../escaped", {"size": 1})],
    "upwards inside": [("a/../../escaped", {"size": 1})],
    "a whiteout": [("etc/.wh.passwd", {})],
    "an opaque folder": [("etc/.wh..wh..opq", {})],
    "below a whiteout": [(".wh.a/b", {})],
    "a device 0:0": [("hidden", CHARACTER)],
    "a link to nothing": [("link", {"type": tarfile.LNKTYPE, "linkname": "later"}), ("later", {"size": 1})],
    "a link outside": [("link", {"type": tarfile.LNKTYPE, "linkname": "../../etc/shadow"})],
    "a link to itself": [("link", {"type": tarfile.LNKTYPE, "linkname": "link"})],
    "a kind that nobody knows": [("odd", {"type": b"Z"})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_when_they_are_loaded(store: Store, tmp_path: Path, name: str) -> None:
    assert refused(store, archived(tmp_path / "hostile.tar", *HOSTILE[name])) == "bad-archive"


def test_an_archive_cut_anywhere_is_refused(store: Store, tmp_path: Path) -> None:
    path = archived(tmp_path / "whole.tar", *((f"file-{n}", {"size": n * 200}) for n in range(8)))
    data = path.read_bytes().rstrip(b"\0")
    length = len(data) + -len(data) % 512
    for cut in range(0, length + 1, 256):
        (tmp_path / "cut.tar").write_bytes(path.read_bytes()[:cut])
        assert refused(store, tmp_path / "cut.tar") == "bad-archive"


@pytest.mark.parametrize("option", ["--gzip", "--xz", "--zstd", "--bzip2"])
def test_damaged_compression_is_told_and_leaves_nothing(store: Store, tree: Path, tmp_path: Path, option: str) -> None:
    data = tar(tree, tmp_path / "packed", option).read_bytes()
    damage: list[Callable[[bytes], bytes]] = [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-3],
        lambda whole: whole[: len(whole) // 2] + b"\xff" * 64 + whole[len(whole) // 2 + 64 :],
        lambda whole: whole + b"rubbish",
    ]
    for change in damage:
        (tmp_path / "packed").write_bytes(change(data))
        assert refused(store, tmp_path / "packed") == "bad-archive"
