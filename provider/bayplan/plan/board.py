"""The table at which one plan is made: the sides as they were given, what was decided so far, the drafts.

Resources are decided one after the other, dependencies first. What a later one may know of an earlier one goes through
:meth:`Board.output`: the value where this plan leaves it alone or where it is forecast, Unknown where only the apply will
tell. A resource that stays costs one entry in ``known`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from bayplan.errors import BayplanError, Where
from bayplan.plan.diff import KindMarks, Marks
from bayplan.plan.model import (
    Change,
    Condition,
    Desired,
    Digester,
    Observed,
    Reason,
    Recorded,
    Ref,
    Unknown,
    Value,
    World,
)
from bayplan.plan.order import Draft
from bayplan.plan.values import MISSING, STAYS, fill
from bayplan.records import dataclass, field

#: Kinds that are not started: nothing waits for their health.
STILL = frozenset({"Image", "Network", "Volume", "Repository"})

#: Puts the properties of a kind in their canonical form (``kinds.normalise``).
Normaliser = Callable[[str, Mapping[str, Value]], Mapping[str, Value]]

LOST = {
    "Volume": "its data is lost",
    "Repository": "the images in it are lost",
}


@dataclass(slots=True)
class Decision:
    """What is to be done about one resource that does not just stay.

    ``outputs`` are those that are known already; ``makes`` says that an object is made anew, so that the others will only
    be known then. ``crowded`` marks a replacement that cannot begin before its users are gone; ``kept`` is the old object
    where it is the other way round: it goes only when its users have moved.
    """

    drafts: list[Draft] = field(default_factory=list)
    outputs: Mapping[str, Value] = field(default_factory=dict)
    makes: bool = False
    crowded: bool = False
    kept: Observed | None = None

    @property
    def last(self) -> list[Draft]:
        """The drafts that nothing of the same resource waits for: who depends on the resource waits for these."""
        inner = {id(earlier) for draft in self.drafts for earlier in draft.after}
        return [draft for draft in self.drafts if id(draft) not in inner]


@dataclass(slots=True)
class Board:
    """See the module. ``links`` and ``holes`` come from :func:`bayplan.plan.scope.link`."""

    stack: str
    desired: Mapping[str, Desired]
    recorded: Mapping[str, Recorded]
    world: World
    digester: Callable[[str], Digester]
    kinds: Mapping[str, KindMarks]
    normalise: Normaliser
    forced: frozenset[str]
    links: Mapping[str, tuple[str, ...]]
    holes: Mapping[str, tuple[str, ...]]
    drafts: list[Draft] = field(default_factory=list)
    decisions: dict[str, Decision] = field(default_factory=dict)
    known: dict[str, Mapping[str, Value]] = field(default_factory=dict)
    errors: list[BayplanError] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: Objects to remove when their users have moved, and why; the resource itself stays.
    late: list[tuple[Observed, str]] = field(default_factory=list)
    #: Removals of what interrupted runs left, by address: until then that still uses what it used.
    leftovers: dict[str, list[Draft]] = field(default_factory=dict)
    _marks: dict[str, Marks] = field(default_factory=dict)
    _digests: dict[str, Digester] = field(default_factory=dict)

    def marks(self, kind: str) -> Marks:
        found = self._marks.get(kind)
        if found is None:
            found = self._marks[kind] = Marks(self.kinds.get(kind))
        return found

    def digest(self, place: str) -> Digester:
        found = self._digests.get(place)
        if found is None:
            found = self._digests[place] = self.digester(place)
        return found

    # -- values ----------------------------------------------------------------------------------------------------

    def output(self, ref: Ref) -> Value:
        """What a reference means as far as it can be known now."""
        decision = self.decisions.get(ref.address)
        if decision is not None:
            if ref.attribute in decision.outputs:
                return decision.outputs[ref.attribute]
            return Unknown(ref.address, ref.attribute, "" if decision.makes else STAYS)
        outputs = self.known.get(ref.address)
        if outputs is None:
            outputs = self.outputs_of(ref.address, self.world.objects.get(ref.address, ()))
        value = outputs.get(ref.attribute, MISSING)
        return Unknown(ref.address, ref.attribute, STAYS) if value is MISSING else value

    def outputs_of(self, address: str, objects: Iterable[Observed]) -> Mapping[str, Value]:
        """What an existing resource outputs: the world's word, else the record's."""
        for one in objects:
            if one.outputs:
                return one.outputs
        recorded = self.recorded.get(address)
        return recorded.outputs if recorded else {}

    def filled(self, one: Desired) -> Mapping[str, Value]:
        """The declared properties with every reference filled in as far as it is known."""
        holes = self.holes.get(one.address)
        if not holes:
            return one.properties
        found = dict(one.properties)
        for name in holes:
            found[name] = self._canonical(one.kind, name, fill(found[name], self.output))
        return found

    def _canonical(self, kind: str, name: str, value: Value) -> Value:
        """A value that was filled in, in the form of its kind; one that is not known yet stays as it is."""
        if not _plain(value):
            return value
        return self.normalise(kind, {name: value}).get(name, value)

    # -- drafting --------------------------------------------------------------------------------------------------

    def add(self, draft: Draft) -> Draft:
        self.drafts.append(draft)
        return draft

    def after(self, one: Desired, besides: Iterable[str] = ()) -> list[Draft]:
        """The last drafts of everything that ``one`` depends on, but for the addresses in ``besides``."""
        found: list[Draft] = []
        for address in self.links.get(one.address, ()):
            decision = self.decisions.get(address)
            if decision is not None and address not in besides:
                found.extend(decision.last)
        return found

    def depends_on(self, one: Desired) -> tuple[str, ...]:
        """What is recorded with the resource, so that its deletion comes before theirs."""
        return self.links.get(one.address, ())

    def waits_for(self, one: Desired) -> Mapping[str, Condition]:
        """The conditions among ``depends_on`` that somebody has to wait for."""
        if not one.depends_on:
            return {}
        return {
            address: condition
            for address, condition in one.depends_on.items()
            if address in self.desired and self.desired[address].kind not in STILL
        }

    def stays(self, one: Desired, observed: Observed) -> None:
        """The resource needs nothing."""
        self.known[one.address] = observed.outputs or self.outputs_of(one.address, (observed,))

    def refuse_destroy(self, one: Desired, what: str) -> None:
        """Note the error of a plan that would destroy what ``prevent_destroy`` guards."""
        if one.lifecycle.prevent_destroy:
            self.errors.append(
                BayplanError(
                    "prevent-destroy",
                    f"{one.address} has prevent_destroy, and this plan would {what} it",
                    where=one.positions.get("lifecycle", one.where),
                    hint="take prevent_destroy away, or what makes the plan do so",
                )
            )


def describe(changes: Iterable[Change]) -> str:
    """The cause of an operation: the fields that differ, and why where it is not the files."""
    words = {Reason.DRIFT: " (drift)", Reason.REMOVED: " (no longer declared)"}
    return ", ".join(change.field + words.get(change.reason, "") for change in changes)


def place_of(changes: Iterable[Change], one: Desired) -> Where | None:
    """The line that an operation's cause stands in: that of the first change."""
    return next((change.where for change in changes if change.where), one.where)


def _plain(value: Value) -> bool:
    """Whether ``value`` is JSON through and through."""
    if isinstance(value, Mapping):
        return all(map(_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))
