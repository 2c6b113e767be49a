"""Calls that change who owns what, and nothing else: import, ``state mv``, ``state rm``, ``state rebuild``, drift."""

from __future__ import annotations

from typing import Any

from bayplan.engine.definitions import Definitions
from bayplan.engine.engine import Engine, Planned
from bayplan.engine.look import current, look
from bayplan.engine.sides import adopt
from bayplan.errors import BayplanError, Where, nearest
from bayplan.plan import containers
from bayplan.plan.model import Action, Desired, Observed, Reason, Recorded, Value
from bayplan.records import dataclass, replace
from bayplan.state import Lock


@dataclass(frozen=True, slots=True)
class Drift:
    """One resource that is not what the last apply left. ``fields`` are (name, before, after) with secrets as digests."""

    address: str
    what: str
    fields: tuple[tuple[str, Value, Value], ...] = ()
    where: Where | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "what": self.what,
            "changes": [{"field": name, "before": str(was), "after": str(now)} for name, was, now in self.fields],
        }


def drift(planned: Planned) -> list[Drift]:
    """What differs from the last apply for another reason than the files: read off the plan that would mend it."""
    found: list[Drift] = []
    seen: set[str] = set()
    recorded = {address for _, address in planned.recorded}
    for operation in planned.plan.operations:
        address = operation.address
        outside = [change for change in operation.changes if change.reason is Reason.DRIFT]
        gone = operation.action is Action.CREATE and address in recorded
        lifecycle = operation.action in (Action.START, Action.STOP, Action.PAUSE, Action.UNPAUSE)
        turned = _turned(planned, address) if operation.action is Action.REPLACE else ""
        if address in seen or not (outside or gone or lifecycle or operation.recovers or turned):
            continue
        seen.add(address)
        # before -> after of a plan is the way back; drift is told the way it happened.
        fields = tuple((change.field, change.after, change.before) for change in outside)
        if gone:
            what = "is gone"
        elif lifecycle:
            what = operation.cause
        elif outside:
            what = ", ".join(f"{name}: {_short(was)} -> {_short(now)}" for name, was, now in fields)
        else:
            what = turned or operation.cause
        found.append(Drift(address, what, fields, operation.where))
    found.extend(Drift(row.address, "is gone") for row in planned.vanished)
    return found


def _turned(planned: Planned, address: str) -> str:
    """What somebody did to the state of a container that is to be replaced for another reason; ``""`` where nothing."""
    found = current(planned.world.objects, address)
    wanted = planned.desired.get(address)
    if found is None or wanted is None or found.kind != "Container":
        return ""
    row = planned.recorded.get((found.place, address))
    if row is None or ("desired_state" in row.fields and "desired_state" not in row.values):
        return ""  # nobody knows any more which state was recorded
    was = replace(wanted, properties={"desired_state": row.values.get("desired_state", containers.RUNNING)})
    if not containers.steps(was, found):
        return ""
    return containers.state_change(was, found, declared=False)[1]


def import_object(engine: Engine, definitions: Definitions, address: str, name: str) -> Recorded:
    """Adopt the object ``name`` under ``address``. Raises BayplanError where either is not to be had."""
    wanted = _declared(definitions, address)
    place = engine.place(wanted.place)
    found = place.find(wanted.kind, name)
    if found is None:
        raise BayplanError(
            "not-found", f"there is no {wanted.kind.lower()} '{name}' to import", hint="'bayplan' lists what is there"
        )
    if found.address:
        raise BayplanError(
            "not-foreign",
            f"'{name}' belongs to {found.address} already",
            hint="'bayplan state mv' gives a resource another address",
        )
    with Lock(place.lock_path(definitions.stack), f"stack {definitions.stack}", timeout=engine.settings.lock_timeout):
        state = engine.state(definitions.stack)
        if (wanted.place, address) in state.recorded():
            raise BayplanError(
                "recorded-already", f"{address} is recorded already", hint="'bayplan state rm' lets go of it first"
            )
        owned = replace(found, address=address)
        fields = {field: place.digest(found.fields[field]) for field in wanted.properties if field in found.fields}
        row = replace(adopt(owned, wanted), fields=fields, imported=True)
        state.write([row])
        state.close()
    return row


def move(engine: Engine, definitions: Definitions, address: str, to: str) -> None:
    """``state mv``: the object and its row take another address; the new one must be declared, of the same kind."""
    wanted = _declared(definitions, to)
    found, row = _owned(engine, definitions, address)
    if wanted.kind != found.kind:
        raise BayplanError("other-kind", f"{address} is a {found.kind} and cannot become a {wanted.kind}")
    place = engine.place(found.place)
    with Lock(place.lock_path(definitions.stack), f"stack {definitions.stack}", timeout=engine.settings.lock_timeout):
        if row is None or not row.imported:
            place.relabel(found, definitions.stack, to)
        state = engine.state(definitions.stack)
        state.write([replace(row or adopt(found, None), address=to)], [(found.place, address)])
        state.close()


def release(engine: Engine, definitions: Definitions, address: str) -> None:
    """``state rm``: bayplan lets go of an object and does not touch it otherwise."""
    found, row = _owned(engine, definitions, address)
    place = engine.place(found.place)
    with Lock(place.lock_path(definitions.stack), f"stack {definitions.stack}", timeout=engine.settings.lock_timeout):
        if row is None or not row.imported:
            place.relabel(found, "", "")
        state = engine.state(definitions.stack)
        state.write((), [(found.place, address)])
        state.close()


def rebuild(engine: Engine, definitions: Definitions) -> int:
    """Make the state again from the world; returns how many resources were found. Imported rows that stand are kept."""
    places = {one.place: engine.place(one.place) for one in definitions.desired.values()}
    places.setdefault(engine.home, engine.place(engine.home))
    state = engine.state(definitions.stack)
    kept = [row for row in state.recorded().values() if row.imported]
    _, world = look(definitions, places, kept, forecasts=False)
    rows = []
    for address in world.objects:
        found = current(world.objects, address)
        if found is not None and all(row.address != address for row in kept):
            rows.append(adopt(found, definitions.desired.get(address)))
    first = engine.place(engine.home)
    with Lock(first.lock_path(definitions.stack), f"stack {definitions.stack}", timeout=engine.settings.lock_timeout):
        stale = [key for key, row in state.recorded().items() if not row.imported]
        state.write(rows, stale)
    state.close()
    return len(rows) + len(kept)


def _declared(definitions: Definitions, address: str) -> Desired:
    wanted = definitions.desired.get(address)
    if wanted is None:
        close = nearest(address, list(definitions.desired))
        raise BayplanError(
            "not-declared",
            f"the stack {definitions.stack} declares no {address}",
            hint=f"did you mean '{close}'?" if close else "declare it first; the plan then compares the two",
        )
    return wanted


def _owned(engine: Engine, definitions: Definitions, address: str) -> tuple[Observed, Recorded | None]:
    """The object that stands under ``address``, and its row."""
    rows = engine.state(definitions.stack).recorded()
    row = next((one for (_, name), one in rows.items() if name == address), None)
    places = {one.place: engine.place(one.place) for one in definitions.desired.values()}
    places.setdefault(engine.home, engine.place(engine.home))
    _, world = look(definitions, places, rows.values(), forecasts=False)
    found = current(world.objects, address)
    if found is None:
        close = nearest(address, [*world.objects, *(name for _, name in rows)])
        raise BayplanError(
            "not-recorded",
            f"nothing stands under {address}",
            hint=f"did you mean '{close}'?" if close else "'bayplan state list' lists what does",
        )
    return found, row


def _short(value: Value) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
