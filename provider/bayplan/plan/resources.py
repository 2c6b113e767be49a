"""The decision about one resource that is an object in its place: every kind but Image.

Looks at its objects, compares fields and state, and drafts what has to happen: nothing, create, update, replace, or steps
of its state; before and after these whatever an interrupted run left. Networks and Volumes differ in one thing: others sit
on them. A replaced one takes its users along (their references to it are unknown until it is there), and either the
users go first and come back after, where two cannot stand side by side, or the old one is kept until its users have moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayplan.plan import containers
from bayplan.plan.board import LOST, Board, Decision, describe, place_of
from bayplan.plan.diff import Sides, untouched
from bayplan.plan.leftovers import Scene, settle
from bayplan.plan.model import FOLLOWS, Action, Change, Desired, Observed, Reason, Recorded, Role, Value
from bayplan.plan.order import Draft

#: Kinds that others sit on: what they output is never foretold when they are made anew, so that users come along.
GROUND = frozenset({"Network", "Volume"})

_BY_HAND = "asked for by --replace"
_NO_SCENE = Scene(None)


def decide(board: Board, one: Desired) -> None:
    """Draft what ``one`` needs and note its decision, or that it stays."""
    objects = board.world.objects.get(one.address, ())
    if len(objects) == 1 and objects[0].role is Role.CURRENT and objects[0].place == one.place:
        current: Observed | None = objects[0]
        scene = _NO_SCENE
    else:
        scene = settle(objects, one, board.recorded.get(one.address))
        current = scene.current
    if current is None:
        _create(board, one, scene, board.recorded.get(one.address))
        return
    filled = board.filled(one)
    if (
        scene is _NO_SCENE
        and one.kind != "Container"
        and one.address not in board.forced
        and untouched(filled, current)
    ):
        board.stays(one, current)  # the common case of a large plan, told without the means to tell a difference
        return
    marks = board.marks(one.kind)
    sides = Sides(one, filled, current, board.recorded.get(one.address), marks, board.digest(one.place))
    skip: tuple[str, ...] = ()
    # Whether a name was declared is asked only where it matters: positions in files are found when they are wanted.
    # A container that was set aside lost its name for that; anything else kept it.
    if one.properties.get("name") != current.fields.get("name") and (
        (scene.restore and one.kind == "Container") or not name_declared(board.stack, one)
    ):
        skip = ("name",)
    changes = sides.changes(skip)
    steps = containers.steps(one, current) if one.kind == "Container" else ()
    if not changes and not steps and scene is _NO_SCENE and one.address not in board.forced:
        board.stays(one, current)
        if current.healthy is False:
            board.warnings.append(f"{one.address} is unhealthy")
        return
    _change(board, one, filled, scene, current, sides, changes, steps)


def name_declared(stack: str, one: Desired) -> bool:
    """Whether the name on the host was chosen by the user; one that was derived is never compared (DESIGN 5).

    Definition files say so by the positions of what they declare; other faces have none, there it is told by the value.
    """
    if "name" in one.positions:
        return True
    short = one.address.partition(".")[2]
    return not one.positions and one.properties.get("name") not in (None, f"{stack}-{short}")


# -- something is there --------------------------------------------------------------------------------------------


def _change(
    board: Board,
    one: Desired,
    filled: Mapping[str, Value],
    scene: Scene,
    current: Observed,
    sides: Sides,
    changes: list[Change],
    steps: Sequence[Action],
) -> None:
    decision = Decision(outputs=current.outputs or board.outputs_of(one.address, (current,)))
    board.decisions[one.address] = decision
    if scene.twins:
        names = ", ".join(found.name or found.id for found in (current, *scene.twins))
        board.problems.append(
            f"{one.address}: {len(scene.twins) + 1} objects claim to be it ({names}); none is removed"
        )
    replaces = one.address in board.forced or any(change.replaces for change in changes)
    gone = [_leftover(board, found, cause) for found, cause in scene.first]
    last = list(scene.last)
    if replaces:
        # The object set aside goes first where the current one is itself to be set aside: its place is needed.
        gone += [_leftover(board, found, cause) for found, cause in last if one.kind not in GROUND]
        last = [pair for pair in last if one.kind in GROUND]
        _replace(board, one, filled, scene, current, decision, changes, gone)
    elif changes or scene.restore:
        _update(board, one, scene, current, decision, changes, gone)
    if not replaces:
        _steps(board, one, current, sides, decision, steps, gone)
    for found, cause in last:
        if one.kind in GROUND:
            board.late.append((found, cause))
        else:
            draft = _leftover(board, found, cause)
            draft.after.extend(decision.last)
    for found in scene.moved:
        board.late.append((found, f"moved to {one.place}"))
    if not decision.drafts and not gone:
        del board.decisions[one.address]
        board.stays(one, current)
        return
    if not replaces:
        board.known[one.address] = decision.outputs


def _update(
    board: Board,
    one: Desired,
    scene: Scene,
    current: Observed,
    decision: Decision,
    changes: list[Change],
    gone: list[Draft],
) -> None:
    cause = describe(changes)
    detail: dict[str, Value] = {}
    if scene.restore:
        where = one.positions.get("name", one.where)
        changes = [Change("name", current.name or None, one.name, Reason.DRIFT, where=where), *changes]
        cause = "; ".join(filter(None, ("left aside by an interrupted replacement, takes its name back", cause)))
        detail = {"restore": True, "name": one.name}
    decision.drafts.append(
        board.add(
            Draft(
                one.address,
                one.kind,
                one.place,
                Action.UPDATE,
                cause,
                inputs=one.properties,
                changes=changes,
                after=[*board.after(one), *gone],
                precondition=current.hash,
                uid=current.uid,
                id=current.id,
                where=place_of(changes, one),
                recovers=scene.restore,
                depends_on=board.depends_on(one),
                detail=detail,
            )
        )
    )


def _steps(
    board: Board,
    one: Desired,
    current: Observed,
    sides: Sides,
    decision: Decision,
    steps: Sequence[Action],
    gone: list[Draft],
) -> None:
    """Start, stop, pause: one operation each, after one another."""
    if not steps:
        return
    digest = board.digest(one.place)
    recorded = sides.recorded.get("desired_state")
    declared = (recorded or digest(containers.RUNNING)) != digest(containers.wanted_state(one))
    change, cause, recovers = containers.state_change(one, current, declared=declared)
    for index, action in enumerate(steps):
        earlier = decision.drafts[-1:]
        decision.drafts.append(
            board.add(
                Draft(
                    one.address,
                    one.kind,
                    one.place,
                    action,
                    cause if index == 0 else f"desired_state: {change.after}",
                    inputs=one.properties,
                    changes=[change] if index == len(steps) - 1 else [],
                    after=earlier or [*board.after(one), *gone],
                    precondition=FOLLOWS if earlier else current.hash,
                    uid=current.uid,
                    id=current.id,
                    where=change.where,
                    recovers=recovers,
                    waits_for=board.waits_for(one) if action is Action.START else {},
                    depends_on=board.depends_on(one),
                    detail={"desired_state": change.after},
                )
            )
        )


# -- replacing -----------------------------------------------------------------------------------------------------


def _replace(
    board: Board,
    one: Desired,
    filled: Mapping[str, Value],
    scene: Scene,
    current: Observed,
    decision: Decision,
    changes: list[Change],
    gone: list[Draft],
) -> None:
    board.refuse_destroy(one, "replace")
    forced = one.address in board.forced
    aside = "the old one was left aside by an interrupted replacement" if scene.restore else ""
    cause = "; ".join(filter(None, (describe(changes), _BY_HAND if forced else "", aside)))
    decision.makes = True
    decision.outputs = _foretold(board, one)
    where = place_of(changes, one)
    crowded = [
        address
        for address in board.links.get(one.address, ())
        if (ground := board.decisions.get(address)) is not None and ground.crowded
    ]
    if crowded:
        _make_way(board, one, current, decision, changes, gone, crowded, cause)
        return
    detail = _made(one)
    note = LOST.get(one.kind, "")
    if one.kind in GROUND:
        decision.crowded = _crowded(changes)
        decision.kept = None if decision.crowded else current
    elif one.kind == "Container":
        held = containers.obstacle(one, filled, current, declared_name=name_declared(board.stack, one))
        note = containers.replacement_note(filled, current, one, held)
        if held:
            detail["stop_first"] = True
    if scene.restore:
        detail["old_role"] = Role.ASIDE.value
    decision.drafts.append(
        board.add(
            Draft(
                one.address,
                one.kind,
                one.place,
                Action.REPLACE,
                cause,
                inputs=one.properties,
                changes=changes,
                after=[*board.after(one), *gone],
                precondition=current.hash,
                uid=current.uid,
                id=current.id,
                where=where,
                note=note,
                recovers=scene.restore,
                waits_for=board.waits_for(one),
                depends_on=board.depends_on(one),
                detail=detail,
            )
        )
    )


def _crowded(changes: Sequence[Change]) -> bool:
    """Whether the old and the new object cannot stand side by side, so that users have to go first.

    A place knows a network or a volume by its name, and it has one name to give, unless that is what changes.
    """
    return all(change.field != "name" for change in changes)


def _make_way(
    board: Board,
    one: Desired,
    current: Observed,
    decision: Decision,
    changes: list[Change],
    gone: list[Draft],
    crowded: Sequence[str],
    cause: str,
) -> None:
    """A user of something that cannot be replaced under it: removed before, made again after."""
    grounds = " and ".join(crowded)
    remove = board.add(
        Draft(
            one.address,
            one.kind,
            one.place,
            Action.DELETE,
            f"makes way for {grounds}",
            after=gone,
            precondition=current.hash,
            uid=current.uid,
            id=current.id,
            where=place_of(changes, one),
            note=f"the service is down until it is made again after {grounds}",
            detail={"leftover": True},
        )
    )
    for address in crowded:
        for draft in board.decisions[address].drafts:
            draft.after.append(remove)
    create = board.add(
        Draft(
            one.address,
            one.kind,
            one.place,
            Action.CREATE,
            cause,
            inputs=one.properties,
            changes=changes,
            after=[remove, *board.after(one)],
            precondition=FOLLOWS,
            where=place_of(changes, one),
            waits_for=board.waits_for(one),
            depends_on=board.depends_on(one),
            detail=_made(one),
        )
    )
    decision.drafts += [remove, create]


# -- nothing is there ----------------------------------------------------------------------------------------------


def _create(board: Board, one: Desired, scene: Scene, recorded: Recorded | None) -> None:
    gone = [_leftover(board, found, cause) for found, cause in scene.first]
    detail = _made(one)
    cause = "new"
    if gone:
        cause = "its making was interrupted"
    elif scene.moved:
        cause = f"moves here from {scene.moved[0].place}"
    elif recorded is not None and recorded.place == one.place:
        cause = "removed by hand"
        detail["gone"] = True
    draft = board.add(
        Draft(
            one.address,
            one.kind,
            one.place,
            Action.CREATE,
            cause,
            inputs=one.properties,
            after=[*board.after(one), *gone],
            precondition=FOLLOWS if gone else "",
            where=one.where,
            recovers=bool(gone),
            waits_for=board.waits_for(one),
            depends_on=board.depends_on(one),
            detail=detail,
        )
    )
    board.decisions[one.address] = Decision([draft], _foretold(board, one), makes=True)
    for found in scene.moved:
        board.refuse_destroy(one, "move")
        board.late.append((found, f"moved to {one.place}"))


def _made(one: Desired) -> dict[str, Value]:
    """What whoever makes the object has to know besides its properties."""
    state = {"desired_state": containers.wanted_state(one)} if one.kind == "Container" else {}
    return {"name": one.name, **state}


def _foretold(board: Board, one: Desired) -> Mapping[str, Value]:
    """Outputs of an object that is made anew, as far as they are certain: a forecast, and a container's name."""
    if one.kind in GROUND:
        return {}
    forecast = board.world.forecasts.get(one.address)
    outputs: dict[str, Value] = dict(forecast.outputs) if forecast and forecast.outputs else {}
    if one.kind == "Container" and one.name:
        outputs.setdefault("name", one.name)
    return outputs


def _leftover(board: Board, found: Observed, cause: str) -> Draft:
    """The removal of an object that an interrupted run left."""
    draft = board.add(
        Draft(
            found.address,
            found.kind,
            found.place,
            Action.DELETE,
            cause,
            precondition=found.hash,
            uid=found.uid,
            id=found.id,
            note=LOST.get(found.kind, ""),
            recovers=True,
            detail={"leftover": True},
        )
    )
    board.leftovers.setdefault(found.address, []).append(draft)
    return draft
