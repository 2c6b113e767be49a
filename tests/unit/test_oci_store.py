"""The content store: verified, durable before acknowledged, collected exactly, leases that end with their holder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci import lease as lease_module
from bayplan.oci import store as store_module
from bayplan.oci.config import ImageConfig
from bayplan.oci.descriptor import Descriptor, MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.image import Layer, assemble
from bayplan.oci.root import Root
from bayplan.oci.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "root"))


def nothing() -> Iterable[Digest]:
    return ()


def image(store: Store, *contents: bytes) -> Digest:
    """An image whose layers are ``contents``."""
    layers = [Layer(Descriptor(MediaType.LAYER, store.put(one), len(one)), Digest.of(one)) for one in contents]
    return assemble(store, ImageConfig(env=(f"N={contents[0].decode()}",)), layers)


# -- writing and reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_what_is_put_is_read_back_by_its_digest(store: Store, algorithm: str) -> None:
    digest = store.put(b"content", algorithm)
    assert digest == Digest.of(b"content", algorithm)
    assert store.read(digest) == b"content"
    assert store.size(digest) == 7
    assert store.path(digest).stat().st_mode & 0o777 == 0o400


def test_the_same_content_is_kept_once(store: Store) -> None:
    first = store.put(b"same")
    inode = store.path(first).stat().st_ino
    with store.writer() as writer:
        writer.write(b"sa")
        writer.write(memoryview(b"me"))
        assert writer.offset == 4
        assert writer.commit(first) == first
    assert store.path(first).stat().st_ino == inode
    assert list(store.incoming.iterdir()) == []


def test_content_that_is_not_what_was_announced_leaves_nothing(store: Store) -> None:
    with store.writer() as writer:
        writer.write(b"other")
        with pytest.raises(BayplanError) as caught:
            writer.commit(Digest.of(b"announced"))
    assert caught.value.code == "digest-mismatch"
    assert list(store.blobs()) == []
    assert list(store.incoming.iterdir()) == []


def test_a_writer_that_is_left_early_leaves_nothing(store: Store) -> None:
    with store.writer() as writer:
        writer.write(b"half")
    assert list(store.incoming.iterdir()) == []


def test_damaged_content_is_told_and_never_given_out(store: Store) -> None:
    digest = store.put(b"sound")
    store.path(digest).chmod(0o600)
    store.path(digest).write_bytes(b"rotten")
    with pytest.raises(BayplanError) as caught:
        store.read(digest)
    assert caught.value.code == "blob-damaged"


def test_reading_has_a_limit_and_absence_a_word(store: Store) -> None:
    digest = store.put(b"x" * 100)
    with pytest.raises(BayplanError, match="more than 99") as caught:
        store.read(digest, 99)
    assert caught.value.code == "blob-too-large"
    absent = Digest.of(b"absent")
    reads: list[Callable[[Digest], object]] = [store.read, store.size, store.open]
    for read in reads:
        with pytest.raises(BayplanError) as caught:
            read(absent)
        assert caught.value.code == "no-blob"
    assert not store.has(absent)
    assert not store.touch(absent)


def test_looking_makes_no_folder(tmp_path: Path) -> None:
    store = Store(Root.at(tmp_path / "none"))
    assert not store.has(Digest.of(b""))
    assert not store.touch(Digest.of(b""))
    assert list(store.blobs()) == []
    assert store.usage([]).blobs == 0
    assert not (tmp_path / "none").exists()


# -- durability ----------------------------------------------------------------------------------------------------


class Disk:
    """Notes syncs and renames in their order, and which file or folder they were of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        fsync, rename = os.fsync, Path.rename

        def noted_fsync(descriptor: int) -> None:
            self.calls.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        def noted_rename(path: Path, target: Path) -> Path:
            self.calls.append(("rename", str(target)))
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "rename", noted_rename)


