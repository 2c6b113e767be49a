"""Attacks what unpacked layers promise: whole or not there, unpacked once, kept by a lease."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan.oci import layer as layers
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, ImageConfig, Layer, assemble
from bayplan.oci.layer import LayerWriter
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry
from bayplan.oci.unpacked import Unpacked

pytestmark = pytest.mark.root

ONE = """
import sys, time
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.unpacked import Unpacked
from bayplan.oci import layer
store = Store(Root.at(sys.argv[1]))
unpack = layer.unpack
def noted(*given, **more):
    print("unpacks", flush=True)
    return unpack(*given, **more)
layer.unpack = noted
with store.lease():
    for path in Unpacked(store).lower(Image.load(store, Digest.parse(sys.argv[2]))):
        print(path, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root")).ensure()


def written(store: Store, files: int = 1, text: bytes = b"content") -> Layer:
    with LayerWriter(store) as writer:
        for number in range(files):
            writer.add(Entry(f"file-{number}", size=len(text), mtime=5), text)
        return writer.finish()


def image(store: Store, files: int = 1, text: bytes = b"content") -> Image:
    return Image.load(store, assemble(store, ImageConfig(), [written(store, files, text)]))


def start(store: Store, digest: Digest) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ONE, os.fspath(store.root.path), digest]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def leftovers(store: Store) -> Iterator[Path]:
    for folder in (store.unpacking, store.incoming, store.trash, store.layers):
        yield from folder.iterdir()


def test_processes_that_need_one_layer_at_once_unpack_it_once(store: Store) -> None:
    made = image(store, files=2000)
    processes = [start(store, made.digest) for _ in range(5)]
    told = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 5
    assert sum(lines.count("unpacks") for lines in told) == 1
    assert {lines[-1] for lines in told} == {os.fspath(Unpacked(store).path(made.layers[0]))}
    assert len(list(Unpacked(store).path(made.layers[0]).iterdir())) == 2000
    assert list(store.unpacking.iterdir()) == []


def test_a_process_killed_while_unpacking_leaves_nothing_that_is_seen_and_the_next_one_succeeds(store: Store) -> None:
    made = image(store, files=5000)
    process = start(store, made.digest)
    assert process.stdout is not None
    assert process.stdout.readline() == "unpacks\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    folder = Unpacked(store).path(made.layers[0])
    assert not folder.exists()
    assert list(store.unpacking.iterdir())
    with store.lease():
        assert Unpacked(store).one(made.layers[0]) == folder
        assert len(list(folder.iterdir())) == 5000
        Unpacked(store).sweep()
        assert list(store.unpacking.iterdir()) == []
    store.collect([])
    assert list(leftovers(store)) == []


def test_sweeping_takes_nothing_from_who_unpacks_at_the_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = image(store)
    unpack = layers.unpack

    def swept(*given: object, **more: object) -> Digest:
        store.collect([lambda: [made.digest]])
        done = unpack(*given, **more)  # type: ignore[arg-type]
        Unpacked(store).sweep()
        return done

    monkeypatch.setattr(layers, "unpack", swept)
    assert (Unpacked(store).one(made.layers[0]) / "file-0").read_bytes() == b"content"


def test_a_layer_that_is_used_while_a_collection_decides_stays(store: Store) -> None:
    made = image(store)
    folder = Unpacked(store).one(made.layers[0])
    os.utime(folder.parent, (1, 1))
    with store.lease():
        looks = 0

        def none_yet() -> Iterator[Digest]:
            # The references are asked; before anything is removed, somebody uses the layer.
            nonlocal looks
            looks += 1
            assert Unpacked(store).one(made.layers[0]) == folder
            return iter(())

        assert store.collect([none_yet]).layers == 0
        assert looks
    assert folder.is_dir()
    assert store.collect([]).layers == 1
    assert list(leftovers(store)) == []


def test_a_broken_layer_leaves_nothing(store: Store) -> None:
    made = image(store)
    wrong = Layer(made.layers[0].descriptor, Digest.of(b"another"))
    with pytest.raises(Exception, match="not") as caught:
        Unpacked(store).one(wrong)
    assert caught.value.code == "digest-mismatch"
    assert list(leftovers(store)) == []


def test_a_folder_is_adopted_as_the_layer_that_was_packed_from_it(store: Store, tmp_path: Path) -> None:
    made, unpacked = written(store), Unpacked(store)
    for _ in range(2):
        upper = store.root.path / "upper"
        upper.mkdir()
        (upper / "file-0").write_bytes(b"content")
        with store.lease():
            assert unpacked.adopt(made, upper) == unpacked.path(made)
            assert store.collect([]).layers == 0
        assert not upper.exists()
        assert (unpacked.one(made) / "file-0").read_bytes() == b"content"
    assert list(store.unpacking.iterdir()) == []
