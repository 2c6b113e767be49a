"""Attacks on the store's promise: nothing that is referred to is ever missing, whoever collects, and whoever is killed.

Real processes on one store: writers that make images, name them, and drop them again, while others collect without pause;
and collections that are killed at random instants.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci.config import ImageConfig
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, Layer, assemble
from bayplan.oci.names import Names
from bayplan.oci.root import Root
from bayplan.oci.store import Store

_WRITER = """
import random, sys, time
from bayplan.oci.config import ImageConfig
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import Image, Layer, assemble
from bayplan.oci.names import Names
from bayplan.oci.root import Root
from bayplan.oci.store import Store

root, seed, seconds = Root.at(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
store, names, dice = Store(root), Names(root), random.Random(seed)
until, rounds = time.monotonic() + seconds, 0
while time.monotonic() < until:
    # Few contents and few names, so that writers meet each other's and what is just being collected.
    with store.lease():
        layers = []
        for _ in range(dice.randint(1, 3)):
            data = b"layer %d" % dice.randint(0, 8)
            layers.append(Layer(Descriptor(MediaType.LAYER, store.put(data), len(data)), Digest.of(data)))
        digest = assemble(store, ImageConfig(cmd=(str(dice.randint(0, 3)),)), layers)
        names.set(f"app:{dice.randint(0, 5)}", digest)
    # Whatever is named, by whomever, must be whole; a name may be gone or moved the next instant.
    known = names.get(f"app:{dice.randint(0, 5)}")
    if known is not None:
        with store.lease():
            if store.touch(known.digest):  # touched before it is read: all of it stays
                for layer in Image.load(store, known.digest).layers:
                    store.read(layer.descriptor.digest)
                names.set(f"kept:{dice.randint(0, 5)}", known.digest)
            elif (again := names.get(known.name)) is not None and again.digest == known.digest:
                raise SystemExit(f"{known.name} names {known.digest}, which is gone")
    names.remove(f"app:{dice.randint(0, 5)}")
    names.remove(f"kept:{dice.randint(0, 5)}")
    rounds += 1
print(rounds)
"""

_COLLECTOR = """
import sys, time
from bayplan.oci.names import Names
from bayplan.oci.root import Root
from bayplan.oci.store import Store

root, seconds = Root.at(sys.argv[1]), float(sys.argv[2])
store, names = Store(root), Names(root)
until, blobs, rounds = time.monotonic() + seconds, 0, 0
while time.monotonic() < until:
    blobs += store.collect([names.references]).blobs
    rounds += 1
print(rounds, blobs)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    return out


def check(root: Root) -> int:
    """Every name's image is whole; how many names."""
    store = Store(root)
    found = Names(root).list()
    for one in found:
        for layer in Image.load(store, one.digest).layers:
            store.read(layer.descriptor.digest)
    return len(found)


def test_images_named_while_others_collect_are_always_whole(tmp_path: Path) -> None:
    root = Root.at(tmp_path / "root").ensure()
    writers = [start(_WRITER, root.path, seed, 3.0) for seed in (1, 2, 3)]
    collectors = [start(_COLLECTOR, root.path, 3.0) for _ in range(2)]
    rounds = [int(finish(one)) for one in writers]
    collected = [tuple(map(int, finish(one).split())) for one in collectors]
    assert min(rounds) > 5
    assert min(count for count, _ in collected) > 5
    assert sum(blobs for _, blobs in collected) > 20  # or the test shows nothing
    check(root)
    names = Names(root)
    for one in names.list():
        names.remove(one.name)
    Store(root).collect([names.references])
    assert list(Store(root).blobs()) == []


def fill(root: Root, images: int) -> Digest:
    """Many images without a name, and one with."""
    store, names = Store(root), Names(root)
    for number in range(images):
        data = b"%d" % number
        shared = Layer(Descriptor(MediaType.LAYER, store.put(b"shared"), 6), Digest.of(b"shared"))
        layer = Layer(Descriptor(MediaType.LAYER, store.put(data), len(data)), Digest.of(data))
        digest = assemble(store, ImageConfig(), [shared, layer])
        if not number:
            names.set("kept:1", digest)
            kept = digest
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_a_collection_killed_at_any_instant_leaves_no_image_in_pieces(tmp_path: Path, seed: int) -> None:
    root = Root.at(tmp_path / "root").ensure()
    kept = fill(root, 40)
    store, names = Store(root), Names(root)
    process = start("import sys\nprint('up', flush=True)\n" + _COLLECTOR, root.path, 30.0)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.03 + random.Random(seed).random() * 0.12)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    codes: set[str] = set()
    for digest, _ in list(store.blobs()):
        try:
            image = Image.load(store, digest)
        except BayplanError as error:
            codes.add(error.code)
            continue
        for layer in image.layers:
            assert store.has(layer.descriptor.digest), "a manifest that is there lost a layer"
    assert codes <= {"bad-manifest"}, "a manifest lost its configuration"  # layers and configurations are no manifests
    store.collect([names.references])
    assert check(root) == 1
    assert len(list(store.blobs())) == 4
    assert store.has(kept)
    assert list(store.trash.iterdir()) == []
    assert list((store.folder / "leases").iterdir()) == []


def test_a_full_disk_while_writing_leaves_no_blob_and_no_draft(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the disk: the kernel refuses the write in the middle of a blob."""
    root = Root.at(tmp_path / "root").ensure()
    Store(root).ensure()
    program = (
        "import resource, signal, sys\n"
        "from bayplan.oci.root import Root\nfrom bayplan.oci.store import Store\n"
        "store = Store(Root.at(sys.argv[1]))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with store.writer() as writer:\n"
        "        writer.write(bytes(1_000_000))\n"
        "        writer.commit()\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    assert int(finish(start(program, root.path))) in (27, 28)
    assert list(Store(root).blobs()) == []
    assert list(Store(root).incoming.iterdir()) == []
