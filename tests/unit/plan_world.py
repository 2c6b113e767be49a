"""A world in memory that carries a plan out, operation by operation, and can be looked at again.

It is the simplest world that keeps the planner's contract: what an operation says happens, nothing else, and it refuses what
a real place would refuse (a taken name, a stale precondition, a network with containers on it). It resolves references the
way the executor does, from what operations and known resources output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from plan_cases import STACK, Digests

from bayplan.kinds.canonical import normalise
from bayplan.kinds.model import load
from bayplan.plan.model import (
    FOLLOWS,
    Action,
    Desired,
    Forecast,
    Observed,
    Operation,
    Plan,
    Recorded,
    Ref,
    Role,
    World,
)
from bayplan.plan.planner import plan
from bayplan.plan.values import fill

_RUNNING = {"running": "running", "stopped": "exited", "paused": "paused"}


class ModelWorld:
    """Objects by (uid); ``sources`` says what an Image's context holds; ``pushed`` what each target refers to."""

    def __init__(self) -> None:
        self.digests = Digests({"token": "hunter2"})
        self.objects: list[Observed] = []
        self.sources: dict[str, str] = {}
        self.pushed: dict[str, str] = {}
        self.recorded: dict[str, Recorded] = {}
        self.count = 0

    # -- looking ---------------------------------------------------------------------------------------------------

    def look(self, desired: Mapping[str, Desired]) -> World:
        found: dict[str, tuple[Observed, ...]] = {}
        for one in self.objects:
            found[one.address] = (*found.get(one.address, ()), self._seen(one))
        forecasts: dict[str, Forecast] = {}
        images = [one for one in desired.values() if one.kind == "Image"]
        for one in sorted(images, key=lambda one: len(one.depends_on)):
            forecasts[one.address] = self._forecast(one, forecasts)
        return World(found, forecasts, dict(self.pushed), looked_at=len(self.objects), calls=1)

    def _seen(self, one: Observed) -> Observed:
        if one.kind == "Repository":
            prefix = f"{one.outputs['uri']}:"
            images = {target.removeprefix(prefix): d for target, d in self.pushed.items() if target.startswith(prefix)}
            one = replace(one, fields={**one.fields, "images": images})
        text = json.dumps([one.uid, one.name, one.role, dict(one.fields)], sort_keys=True, default=str)
        return replace(one, hash=hashlib.sha256(text.encode()).hexdigest())

    def _forecast(self, one: Desired, earlier: Mapping[str, Forecast]) -> Forecast:
        """A key of content and bases; a base that this plan makes anew is not known."""
        bases: list[str] = []
        for address in sorted(a for a in one.depends_on if a.startswith("Image.")):
            there = [o for o in self.objects if o.address == address]
            base = earlier.get(address)
            if base is None or not there or base.key != there[0].fields["key"]:
                return Forecast("")
            bases.append(str(there[0].fields["digest"]))
        return Forecast(self.key(one.address, bases))

    def key(self, address: str, bases: list[str]) -> str:
        return hashlib.sha256(json.dumps([self.sources.get(address, "v1"), bases]).encode()).hexdigest()[:12]

    # -- planning and applying -------------------------------------------------------------------------------------

    def plan(self, desired: Mapping[str, Desired], *, state: bool = True, **options: Any) -> Plan:
        recorded = self.recorded if state else {}
        return plan(STACK, desired, recorded, self.look(desired), digester=self.digests, kinds=load(), **options)

    def apply(self, made: Plan, *, until: int | None = None) -> None:
        """Carry ``made`` out, up to operation ``until``."""
        outputs: dict[str, Mapping[str, Any]] = dict(made.known)
        for operation in made.operations[:until]:
            self._perform(operation, outputs)

    def _perform(self, operation: Operation, outputs: dict[str, Mapping[str, Any]]) -> None:
        def output(ref: Ref) -> Any:
            return outputs[ref.address][ref.attribute]

        filled = {name: fill(value, output) for name, value in operation.inputs.items()}
        inputs = normalise(operation.kind, filled)
        target = next((o for o in self.objects if o.uid == operation.uid and o.id == operation.id), None)
        if target is None and operation.precondition == FOLLOWS and operation.action is not Action.CREATE:
            target = next(o for o in self.objects if o.address == operation.address and o.role is Role.CURRENT)
        if operation.precondition not in ("", FOLLOWS):
            assert target is not None
            assert operation.precondition == self._seen(target).hash, f"stale: {operation}"
        made = getattr(self, f"_{operation.action.value}", self._state)(operation, inputs, target)
        if made is not None:
            outputs[operation.address] = made.outputs
            self.recorded[operation.address] = Recorded(
                operation.address,
                operation.kind,
                operation.place,
                made.uid,
                made.id,
                dict(made.recorded),
                {},
                made.outputs,
                operation.depends_on,
            )

    def _make(
        self, operation: Operation, inputs: dict[str, Any], role: Role = Role.CURRENT, name: str = ""
    ) -> Observed:
        self.count += 1
        name = name or str(operation.detail.get("name", operation.address))
        assert not any((o.place, o.kind, o.name) == (operation.place, operation.kind, name) for o in self.objects), (
            f"{name} is taken"
        )
        fields: dict[str, Any] = dict(inputs)
        outputs: dict[str, Any] = {"id": f"i{self.count}", "name": name, "ip_address": f"10.0.0.{self.count}"}
        if operation.kind == "Container":
            fields["state"] = _RUNNING[operation.detail["desired_state"]]
            fields.pop("desired_state", None)
        if operation.kind == "Repository":
            outputs["uri"] = f"r/{name}"
        made = Observed(
            operation.address,
            operation.kind,
            operation.place,
            f"u{self.count}",
            f"i{self.count}",
            fields,
            "",
            role=role,
            recorded=self._labels(operation, inputs),
            outputs=outputs,
            name=name,
        )
        if operation.kind == "Container":
            self._no_clash(made)
        self.objects.append(made)
        return made

    def _no_clash(self, made: Observed) -> None:
        """On an engine two containers cannot have one host port; on an embedded host only another resource's counts."""
        for port in made.fields.get("ports", ()):
            for other in self.objects:
                if other.place == made.place and port in other.fields.get("ports", ()):
                    embedded = made.place.startswith("embedded:") and other.address == made.address
                    assert embedded or other.fields["state"] == "exited", f"{port} is taken by {other.address}"

    def _labels(self, operation: Operation, inputs: Mapping[str, Any]) -> dict[str, str]:
        digest = self.digests(operation.place)
        return {name: digest(value) for name, value in inputs.items()}

    def _swap(self, old: Observed, new: Observed) -> Observed:
        self.objects[next(i for i, o in enumerate(self.objects) if o is old)] = new
        return new

    def _users(self, ground: Observed) -> list[str]:
        field = {"Network": "networks", "Volume": "volumes"}.get(ground.kind)
        return [
            o.address
            for o in self.objects
            if field
            and o.place == ground.place
            and any(e.split(":")[0] == ground.name for e in o.fields.get(field, ()))
        ]

    # -- effects ---------------------------------------------------------------------------------------------------

    def _create(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert not any(o.address == operation.address and o.place == operation.place for o in self.objects)
        return self._make(operation, inputs)

    def _replace(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert target is not None
        name = str(operation.detail["name"])
        if operation.detail.get("keeps_old"):
            return self._make(operation, inputs)
        if operation.kind != "Container":
            assert not self._users(target), "replaced under its users"
            self.objects.remove(target)
            return self._make(operation, inputs)
        if operation.detail.get("stop_first"):
            fields = {**target.fields, "state": "exited"}
            target = self._swap(target, replace(target, fields=fields, name=f"{target.name}.aside"))
        new = self._make(operation, inputs, Role.NEXT, f"{name}.next")
        self.objects.remove(target)
        assert not any((o.place, o.kind, o.name) == (new.place, new.kind, name) for o in self.objects)
        return self._swap(new, replace(new, role=Role.CURRENT, name=name, outputs={**new.outputs, "name": name}))

    def _update(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert target is not None
        state = {"state": target.fields["state"]} if "state" in target.fields else {}
        fields = {**{k: v for k, v in inputs.items() if k != "desired_state"}, **state}
        if operation.detail.get("restore"):
            target = self._swap(target, replace(target, role=Role.CURRENT, name=str(operation.detail["name"])))
        return self._swap(target, replace(target, fields=fields, recorded=self._labels(operation, inputs)))

    def _state(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert target is not None
        state = {"start": "running", "stop": "exited", "pause": "paused", "unpause": "running"}[operation.action.value]
        fields = {**target.fields, "state": state}
        return self._swap(target, replace(target, fields=fields, recorded=self._labels(operation, inputs)))

    def _delete(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> None:
        assert target is not None
        assert not self._users(target), f"{operation.address} is in use"
        self.objects.remove(target)
        if not operation.detail.get("leftover"):
            self.recorded.pop(operation.address, None)

    def _build(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        bases = sorted(a for a in operation.depends_on if a.startswith("Image."))
        found = [str(next(o for o in self.objects if o.address == base).fields["digest"]) for base in bases]
        key = self.key(operation.address, found)
        digest = f"sha256:{key:0<64}"
        old = next((o for o in self.objects if o.address == operation.address), None)
        made = old if old is not None else self._make(operation, inputs)
        tags = old.fields["tags"] if old is not None else []
        return self._swap(
            made,
            replace(
                made,
                fields={"key": key, "digest": digest, "tags": tags},
                recorded=self._labels(operation, inputs),
                outputs={"ref": f"x@{digest}", "digest": digest},
            ),
        )

    def _tag(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert target is not None
        tags = [t for t in target.fields["tags"] if t not in operation.detail["remove"]]
        tags += [t for t in operation.detail["add"] if t not in tags]
        fields = {**target.fields, "tags": tags}
        return self._swap(target, replace(target, fields=fields, recorded=self._labels(operation, inputs)))

    def _push(self, operation: Operation, inputs: dict[str, Any], target: Observed | None) -> Observed:
        assert target is not None
        self.pushed[inputs["push"][operation.detail["index"]]] = str(target.fields["digest"])
        return target
