"""Runs of the real engine, planner, walker and state over a world in memory, each of which may die."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from fake_world import PLACE, FakePlace, Fuse, FusedState, World

from bayplan.engine import Applied, Definitions, Engine, Planned, Settings
from bayplan.execute import walk
from bayplan.plan.model import Role
from bayplan.stack import load
from bayplan.state import State
from bayplan.targets.model import Place


class CrashingEngine(Engine):
    """The engine as it is, on a fake place and with a fused journal; one operation at a time, so that order is certain."""

    def __init__(self, place: FakePlace, state: Path) -> None:
        super().__init__(Settings(Path("/fake"), state, parallelism=1, lock_timeout=0.0), self._fake)
        self._fake_place = place

    def _fake(self, identity: str) -> Place:
        assert identity == PLACE
        return self._fake_place

    def state(self, stack: str) -> State:
        return FusedState(self.settings.state, stack, self._fake_place.fuse)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Nothing is begun before what came before it has ended, so that the same run passes the same points."""
    with patch.object(walk, "_BEGUN", 1):
        yield


@dataclass
class Ground:
    """A world and a state, both of which outlive the processes that work on them."""

    folder: Path
    world: World = field(default_factory=World)

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    def engine(self, fuse: Fuse | None = None) -> CrashingEngine:
        return CrashingEngine(FakePlace(self.world, fuse or Fuse(), self.folder / "lock"), self.state_folder)

    def copied(self, folder: Path) -> Ground:
        """An equal world and state, to be ruined."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.state_folder.exists():
            (folder / "state").mkdir()
            for file in self.state_folder.iterdir():
                if file.suffix == ".db":
                    shutil.copyfile(file, folder / "state" / file.name)
        return Ground(folder, copy.deepcopy(self.world))

    def run(self, definitions: Definitions, verb: str = "apply", fuse: Fuse | None = None) -> Applied:
        """What ``apply --yes`` and ``destroy --yes`` do. Raises what the fuse raises."""
        engine = self.engine(fuse)
        engine.mend(definitions)
        _, applied = engine.plan_and_apply(
            lambda: self._made(engine, definitions, verb), verb=verb, sink=lambda _event: None
        )
        return applied

    @staticmethod
    def _made(engine: Engine, definitions: Definitions, verb: str) -> Planned:
        planned = engine.plan(definitions, destroy=verb == "destroy")
        assert not planned.plan.problems, planned.plan.problems
        return planned

    def plan(self, definitions: Definitions, verb: str = "apply") -> Planned:
        return self.engine().plan(definitions, destroy=verb == "destroy")

    def settled(self, definitions: Definitions, verb: str, shape: Mapping[str, object] | None = None) -> list[str]:
        """Everything that is not as it should be after a run that went well."""
        wrong = []
        if shape is not None and self.world.shape() != shape:
            wrong.append(f"the world differs:\n  {self.world.shape()}\n  {shape}")
        wrong += [f"left: {one.name}" for one in self.world.of(definitions.stack) if one.role is not Role.CURRENT]
        addresses = [one.address for one in self.world.of(definitions.stack)]
        wrong += [f"twice: {address}" for address in set(addresses) if addresses.count(address) > 1]
        again = self.plan(definitions, verb).plan
        wrong += [f"still to do: {one.address} {one.action.value} {one.cause}" for one in again.operations]
        state = State(self.state_folder, definitions.stack)
        rows = {row.address: (row.uid, row.id, dict(row.fields)) for row in state.recorded().values()}
        there = {one.address: (one.uid, one.id, dict(one.recorded)) for one in self.world.of(definitions.stack)}
        if rows != there:
            off = {address for address in rows.keys() | there.keys() if rows.get(address) != there.get(address)}
            wrong += [f"recorded {rows.get(one)} and there is {there.get(one)}: {one}" for one in sorted(off)]
        if state.interrupted():
            wrong.append("the journal still speaks of a dead run")
        state.close()
        return wrong


def definitions(folder: Path, resources: Mapping[str, Any], **more: Any) -> Definitions:
    """What a stack file with these resources says."""
    folder.mkdir(parents=True, exist_ok=True)
    for address in resources:
        if address.startswith("Image."):
            context = folder / address.partition(".")[2]
            context.mkdir(exist_ok=True)
            (context / "Dockerfile").write_text("FROM scratch\n")
    file = folder / "bayplan.yaml"
    file.write_text(yaml.safe_dump({"stack": "shop", **more, "resources": dict(resources)}, sort_keys=False))
    engine = Engine(Settings(Path("/fake"), folder))
    return engine.define(load([file], variables={}, variable_files=[], environ={"APP_TOKEN": "s3cret-token-value"}))
