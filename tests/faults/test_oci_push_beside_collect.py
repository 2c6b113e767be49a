"""Attacks the promise that a collection takes nothing that is being referred to, through the registry's own push."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bayplan.oci import collect as collecting
from bayplan.oci.digest import Digest
from bayplan.oci.image import ImageConfig, assemble
from bayplan.oci.layer import LayerWriter
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.oci.tar import Entry
from bayplan.registry.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(Root.at(tmp_path / "root").ensure())
    made.create_repository("app")
    return made


def image(store: Store, text: bytes) -> Digest:
    with LayerWriter(store) as writer:
        writer.add(Entry("file", size=len(text)), text)
        layer = writer.finish()
    return assemble(store, ImageConfig(labels={"text": text.decode()}), [layer])


def whole(registry: Registry) -> dict[str, Digest]:
    """Every tag with its digest, after everything below it has been read and verified."""
    found = {}
    for tag in registry.tags("app"):
        row, content = registry.manifest("app", tag.name)
        manifest = json.loads(content)
        for entry in (manifest["config"], *manifest["layers"]):
            with registry.store.open(Digest.parse(entry["digest"])) as file:
                assert "sha256:" + hashlib.sha256(file.read()).hexdigest() == entry["digest"]
        found[tag.name] = row.digest
    return found


def test_a_push_that_begins_and_ends_after_the_last_look_survives(registry: Registry) -> None:
    digest = image(registry.store, b"old and unreferred to until now")

    def looked() -> tuple[Digest, ...]:
        found = tuple(registry.references())
        registry.push_local("app", "1", digest)  # its lease is over before anything is removed
        return found

    registry.store.collect([looked])
    assert whole(registry) == {"1": digest}


@pytest.mark.parametrize("removed", range(3))
def test_a_push_between_two_removals_is_whole_or_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    """The collector has decided about some of an image's blobs when a push finds the others."""
    digest = image(registry.store, b"old and unreferred to until now")
    other = image(registry.store, b"another")
    discard, seen = collecting._discard, 0
    told: list[str] = []

    def pushing(store: Store, path: Path, boundary: int) -> bool | None:
        nonlocal seen
        if seen == removed:
            for tag, one in (("1", digest), ("2", other)):
                try:
                    registry.push_local("app", tag, one)
                except Exception as error:  # noqa: BLE001  (any refusal is right, a tag that dangles is not)
                    told.append(str(error))
        seen += 1
        return discard(store, path, boundary)

    monkeypatch.setattr(collecting, "_discard", pushing)
    registry.store.collect([registry.references])
    assert len(whole(registry)) + len(told) == 2


def test_pushes_and_collections_at_once_leave_whole_tags_and_nothing_else(registry: Registry) -> None:
    stop = time.monotonic() + 3
    failed: list[BaseException] = []

    def collector() -> None:
        own = Registry(registry.store.root)
        try:
            while time.monotonic() < stop:
                own.store.collect([own.references])
        except BaseException as error:  # noqa: BLE001  (told by the test)
            failed.append(error)

    threads = [threading.Thread(target=collector) for _ in range(2)]
    for thread in threads:
        thread.start()
    last: dict[str, Digest] = {}
    for number in turns(stop):
        with registry.store.lease():
            last[f"{number % 3}"] = image(registry.store, f"image {number % 7}".encode())
            registry.push_local("app", f"{number % 3}", last[f"{number % 3}"])
        assert whole(registry) == last
    for thread in threads:
        thread.join(timeout=30)
    assert failed == []
    registry.store.collect([registry.references])
    assert registry.store.usage([registry.references]).free_blobs == 0
    assert whole(registry) == last


def turns(stop: float) -> Iterator[int]:
    number = 0
    while time.monotonic() < stop:
        yield number
        number += 1
