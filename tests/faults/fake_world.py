"""A world in memory that crashes on demand: the executor's port, and the engine's, without a kernel.

It keeps what a real place keeps (objects with names and labels, images by content, tags of repositories) and makes its
effects in the small steps in which a real place makes them, so that a crash can fall between any two of them. ``Crash`` is
no Exception: nothing in the engine may catch it, just as nothing catches kill -9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.execute.port import Feedback, Order, Outcome, Stale
from bayplan.plan.model import FOLLOWS, Action, Desired, Forecast, Observed, Recorded, Redacted, Role, Value
from bayplan.targets.model import ImageResolver, Sight


class Crash(BaseException):
    """The process dies here."""


class Fuse:
    """Counts the crash points and burns at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.trail: list[str] = []

    def point(self, name: str) -> None:
        self.count += 1
        self.trail.append(name)
        if self.count == self.at:
            raise Crash(name)


@dataclass
class Thing:
    """One object: a network, volume, repository, container or image name."""

    kind: str
    name: str
    id: str
    stack: str
    address: str
    uid: str
    inputs: Mapping[str, Value]
    labels: Mapping[str, str]
    role: Role = Role.CURRENT
    state: str = ""
    content: str = ""


@dataclass
class World:
    """Everything that outlives a process."""

    things: dict[str, Thing] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # address of an Image -> what its context holds now
    counter: int = 0
    foreign: dict[str, str] = field(default_factory=dict)

    def shape(self) -> dict[str, object]:
        """What an outside observer sees, without identifiers: to compare two ways that led here."""
        return {
            "things": sorted(
                (
                    one.kind,
                    one.name,
                    one.address,
                    one.role.value,
                    one.state,
                    one.content,
                    json.dumps(one.inputs, sort_keys=True),
                )
                for one in self.things.values()
            ),
            "pushed": dict(sorted(self.pushed.items())),
        }


