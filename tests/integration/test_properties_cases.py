"""What each property of a container, a network or a volume does, seen from outside. Cases are data:
``tests/cases/properties``.

A case is one stack: ``resources`` (containers get an image and something to do; ``PORT1`` ... are free ports, ``FOLDER`` the
file's folder, ``CAPABILITIES`` all that this machine gives), ``files``
beside it, ``stack`` (further sections of the file), ``flags`` and ``environment`` of the commands. ``sees`` are observations
(:mod:`properties_site`) by the short name of a container. ``proves`` names the properties that the case is about; a test
counts that none is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from apply_site import Site, free_port, root_with_box, sleeper
from properties_site import filled, settled
from runtime_world import World

pytestmark = pytest.mark.root

CASES = sorted((Path(__file__).parents[1] / "cases/properties").glob("*.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


def bounding() -> str:
    """The capabilities that this process could give away: CapBnd of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("CapBnd:"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_is_declared_is_what_an_observer_sees(path: Path, world: World, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    site = Site(tmp_path, world, case.get("name", f"see-{path.stem}"), dict(case.get("environment") or {}))
    words = {f"PORT{number}": str(free_port()) for number in (1, 2, 3)} | {"FOLDER": str(tmp_path)}
    words["CAPABILITIES"] = bounding()
    for name, text in (case.get("files") or {}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    resources = {
        address: sleeper(**(more or {})) if address.startswith("Container.") else (more or {})
        for address, more in filled(case["resources"], words).items()
    }
    site.write(resources, **filled(case.get("stack") or {}, words))
    try:
        site.settle()
        names = {address: row for address, row in site.rows().items() if address.startswith("Container.")}
        for short, seen in filled(case["sees"], words).items():
            for word, expected in seen.items():
                settled(site, names[f"Container.{short}"], word, expected)
    finally:
        site.destroy()
