"""The planner: a pure function from what is declared, recorded and observed to what has to be done (DESIGN 4.1).

All decisions of bayplan are made here, and nowhere later: the executor walks the plan and adapters make single effects. The
steps, each in a room of its own:

* :mod:`scope`: edges between resources, and what ``--target`` lets in; :mod:`order` arranges the resources;
* :mod:`images` and :mod:`resources` decide about one resource at a time, dependencies first, with :mod:`diff` for fields,
  :mod:`containers` for state and what a replacement costs, :mod:`leftovers` for what an interrupted run left;
* :mod:`removal`: what is no longer declared, and who has to wait until it is gone;
* :mod:`order` again: numbers.

There is no input or output, no clock and no chance: equal inputs give equal plans. Cost is linear in the number of
resources; one that needs nothing costs a few microseconds and one entry of a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bayplan.errors import BayplanError, BayplanErrors
from bayplan.kinds.canonical import normalise
from bayplan.plan import images, resources
from bayplan.plan.board import Board, Normaliser
from bayplan.plan.diff import KindMarks
from bayplan.plan.model import Desired, Digester, Plan, Recorded, Value, World
from bayplan.plan.order import arrange, number
from bayplan.plan.removal import DESTROY, UNDECLARED, clear_grounds, make_room, remove
from bayplan.plan.scope import chosen, link, removal_edges, with_dependencies


def plan(
    stack: str,
    desired: Mapping[str, Desired],
    recorded: Mapping[str, Recorded],
    world: World,
    *,
    digester: Callable[[str], Digester],
    kinds: Mapping[str, KindMarks],
    normalise: Normaliser = normalise,
    targets: Sequence[str] = (),
    replace: Sequence[str] = (),
    destroy: bool = False,
    prune: bool = True,
    outputs: Mapping[str, Value] | None = None,
) -> Plan:
    """Make the plan of ``stack``.

    ``desired`` is in the order of the files, by address. ``digester`` gives the keyed digest of a place (it resolves
    secrets in the value itself), ``kinds`` the marks of every kind, ``normalise`` the canonical form of a property whose
    references were filled in. ``targets`` and ``replace`` are addresses, or what stands before the ``[`` of a ``for_each``.
    ``destroy`` removes everything of the stack, ``prune=False`` leaves alone what is not declared (faces that hand over
    single resources). ``outputs`` are the stack's, passed through.

    Raises BayplanErrors: ``prevent-destroy``, ``cycle``, ``unknown-address``, ``replace-outside-target``; all at once.
    """
    errors: list[BayplanError] = []
    everything = {**dict.fromkeys(desired), **dict.fromkeys(recorded), **dict.fromkeys(world.objects)}
    elsewhere = () if prune and not destroy else [address for address in everything if address not in desired]
    edges, holes = link(desired, elsewhere if not destroy else everything, errors)
    aims = chosen(targets, "--target", everything, errors)
    forced = chosen(replace, "--replace", desired, errors)
    scope = with_dependencies((address for address in aims if address in desired), edges) if targets else None
    if scope is not None:
        errors.extend(
            BayplanError(
                "replace-outside-target",
                f"--replace names {address}, which --target leaves out",
                hint=f"add --target {address}, or take --replace away",
            )
            for address in forced
            if address not in scope
        )
    _raise(errors)
    board = Board(
        stack=stack,
        desired=desired,
        recorded=recorded,
        world=world,
        digester=digester,
        kinds=kinds,
        normalise=normalise,
        forced=frozenset(forced),
        links=edges,
        holes=holes,
    )
    if destroy:
        going = _to_destroy(board, aims if targets else None, prune=prune)
        remove(board, going, removal_edges(world.objects, recorded, edges), DESTROY)
        seen = None
    else:
        for address in _arranged(desired, edges):
            if scope is None or address in scope:
                one = desired[address]
                (images.decide if one.kind == "Image" else resources.decide)(board, one)
        going = [
            address for address in world.objects if address not in desired and (address in aims if targets else prune)
        ]
        if going or board.drafts or board.late:
            standing = removal_edges(world.objects, recorded, edges)
            clear_grounds(board, standing, remove(board, going, standing, UNDECLARED))
            make_room(board)
        seen = scope
        _problems(board, scope)
    _raise(board.errors)
    return Plan(
        stack=stack,
        operations=tuple(draft.operation() for draft in number(board.drafts)),
        known=board.known,
        outputs=outputs or {},
        problems=tuple(board.problems),
        warnings=(*world.warnings, *board.warnings) if seen is None else tuple(board.warnings),
        looked_at=world.looked_at,
        calls=world.calls,
    )


def _arranged(desired: Mapping[str, Desired], edges: Mapping[str, Sequence[str]]) -> list[str]:
    try:
        return arrange(desired, edges)
    except BayplanError as circle:
        raise BayplanErrors([circle]) from None


def _to_destroy(board: Board, aims: Mapping[str, None] | None, *, prune: bool) -> list[str]:
    """The addresses that a destroy removes: all of the stack, or the targets and whatever depends on them."""
    objects = board.world.objects
    if aims is None:
        return list(objects) if prune else [address for address in objects if address in board.desired]
    edges = removal_edges(objects, board.recorded, board.links)
    users: dict[str, list[str]] = {}
    for address, earlier in edges.items():
        for one in earlier:
            users.setdefault(one, []).append(address)
    return [address for address in with_dependencies(aims, users) if address in objects]


def _problems(board: Board, scope: set[str] | None) -> None:
    """Troubles that the world tells beforehand, for what this plan is about."""
    for address, texts in board.world.problems.items():
        if scope is None or address in scope:
            board.problems.extend(f"{address}: {text}" for text in texts)
    stopped = {
        address: one.properties.get("desired_state")
        for address, one in board.desired.items()
        if one.kind == "Container" and one.properties.get("desired_state", "running") != "running"
    }
    if not stopped:
        return
    for address, one in board.desired.items():
        for other, condition in one.depends_on.items():
            if other in stopped and address in board.decisions:
                board.problems.append(
                    f"{address} waits for {other} to be {condition.value}, which is declared {stopped[other]}"
                )


def _raise(errors: Sequence[BayplanError]) -> None:
    if errors:
        raise BayplanErrors(errors)
