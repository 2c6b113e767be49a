"""Random lives of a stack on a world in memory: edits, hands from outside, strangers, crashes, refusals, lost answers.

Whatever came before, once it is quiet: at most two applies converge, a further plan is empty, the state agrees with the
world, strangers are as they were, nothing that is declared runs twice, and no secret has reached a plan or the state.
"""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sys.path.insert(0, str(Path(__file__).parent))

from crashing import Ground, definitions, one_by_one
from fake_world import PLACE, Crash, Fuse, Thing, failing, lost

from bayplan.engine import Definitions
from bayplan.plan import codec
from bayplan.plan.model import Role

SOAK = bool(os.environ.get("BAYPLAN_SOAK"))
SECRET = "s3cret-token-value"  # what APP_TOKEN holds for every stack of `crashing.definitions`
SHORT = ["a", "b", "c"]
NETWORKS, VOLUMES, IMAGES = ["n1", "n2"], ["v1"], ["base", "app"]


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


containers = st.fixed_dictionaries(
    {
        "image": st.sampled_from(IMAGES),
        "env": maybe(st.sampled_from(["1", "2", "secret"])),
        "memory": maybe(st.sampled_from(["32m", "64m"])),
        "network": maybe(st.sampled_from(NETWORKS)),
        "volume": maybe(st.sampled_from(VOLUMES)),
        "port": st.booleans(),
        "name": maybe(st.sampled_from(["x", "y"])),
        "state": maybe(st.sampled_from(["running", "stopped", "paused"])),
        "after": st.booleans(),
    }
)
stacks = st.fixed_dictionaries(
    {
        "containers": st.dictionaries(st.sampled_from(SHORT), containers, max_size=3),
        "internal": st.booleans(),
        "other_name": st.booleans(),
        "labels": st.booleans(),
        "push": st.booleans(),
        "tags": st.sampled_from([["app:1"], ["app:2"], ["app:1", "app:2"]]),
        "repository": st.sampled_from(["team/app", "team/other"]),
    }
)


def resources(choice: dict[str, Any]) -> dict[str, Any]:
    """A stack file's resources; whatever a container needs is declared with it, so that every choice is a right one."""
    found: dict[str, Any] = {}
    chosen = choice["containers"]
    network = {"internal": True} if choice["internal"] else {}
    for name in {one["network"] for one in chosen.values() if one["network"]}:
        found[f"Network.{name}"] = {**network, **({"name": f"other-{name}"} if choice["other_name"] else {})}
    for name in {one["volume"] for one in chosen.values() if one["volume"]}:
        found[f"Volume.{name}"] = {"labels": {"tier": "hot"}} if choice["labels"] else {}
    found["Image.base"] = {"build": {"context": "./base"}, "tags": ["base:1"]}
    found["Image.app"] = {"build": {"context": "./app", "args": {"FROM": "base:1"}}, "tags": choice["tags"]}
    if choice["push"]:
        found["Repository.app"] = {"repository_name": choice["repository"]}
        found["Image.app"]["push"] = ["${Repository.app.uri}:1"]
    before = ""
    names: set[str] = set()
    for number, short in enumerate(sorted(chosen)):
        one = chosen[short]
        container: dict[str, Any] = {"image": f"${{Image.{one['image']}.ref}}"}
        if one["env"]:
            container["env"] = {"A": "${secret.token}" if one["env"] == "secret" else one["env"]}
        if one["memory"]:
            container["memory"] = one["memory"]
        if one["network"]:
            container["networks"] = [f"${{Network.{one['network']}.name}}"]
        if one["volume"]:
            container["volumes"] = [f"${{Volume.{one['volume']}.name}}:/data"]
        if one["port"]:
            container["ports"] = [f"{8000 + number}:80"]
        if one["name"] and one["name"] not in names:
            names.add(one["name"])
            container["name"] = one["name"]
        if one["state"]:
            container["desired_state"] = one["state"]
        if one["after"] and before:
            container["depends_on"] = {before: "started"}
        found[f"Container.{short}"] = container
        before = f"Container.{short}" if one["state"] in (None, "running") else before
    return found


