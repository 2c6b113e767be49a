"""Containers from images that lie sealed in this root's registry and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import BOX, Site, root_with_box
from runtime_world import World

from bayplan.oci.names import Names
from bayplan.registry.registry import Registry
from bayplan.registry.storage.keys import add_key
from bayplan.registry.storage.vaults import Placing, settle
from bayplan.targets.embedded.garbage import collect

pytestmark = pytest.mark.root


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with root_with_box(tmp_path / "root") as made:
        yield made


def test_a_container_runs_from_an_image_of_a_sealed_repository(world: World, tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "first")
    registry = Registry(world.root)
    settle(registry, Placing(key_file=tmp_path / "keys"))
    site = Site(tmp_path, world, "sealed")
    repository = {"Repository.app": {"repository_name": "sealed/app"}}
    site.write(repository)
    site.run("apply")
    box = Names(world.root).get(BOX)
    assert box is not None
    registry.push_local("sealed/app", "v1", box.digest)
    Names(world.root).remove(BOX)
    collect(world.root, registry.store)
    assert not registry.store.has(box.digest), "it lies sealed alone"
    site.write(
        {
            **repository,
            "Container.web": {
                "image": "${Repository.app.uri}:v1",
                "command": ["sleep", "1000"],
                "stop_signal": "SIGKILL",
            },
        }
    )
    site.run("apply")
    assert site.names() == ["sealed-web"]
    assert registry.store.has(box.digest)
    site.run("plan")
    registry.delete_manifest("sealed/app", box.digest)
    site.write({})
    site.run("apply")
    registry.close()