def test_a_blob_is_synced_before_it_is_visible_and_its_folder_before_it_is_acknowledged(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ensure()
    disk = Disk(monkeypatch)
    digest = store.put(b"durable")
    path = store.path(digest)
    kinds = [(kind, Path(where)) for kind, where in disk.calls]
    renamed = kinds.index(("rename", path))
    assert kinds[0][0] == "sync"
    assert kinds[0][1].parent == store.incoming  # the content itself, under its draft's name
    assert ("sync", path.parent.parent) in kinds[:renamed]  # the new shard
    assert kinds[renamed + 1 :] == [("sync", path.parent)]
    disk.calls.clear()
    store.put(Digest.of(b"durable").encode())
    store.put(b"durable")
    assert ("sync", str(path.parent)) not in disk.calls  # known to be durable: a blob that is there costs no sync


def test_a_blob_that_another_process_has_not_synced_yet_is_synced_by_who_relies_on_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(b"between rename and sync")
    store.path(digest).chmod(0o600)  # as it stands there in that instant
    disk = Disk(monkeypatch)
    assert store.touch(digest)
    assert disk.calls == [("sync", str(store.path(digest).parent))]
    assert store.touch(digest)
    assert len(disk.calls) == 1


def test_the_folders_of_a_new_root_are_durable_before_anything_in_them_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    store = Store(Root.at(tmp_path / "new")).ensure()
    synced = [Path(where) for kind, where in disk.calls if kind == "sync"]
    assert synced == [store.folder, store.root.path, tmp_path]
    disk.calls.clear()
    Store(store.root).ensure()
    assert disk.calls == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_look_into_the_store_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(Root.at(tmp_path / "new"))
        digest = store.put(b"private")
        with store.lease():
            store.collect([lambda: [digest]])
    finally:
        os.umask(before)
    for path in (store.folder, *store.folder.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert store.path(digest).stat().st_mode & 0o7777 == 0o400


# -- collecting ----------------------------------------------------------------------------------------------------


def test_a_collection_removes_exactly_what_nothing_refers_to(store: Store) -> None:
    kept, gone = image(store, b"shared", b"mine"), image(store, b"shared", b"other")
    lone = store.put(b"lone")
    told = store.usage([lambda: [kept]])
    collected = store.collect([lambda: [kept], nothing])
    assert collected.blobs == 4  # manifest, configuration, one layer, the lone blob
    assert (told.free_blobs, told.free_bytes) == (collected.blobs, collected.bytes)
    assert not store.has(gone)
    assert not store.has(lone)
    assert store.has(Digest.of(b"shared"))
    assert store.collect([lambda: [kept]]).blobs == 0
    assert list(store.trash.iterdir()) == []


def test_indexes_subjects_and_configurations_keep_what_they_name(store: Store) -> None:
    one, two = image(store, b"1"), image(store, b"2")
    index = store.put(
        json.dumps(
            {
                "schemaVersion": 2,
                "manifests": [
                    {"mediaType": MediaType.MANIFEST, "digest": str(one), "size": 1},
                    {"mediaType": MediaType.MANIFEST, "digest": str(Digest.of(b"not here")), "size": 1},
                ],
                "subject": {"mediaType": MediaType.MANIFEST, "digest": str(two), "size": 1},
            }
        ).encode()
    )
    assert store.collect([lambda: [index]]).blobs == 0
    for content in (b"1", b"2"):
        assert store.has(Digest.of(content))


@pytest.mark.parametrize(
    "document",
    [
        b'{"layers": [' + b"[" * 50_000,
        b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
        b'{"manifests": {"digest": 1}, "config": [], "layers": [{"digest": "sha256:../../x"}, 7, null]}',
        b'{"rootfs": {"diff_ids": [1, {}, "x"]}, "subject": "sha256:00"}',
        b"{",
    ],
)
def test_hostile_documents_do_not_stop_a_collection(store: Store, document: bytes) -> None:
    kept = store.put(document)
    free = store.put(document + b" ")
    assert store.collect([lambda: [kept]]).blobs == 1
    assert store.has(kept)
    assert not store.has(free)


def test_a_lease_keeps_what_was_written_or_touched_since_it_began_and_nothing_older(store: Store) -> None:
    old, touched = store.put(b"old"), store.put(b"touched")
    with store.lease():
        new = store.put(b"new")
        assert store.touch(touched)
        assert store.collect([]).blobs == 1
        assert not store.has(old)
        assert store.has(new)
        assert store.has(touched)
    assert store.collect([]).blobs == 2


def test_a_touched_manifest_keeps_its_layers_though_only_it_was_touched(store: Store) -> None:
    manifest = image(store, b"layer")
    with store.lease():
        assert store.touch(manifest)
        assert store.collect([]).blobs == 0
    assert store.has(Digest.of(b"layer"))


def test_a_clock_that_steps_back_takes_nothing_from_a_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    with store.lease():
        monkeypatch.setattr(lease_module.time, "time_ns", lambda: now - 3600 * 10**9)
        written = store.put(b"written in the past")
        assert store.collect([]).blobs == 0
        assert store.has(written)
    assert store.collect([]).blobs == 1


def test_what_is_referred_to_while_the_referrers_are_asked_stays(store: Store) -> None:
    """The whole life of a push falls between a collection's look and its removals."""
    manifest = image(store, b"layer")
    names: list[Digest] = []

    def referrer() -> Iterable[Digest]:
        seen = list(names)
        with store.lease():  # somebody names the image just after it was looked
            assert store.touch(manifest)
            names.append(manifest)
        return seen

    assert store.collect([referrer]).blobs == 0
    assert store.has(Digest.of(b"layer"))
    assert store.collect([lambda: names]).blobs == 0
    names.clear()
    assert store.collect([lambda: names]).blobs == 3


def test_documents_go_before_what_they_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a manifest that is there has its layers, wherever a collection was killed."""
    manifest = image(store, b"layer one", b"layer two")
    index = store.put(
        json.dumps(
            {"schemaVersion": 2, "manifests": [{"mediaType": MediaType.MANIFEST, "digest": str(manifest), "size": 9}]}
        ).encode()
    )
    order: list[str] = []
    rename = Path.rename

    def noted(path: Path, target: Path) -> Path:
        order.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", noted)
    assert store.collect([]).blobs == 5
    layers = {Digest.of(b"layer one").hex, Digest.of(b"layer two").hex}
    assert order[:2] == [index.hex, manifest.hex]
    assert set(order[3:]) == layers


def test_a_lease_ends_with_its_process(store: Store) -> None:
    store.ensure()
    program = (
        "import sys, os; from bayplan.oci.store import Store; from bayplan.oci.root import Root\n"
        "store = Store(Root.at(sys.argv[1])); lease = store.lease(); lease.__enter__(); store.put(b'child')\n"
        "writer = store.writer(); writer.write(b'draft'); print('ready', flush=True); sys.stdin.read(); os._exit(9)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(store.root.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"ready\n"
    assert store.collect([]).blobs == 0
    assert len(list(store.incoming.iterdir())) == 1
    process.kill()
    process.wait(timeout=30)
    process.stdin.close()
    process.stdout.close()
    assert store.collect([]).blobs == 1
    assert list((store.folder / "leases").iterdir()) == []
    assert list(store.incoming.iterdir()) == []


def test_threads_that_write_one_content_at_once_keep_it_once(store: Store) -> None:
    data = os.urandom(100_000)
    found: list[Digest] = []
    threads = [threading.Thread(target=lambda: found.append(store.put(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {Digest.of(data)}
    assert len(list(store.blobs())) == 1
    assert list(store.incoming.iterdir()) == []


def test_usage_accounts_for_every_byte(store: Store) -> None:
    kept = image(store, b"layer" * 1000)
    (store.layers / "ab" / "fs").mkdir(parents=True)
    (store.layers / "ab" / "fs" / "file").write_bytes(b"x" * 10_000)
    (store.incoming / "draft").write_bytes(b"y" * 5000)
    usage = store.usage([lambda: [kept]])
    assert (usage.blobs, usage.free_blobs, usage.layers, usage.free_layers) == (3, 0, 1, 1)
    assert usage.free_layer_bytes == usage.layer_bytes >= 10_000
    assert usage.other_bytes >= 5000


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    edges=st.lists(st.lists(st.integers(0, 19), max_size=4), min_size=1, max_size=20),
    roots=st.sets(st.integers(0, 19), max_size=4),
    touched=st.sets(st.integers(0, 19), max_size=2),
)
def test_what_stays_is_what_can_be_reached_from_referrers_and_touched_documents(
    tmp_path_factory: pytest.TempPathFactory, edges: list[list[int]], roots: set[int], touched: set[int]
) -> None:
    """Any graph of documents: node n names earlier nodes only, as digests force it."""
    store = Store(Root.at(tmp_path_factory.mktemp("graph")))
    digests: list[Digest] = []
    children: list[set[int]] = []
    for number, named in enumerate(edges):
        below = {one for one in named if one < number}
        children.append(below)
        parts = [{"mediaType": "x", "digest": str(digests[one]), "size": 1} for one in sorted(below)]
        digests.append(store.put(json.dumps({"schemaVersion": 2, "n": number, "manifests": parts}).encode()))
    roots = {one for one in roots if one < len(digests)}
    touched = {one for one in touched if one < len(digests)}
    expected: set[int] = set()
    stack = [*roots, *touched]
    while stack:
        one = stack.pop()
        if one not in expected:
            expected.add(one)
            stack.extend(children[one])
    with store.lease():
        for one in touched:
            store.touch(digests[one])
        store.collect([lambda: [digests[one] for one in roots]])
    assert {digest for digest, _ in store.blobs()} == {digests[one] for one in expected}


def test_a_folder_that_somebody_made_a_moment_ago_is_made_durable_by_whoever_relies_on_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writers meet in a new folder: the second one must not count on a name that only the first has seen."""
    folder = store.ensure().path(Digest.of(b"content")).parent
    folder.parent.mkdir(mode=0o700)
    folder.mkdir(mode=0o1700)  # as the first leaves it before it has synced the folder above
    synced: list[Path] = []
    sync = store_module.sync_folder

    def noted(path: Path) -> None:
        synced.append(path)
        sync(path)

    monkeypatch.setattr(store_module, "sync_folder", noted)
    store.put(b"content")
    assert synced[0] == folder.parent
    assert folder.stat().st_mode & 0o7777 == 0o700