class Life(RuleBasedStateMachine):
    """One stack's life. ``declared`` is what its file says now."""

    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="bayplan-life-", dir=shm if shm.is_dir() else None))
        self.ground = Ground(self.folder / "ground")
        self.ground.folder.mkdir()
        self.declared: Definitions
        self.close = ExitStack()
        self.close.enter_context(one_by_one())
        self.strangers: dict[str, Thing] = {}

    def teardown(self) -> None:
        try:
            self.quiet()
        finally:
            self.close.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- the user --------------------------------------------------------------------------------------------------

    @initialize(choice=stacks)
    def begin(self, choice: dict[str, Any]) -> None:
        self.declare(choice)

    @rule(choice=stacks)
    def edit(self, choice: dict[str, Any]) -> None:
        self.declare(choice)

    def declare(self, choice: dict[str, Any]) -> None:
        self.declared = definitions(self.folder / "stack", resources(choice), secrets={"token": {"env": "APP_TOKEN"}})

    @rule(image=st.sampled_from(IMAGES), text=st.sampled_from(["v1", "v2", "v3"]))
    def edit_source(self, image: str, text: str) -> None:
        self.ground.world.sources[f"Image.{image}"] = text

    @rule()
    def apply(self) -> None:
        self.attempt("apply", Fuse())

    @rule(at=st.integers(1, 60))
    def apply_and_die(self, at: int) -> None:
        self.attempt("apply", Fuse(at))

    @rule(at=st.integers(1, 12), harm=st.sampled_from([failing, lost]))
    def apply_with_an_effect_that_goes_wrong(self, at: int, harm: Any) -> None:
        self.attempt("apply", Fuse(at, harm, "before " if harm is failing else "after "))

    @rule(at=st.integers(1, 60))
    def destroy_and_die(self, at: int) -> None:
        self.attempt("destroy", Fuse(at))

    @rule()
    def lose_the_state(self) -> None:
        shutil.rmtree(self.ground.state_folder, ignore_errors=True)

    def attempt(self, verb: str, fuse: Fuse) -> None:
        try:
            self.ground.run(self.declared, verb, fuse)
        except Crash:
            pass
        except AssertionError as refused:  # the plan names a problem: a stranger has a name that is wanted
            if "is not ours" not in str(refused):
                raise

    # -- hands from outside ----------------------------------------------------------------------------------------

    def ours(self, kind: str) -> list[Thing]:
        return sorted((one for one in self.ground.world.of("shop") if one.kind == kind), key=lambda one: one.id)

    @precondition(lambda self: self.ours("Container"))
    @rule(data=st.data(), state=st.sampled_from(["exited", "paused", "running"]))
    def turn_by_hand(self, data: st.DataObject, state: str) -> None:
        data.draw(st.sampled_from(self.ours("Container"))).state = state

    @precondition(lambda self: self.ours("Container"))
    @rule(data=st.data())
    def remove_by_hand(self, data: st.DataObject) -> None:
        del self.ground.world.things[data.draw(st.sampled_from(self.ours("Container"))).id]

    @precondition(lambda self: self.ours("Container"))
    @rule(data=st.data(), memory=st.sampled_from([None, 1 << 26, 1 << 27]))
    def change_memory_by_hand(self, data: st.DataObject, memory: int | None) -> None:
        one = data.draw(st.sampled_from(self.ours("Container")))
        one.inputs = {**{key: value for key, value in one.inputs.items() if key != "memory"}}
        if memory is not None:
            one.inputs = {**one.inputs, "memory": memory}

    @rule(tag=st.sampled_from(["app:1", "app:2", "base:1"]))
    def remove_a_tag_by_hand(self, tag: str) -> None:
        self.ground.world.tags.pop(tag, None)

    @rule()
    def move_what_was_pushed(self) -> None:
        self.ground.world.pushed = dict.fromkeys(self.ground.world.pushed, "sha256:" + "0" * 64)

    @precondition(lambda self: self.ours("Repository"))
    @rule()
    def remove_the_repository_by_hand(self) -> None:
        for one in self.ours("Repository"):
            del self.ground.world.things[one.id]
        self.ground.world.pushed.clear()

    @rule(
        kind=st.sampled_from(["Container", "Volume", "Network"]), name=st.sampled_from(["stranger", "other-stranger"])
    )
    def a_stranger_comes(self, kind: str, name: str) -> None:
        key = f"{kind}-{name}"
        if key not in self.strangers:
            state = "running" if kind == "Container" else ""
            thing = Thing(kind, name, key, "theirs", f"{kind}.{name}", key, {}, {}, state=state)
            self.ground.world.things[key] = thing
            self.strangers[key] = copy.deepcopy(thing)

    # -- what holds always -----------------------------------------------------------------------------------------

    @invariant()
    def strangers_are_as_they_were(self) -> None:
        for key, thing in self.strangers.items():
            assert self.ground.world.things.get(key) == thing

    @invariant()
    def no_secret_was_written_down(self) -> None:
        folder = self.ground.state_folder
        for file in folder.iterdir() if folder.exists() else ():
            assert SECRET.encode() not in file.read_bytes(), file

    def quiet(self) -> None:
        """Once nothing disturbs any more."""
        if not hasattr(self, "declared"):
            return
        plan = self.ground.plan(self.declared).plan
        assert SECRET not in codec.dump(plan)
        for _ in range(2):
            report = self.ground.run(self.declared).report
            if report.ok:
                break
        failed = [
            f"{one.operation.address} {one.operation.action}: {one.error}" for one in report.finished if one.error
        ]
        assert report.ok, failed
        assert self.ground.settled(self.declared, "apply") == []
        running = {one.address: one for one in self.ground.world.of("shop") if one.role is Role.CURRENT}
        assert running.keys() == self.declared.desired.keys()
        for address, wanted in self.declared.desired.items():
            assert wanted.place == PLACE
            if wanted.kind == "Container":
                state = wanted.properties.get("desired_state", "running")
                assert (running[address].state == "running") == (state == "running"), address
        self.strangers_are_as_they_were()
        self.no_secret_was_written_down()
        self.ground.run(self.declared, "destroy")
        assert self.ground.settled(self.declared, "destroy") == []
        assert self.ground.world.of("shop") == []
        self.strangers_are_as_they_were()


TestLife = pytest.mark.timeout(3600 if SOAK else 120)(Life.TestCase)
TestLife.settings = settings(
    max_examples=600 if SOAK else 100,
    stateful_step_count=40 if SOAK else 20,
    deadline=None,
    derandomize=not SOAK,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

__all__ = ["TestLife"]
