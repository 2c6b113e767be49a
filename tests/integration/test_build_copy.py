"""COPY, ADD and WORKDIR by cases: the image's tree, entry by entry, from layers that no mount was needed for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from build_world import World, world

from bayplan.errors import BayplanError

CASES = yaml.safe_load((Path(__file__).parents[1] / "cases" / "build" / "copy" / "copy.yaml").read_text())
pytestmark = pytest.mark.root
__all__ = ["world"]  # the fixture


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_files_land_where_the_reference_puts_them(
    case: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.context)
    world.write(case["context"])
    for name, mode in case.get("modes", {}).items():
        (world.context / name).chmod(int(mode, 8))
    for name, files in case.get("archive", {}).items():
        world.archive(name, files)
    world.write({"Dockerfile": case["dockerfile"], ".dockerignore": case.get("ignore", "") + "\n.dockerignore\n"})
    if "error" in case:
        with pytest.raises(BayplanError) as caught:
            world.build(target=case.get("target", ""))
        error = caught.value
        line = error.where.line if error.where else -1
        assert f"{error.code} {line} {error.message}" + (f" ({error.hint})" if error.hint else "") == case["error"]
        return
    result = world.build()
    assert world.listing(result.digest) == case["tree"]
    assert world.runner.ran == []
    again = world.build()
    assert again.digest == result.digest
    assert again.cached_steps == sum(step.layer for step in again.steps)
