"""What goes: resources that are no longer declared, and all of them in a destroy.

An object goes after everything that was recorded to depend on it, and after declared resources that used it have moved
away. Where a new resource needs what an old one still holds (a name, a host port: a resource that was given another address
in the files is the usual case), the new one waits for the old one to go. Only objects under this stack's identity are in the
world that the planner sees, so nothing that is not ours can be removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bayplan.plan.board import LOST, Board
from bayplan.plan.containers import host_ports
from bayplan.plan.model import Action, Observed, Role, Value
from bayplan.plan.order import Draft

#: The order of removal where nothing else is known: what runs goes first, what it stands on last.
_RANK = {"Container": 0, "Network": 1, "Volume": 2, "Image": 3, "Repository": 4}

UNDECLARED = "no longer declared"
DESTROY = "destroy"

Claim = tuple[str, str, str]


def remove(board: Board, addresses: Iterable[str], edges: Mapping[str, Sequence[str]], cause: str) -> None:
    """Draft the removal of every object of ``addresses``. ``edges`` are those of :func:`scope.removal_edges`."""
    objects = board.world.objects
    order = sorted(
        (address for address in addresses if objects.get(address)),
        key=lambda address: (_RANK.get(objects[address][0].kind, 0), address),
    )
    going: dict[str, list[Draft]] = {}
    for address in order:
        one = board.desired.get(address)
        if one is not None:
            board.refuse_destroy(one, "destroy")
        found = sorted(objects[address], key=lambda item: (item.role is Role.CURRENT, item.uid, item.id))
        going[address] = [_delete(board, item, cause, alone=len(found) == 1) for item in found]
    for address, earlier in edges.items():
        # What used the object: it goes too, or it has moved away.
        users = going.get(address)
        if users is None:
            decision = board.decisions.get(address)
            users = decision.last if decision is not None else []
        if not users:
            continue
        for other in earlier:
            if other != address:
                for draft in going.get(other, ()):
                    draft.soft.extend((user, "") for user in users)


def _delete(board: Board, found: Observed, cause: str, *, alone: bool) -> Draft:
    one = board.desired.get(found.address)
    left = found.role is not Role.CURRENT and not alone
    detail: dict[str, Value] = {}
    if found.kind == "Image":
        detail["tags"] = list(found.fields.get("tags") or ())
    if left:
        detail["leftover"] = True
    return board.add(
        Draft(
            found.address,
            found.kind,
            found.place,
            Action.DELETE,
            cause,
            precondition=found.hash,
            uid=found.uid,
            id=found.id,
            where=one.where if one else None,
            note=LOST.get(found.kind, ""),
            recovers=found.role is not Role.CURRENT,
            detail=detail,
        )
    )


# -- making room ---------------------------------------------------------------------------------------------------


def make_room(board: Board) -> None:
    """Let each new object wait for those that hold its name or host port now and are going to give it up.

    Where two give to each other what the other needs, no order serves: the edge is dropped and the plan warns.
    """
    freed: dict[Claim, Draft] = {}
    for draft in board.drafts:
        if draft.action in (Action.DELETE, Action.REPLACE):
            for claim in _held(board, draft):
                freed.setdefault(claim, draft)
    if not freed:
        return
    for draft in board.drafts:
        if draft.action not in (Action.CREATE, Action.REPLACE, Action.UPDATE):
            continue
        for claim in _needed(board, draft):
            holder = freed.get(claim)
            if holder is None or holder.address == draft.address or holder in draft.after:
                continue
            draft.soft.append((holder, f"{claim[2]} is still held by {holder.address} then"))


def _held(board: Board, draft: Draft) -> Iterator[Claim]:
    """What the object of a draft holds and gives up."""
    found = next(
        (one for one in board.world.objects.get(draft.address, ()) if one.uid == draft.uid and one.id == draft.id), None
    )
    if found is None:
        return
    kept: set[Claim] = set(_needed(board, draft)) if draft.action is Action.REPLACE else set()
    name = found.name or found.fields.get("name")
    claims: list[Claim] = [(found.place, found.kind, f"the name {name}")] if name else []
    claims += _ports(found.place, found.fields)
    yield from (claim for claim in claims if claim not in kept)


def _needed(board: Board, draft: Draft) -> Iterator[Claim]:
    """What an object that a draft makes needs for itself."""
    one = board.desired.get(draft.address)
    if one is None:
        return
    if one.name and draft.action is not Action.UPDATE:
        yield one.place, one.kind, f"the name {one.name}"
    yield from _ports(one.place, one.properties)


def _ports(place: str, fields: Mapping[str, Value]) -> list[Claim]:
    return [(place, "port", f"host port {port}/{protocol}") for port, protocol in host_ports(fields)]
