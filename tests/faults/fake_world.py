"""A world in memory that crashes on demand: the engine's place, without a kernel.

It keeps what a real place keeps (objects with names and labels, images by content, tags, what repositories hold) and makes
its effects in the small steps in which the embedded place makes them, so that a crash can fall between any two of them. It
refuses what a real one refuses: a name or port that is taken, a network or volume in use, an image that is not there, a
container whose dependency does not run. ``Crash`` is no Exception: nothing in the engine may catch it, just as nothing
catches kill -9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.execute.port import Feedback, Order, Outcome, OutcomeUnknown, Stale
from bayplan.plan.model import FOLLOWS, Action, Desired, Forecast, Observed, Recorded, Redacted, Role, Value
from bayplan.state import State
from bayplan.targets.model import ImageResolver, Sight

PLACE = "embedded:/fake"
REGISTRY = "bayplan.internal"


class Crash(BaseException):
    """The process dies here."""


class Fuse:
    """Counts the points at which a process can die and burns at one of them.

    ``harm`` says what happens there: the process dies (:class:`Crash`), or an effect fails or loses its answer, which only
    an effect's own points can (``before`` and ``after`` an operation).
    """

    def __init__(self, at: int | None = None, harm: Callable[[str], BaseException] = Crash, only: str = "") -> None:
        self.at = at
        self.harm = harm
        self.only = only
        self.count = 0
        self.trail: list[str] = []
        self.dead = False

    def point(self, name: str) -> None:
        if self.dead:
            raise Crash(f"dead before {name}")  # no thread of a dead process comes any further
        if not name.startswith(self.only):
            return
        self.count += 1
        self.trail.append(name)
        if self.count == self.at:
            harm = self.harm(name)
            self.dead = isinstance(harm, Crash)
            raise harm


def failing(name: str) -> BaseException:
    """The effect did not happen."""
    return BayplanError("refused", f"the world refused at: {name}")


def lost(name: str) -> BaseException:
    """The effect happened, and nobody was told."""
    return OutcomeUnknown("lost", f"the answer was lost at: {name}")


class FusedState(State):
    """The real state, with a point before and after everything that it writes."""

    def __init__(self, folder: Path, stack: str, fuse: Fuse) -> None:
        super().__init__(folder, stack)
        self._fuse = fuse

    def start_run(self, *arguments: object, **named: object) -> int:
        return int(self._around("start_run", super().start_run, arguments, named))

    def turn(self, *arguments: object, **named: object) -> list[int]:
        return list(self._around("turn", super().turn, arguments, named))

    def end_run(self, *arguments: object, **named: object) -> None:
        self._around("end_run", super().end_run, arguments, named)

    def write(self, *arguments: object, **named: object) -> None:
        self._around("write", super().write, arguments, named)

    def _around(self, name: str, call: Callable[..., object], arguments: object, named: object) -> object:
        self._fuse.point(f"journal before {name}")
        done = call(*arguments, **named)
        self._fuse.point(f"journal after {name}")
        return done


@dataclass
class Thing:
    """One object: a network, volume, repository, container, or an image under its own name."""

    kind: str
    name: str
    id: str
    stack: str
    address: str
    uid: str
    inputs: Mapping[str, Value]
    recorded: Mapping[str, str]
    role: Role = Role.CURRENT
    state: str = ""
    content: str = ""
    secrets: frozenset[str] = frozenset()


@dataclass
class World:
    """Everything that outlives a process."""

    things: dict[str, Thing] = field(default_factory=dict)
    tags: dict[str, tuple[str, str]] = field(default_factory=dict)  # tag -> (address of its Image, digest)
    pushed: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # address of an Image -> what its context holds now
    counter: int = 0

    def shape(self) -> dict[str, object]:
        """What an outside observer sees, without identifiers: to compare two ways that led here."""
        return {
            "things": sorted(
                (
                    one.stack,
                    one.kind,
                    one.name,
                    one.address,
                    one.role.value,
                    one.state,
                    one.content,
                    json.dumps(one.inputs, sort_keys=True),
                    json.dumps(one.recorded, sort_keys=True),
                )
                for one in self.things.values()
            ),
            "tags": dict(sorted(self.tags.items())),
            "pushed": dict(sorted(self.pushed.items())),
        }

    def of(self, stack: str) -> list[Thing]:
        return [thing for thing in self.things.values() if thing.stack == stack]

    def current(self, address: str) -> Thing | None:
        return next((one for one in self.things.values() if one.address == address and one.role is Role.CURRENT), None)

    def users(self, kind: str, name: str) -> list[str]:
        """Names of the containers that stand on a network or volume."""
        mark = {"Network": "networks", "Volume": "volumes"}[kind]
        found = []
        for one in self.things.values():
            for entry in one.inputs.get(mark) or () if one.kind == "Container" else ():
                if str(entry).partition(":")[0] == name:
                    found.append(one.name)
        return found


class FakePlace:
    """The world as one place. Fulfils ``bayplan.targets.model.Place``."""

    place = PLACE

    def __init__(self, world: World, fuse: Fuse, lock: Path) -> None:
        self.world = world
        self.fuse = fuse
        self._lock = lock

    # -- looking ---------------------------------------------------------------------------------------------------

    def observe(self, stack: str, desired: Sequence[Desired], recorded: Sequence[Recorded]) -> Sight:
        objects: dict[str, tuple[Observed, ...]] = {}
        for thing in self.world.of(stack):
            objects[thing.address] = (*objects.get(thing.address, ()), self._seen(thing))
        problems: dict[str, tuple[str, ...]] = {}
        for one in desired:
            for thing in self.world.things.values():
                if thing.stack != stack and (thing.kind, thing.name) == (one.kind, one.name):
                    problems[one.address] = (f"the name {one.name} is taken by something that is not ours",)
        return Sight(objects, problems, looked_at=len(self.world.things), calls=1)

    def _seen(self, thing: Thing) -> Observed:
        fields: dict[str, Value] = dict(thing.inputs)
        if thing.kind == "Container":
            fields = {**fields, "name": role_of(thing.name), "state": thing.state}
            env = {
                key: Redacted(self.digest(value)) if f"env.{key}" in thing.secrets else value
                for key, value in (thing.inputs.get("env") or {}).items()
            }
            if env:
                fields["env"] = env
        elif thing.kind == "Image":
            fields = {"key": thing.content, "digest": digest_of(thing.content), "tags": self._tags(thing)}
        elif thing.kind == "Repository":
            fields = {"image_tag_mutability": "MUTABLE", **fields, "repository_name": thing.name}
        else:
            fields = {**fields, "name": thing.name}
        return Observed(
            address=thing.address,
            kind=thing.kind,
            place=self.place,
            uid=thing.uid,
            id=thing.id,
            fields=fields,
            hash=self._hash(thing),
            role=thing.role,
            recorded=dict(thing.recorded),
            outputs=self._outputs(thing),
            name=thing.name,
        )

    def _tags(self, thing: Thing) -> list[str]:
        wanted = (thing.address, digest_of(thing.content))
        return sorted(tag for tag, meant in self.world.tags.items() if meant == wanted)

    def _hash(self, thing: Thing) -> str:
        tags = self._tags(thing) if thing.kind == "Image" else []
        parts = [thing.uid, thing.name, thing.state, thing.content, tags, dict(thing.inputs)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _outputs(self, thing: Thing) -> dict[str, Value]:
        if thing.kind == "Image":
            digest = digest_of(thing.content)
            return {"ref": f"{thing.name}@{digest}", "digest": digest}
        if thing.kind == "Repository":
            return {"uri": f"{REGISTRY}/{thing.name}", "name": thing.name}
        return {"id": thing.id, "name": thing.name}

    def bases(self, desired: Desired) -> Sequence[str]:
        found = (desired.properties["build"].get("args") or {}).get("FROM")
        return (found,) if found else ()

    def forecast(
        self, stack: str, desired: Desired, observed: Observed | None, resolve: ImageResolver
    ) -> Forecast | None:
        if desired.kind == "Repository":
            return Forecast(key="", outputs={"uri": f"{REGISTRY}/{desired.name}", "name": desired.name})
        if desired.kind != "Image":
            return None
        bases = [resolve(name) for name in self.bases(desired)]
        if None in bases:
            return Forecast(key="", cause="its base is built first")
        content = self.world.sources.get(desired.address, "v1")
        key = hashlib.sha256(json.dumps([desired.address, content, bases]).encode()).hexdigest()[:16]
        outputs = observed.outputs if observed is not None and observed.fields["key"] == key else None
        return Forecast(key=key, outputs=outputs, cause=f"its context holds {content}")

    def remote(self, target: str) -> str | None:
        return self.world.pushed.get(target, "")

    def resolve_image(self, name: str, pull_policy: str) -> str | None:
        return self.world.tags[name][1] if name in self.world.tags else None

    def find(self, kind: str, name: str) -> Observed | None:
        return next((self._seen(t) for t in self.world.things.values() if t.kind == kind and t.name == name), None)

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        thing = self.world.things[observed.id]
        thing.stack, thing.address = stack, address

    def recover(self) -> bool:
        """Nothing lies below a plan's sight here."""
        return False

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
        if operation.kind == "Container" and operation.action is Action.CREATE:
            outcome = self._create(order)
            feedback.started(outcome.outputs)
            self.fuse.point(f"healthy {operation.address}")
        else:
            outcome = getattr(self, f"_{operation.action.value}")(order)
        self.fuse.point(f"after {operation.address} {operation.action.value}")
        assert isinstance(outcome, Outcome)
        return outcome

    def _checked(self, order: Order) -> Thing:
        """The object of an operation, unless it changed since the plan."""
        operation = order.operation
        thing = self.world.things.get(operation.id)
        if operation.precondition == FOLLOWS and thing is None:
            thing = self.world.current(operation.address)
        if thing is None:
            raise Stale(operation.address, "it is gone")
        if operation.precondition not in (FOLLOWS, self._hash(thing)):
            raise Stale(operation.address, "it differs")
        return thing

    def _make(self, order: Order, name: str, role: Role = Role.CURRENT, state: str = "", content: str = "") -> Thing:
        kind = order.operation.kind
        if any(t.name == name and t.kind == kind for t in self.world.things.values()):
            raise BayplanError("name-taken", f"the {kind} {name} exists already")
        self.world.counter += 1
        thing = Thing(
            kind=kind,
            name=name,
            id=f"id{self.world.counter:04}",
            stack=order.stack,
            address=order.operation.address,
            uid=f"{self.world.counter:016x}",  # not the order's: lives that begin alike shall go on alike
            inputs=dict(order.inputs),
            recorded=dict(order.fields),
            role=role,
            state=state,
            content=content,
            secrets=order.secrets,
        )
        self.world.things[thing.id] = thing
        return thing

    def _told(self, thing: Thing) -> Outcome:
        return Outcome(uid=thing.uid, id=thing.id, outputs=self._outputs(thing))

    # -- what runs, and what it stands on --------------------------------------------------------------------------

    def _create(self, order: Order) -> Outcome:
        operation = order.operation
        name = str(operation.detail["name"])
        if operation.kind != "Container":
            return self._told(self._make(order, name))
        if operation.precondition == "" and self.world.current(operation.address) is not None:
            raise Stale(operation.address, "it is there already")
        self._can_run(order)
        thing = self._make(order, name, state="created")
        self.fuse.point(f"created {name}")
        self._run(thing, order)
        return self._told(thing)

    def _can_run(self, order: Order) -> None:
        """What a container needs to be made."""
        digest = str(order.inputs["image"]).rpartition("@")[2]
        if all(digest_of(t.content) != digest for t in self.world.things.values() if t.kind == "Image"):
            raise BayplanError("image-not-found", f"there is no image {digest}")
        for kind, mark in (("Network", "networks"), ("Volume", "volumes")):
            for entry in order.inputs.get(mark) or ():
                name = str(entry).partition(":")[0]
                if all((t.kind, t.name) != (kind, name) for t in self.world.things.values()):
                    raise BayplanError("unknown-ground", f"there is no {kind} {name}")

    def _run(self, thing: Thing, order: Order, besides: Thing | None = None) -> None:
        for address in order.operation.waits_for:
            other = self.world.current(address)
            if other is None or other.state != "running":
                raise BayplanError("order", f"{thing.address} was started before {address}")
        held = {
            port
            for t in self.world.things.values()
            if t.kind == "Container" and t is not thing and t is not besides and t.state == "running"
            for port in t.inputs.get("ports") or ()
        }
        if taken := held & set(thing.inputs.get("ports") or ()):
            raise BayplanError("port-taken", f"{thing.address}: {taken} is taken")
        wanted = str(order.operation.detail.get("desired_state", "running"))
        if wanted == "stopped":
            return
        thing.state = "running"
        self.fuse.point(f"started {thing.name}")
        thing.state = wanted

    def _replace(self, order: Order) -> Outcome:
        operation = order.operation
        old = self._checked(order)
        name = str(operation.detail["name"])
        if operation.kind != "Container":
            return self._replace_still(order, old, name)
        self._can_run(order)
        if operation.detail.get("stop_first"):
            return self._replace_stopped(order, old, name)
        new = self._make(order, f"{name}.next-{self.world.counter:016x}", Role.NEXT, "created")
        try:
            self.fuse.point(f"made next {name}")
            self._run(new, order, besides=old)
        except BayplanError:
            del self.world.things[new.id]
            raise
        # The hand-over is one step on an embedded host: name, ports and roles together.
        old.name, old.role = f"{old.name}.aside-{new.uid}", Role.ASIDE
        old.inputs = {key: value for key, value in old.inputs.items() if key != "ports"}
        new.name, new.role = name, Role.CURRENT
        self.fuse.point(f"handed over {name}")
        if not operation.detail.get("keeps_old"):
            self._end(old)
        return self._told(new)

    def _replace_stopped(self, order: Order, old: Thing, name: str) -> Outcome:
        was = (old.state, old.name, old.role)
        old.state = "exited"
        self.fuse.point(f"stopped {old.name}")
        old.name, old.role = f"{name}.aside-{old.uid}", Role.ASIDE
        self.fuse.point(f"set aside {name}")
        new: Thing | None = None
        try:
            new = self._make(order, name, state="created")
            self.fuse.point(f"made {name}")
            self._run(new, order)
        except BayplanError:
            if new is not None:
                del self.world.things[new.id]
            old.state, old.name, old.role = was
            raise
        if not order.operation.detail.get("keeps_old"):
            self._end(old)
        return self._told(new)

    def _replace_still(self, order: Order, old: Thing, name: str) -> Outcome:
        if old.name == name:
            self._remove(old)
            self.fuse.point(f"removed {name}")
            return self._told(self._make(order, name))
        old.role = Role.ASIDE
        self.fuse.point(f"marked {old.name}")
        try:
            new = self._make(order, name)
        except BayplanError:
            old.role = Role.CURRENT
            raise
        self.fuse.point(f"made {name}")
        if not order.operation.detail.get("keeps_old"):
            self._remove(old)
        return self._told(new)

    def _update(self, order: Order) -> Outcome:
        thing = self._checked(order)
        if order.operation.detail.get("restore"):
            if thing.kind == "Container":
                thing.name = str(order.operation.detail["name"])
            thing.role = Role.CURRENT
            self.fuse.point(f"restored {thing.name}")
        thing.inputs = dict(order.inputs)
        thing.recorded = dict(order.fields)
        return self._told(thing)

    def _delete(self, order: Order) -> Outcome:
        operation = order.operation
        thing = self.world.things.get(operation.id)
        if thing is not None:
            self._checked(order)
            if thing.kind == "Container":
                self._end(thing)
            else:
                self._remove(thing)
        return Outcome(gone=not operation.detail.get("leftover"))

    def _end(self, container: Thing) -> None:
        container.state = "exited"
        self.fuse.point(f"stopped {container.name}")
        del self.world.things[container.id]

    def _remove(self, thing: Thing) -> None:
        if thing.kind in ("Network", "Volume") and (users := self.world.users(thing.kind, thing.name)):
            raise BayplanError("in-use", f"the {thing.kind} {thing.name} is used by {users}")
        if thing.kind == "Image":
            self.world.tags = {tag: to for tag, to in self.world.tags.items() if to[0] != thing.address}
        if thing.kind == "Repository":
            prefix = f"{REGISTRY}/{thing.name}:"
            self.world.pushed = {to: what for to, what in self.world.pushed.items() if not to.startswith(prefix)}
        del self.world.things[thing.id]

    def _start(self, order: Order) -> Outcome:
        return self._turned(order, "running")

    def _stop(self, order: Order) -> Outcome:
        return self._turned(order, "exited")

    def _pause(self, order: Order) -> Outcome:
        return self._turned(order, "paused")

    def _unpause(self, order: Order) -> Outcome:
        return self._turned(order, "running")

    def _turned(self, order: Order, state: str) -> Outcome:
        thing = self._checked(order)
        thing.recorded = dict(order.fields)
        self.fuse.point(f"recorded {thing.name}")
        thing.state = state
        return self._told(thing)

    # -- images ----------------------------------------------------------------------------------------------------

    def _build(self, order: Order) -> Outcome:
        desired = Desired(order.operation.address, "Image", "", self.place, order.inputs)
        forecast = self.forecast(order.stack, desired, None, lambda name: self.resolve_image(name, "missing"))
        assert forecast is not None
        assert forecast.key, "a base is missing although its operation came first"
        old = self.world.current(order.operation.address)
        if order.operation.precondition not in (FOLLOWS, self._hash(old) if old else ""):
            raise Stale(order.operation.address, "the image is not what it was")
        if old is None:
            own = f"{REGISTRY}/{order.stack}/{order.operation.address.lower()}"
            thing = self._make(order, own, content=forecast.key)
        else:
            thing = old
            thing.content, thing.inputs, thing.recorded = forecast.key, dict(order.inputs), dict(order.fields)
        thing.inputs = {key: value for key, value in thing.inputs.items() if key == "build"}
        return self._told(thing)

    def _tag(self, order: Order) -> Outcome:
        thing = self._checked(order)
        thing.recorded = dict(order.fields)
        self.fuse.point(f"recorded {thing.name}")
        for tag in order.operation.detail.get("remove") or ():
            self.world.tags.pop(tag, None)
        for tag in order.operation.detail.get("add") or ():
            self.world.tags[tag] = (thing.address, digest_of(thing.content))
        return self._told(thing)

    def _push(self, order: Order) -> Outcome:
        image = self.world.current(order.operation.address)
        if image is None:
            raise Stale(order.operation.address, "the image is gone")
        target = str(order.inputs["push"][int(order.operation.detail["index"])])
        repository = target.removeprefix(f"{REGISTRY}/").rpartition(":")[0]
        if not any(t.kind == "Repository" and t.name == repository for t in self.world.things.values()):
            raise BayplanError("no-repository", f"there is no repository {repository}")
        self.world.pushed[target] = digest_of(image.content)
        return Outcome()


def digest_of(content: str) -> str:
    return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


#: What the executor may do to an object; a fake action stands for each that needs no file.
ACTIONS = tuple(action for action in Action if action not in (Action.LOAD, Action.COPY))


def role_of(name: str) -> str:
    """The name that a container was declared under, whatever part it plays."""
    return name.partition(".next-")[0].partition(".aside-")[0]
