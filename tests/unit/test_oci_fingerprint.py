"""Fingerprints: a function of content, remembered by stamps, never wrong for having been remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci import fingerprint as module
from bayplan.oci.digest import Digest
from bayplan.oci.fingerprint import Fingerprints


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("content")
    (folder / "sub" / "\udcff").write_text("odd name")
    (folder / "link").symlink_to("file")
    return folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which files were opened to be read."""
    found: list[str] = []

    def noted(path: str, *arguments: object, **more: object) -> object:
        found.append(path)
        return Path(path).open("rb", buffering=0)

    monkeypatch.setattr(module, "open", noted, raising=False)
    return found


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been at rest for a while."""
    monkeypatch.setattr(module, "_STEP", -(10**12))


def test_a_file_has_the_digest_of_its_content(tmp_path: Path, tree: Path) -> None:
    assert Fingerprints(tmp_path / "cache").file(tree / "file") == Digest.of(b"content").hex
    assert Fingerprints(tmp_path / "cache").of(tree / "link") == Digest.of(b"content").hex


def test_what_did_not_change_is_not_read_again(
    tmp_path: Path, tree: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    first = Fingerprints(tmp_path / "cache")
    digest = first.tree(tree)
    first.save()
    assert len(hashed) == 2
    again = Fingerprints(tmp_path / "cache")
    assert again.tree(tree) == digest
    assert again.file(tree / "file") == Digest.of(b"content").hex
    assert len(hashed) == 2
    (tree / "new").write_text("new")
    assert Fingerprints(tmp_path / "cache").tree(tree) != digest
    assert hashed[2:] == [str(tree / "new")]


def test_what_has_just_changed_is_not_remembered(tmp_path: Path, tree: Path, hashed: list[str]) -> None:
    (tree / "file").write_text("contenu")
    prints = Fingerprints(tmp_path / "cache")
    one = prints.tree(tree)
    prints.save()
    assert Fingerprints(tmp_path / "cache").tree(tree) == one
    assert len(hashed) == 4
    assert not (tmp_path / "cache").exists()


def test_times_and_the_place_do_not_count(tmp_path: Path, tree: Path) -> None:
    prints = Fingerprints(tmp_path / "cache")
    before = prints.tree(tree)
    os.utime(tree / "file", (1, 1))
    os.utime(tree / "sub", (2, 2))
    assert prints.tree(tree.rename(tmp_path / "elsewhere")) == before


def _hard_link(tree: Path) -> None:
    (tree / "twin").unlink()
    os.link(tree / "file", tree / "twin")


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda tree: (tree / "file").write_text("other"),
    "mode": lambda tree: (tree / "file").chmod(0o755),
    "owner": lambda tree: os.chown(tree / "file", 1, 2),
    "name": lambda tree: (tree / "file").rename(tree / "file2"),
    "target of a link": lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("sub")),
    "folder's mode": lambda tree: (tree / "sub").chmod(0o700),
    "attribute": lambda tree: os.setxattr(tree / "file", "user.x", b"1"),
    "kind": lambda tree: ((tree / "twin").unlink(), (tree / "twin").mkdir()),
    "empty folder": lambda tree: (tree / "empty").mkdir(),
    "hard link": _hard_link,
    "own mode": lambda tree: tree.chmod(0o700),
}


@pytest.mark.parametrize("change", CHANGES)
def test_everything_that_a_layer_holds_counts(tmp_path: Path, tree: Path, change: str) -> None:
    (tree / "twin").write_text("content")
    tree.chmod(0o755)
    prints = Fingerprints(tmp_path / "cache")
    before = prints.tree(tree)
    CHANGES[change](tree)
    assert prints.tree(tree) != before


def test_content_that_changes_under_an_old_time_is_seen(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and mtime are as before; the status time is not, and cannot be set."""
    settle(monkeypatch)
    prints = Fingerprints(tmp_path / "cache")
    info = (tree / "file").stat()
    before = prints.tree(tree)
    time.sleep(0.02)
    (tree / "file").write_text("CONTENT")
    os.utime(tree / "file", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert prints.file(tree / "file") == Digest.of(b"CONTENT").hex
    assert prints.tree(tree) != before


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"a": 1}', b"\xff" * 100, b"[" * 100_000])
def test_a_broken_cache_is_no_cache(tmp_path: Path, tree: Path, rubbish: bytes) -> None:
    for name in ("cache", "cache.trees"):
        (tmp_path / name).write_bytes(rubbish)
    assert Fingerprints(tmp_path / "cache").file(tree / "file") == Digest.of(b"content").hex
    Fingerprints(tmp_path / "cache").tree(tree)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    (tmp_path / "blocked").write_text("a file where a folder would be")
    prints = Fingerprints(tmp_path / "blocked" / "cache")
    prints.tree(tree)
    prints.save()


def test_the_cache_is_bounded_and_keeps_what_was_used_last(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    monkeypatch.setattr(module, "_MOST_FILES", 3)
    for number in range(5):
        (tree / f"n{number}").write_text(str(number))
        prints = Fingerprints(tmp_path / "cache")
        prints.file(tree / "file")
        prints.file(tree / f"n{number}")
        prints.save()
    text = (tmp_path / "cache").read_text()
    assert text.count(":") == 3
    assert Digest.of(b"content").hex in text
    assert Digest.of(b"4").hex in text
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "none" / "deeper"):
        with pytest.raises(BayplanError) as caught:
            Fingerprints(tmp_path / "cache").of(path)
        assert caught.value.code == "unreadable"
        assert str(path) in caught.value.message
