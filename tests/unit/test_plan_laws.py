"""Laws of every plan: applied, nothing is left to do; a world that agrees needs nothing; equal inputs, equal plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from plan_cases import HOME, expression
from plan_world import ModelWorld

from bayplan.kinds.canonical import normalise
from bayplan.plan import codec
from bayplan.plan.model import Condition, Desired, Role

LAWS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def declare(address: str, place: str = HOME, depends_on: dict[str, str] | None = None, **given: Any) -> Desired:
    kind, _, short = address.partition(".")
    if kind in ("Container", "Network", "Volume"):
        given.setdefault("name", f"shop-{short}")
    properties = normalise(kind, expression(given))
    name = str(properties.get("repository_name" if kind == "Repository" else "name", ""))
    depends = {other: Condition(word) for other, word in (depends_on or {}).items()}
    return Desired(address, kind, name, place, properties, depends)


@st.composite
def stacks(draw: st.DrawFn, place: str = HOME) -> dict[str, Desired]:
    """A stack of a few resources with references between them, in any order of declaration."""
    found: list[Desired] = []
    more: dict[str, Any]
    networks = draw(st.lists(st.sampled_from("mn"), unique=True))
    for name in networks:
        more = {"name": f"net-{name}"} if draw(st.booleans()) else {}
        found.append(declare(f"Network.{name}", place, internal=draw(st.booleans()), **more))
    volumes = draw(st.lists(st.sampled_from("uv"), unique=True))
    for name in volumes:
        more = {"name": draw(st.sampled_from(["data", "store"]))} if name == "u" else {}
        found.append(declare(f"Volume.{name}", place, labels=draw(_labels), **more))
    repositories = draw(st.lists(st.sampled_from("rs"), unique=True))
    for name in repositories:
        mutability = draw(st.sampled_from(["MUTABLE", "IMMUTABLE"]))
        repository = draw(st.sampled_from([name, f"team/{name}"]))
        found.append(declare(f"Repository.{name}", repository_name=repository, image_tag_mutability=mutability))
    images = draw(st.lists(st.sampled_from("ij"), unique=True))
    for index, name in enumerate(images):
        depends = {f"Image.{images[0]}": "started"} if index and draw(st.booleans()) else {}
        push = [f"${{Repository.{r}.uri}}:{name}" for r in repositories if draw(st.booleans())]
        tags = draw(st.lists(st.sampled_from([f"{name}:1", f"{name}:2"]), unique=True))
        found.append(declare(f"Image.{name}", HOME, depends, build={"context": "/src"}, tags=tags, push=push))
    ports = draw(st.permutations([8080, 8081, 8082]))
    containers = draw(st.lists(st.sampled_from("abc"), unique=True))
    for index, name in enumerate(containers):
        more = {}
        source = draw(st.sampled_from([*images, None]))
        more["image"] = f"${{Image.{source}.ref}}" if source else f"web@sha256:{draw(st.sampled_from('12')):0<64}"
        if networks and draw(st.booleans()):
            more["networks"] = [f"${{Network.{draw(st.sampled_from(networks))}.name}}"]
        if volumes and draw(st.booleans()):
            more["volumes"] = [f"${{Volume.{draw(st.sampled_from(volumes))}.name}}:/data"]
        if draw(st.booleans()):
            more["ports"] = [f"{ports[index]}:80"]
        if draw(st.booleans()):
            more["env"] = draw(st.dictionaries(st.sampled_from("AB"), st.sampled_from(["1", "${secret.token}"])))
        if index and draw(st.booleans()):
            more.setdefault("env", {})
            more["env"] = {**more["env"], "UP": f"${{Container.{containers[0]}.ip_address}}"}
        if draw(st.booleans()):
            more["memory"] = draw(st.sampled_from(["64m", "128m"]))
        more["desired_state"] = draw(st.sampled_from(["running", "running", "stopped", "paused"]))
        depends = {f"Container.{containers[0]}": "healthy"} if index and draw(st.booleans()) else {}
        found.append(declare(f"Container.{name}", place, depends, **more))
    return {one.address: one for one in draw(st.permutations(found))}


_labels = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]))


def _settle(world: ModelWorld, desired: dict[str, Desired], *, state: bool) -> None:
    """Apply once; nothing is left then, with the state or without it."""
    world.apply(world.plan(desired, state=state))
    again = world.plan(desired, state=state)
    assert again.operations == (), again.operations
    assert world.plan(desired, state=False).operations == ()


@seed(1)
@LAWS
@given(first=stacks(), second=stacks(), state=st.booleans())
def test_an_applied_plan_leaves_nothing_to_do(
    first: dict[str, Desired], second: dict[str, Desired], state: bool
) -> None:
    world = ModelWorld()
    _settle(world, first, state=state)
    _settle(world, second, state=state)
    world.apply(world.plan(second, state=state, destroy=True))
    assert world.objects == []


@seed(2)
@LAWS
@given(first=stacks(place="docker:x"), second=stacks(place="docker:x"))
def test_an_applied_plan_leaves_nothing_to_do_on_an_engine(
    first: dict[str, Desired], second: dict[str, Desired]
) -> None:
    world = ModelWorld()
    _settle(world, first, state=True)
    _settle(world, second, state=True)


@st.composite
def troubles(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = ["remove", "stop", "pause", "created", "memory", "env", "next", "aside", "only-aside", "only-next", "tags"]
    return draw(st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 9)), max_size=3))


def _trouble(world: ModelWorld, kind: str, index: int) -> None:
    """Something that a hand or a crash may do to one object."""
    of = {"remove": ("Container", "Image", "Repository"), "tags": ("Image",)}.get(kind, ("Container",))
    candidates = [one for one in world.objects if one.kind in of and one.role is Role.CURRENT]
    if not candidates:
        return
    one = candidates[index % len(candidates)]
    at = next(i for i, other in enumerate(world.objects) if other is one)
    fields = dict(one.fields)
    if kind == "remove":
        del world.objects[at]
        return
    if kind == "tags":
        world.objects[at] = replace(one, fields={**fields, "tags": []})
        return
    if kind in ("stop", "pause", "created"):
        fields["state"] = {"stop": "exited", "pause": "paused", "created": "created"}[kind]
    if kind == "memory":
        fields["memory"] = 1 << 30
    if kind == "env":
        fields["env"] = {**fields.get("env", {}), "A": "by hand"}
    world.objects[at] = replace(one, fields=fields)
    if kind in ("next", "aside"):
        world.count += 1
        twin = {"uid": f"u{world.count}", "id": f"i{world.count}", "name": f"{one.name}.{kind}.{world.count}"}
        state = {**fields, "state": "exited"}
        world.objects.append(replace(one, role=Role(kind), fields=state, **twin))
    if kind in ("only-aside", "only-next"):
        role = Role(kind.removeprefix("only-"))
        world.objects[at] = replace(one, role=role, name=f"{one.name}.{role.value}")


@seed(3)
@LAWS
@given(desired=stacks(), hurt=troubles(), state=st.booleans())
def test_what_hands_and_crashes_do_is_repaired_by_one_plan(
    desired: dict[str, Desired], hurt: list[tuple[str, int]], state: bool
) -> None:
    world = ModelWorld()
    world.apply(world.plan(desired))
    for kind, index in hurt:
        _trouble(world, kind, index)
    _settle(world, desired, state=state)
    assert all(one.role is Role.CURRENT for one in world.objects)
    assert len({one.address for one in world.objects}) == len(world.objects) == len(desired)


@seed(4)
@LAWS
@given(first=stacks(), second=stacks(), share=st.floats(0, 1), state=st.booleans())
def test_a_plan_that_stopped_half_way_is_finished_by_the_next(
    first: dict[str, Desired], second: dict[str, Desired], share: float, state: bool
) -> None:
    world = ModelWorld()
    world.apply(world.plan(first))
    plan = world.plan(second)
    world.apply(plan, until=int(len(plan.operations) * share))
    _settle(world, second, state=state)
    assert sorted(one.address for one in world.objects) == sorted(second)


@seed(5)
@LAWS
@given(desired=stacks(), source=st.sampled_from("ij"))
def test_changed_content_reaches_everything_that_follows_it(desired: dict[str, Desired], source: str) -> None:
    world = ModelWorld()
    world.apply(world.plan(desired))
    world.sources[f"Image.{source}"] = "v2"
    _settle(world, desired, state=True)
    digests = {one.address: one.fields["digest"] for one in world.objects if one.kind == "Image"}
    for one in world.objects:
        image = desired[one.address].properties.get("image")
        address = getattr(image, "address", None)
        if address:
            assert str(one.fields["image"]).endswith(str(digests[address]))


@seed(6)
@LAWS
@given(first=stacks(), second=stacks())
def test_plans_are_deterministic_ordered_and_saved_without_loss(
    first: dict[str, Desired], second: dict[str, Desired]
) -> None:
    world = ModelWorld()
    world.apply(world.plan(first))
    plan = world.plan(second)
    assert plan == world.plan(second)
    assert [one.number for one in plan.operations] == list(range(1, len(plan.operations) + 1))
    assert all(earlier < one.number for one in plan.operations for earlier in one.after)
    saved = codec.dump(plan)
    assert codec.load(saved) == plan
    assert "hunter2" not in saved


@seed(7)
@LAWS
@given(desired=stacks(), index=st.integers(0, 20))
def test_a_target_touches_only_itself_and_what_it_depends_on(desired: dict[str, Desired], index: int) -> None:
    if not desired:
        return
    world = ModelWorld()
    target = list(desired)[index % len(desired)]
    world.apply(world.plan(desired, targets=[target]))
    there = {one.address for one in world.objects}
    assert target in there
    assert world.plan(desired, targets=[target]).operations == ()
    for address in there - {target}:
        assert any(address in world.recorded[other].depends_on for other in there), address


def test_a_world_without_labels_is_not_ours() -> None:
    """What is not under our identity never reaches the planner, so an empty look destroys nothing."""
    world = ModelWorld()
    assert world.plan({}, destroy=True).operations == ()
    assert isinstance(world.objects, list)
