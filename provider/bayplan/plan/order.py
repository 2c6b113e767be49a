"""What comes after what: the order of resources, and the numbers of operations.

Resources are taken in the order of their files as far as their dependencies allow (Kahn's algorithm, the lowest position
first), so that equal inputs give equal plans and a plan reads like the files. Operations are drafted in that order, with
edges between drafts; :func:`number` then gives each its number so that every edge points backwards.

An edge is *hard* (a value, a health condition, an object that must be gone) or *soft*: it makes room (a host port, a name)
or follows a record, and is dropped where it would close a circle. Then the draft says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

from bayplan.errors import BayplanError
from bayplan.plan.model import Action, Change, Condition, Desired, Operation, Value


class Draft:
    """An operation without its number yet; the only mutable thing in the planner."""

    __slots__ = (
        "action",
        "address",
        "after",
        "cause",
        "changes",
        "depends_on",
        "detail",
        "id",
        "inputs",
        "kind",
        "note",
        "number",
        "place",
        "precondition",
        "recovers",
        "soft",
        "uid",
        "waits_for",
        "warning",
        "where",
    )

    def __init__(self, address: str, kind: str, place: str, action: Action, cause: str, **more: Any) -> None:
        self.address = address
        self.kind = kind
        self.place = place
        self.action = action
        self.cause = cause
        self.number = 0
        self.inputs: Mapping[str, Value] = more.pop("inputs", {})
        self.changes: Sequence[Change] = more.pop("changes", ())
        self.after: list[Draft] = list(more.pop("after", ()))
        self.soft: list[tuple[Draft, str]] = []
        self.precondition: str = more.pop("precondition", "")
        self.uid: str = more.pop("uid", "")
        self.id: str = more.pop("id", "")
        self.where = more.pop("where", None)
        self.note: str = more.pop("note", "")
        self.warning: str = more.pop("warning", "")
        self.recovers: bool = more.pop("recovers", False)
        self.waits_for: Mapping[str, Condition] = more.pop("waits_for", {})
        self.depends_on: tuple[str, ...] = more.pop("depends_on", ())
        self.detail: dict[str, Value] = more.pop("detail", {})
        assert not more, more

    def operation(self) -> Operation:
        """The frozen operation; every draft in ``after`` has its number by now."""
        return Operation(
            number=self.number,
            address=self.address,
            kind=self.kind,
            place=self.place,
            action=self.action,
            cause=self.cause,
            inputs=self.inputs,
            changes=tuple(self.changes),
            after=tuple(sorted({draft.number for draft in self.after})),
            precondition=self.precondition,
            uid=self.uid,
            id=self.id,
            where=self.where,
            note=self.note,
            warning=self.warning,
            recovers=self.recovers,
            waits_for=self.waits_for,
            depends_on=self.depends_on,
            detail=self.detail,
        )


def arrange(desired: Mapping[str, Desired], edges: Mapping[str, Sequence[str]]) -> list[str]:
    """Addresses in an order in which each comes after what it depends on.

    ``edges`` maps an address to the desired addresses it depends on; those without any need no entry. Raises BayplanError
    ``cycle`` naming one circle.
    """
    addresses = list(desired)
    position = {address: index for index, address in enumerate(addresses)}
    if all(position[earlier] < position[address] for address, found in edges.items() for earlier in found):
        return addresses  # the files' own order is the lowest one that there is
    waiting = {address: len(found) for address, found in edges.items()}
    later: dict[str, list[str]] = {}
    for address, found in edges.items():
        for earlier in found:
            later.setdefault(earlier, []).append(address)
    ready = [index for address, index in position.items() if not waiting.get(address)]
    order: list[str] = []
    while ready:
        address = addresses[heapq.heappop(ready)]
        order.append(address)
        for one in later.get(address, ()):
            waiting[one] -= 1
            if not waiting[one]:
                heapq.heappush(ready, position[one])
    if len(order) < len(addresses):
        raise _circle(desired, edges, set(addresses) - set(order))
    return order


def _circle(desired: Mapping[str, Desired], edges: Mapping[str, Sequence[str]], left: set[str]) -> BayplanError:
    """The error that names one circle among the addresses which never became ready."""
    at = next(address for address in desired if address in left)
    trail: dict[str, None] = {}
    while at not in trail:
        trail[at] = None
        at = next(earlier for earlier in edges[at] if earlier in left)
    names = list(trail)
    circle = names[names.index(at) :]
    return BayplanError(
        "cycle",
        f"resources depend on each other in a circle: {' -> '.join((*circle, at))}",
        where=desired[at].where,
        hint="take one of these references or depends_on away",
    )


def number(drafts: Sequence[Draft]) -> list[Draft]:
    """The drafts in the order of the plan, numbered from 1; soft edges that hold have become hard ones."""
    place = {id(draft): index for index, draft in enumerate(drafts)}
    if all(
        place[id(earlier)] < index
        for index, draft in enumerate(drafts)
        for earlier in (*draft.after, *(one for one, _ in draft.soft))
    ):
        order = list(drafts)
        for draft in order:
            draft.after.extend(earlier for earlier, _ in draft.soft)
    else:
        order = _kahn(drafts, place)
    for index, draft in enumerate(order, 1):
        draft.number = index
    return order


def _kahn(drafts: Sequence[Draft], place: Mapping[int, int]) -> list[Draft]:
    waiting = [0] * len(drafts)
    later: list[list[int]] = [[] for _ in drafts]
    for index, draft in enumerate(drafts):
        for one in _before(draft):
            waiting[index] += 1
            later[place[id(one)]].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[Draft] = []
    done = bytearray(len(drafts))
    while len(order) < len(drafts):
        if not ready:
            index, earlier = _open_circle(drafts, done, place)
            waiting[index] -= 1
            later[earlier].remove(index)
            if not waiting[index]:
                heapq.heappush(ready, index)
            continue
        index = heapq.heappop(ready)
        done[index] = 1
        draft = drafts[index]
        draft.after = _before(draft)
        order.append(draft)
        for freed in later[index]:
            waiting[freed] -= 1
            if not waiting[freed]:
                heapq.heappush(ready, freed)
    return order


def _before(draft: Draft) -> list[Draft]:
    """Every draft that ``draft`` waits for, once."""
    return list({id(one): one for one in (*draft.after, *(one for one, _ in draft.soft))}.values())


def _open_circle(drafts: Sequence[Draft], done: bytearray, place: Mapping[int, int]) -> tuple[int, int]:
    """Drop one soft edge of a circle among the drafts that are left; returns the edge (from, to)."""
    at = done.index(0)
    trail: dict[int, int] = {}
    while at not in trail:
        trail[at] = at = next(place[id(one)] for one in _before(drafts[at]) if not done[place[id(one)]])
    circle = [at]
    while trail[circle[-1]] != at:
        circle.append(trail[circle[-1]])
    soft: list[tuple[bool, int, str]] = []
    for index in circle:
        draft, earlier = drafts[index], trail[index]
        if not any(place[id(one)] == earlier for one in draft.after):
            told = "; ".join(warning for one, warning in draft.soft if place[id(one)] == earlier and warning)
            soft.append((bool(told), index, told))
    if soft:
        # What only follows a record gives way before what needs room.
        _, index, told = min(soft)
        draft, earlier = drafts[index], trail[index]
        draft.soft = [(one, warning) for one, warning in draft.soft if place[id(one)] != earlier]
        draft.warning = "; ".join(filter(None, (draft.warning, told)))
        return index, earlier
    raise AssertionError("hard edges of a plan cannot close a circle")
