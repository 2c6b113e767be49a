"""Each property that a definition can change, changed: the plan names that and nothing else, the world has it afterwards,
and the way back gives what was there first. Cases are data: ``tests/cases/apply``.

A case has two definitions, ``first`` and ``then``, of resources among which ``Container.web`` is looked at. ``plan`` and
``back`` are the operations there and back (``address action cause``); ``any_plan`` leaves them open. ``keeps`` says that the
container stays the same one. ``shows`` and ``then_shows`` are what is seen afterwards: shell commands in the container
with their output, or one of the words that :func:`seen` knows; ``networks`` and ``volumes`` (``then_networks``, ...) the names
of all that stand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apply_site import Site, free_port, root_with_box, sleeper
from runtime_world import World, eventually

from bayplan.runtime import cgroup

pytestmark = pytest.mark.root

CASES = sorted((Path(__file__).parents[1] / "cases/apply").glob("*.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


def filled(resources: dict[str, Any], ports: dict[str, str]) -> dict[str, Any]:
    """The resources of a case: containers get an image and something to do, PORT1 and PORT2 a number."""
    text = json.dumps(
        {
            address: sleeper(**(more or {})) if address.startswith("Container.") else more
            for address, more in resources.items()
        }
    )
    for word, port in ports.items():
        text = text.replace(word, port)
    found: dict[str, Any] = json.loads(text)
    return found


def seen(site: Site, name: str, word: str) -> Any:
    """One thing of the world in the words of cases."""
    one = site.container(name)
    if word == "state":
        return str(one.state.value)
    if word in ("memory_limit", "pids_limit"):
        return getattr(site.world.runtime.stats(name), word)
    if word == "cpu_quota":
        group = f"/bayplan-{site.world.root.hash}/{one.id}"
        old = cgroup.folder(group, "cpu") / "cpu.cfs_quota_us"
        text = old.read_text() if old.exists() else (cgroup.folder(group, "cpu") / "cpu.max").read_text()
        first = text.split()[0]
        return None if first in ("-1", "max") else int(first)
    if word == "restart":
        return f"{one.spec.restart.value}:{one.spec.restart_retries}"
    if word.startswith("label "):
        return one.labels.get(word.removeprefix("label "))
    if word == "health":
        return str(one.health.status)
    if word == "ports":
        return [f"{ip}:{host}:{inner}/{protocol}" for inner, host, ip, protocol in one.status.ports]
    return site.inside(name, "sh", "-c", word).replace("\0", "").strip()


def compare(site: Site, name: str, expected: dict[str, Any], ports: dict[str, str]) -> None:
    for word, value in expected.items():
        text = json.dumps(value)
        for placeholder, port in ports.items():
            text = text.replace(placeholder, port)
        found = seen(site, name, word)
        assert found == json.loads(text), f"{word}: {found!r}"


def grounds(world: World, case: dict[str, Any], prefix: str) -> None:
    """The networks and volumes that a case names are there, and no other of a stack."""
    for kind, found in (("networks", world.runtime.networks.list()), ("volumes", world.runtime.volumes.list())):
        if f"{prefix}{kind}" in case:
            assert [one.name for one in found if one.labels] == case[f"{prefix}{kind}"]


def current(site: Site) -> str:
    return site.rows()["Container.web"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_one_change_is_one_operation_and_the_way_back_is_another(path: Path, world: World, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    site = Site(tmp_path, world, f"case-{path.stem}")
    ports = {"PORT1": str(free_port()), "PORT2": str(free_port())}
    for name, text in (case.get("files") or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    try:
        site.write(filled(case["first"], ports))
        site.settle()
        compare(site, current(site), case["shows"], ports)
        grounds(world, case, "")
        for definition, plan, shows in (("then", "plan", "then_shows"), ("first", "back", "shows")):
            site.write(filled(case[definition], ports))
            before = current(site)
            operations = site.operations()
            if not case.get("any_plan"):
                assert operations == case[plan]
            assert operations
            site.settle()
            compare(site, current(site), case[shows], ports)
            grounds(world, case, shows.removesuffix("shows"))
            if case.get("keeps"):
                assert current(site) == before
        count = sum(address.startswith("Container.") for address in case["first"])
        assert len(site.names()) == count, "no object of a replacement is left"
    finally:
        site.destroy()
    assert site.names() == []
    eventually(lambda: not world.left(), f"something was left behind: {world.left()}")
    assert [one.name for one in world.runtime.networks.list() if one.labels] == []
    assert [one.name for one in world.runtime.volumes.list()] == []
