"""Attacks the promise that a loss of power leaves no unpacked layer that only looks whole.

A power cut cannot be had here; what it leaves can: a layer that bears the mark of another boot, with files that never
reached the disk.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bayplan.oci import unpacked as module
from bayplan.oci.image import Layer
from bayplan.oci.layer import LayerWriter
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry
from bayplan.oci.unpacked import Unpacked

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root")).ensure()


@pytest.fixture
def layer(store: Store) -> Layer:
    with LayerWriter(store) as writer:
        writer.add(Entry("file", size=5), b"whole")
        return writer.finish()


def cut_power(store: Store, layer: Layer, mark: str = "another boot") -> None:
    folder = store.layers / layer.diff_id.hex
    if (folder / "boot").exists():
        (folder / "boot").write_text(mark)
        (folder / "fs" / "file").write_bytes(b"")


@pytest.mark.parametrize("mark", ["another boot", ""])
def test_a_layer_that_may_not_have_reached_the_disk_is_unpacked_anew(store: Store, layer: Layer, mark: str) -> None:
    folder = Unpacked(store).one(layer)
    cut_power(store, layer, mark)
    assert Unpacked(store).one(layer) == folder
    assert (folder / "file").read_bytes() == b"whole"
    store.collect([])
    assert list(store.trash.iterdir()) == []


def test_a_layer_that_was_settled_outlives_its_boot(
    store: Store, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    folder = Unpacked(store).one(layer)
    sync = module.sync_file_system

    def noted(path: Path) -> None:
        order.append("synced, mark there" if (folder.parent / "boot").exists() else "mark gone too early")
        sync(path)

    monkeypatch.setattr(module, "sync_file_system", noted)
    Unpacked(store).settle()
    Unpacked(store).settle()
    assert order == ["synced, mark there"]  # and once is enough
    cut_power(store, layer)
    inode = folder.stat().st_ino
    assert Unpacked(store).one(layer).stat().st_ino == inode
    assert (folder / "file").read_bytes() == b"whole"


def test_settling_never_blesses_what_another_boot_left(store: Store, layer: Layer) -> None:
    folder = Unpacked(store).one(layer)
    cut_power(store, layer)
    Unpacked(store).settle()
    assert (Unpacked(store).one(layer) / "file").read_bytes() == b"whole"
    assert folder.is_dir()


def test_a_collection_settles_what_it_keeps(store: Store, layer: Layer) -> None:
    with store.lease():
        folder = Unpacked(store).one(layer)
        assert (folder.parent / "boot").exists()
        store.collect([])
        assert folder.is_dir()
        assert not (folder.parent / "boot").exists()
