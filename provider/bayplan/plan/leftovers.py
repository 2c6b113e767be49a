"""What an interrupted run left: which of several objects of one address is the resource, and which must go.

An apply may die anywhere between making the next object and removing the last. The labels tell what each object was for
(:class:`Role`), and from these alone the answer is decided, always the same one and always one that converges:

* *current* and *next*: the replacement had not taken over. The next one is removed, and the current one is planned like any
  other; if it still has to be replaced, that is done from the start. (To finish the half made one would save a moment and
  trust an object of which nobody knows how far it got.)
* *current* and *aside*: the replacement has taken over. The one aside goes; last, so that it is still there to be looked at
  if the current one cannot be started; first, where the current one is to be replaced itself.
* *aside* without *current*: the old one was out of the way and nothing has its name. It has proven itself, so it is the
  resource: where it agrees with what is declared it takes its name back, else it is what gets replaced. A *next* one beside
  it is removed, as above.
* *next* alone: somebody removed the rest. It is removed, and the resource made new.
* Two that claim to be *current*: the one that bears the declared name stays, else the recorded one, else the one of the
  lowest uid; the other goes. (A network or volume that is given another name has two for a while: the new one is made, the
  users move, the old one goes.) Of a Volume or a Repository neither goes where none has the declared name: what they hold
  is not ours to judge, and the plan names them as a problem.

Objects in another place than the declared one are a move: they go when the new object stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from bayplan.plan.model import Desired, Observed, Recorded, Role
from bayplan.records import dataclass, field

LEFT = "left by an interrupted replacement"
TWICE = "a second object under the same identity"

_KEPT = frozenset({"Volume", "Repository"})


@dataclass(frozen=True, slots=True)
class Scene:
    """``current`` is the resource's object (``restore``: it was set aside and has lost its name). ``first`` goes before
    anything else is done, ``last`` afterwards, ``moved`` stands in another place."""

    current: Observed | None
    restore: bool = False
    first: tuple[tuple[Observed, str], ...] = ()
    last: tuple[tuple[Observed, str], ...] = ()
    moved: tuple[Observed, ...] = ()
    twins: tuple[Observed, ...] = field(default=())


def settle(objects: Sequence[Observed], one: Desired, recorded: Recorded | None) -> Scene:
    """Decide among all objects of one address. The order of ``objects`` does not matter."""
    here = sorted((found for found in objects if found.place == one.place), key=lambda found: (found.uid, found.id))
    moved = tuple(found for found in objects if found.place != one.place)
    roles = {role: [found for found in here if found.role is role] for role in Role}
    nexts = [(found, LEFT) for found in roles[Role.NEXT]]
    asides = [(found, LEFT) for found in roles[Role.ASIDE]]
    if roles[Role.CURRENT]:
        current = _proven(roles[Role.CURRENT], one, recorded)
        twins = [found for found in roles[Role.CURRENT] if found is not current]
        if one.kind in _KEPT and current.name != one.name:
            return Scene(current, first=tuple(nexts), last=tuple(asides), moved=moved, twins=tuple(twins))
        doubled = [(found, TWICE) for found in twins]
        if one.kind != "Container":  # others may sit on them yet
            return Scene(current, first=tuple(nexts), last=(*doubled, *asides), moved=moved)
        return Scene(current, first=(*doubled, *nexts), last=tuple(asides), moved=moved)
    if asides:
        current = _proven(roles[Role.ASIDE], one, recorded)
        others = [(found, cause) for found, cause in asides if found is not current]
        return Scene(current, restore=True, first=(*others, *nexts), moved=moved)
    return Scene(None, first=tuple(nexts), moved=moved)


def _proven(objects: Sequence[Observed], one: Desired, recorded: Recorded | None) -> Observed:
    """The object that has the declared name, else the one that the record knows, else the first."""
    uid, id_ = (recorded.uid, recorded.id) if recorded is not None else ("", "")
    return min(objects, key=lambda found: (found.name != one.name, found.uid != uid, found.id != id_))