class FakePlace:
    """The world as one place. Fulfils ``bayplan.targets.model.Place``."""

    place = "embedded:/fake"

    def __init__(self, world: World, fuse: Fuse, lock: Path) -> None:
        self.world = world
        self.fuse = fuse
        self._lock = lock

    # -- looking ---------------------------------------------------------------------------------------------------

    def observe(self, stack: str, desired: Sequence[Desired], recorded: Sequence[Recorded]) -> Sight:
        objects: dict[str, tuple[Observed, ...]] = {}
        for thing in self.world.things.values():
            if thing.stack == stack:
                objects[thing.address] = (*objects.get(thing.address, ()), self._seen(thing))
        problems: dict[str, tuple[str, ...]] = {}
        for one in desired:
            if one.name in self.world.foreign and one.address not in objects:
                problems[one.address] = (f"the name {one.name} is taken by something that is not ours",)
        return Sight(objects, problems, looked_at=len(self.world.things), calls=1)

    def _seen(self, thing: Thing) -> Observed:
        fields = dict(thing.inputs)
        if thing.kind == "Container":
            fields["state"] = thing.state
        if thing.kind == "Image":
            fields["key"] = thing.content
            fields["digest"] = digest_of(thing.content)
            fields["tags"] = sorted(thing.labels.get("tags", "").split())
            fields.pop("push", None)
        return Observed(
            address=thing.address,
            kind=thing.kind,
            place=self.place,
            uid=thing.uid,
            id=thing.id,
            fields=fields,
            hash=self._hash(thing),
            role=thing.role,
            recorded=json.loads(thing.labels["fields"]),
            outputs=self._outputs(thing),
            name=thing.name,
        )

    @staticmethod
    def _hash(thing: Thing) -> str:
        parts = [thing.uid, thing.name, thing.role.value, thing.state, thing.content, thing.labels.get("tags", "")]
        return hashlib.sha256(json.dumps([parts, dict(thing.inputs)], sort_keys=True).encode()).hexdigest()

    def _outputs(self, thing: Thing) -> dict[str, Value]:
        if thing.kind == "Image":
            digest = digest_of(thing.content)
            return {"ref": f"{thing.name}@{digest}", "digest": digest}
        if thing.kind == "Repository":
            return {"uri": f"registry.internal/{thing.name}", "name": thing.name}
        return {"id": thing.id, "name": thing.name}

    def bases(self, desired: Desired) -> Sequence[str]:
        return tuple(desired.properties["build"].get("bases", ()))

    def forecast(
        self, stack: str, desired: Desired, observed: Observed | None, resolve: ImageResolver
    ) -> Forecast | None:
        if desired.kind == "Repository":
            return Forecast(key="", outputs={"uri": f"registry.internal/{desired.name}", "name": desired.name})
        bases = [resolve(name) for name in self.bases(desired)]
        if None in bases:
            return Forecast(key="", cause="its base is built first")
        content = self.world.sources.get(desired.address, "v1")
        key = hashlib.sha256(json.dumps([content, bases]).encode()).hexdigest()[:16]
        known = observed is not None and observed.fields["key"] == key
        outputs = None
        if known:
            assert observed is not None
            outputs = observed.outputs
        return Forecast(key=key, outputs=outputs, cause=f"its context holds {content}")

    def remote(self, target: str) -> str | None:
        return self.world.pushed.get(target, "")

    def resolve_image(self, name: str, pull_policy: str) -> str | None:
        for thing in self.world.things.values():
            if thing.kind == "Image" and name in thing.labels.get("tags", "").split():
                return digest_of(thing.content)
        return None

    def image_defaults(self, digest: str) -> Mapping[str, object]:
        return {}

    def find(self, kind: str, name: str) -> Observed | None:
        return next((self._seen(t) for t in self.world.things.values() if t.kind == kind and t.name == name), None)

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        thing = self.world.things[observed.id]
        thing.stack, thing.address = stack, address

    def recover(self) -> bool:
        """Nothing lies below a plan's sight here."""
        return False

    def stacks(self) -> Sequence[str]:
        return sorted({thing.stack for thing in self.world.things.values()})

    def sweep(self, stack: str) -> str:
        return ""

    def lock_path(self, stack: str) -> Path:
        return self._lock

    def digest(self, value: Value) -> str:
        return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), key=b"k" * 32, digest_size=16).hexdigest()

    # -- acting ----------------------------------------------------------------------------------------------------

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        operation = order.operation
        self.fuse.point(f"before {operation.address} {operation.action.value}")
        outcome = getattr(self, f"_{operation.action.value}")(order)
        self.fuse.point(f"after {operation.address} {operation.action.value}")
        assert isinstance(outcome, Outcome)
        return outcome

    def _checked(self, order: Order) -> Thing:
        """The object of an operation, unless it changed since the plan."""
        operation = order.operation
        thing = self.world.things.get(operation.id)
        if operation.precondition == FOLLOWS and thing is None:
            thing = next(
                t for t in self.world.things.values() if t.address == operation.address and t.role is Role.CURRENT
            )
        if thing is None:
            raise Stale(operation.address, "it is gone")
        if operation.precondition not in (FOLLOWS, self._hash(thing)):
            raise Stale(operation.address, "it differs")
        return thing

    def _make(self, order: Order, name: str, role: Role, state: str = "", content: str = "") -> Thing:
        if any(t.name == name and t.kind == order.operation.kind for t in self.world.things.values()):
            raise BayplanError("name-taken", f"{name} exists already")
        self.world.counter += 1
        thing = Thing(
            kind=order.operation.kind,
            name=name,
            id=f"id{self.world.counter}",
            stack=order.stack,
            address=order.operation.address,
            uid=order.uid,
            inputs=dict(order.inputs),
            labels={"fields": json.dumps(dict(order.fields))},
            role=role,
            state=state,
            content=content,
        )
        self.world.things[thing.id] = thing
        return thing

    def _told(self, thing: Thing) -> Outcome:
        return Outcome(uid=thing.uid, id=thing.id, outputs=self._outputs(thing))

    def _create(self, order: Order) -> Outcome:
        name = str(
            order.operation.detail.get("name") or order.inputs.get("name") or order.inputs.get("repository_name")
        )
        is_container = order.operation.kind == "Container"
        thing = self._make(order, name, Role.CURRENT, "created" if is_container else "")
        if is_container:
            self.fuse.point(f"created {name}")
            thing.state = "running"
        return self._told(thing)

    def _replace(self, order: Order) -> Outcome:
        operation = order.operation
        old = self._checked(order)
        name = old.name if old.role is Role.CURRENT else str(operation.detail["name"])
        if operation.kind != "Container":
            del self.world.things[old.id]
            self.fuse.point(f"removed {name}")
            return self._told(self._make(order, name, Role.CURRENT))
        new = self._make(order, f"{name}.next-{order.uid}", Role.NEXT, "created")
        self.fuse.point(f"made next {name}")
        new.state = "running"
        self.fuse.point(f"started next {name}")
        # The hand-over is one step on an embedded host: name, ports and roles together.
        old.name, old.role = f"{name}.aside-{old.uid}", Role.ASIDE
        new.name, new.role = name, Role.CURRENT
        self.fuse.point(f"handed over {name}")
        if not operation.detail.get("keeps_old"):
            del self.world.things[old.id]
        return self._told(new)

    def _update(self, order: Order) -> Outcome:
        thing = self._checked(order)
        if order.operation.detail.get("restore"):
            thing.name, thing.role = str(order.operation.detail["name"]), Role.CURRENT
        thing.inputs = dict(order.inputs)
        thing.labels = {**thing.labels, "fields": json.dumps(dict(order.fields))}
        return self._told(thing)

    def _delete(self, order: Order) -> Outcome:
        operation = order.operation
        thing = self.world.things.get(operation.id)
        if thing is not None:
            self._checked(order)
            if thing.kind == "Container":
                thing.state = "exited"
                self.fuse.point(f"stopped {thing.name}")
            del self.world.things[thing.id]
        return Outcome(gone=not operation.detail.get("leftover"))

    def _start(self, order: Order) -> Outcome:
        thing = self._checked(order)
        thing.state = "running"
        return self._told(thing)

    def _build(self, order: Order) -> Outcome:
        desired = Desired(order.operation.address, "Image", "", self.place, order.inputs)
        forecast = self.forecast(order.stack, desired, None, lambda name: self.resolve_image(name, "missing"))
        assert forecast is not None
        assert forecast.key, "a base is missing although its operation came first"
        old = next((t for t in self.world.things.values() if t.address == order.operation.address), None)
        if old is None:
            name = str((order.inputs.get("tags") or [order.operation.address.lower()])[0])
            thing = self._make(order, name, Role.CURRENT, content=forecast.key)
            thing.labels = {**thing.labels, "tags": " ".join(order.inputs.get("tags") or [])}
        else:
            thing = self.world.things[old.id] = replace(
                old,
                content=forecast.key,
                inputs=dict(order.inputs),
                labels={"fields": json.dumps(dict(order.fields)), "tags": " ".join(order.inputs.get("tags") or [])},
            )
        return self._told(thing)

    def _tag(self, order: Order) -> Outcome:
        thing = self._checked(order)
        thing.labels = {"fields": json.dumps(dict(order.fields)), "tags": " ".join(order.inputs.get("tags") or [])}
        thing.inputs = dict(order.inputs)
        return self._told(thing)

    def _push(self, order: Order) -> Outcome:
        image = next(t for t in self.world.things.values() if t.address == order.operation.address)
        target = str(order.inputs["push"][order.operation.detail["index"]])
        repository = target.removeprefix("registry.internal/").rpartition(":")[0]
        if not any(t.kind == "Repository" and t.name == repository for t in self.world.things.values()):
            raise BayplanError("no-repository", f"there is no repository {repository}")
        self.world.pushed[target] = digest_of(image.content)
        return Outcome(outputs={})


def digest_of(content: str) -> str:
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


def hidden(value: str) -> Redacted:
    return Redacted(value)


#: What the executor may do to an object; used to see that a fake action stands for each.
ACTIONS = tuple(Action)
