"""Every instant at which a run can die, and every second one during the run that recovers.

The promise under attack (DESIGN 4.4): no crash leaves an orphan, a duplicate, a wrong name or a step for a human; one more
run gives exactly the world that an undisturbed run gives, and a state that agrees with it. The world is in memory, the
engine, planner, walker and journal are the real ones. ``BAYPLAN_SOAK`` takes all pairs instead of a sample.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crashing import Ground, definitions, one_by_one
from fake_world import ACTIONS, Crash, FakePlace, Fuse, failing, lost

from bayplan.engine import Definitions
from bayplan.execute import walk

pytestmark = pytest.mark.timeout(3600 if os.environ.get("BAYPLAN_SOAK") else 120)

SAMPLE = None if os.environ.get("BAYPLAN_SOAK") else 120  # pairs a scenario

BASE: dict[str, Any] = {
    "Network.net": {},
    "Volume.data": {},
    "Repository.base": {"repository_name": "team/base"},
    "Repository.app": {"repository_name": "team/app"},
    "Image.base": {"build": {"context": "./base"}, "tags": ["base:1"], "push": ["${Repository.base.uri}:1"]},
    "Image.app": {
        "build": {"context": "./app", "args": {"FROM": "base:1"}},
        "tags": ["app:1"],
        "push": ["${Repository.app.uri}:1", "${Repository.app.uri}:latest"],
    },
    "Image.tool": {"build": {"context": "./tool", "args": {"FROM": "base:1"}}, "tags": ["tool:1"]},
    "Container.db": {
        "image": "${Image.tool.ref}",
        "volumes": ["${Volume.data.name}:/data"],
        "networks": ["${Network.net.name}"],
    },
    "Container.api": {
        "image": "${Image.app.ref}",
        "networks": ["${Network.net.name}"],
        "ports": ["8081:80"],
        "env": {"MODE": "one"},
        "depends_on": {"Container.db": "healthy"},
    },
    "Container.web": {
        "image": "${Image.app.ref}",
        "ports": ["8080:80"],
        "env": {"API": "${Container.api.name}"},
        "depends_on": {"Container.api": "started"},
    },
    "Container.job": {"image": "${Image.tool.ref}", "name": "the-job", "memory": "64m"},
}


def edited(**changes: Any) -> dict[str, Any]:
    """The stack with some resources changed (``Container_api={...}``) or left out (None)."""
    found = {address: dict(properties) for address, properties in BASE.items()}
    for key, value in changes.items():
        address = key.replace("_", ".", 1)
        if value is None:
            del found[address]
        else:
            found[address] = {**found.get(address, {}), **value}
    return found


@dataclass(frozen=True)
class Scenario:
    """What stands before, and the run that is disturbed."""

    name: str
    after: dict[str, Any]
    verb: str = "apply"
    standing: bool = True
    sources: tuple[tuple[str, str], ...] = ()


SCENARIOS = [
    Scenario("create", BASE, standing=False),
    Scenario(
        "change",
        edited(Container_api={"env": {"MODE": "two"}}, Container_job={"memory": "96m"}),
        sources=(("Image.base", "v2"),),
    ),
    Scenario(
        "remove",
        edited(Container_web=None, Container_job=None, Repository_base=None, Image_base={"push": []}),
    ),
    Scenario(
        "rename",
        edited(
            Network_net={"name": "other-net"},
            Volume_data={"name": "other-data"},
            Repository_app={"repository_name": "team/other"},
            Container_job={"name": "other-job"},
        ),
    ),
    Scenario(
        "address",
        {
            address.replace("Container.job", "Container.work").replace("Container.web", "Container.front"): dict(given)
            for address, given in BASE.items()
        },
    ),
    Scenario("ground", edited(Network_net={"internal": True}, Volume_data={"labels": {"tier": "hot"}})),
    Scenario(
        "state",
        edited(
            Container_db={"desired_state": "paused"},
            Container_job={"desired_state": "stopped"},
            Container_api={"depends_on": {}},
            Image_app={"tags": ["app:2", "app:latest"]},
        ),
    ),
    Scenario("destroy", BASE, verb="destroy"),
]


class Stage:
    """A scenario with what stands before it, and what an undisturbed run makes of that."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.folder = folder
        self.definitions: Definitions = definitions(folder / "after", scenario.after)
        self.before = Ground(folder / "before")
        if scenario.standing:
            first = definitions(folder / "first", BASE)
            report = self.before.run(first).report
            assert report.ok, [one.error for one in report.finished if one.error]
            assert self.before.settled(first, "apply") == []
        self.before.world.sources.update(scenario.sources)
        done = self.fresh()
        self.fuse = Fuse()
        report = done.run(self.definitions, scenario.verb, self.fuse).report
        assert report.ok, [(one.operation.address, one.error) for one in report.finished if one.error]
        assert report.finished
        assert done.settled(self.definitions, scenario.verb) == []
        self.shape = done.world.shape()

    def fresh(self) -> Ground:
        return self.before.copied(self.folder / "now")

    def recover(self, ground: Ground, trail: str) -> None:
        """One more run, undisturbed: everything is as if nothing had been."""
        report = ground.run(self.definitions, self.scenario.verb).report
        failed = [
            f"{one.operation.address} {one.operation.action}: {one.error}" for one in report.finished if one.error
        ]
        assert report.ok, f"{trail}\n{failed}"
        wrong = ground.settled(self.definitions, self.scenario.verb, self.shape)
        assert not wrong, "\n".join([trail, *wrong])

    def crash(self, ground: Ground, at: int) -> Fuse | None:
        """A run that dies at point ``at``; None when it came to its end before."""
        fuse = Fuse(at)
        try:
            ground.run(self.definitions, self.scenario.verb, fuse)
        except Crash:
            return fuse
        return None


