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
from bayplan.plan.model import FOLLOWS, Action, Observed, Role, Value
from bayplan.plan.order import Draft

#: The order of removal where nothing else is known: what runs goes first, what it stands on last.
_RANK = {"Container": 0, "Network": 1, "Volume": 2, "Image": 3, "Repository": 4}

UNDECLARED = "no longer declared"
DESTROY = "destroy"

Claim = tuple[str, str, str]


def remove(
    board: Board, addresses: Iterable[str], edges: Mapping[str, Sequence[str]], cause: str
) -> dict[str, list[Draft]]:
    """Draft the removal of every object of ``addresses``; returns the drafts. ``edges``: :func:`scope.removal_edges`."""
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
        users = leaving(board, going, address)
        for other in earlier if users else ():
            if other != address:
                for draft in going.get(other, ()):
                    draft.soft.extend((user, "") for user in users)
    return going


def leaving(board: Board, going: Mapping[str, list[Draft]], address: str) -> list[Draft]:
    """The drafts after which the objects of ``address`` do not use any more what they used: it goes, or has moved away."""
    if address in going:
        return going[address]
    decision = board.decisions.get(address)
    return [*(decision.last if decision is not None else ()), *board.leftovers.get(address, ())]


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


# -- what others sit on --------------------------------------------------------------------------------------------


def clear_grounds(board: Board, edges: Mapping[str, Sequence[str]], going: Mapping[str, list[Draft]]) -> None:
    """Order Networks and Volumes that are replaced, or have objects left over, against whoever sits on them now.

    Where old and new cannot stand side by side, everybody has to have left before; else the old one goes when everybody
    has moved. Who will use the new one comes after it anyway; here it is about who uses the old one, declared or not.
    """
    kept = {address: one.kept for address, one in board.decisions.items() if one.kept is not None}
    crowded = [address for address, one in board.decisions.items() if one.crowded]
    if not kept and not crowded and not board.late:
        return
    users: dict[str, dict[str, None]] = {}
    for links in (board.links, edges):
        for address, earlier in links.items():
            for ground in earlier:
                users.setdefault(ground, {})[address] = None
    for ground in crowded:
        for address in users.get(ground, ()):
            _evict(board, board.decisions[ground].drafts, leaving(board, going, address))

    def moved(address: str) -> list[Draft]:
        own = board.decisions[address].last if address in board.decisions else []
        return own + [draft for user in users.get(address, ()) for draft in leaving(board, going, user)]

    for address, old in kept.items():
        assert old is not None
        for draft in board.decisions[address].drafts:
            draft.detail["keeps_old"] = True
            draft.note = "; ".join(filter(None, ("the old one goes when its users have moved", draft.note)))
        _late(board, old, "replaced", FOLLOWS, moved(address), recovers=False)
    for found, cause in board.late:
        _late(board, found, cause, found.hash, moved(found.address), recovers=not cause.startswith("moved"))


def _evict(board: Board, grounds: Sequence[Draft], drafts: Sequence[Draft]) -> None:
    """Let ``grounds`` wait until the users that ``drafts`` are about are off them."""
    for draft in drafts:
        apart = [one for one in draft.after if one.address == draft.address and one.action is Action.DELETE]
        if draft.action is Action.DELETE:
            waits_for = [draft]
        elif draft.action is Action.CREATE and apart:
            waits_for = apart
        elif draft.action is Action.REPLACE and draft.kind == "Container":
            comes_after = any(_leads_to(draft, ground, {}) for ground in grounds)
            waits_for = [_take_apart(board, draft)] if comes_after else [draft]
        else:
            continue
        for ground in grounds:
            ground.after.extend(one for one in waits_for if one not in ground.after)


def _late(board: Board, found: Observed, cause: str, precondition: str, after: list[Draft], *, recovers: bool) -> None:
    board.add(
        Draft(
            found.address,
            found.kind,
            found.place,
            Action.DELETE,
            cause,
            after=after,
            precondition=precondition,
            uid=found.uid,
            id=found.id,
            note=LOST.get(found.kind, ""),
            recovers=recovers,
            detail={"leftover": True},
        )
    )


# -- making room ---------------------------------------------------------------------------------------------------


def make_room(board: Board) -> None:
    """Let each new object wait for those that hold its name or host port now and are going to give it up.

    Where the holder has to come after, or two hand each other what the other needs, no order of replacements serves: the
    holder is removed first and made again in its turn.
    """
    freed: dict[Claim, Draft] = {}
    for draft in board.drafts:
        if draft.action in (Action.DELETE, Action.REPLACE):
            for claim in _held(board, draft):
                freed.setdefault(claim, draft)
    if not freed:
        return
    waits: dict[int, list[tuple[Draft, Claim]]] = {}
    for draft in list(board.drafts):
        if draft.action not in (Action.CREATE, Action.REPLACE):
            continue
        for claim in _needed(board, draft):
            holder = freed.get(claim)
            if holder is None or holder.address == draft.address or holder in draft.after:
                continue
            if holder.action is Action.REPLACE and holder.kind == "Container" and _leads_to(holder, draft, waits):
                removal = _take_apart(board, holder)
                freed = {one: removal if other is holder else other for one, other in freed.items()}
                for found in waits.values():
                    found[:] = [(removal if other is holder else other, one) for other, one in found]
                holder = removal
            waits.setdefault(id(draft), []).append((holder, claim))
    for draft in board.drafts:
        for holder, claim in waits.get(id(draft), ()):
            draft.soft.append((holder, f"{claim[2]} is still held by {holder.address} then"))


def _leads_to(start: Draft, aim: Draft, waits: Mapping[int, Sequence[tuple[Draft, Claim]]]) -> bool:
    """Whether ``start`` waits for ``aim``, directly or not."""
    todo, seen = [start], {id(start)}
    while todo:
        one = todo.pop()
        if one is aim:
            return True
        for earlier in (*one.after, *(holder for holder, _ in waits.get(id(one), ()))):
            if id(earlier) not in seen:
                seen.add(id(earlier))
                todo.append(earlier)
    return False


def _take_apart(board: Board, draft: Draft) -> Draft:
    """Turn a replacement into a removal, which is returned, and a creation after it."""
    removal = Draft(
        draft.address,
        draft.kind,
        draft.place,
        Action.DELETE,
        "makes room for others",
        after=[one for one in draft.after if one.address == draft.address],
        precondition=draft.precondition,
        uid=draft.uid,
        id=draft.id,
        where=draft.where,
        note="the service is down until it is made again",
        recovers=draft.recovers,
        detail={"leftover": True},
    )
    board.drafts.insert(next(index for index, one in enumerate(board.drafts) if one is draft), removal)
    draft.action = Action.CREATE
    draft.after.append(removal)
    draft.precondition, draft.uid, draft.id, draft.note = FOLLOWS, "", "", ""
    draft.detail = {key: value for key, value in draft.detail.items() if key in ("name", "desired_state")}
    decision = board.decisions[draft.address]
    decision.drafts.insert(0, removal)
    return removal


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
    if one.name:
        yield one.place, one.kind, f"the name {one.name}"
    yield from _ports(one.place, one.properties)


def _ports(place: str, fields: Mapping[str, Value]) -> list[Claim]:
    return [(place, "port", f"host port {port}/{protocol}") for port, protocol in host_ports(fields)]
