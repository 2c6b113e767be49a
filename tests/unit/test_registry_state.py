"""The registry's rules, on the state machine alone."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import TagMutability
from bayplan.registry.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(Root.at(tmp_path).ensure())


def image(registry: Registry, *layers: bytes, subject: Digest | None = None, kind: str = "") -> tuple[Digest, bytes]:
    """An image whose parts are in the store; its digest there and its manifest."""
    store = registry.store
    config = b'{"architecture":"amd64","os":"linux"}'
    manifest: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": MediaType.MANIFEST,
        "config": {"mediaType": MediaType.CONFIG, "digest": str(store.put(config)), "size": len(config)},
        "layers": [
            {"mediaType": MediaType.LAYER, "digest": str(store.put(data)), "size": len(data)} for data in layers
        ],
    }
    if subject:
        manifest["subject"] = {"mediaType": MediaType.MANIFEST, "digest": str(subject), "size": 1}
        manifest["annotations"] = {"note": "hello"}
    if kind:
        manifest["artifactType"] = kind
    content = json.dumps(manifest).encode()
    return store.put(content), content


def fault(error: pytest.ExceptionInfo[RegistryError]) -> Fault:
    return error.value.fault


@pytest.mark.parametrize("name", ["a", "team/app", "a.b_c__d-e--f/g", "0/1", "a" * 256])
def test_names_of_repositories_that_are_taken(registry: Registry, name: str) -> None:
    assert registry.create_repository(name).name == name


@pytest.mark.parametrize(
    "name", ["", "A", "a/", "/a", "a//b", "a..b", "a___b", ".a", "-a", "a b", "a\n", "ä", "a" * 257, "a/../b", "a:b"]
)
def test_names_of_repositories_that_are_refused(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.create_repository(name)
    assert fault(caught) is Fault.NAME_INVALID


def test_a_repository_keeps_what_it_was_made_with_and_takes_updates_whole(registry: Registry) -> None:
    made = registry.create_repository(
        "team/app", mutability=TagMutability.IMMUTABLE, tags={"owner": "ann"}, labels={"bayplan.dev/stack": "shop"}
    )
    assert registry.describe("team/app") == made
    changed = registry.update_repository("team/app", mutability=TagMutability.MUTABLE, tags={"cost": "7"})
    assert changed.tags == {"cost": "7"}
    assert changed.labels == {"bayplan.dev/stack": "shop"}
    assert changed.mutability is TagMutability.MUTABLE
    assert changed.uid == made.uid
    with pytest.raises(RegistryError) as caught:
        registry.create_repository("team/app")
    assert fault(caught) is Fault.NAME_EXISTS


def test_repositories_are_listed_by_all_of_the_given_labels(registry: Registry) -> None:
    registry.create_repository("b", labels={"stack": "s", "x": "1"})
    registry.create_repository("a", labels={"stack": "s", "x": "2"})
    registry.create_repository("c", labels={"stack": "t"})
    assert [one.name for one in registry.list()] == ["a", "b", "c"]
    assert [one.name for one in registry.list({"stack": "s"})] == ["a", "b"]
    assert [one.name for one in registry.list({"stack": "s", "x": "1"})] == ["b"]
    assert registry.list({"stack": "u"}) == ()


def test_a_local_push_is_seen_at_once_by_another_registry_of_the_root(registry: Registry) -> None:
    registry.create_repository("app")
    digest, content = image(registry, b"layer")
    before = sorted(blob for blob, _ in registry.store.blobs())
    registry.push_local("app", "1", digest)
    other = Registry(registry.root)
    assert other.manifest("app", "1")[1] == content
    assert other.resolve("app", "1").digest == digest
    assert sorted(blob for blob, _ in registry.store.blobs()) == before  # nothing was copied


def test_a_local_push_of_an_index_takes_the_images_that_are_there(registry: Registry) -> None:
    registry.create_repository("app")
    digest, content = image(registry, b"layer")
    entries = [
        {"mediaType": MediaType.MANIFEST, "digest": str(digest), "size": len(content)},
        {"mediaType": MediaType.MANIFEST, "digest": str(Digest.of(b"elsewhere")), "size": 9},
    ]
    index = registry.store.put(
        json.dumps({"schemaVersion": 2, "mediaType": MediaType.INDEX, "manifests": entries}).encode()
    )
    registry.push_local("app", "1", index)
    assert registry.resolve("app", "1").digest == index
    assert registry.resolve("app", digest).media_type == MediaType.MANIFEST


def test_an_immutable_tag_does_not_move_and_the_same_push_again_is_nothing(registry: Registry) -> None:
    registry.create_repository("app", mutability=TagMutability.IMMUTABLE)
    first, second = image(registry, b"1")[0], image(registry, b"2")[0]
    registry.push_local("app", "1", first)
    registry.push_local("app", "1", first)
    with pytest.raises(RegistryError) as caught:
        registry.push_local("app", "1", second)
    assert fault(caught) is Fault.TAG_IMMUTABLE
    assert registry.resolve("app", "1").digest == first
    with pytest.raises(RegistryError):
        registry.resolve("app", second)  # the whole push was refused, not its tag alone


def test_a_mutable_tag_moves_and_the_old_manifest_stays(registry: Registry) -> None:
    registry.create_repository("app")
    first, second = image(registry, b"1")[0], image(registry, b"2")[0]
    registry.push_local("app", "1", first)
    registry.push_local("app", "1", second)
    assert registry.resolve("app", "1").digest == second
    assert {one.digest for one in registry.manifests("app")} == {first, second}


def test_a_manifest_whose_blobs_are_not_in_the_repository_is_refused(registry: Registry) -> None:
    registry.create_repository("app")
    _, content = image(registry, b"layer")
    with pytest.raises(RegistryError) as caught:
        registry.put_manifest("app", "1", content)
    assert fault(caught) is Fault.MANIFEST_BLOB_UNKNOWN
    registry.put_manifest("app", "1", content, link=True)
    registry.put_manifest("app", "2", content)  # now they are
    assert [tag.name for tag in registry.tags("app")] == ["1", "2"]


def test_a_manifest_that_lies_about_a_size_is_refused(registry: Registry) -> None:
    registry.create_repository("app")
    _, content = image(registry, b"layer")
    lying = content.replace(b'"size": 5', b'"size": 6')
    assert lying != content
    with pytest.raises(RegistryError) as caught:
        registry.put_manifest("app", "1", lying, link=True)
    assert fault(caught) is Fault.MANIFEST_INVALID


def test_a_manifest_under_a_digest_that_is_not_its_own_is_refused(registry: Registry) -> None:
    registry.create_repository("app")
    _, content = image(registry, b"layer")
    with pytest.raises(RegistryError) as caught:
        registry.put_manifest("app", str(Digest.of(b"other")), content, link=True)
    assert fault(caught) is Fault.DIGEST_INVALID


def test_deleting_a_manifest_takes_its_tags_and_deleting_a_tag_leaves_the_manifest(registry: Registry) -> None:
    registry.create_repository("app")
    digest, _ = image(registry, b"layer")
    for tag in ("1", "2"):
        registry.push_local("app", tag, digest)
    registry.delete_tag("app", "1")
    assert registry.resolve("app", digest).digest == digest
    registry.delete_manifest("app", digest)
    assert registry.tags("app") == ()
    with pytest.raises(RegistryError) as caught:
        registry.delete_tag("app", "2")
    assert fault(caught) is Fault.TAG_UNKNOWN


def test_a_repository_with_images_is_deleted_by_force_alone(registry: Registry) -> None:
    registry.create_repository("app")
    registry.push_local("app", "1", image(registry, b"layer")[0])
    with pytest.raises(RegistryError) as caught:
        registry.delete_repository("app")
    assert fault(caught) is Fault.NOT_EMPTY
    registry.delete_repository("app", force=True)
    assert registry.list() == ()
    assert list(registry.references()) == []


def test_a_blob_is_linked_from_a_repository_that_has_it(registry: Registry) -> None:
    for name in ("one", "two"):
        registry.create_repository(name)
    digest, _ = image(registry, b"layer")
    blob = Digest.of(b"layer")
    registry.push_local("one", "1", digest)
    with pytest.raises(RegistryError):
        registry.blob("two", blob)
    with pytest.raises(RegistryError):
        registry.link_blob("two", blob, "three")
    assert registry.link_blob("two", blob, "one") == 5
    assert registry.blob("two", blob) == 5


def test_a_blob_that_a_manifest_needs_is_not_deleted(registry: Registry) -> None:
    registry.create_repository("app")
    digest, _ = image(registry, b"layer")
    registry.push_local("app", "1", digest)
    with pytest.raises(RegistryError) as caught:
        registry.delete_blob("app", Digest.of(b"layer"))
    assert fault(caught) is Fault.DENIED
    registry.delete_manifest("app", digest)
    registry.delete_blob("app", Digest.of(b"layer"))


def test_referrers_are_found_by_subject_and_type_even_before_the_subject(registry: Registry) -> None:
    registry.create_repository("app")
    subject, content = image(registry, b"layer")
    signature, _ = image(registry, b"sig", subject=subject, kind="application/signature")
    registry.push_local("app", "sig", signature)
    assert [one.digest for one in registry.referrers("app", subject)] == [signature]
    registry.put_manifest("app", "1", content, link=True)
    (found,) = registry.referrers("app", subject, "application/signature")
    assert found.annotations == {"note": "hello"}
    assert registry.referrers("app", subject, "application/other") == ()


def test_references_cover_manifests_always_and_lone_blobs_for_the_grace(tmp_path: Path) -> None:
    registry = Registry(Root.at(tmp_path).ensure(), grace=3600)
    registry.create_repository("app")
    digest, _ = image(registry, b"layer")
    registry.push_local("app", "1", digest)
    lone = registry.store.put(b"lone")
    registry.keep_blob("app", lone, 4)
    assert {digest, lone} <= set(registry.references())
    assert registry.store.collect([registry.references]).blobs == 0
    hasty = Registry(registry.root, grace=0)
    assert lone not in set(hasty.references())
    assert hasty.expire() == 1
    assert registry.store.collect([registry.references]).blobs == 1
    assert registry.store.has(Digest.of(b"layer"))


def test_writers_that_meet_share_a_transaction_and_fail_alone(registry: Registry) -> None:
    registry.create_repository("taken")
    errors: list[str] = []

    def work(number: int) -> None:
        try:
            registry.create_repository("taken" if number % 2 else f"free-{number}")
        except BayplanError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["repository-exists"] * 10
    assert len(registry.list()) == 11


def test_pages_of_tags_go_on_where_they_ended(registry: Registry) -> None:
    registry.create_repository("app")
    digest, _ = image(registry, b"layer")
    for tag in ("b", "a", "C", "a1"):
        registry.push_local("app", tag, digest)
    assert [tag.name for tag in registry.tags("app")] == ["C", "a", "a1", "b"]
    assert [tag.name for tag in registry.tags("app", after="a", limit=1)] == ["a1"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion":1}',
        b'{"schemaVersion":2,"mediaType":"text/plain"}',
        b'{"schemaVersion":2,"layers":[]}',
        b'{"schemaVersion":2,"layers":7,"config":{"digest":"sha256:00","size":1}}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:zz","size":1}]}',
        b'{"schemaVersion":2,"manifests":[{"digest":"sha256:' + b"0" * 64 + b'","size":-1}]}',
        b'{"schemaVersion":2,"manifests":[],"annotations":{"a":1}}',
        b"[" * 100_000,
        bytes(range(256))[:100],
    ],
)
def test_a_manifest_that_is_none_is_refused(registry: Registry, content: bytes) -> None:
    registry.create_repository("app")
    with pytest.raises(RegistryError) as caught:
        registry.put_manifest("app", "1", content)
    assert fault(caught) is Fault.MANIFEST_INVALID


def test_a_registry_of_a_newer_bayplan_is_not_touched(registry: Registry) -> None:
    import sqlite3

    registry.list()
    registry.close()
    with sqlite3.connect(registry.root.path / "registry/registry.db") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BayplanError) as caught:
        Registry(registry.root).list()
    assert caught.value.code == "registry-newer"