@pytest.fixture(params=SCENARIOS, ids=lambda one: one.name)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    shm = Path("/dev/shm")
    folder = shm / f"bayplan-test-{os.getpid()}-{request.param.name}" if shm.is_dir() else tmp_path
    folder.mkdir(exist_ok=True)
    try:
        with one_by_one():
            yield Stage(request.param, folder)
    finally:
        if folder != tmp_path:
            shutil.rmtree(folder)


def test_the_fake_world_stands_for_every_action() -> None:
    for action in ACTIONS:
        assert callable(getattr(FakePlace, f"_{action.value}"))


def test_after_a_crash_anywhere_one_run_gives_the_undisturbed_world(stage: Stage) -> None:
    points = stage.fuse.count
    assert points > 20
    for at in range(1, points + 1):
        ground = stage.fresh()
        fuse = stage.crash(ground, at)
        assert fuse is not None
        stage.recover(ground, f"died {fuse.trail[-1]} (point {at} of {points})")


def test_after_a_crash_with_operations_begun_ahead_one_run_gives_the_undisturbed_world(stage: Stage) -> None:
    """As runs are: begins are journalled in front of the workers, ends wait for company. What dies where is then chance."""
    died = 0
    with patch.object(walk, "_BEGUN", 8):
        for at in range(1, stage.fuse.count + 1):
            ground = stage.fresh()
            fuse = stage.crash(ground, at)
            died += fuse is not None
            stage.recover(ground, f"died {fuse.trail[-1]} ({at})" if fuse else "ended before")
    assert died > stage.fuse.count // 2


def test_after_a_second_crash_during_the_recovery_one_run_gives_the_undisturbed_world(stage: Stage) -> None:
    points = stage.fuse.count
    pairs = [(first, second) for first in range(1, points + 1) for second in range(1, points + 12)]
    if SAMPLE is not None:
        pairs = random.Random(7).sample(pairs, min(SAMPLE, len(pairs)))
    tried = 0
    over: dict[int, int] = {}  # first crash -> a second point that was never reached
    for first, second in pairs:
        if second >= over.get(first, 1 << 30):
            continue
        ground = stage.fresh()
        one = stage.crash(ground, first)
        assert one is not None
        two = stage.crash(ground, second)
        if two is None:
            over[first] = min(second, over.get(first, 1 << 30))
            trail = f"died {one.trail[-1]} ({first}), recovered"
            assert not ground.settled(stage.definitions, stage.scenario.verb, stage.shape), trail
            continue
        tried += 1
        stage.recover(ground, f"died {one.trail[-1]} ({first}), then {two.trail[-1]} ({second})")
    assert tried > (len(pairs) // 8)


@pytest.mark.parametrize("harm", [failing, lost], ids=["refused", "answer lost"])
def test_after_an_effect_that_failed_or_lost_its_answer_one_run_mends(stage: Stage, harm: Any) -> None:
    prefix = "before " if harm is failing else "after "
    effects = sum(name.startswith(prefix) for name in stage.fuse.trail)
    assert effects
    for at in range(1, effects + 1):
        ground = stage.fresh()
        fuse = Fuse(at, harm, prefix)
        report = ground.run(stage.definitions, stage.scenario.verb, fuse).report
        assert not report.ok
        assert sum(one.error is not None for one in report.finished) == 1, "one failed, its dependants were left out"
        stage.recover(ground, f"{harm.__name__} {fuse.trail[at - 1]}")
