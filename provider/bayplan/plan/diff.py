"""The three-way diff of one resource, field by field (DESIGN 4.1).

Three sides meet: what the files say, the digests of what was last applied, and what is there. The rules:

* A declared field that the world can show is compared with the world. Where they differ, the record tells why: the files
  changed since (*declared*) or the world did (*drift*). Where they agree there is nothing to do, whatever the record says.
* A declared field that the world cannot show is compared with the record by digest, and with the default where there is no
  record of it.
* A field that was recorded and is not declared any more goes back to its default: the one that the object has of its image
  or engine (``Observed.defaults``), else the schema's.
* A field that was never declared is somebody else's, or the engine's, and is left alone.
* A value that another operation of this plan makes differs (*upstream*). One that a resource which stays as it is fails to
  report does not: what it was made from did not change.

Maps are compared entry by entry. An entry that only the world has is no difference where it equals the default (a variable
of the image's environment); else it is one, but for maps that others write into too (labels, tags): there it is ours only
if it was recorded. Nothing here, or anywhere above, ever shows a secret: see :mod:`bayplan.plan.values`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from bayplan.plan.model import Change, Desired, Digester, Observed, Reason, Recorded, Redacted, Unknown, Value
from bayplan.plan.values import MISSING, STAYS, holds_secret, is_secret, redacted, shown, shown_beside, unknowns
from bayplan.plan.written import within

#: Maps that the world writes into as well: entries that nobody of us recorded are left alone.
SHARED_MAPS = frozenset({"labels", "tags"})

#: Properties that say where a resource stands or how bayplan goes about it; the kinds' own code compares them.
APART = frozenset({"host", "registry", "desired_state", "depends_on", "lifecycle"})


class PropertyMarks(Protocol):
    """What the planner needs to know of a property; ``bayplan.kinds.Property`` has it."""

    @property
    def replaces(self) -> bool: ...
    @property
    def live(self) -> bool: ...
    @property
    def secret(self) -> bool: ...
    @property
    def unordered(self) -> bool: ...
    @property
    def computed(self) -> bool: ...
    @property
    def default(self) -> Value: ...


class KindMarks(Protocol):
    """What the planner needs to know of a kind; ``bayplan.kinds.Kind`` has it."""

    @property
    def properties(self) -> Mapping[str, PropertyMarks]: ...


class Marks:
    """The marks of one kind as sets, made once a plan."""

    __slots__ = ("defaults", "effective", "known", "replaces", "secret", "unordered")

    def __init__(self, kind: KindMarks | None) -> None:
        properties = {} if kind is None else kind.properties
        own = {name: mark for name, mark in properties.items() if not mark.computed}
        self.known = frozenset(own) - APART
        self.replaces = frozenset(name for name, mark in own.items() if mark.replaces)
        self.secret = frozenset(name for name, mark in own.items() if mark.secret)
        self.unordered = frozenset(name for name, mark in own.items() if mark.unordered)
        #: Fields with an effect in the world. One that has neither mark tells bayplan how to go about things.
        self.effective = frozenset(name for name, mark in own.items() if mark.replaces or mark.live)
        self.defaults = {name: mark.default for name, mark in own.items()}


def untouched(filled: Mapping[str, Value], observed: Observed) -> bool:
    """Whether every declared field is there as it is declared, and no other was: then there is nothing to compare.

    A False says nothing: :class:`Sides` knows what else is the same.
    """
    fields = observed.fields
    for name, value in filled.items():
        if name not in fields or fields[name] != value:
            return False
    return bool(observed.recorded) and within(observed.recorded, filled)


class Sides:
    """One resource's three sides, and how to compare them."""

    __slots__ = ("_digest", "declared", "desired", "filled", "marks", "observed", "recorded", "values")

    def __init__(
        self,
        desired: Desired,
        filled: Mapping[str, Value],
        observed: Observed,
        recorded: Recorded | None,
        marks: Marks,
        digest: Digester,
    ) -> None:
        self.desired = desired
        self.declared = desired.properties
        self.filled = filled
        self.observed = observed
        # The labels of the object are the recorded side; the state is asked only where it has none (imported objects).
        self.recorded = observed.recorded or (recorded.fields if recorded else {})
        self.values: Mapping[str, Value] = recorded.values if recorded else {}
        self.marks = marks
        self._digest = digest

    def changes(self, skip: Iterable[str] = ()) -> list[Change]:
        """Every field that differs, declared ones first, in the order of the files. ``skip`` names fields left out."""
        found: list[Change] = []
        fields = self.observed.fields
        ignored = self.desired.lifecycle.ignore_changes
        for name, value in self.filled.items():
            there = fields.get(name, MISSING)
            if value == there or name in APART or name in ignored or name in skip:
                continue
            if (change := self._declared(name, value, there)) is not None:
                found.append(change)
        if not within(self.recorded, self.filled):
            for name in self.recorded:
                if name in self.filled or name in ignored or name in skip or name not in self.marks.known:
                    continue
                if (change := self._removed(name)) is not None:
                    found.append(change)
        return found

    # -- one field -------------------------------------------------------------------------------------------------

    def _declared(self, name: str, value: Value, there: Value) -> Change | None:
        open_ends = list(unknowns(value))
        if open_ends:
            if all(one.hint == STAYS for one in open_ends):
                return None
            return self._change(name, there, value, Reason.UPSTREAM)
        digest = self.recorded.get(name)
        if there is MISSING:
            if name not in self.marks.effective and name in self.marks.known:
                return None
            if digest is None:
                default = self._default(name)
                if same(value, default, name in self.marks.unordered, self._digest) or _nothing(value, default):
                    return None
            elif digest == self._digest(value):
                return None
            return self._change(name, self._before(name, digest), value, Reason.DECLARED)
        if name == "image" and (answer := same_image(value, there)) is not None:
            if answer:
                return None
        elif isinstance(there, Redacted) and not there.digest:
            if digest is not None and digest == self._digest(value):
                return None
        elif self._same(name, value, there):
            return None
        drifted = digest is not None and digest == self._digest(value)
        return self._change(name, there, value, Reason.DRIFT if drifted else Reason.DECLARED)

    def _removed(self, name: str) -> Change | None:
        default = self._default(name)
        there = self.observed.fields.get(name, MISSING)
        digest = self.recorded[name]
        if there is MISSING:
            if name not in self.marks.effective or digest == self._digest(default):
                return None
            return self._change(name, self._before(name, digest), default, Reason.REMOVED)
        wanted = {} if default is None and isinstance(there, Mapping) else default
        if _nothing(wanted, there) or self._same(name, wanted, there, removed=True):
            return None
        return self._change(name, there, default, Reason.REMOVED)

    def _default(self, name: str) -> Value:
        return self.observed.defaults[name] if name in self.observed.defaults else self.marks.defaults.get(name)

    def _before(self, name: str, digest: str | None) -> Value:
        """What a field that cannot be read was, as far as the record tells."""
        if digest is None:
            return None
        before = self.values.get(name, MISSING)
        return Redacted(digest) if before is MISSING or before is None else before

    # -- comparing -------------------------------------------------------------------------------------------------

    def _same(self, name: str, value: Value, there: Value, *, removed: bool = False) -> bool:
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            return self._same_map(name, value, there, removed=removed)
        unordered = name in self.marks.unordered
        if isinstance(value, (list, tuple)) and isinstance(there, (list, tuple)):
            extra = self.observed.defaults.get(name)
            if unordered and isinstance(extra, (list, tuple)) and extra:
                there = [item for item in there if item in value or item not in extra]
        return same(value, there, unordered, self._digest)

    def _same_map(self, name: str, value: Mapping[str, Value], there: Mapping[str, Value], *, removed: bool) -> bool:
        for key, item in value.items():
            other = there.get(key, MISSING)
            if other is MISSING:
                return False
            if isinstance(other, Redacted) and not other.digest:
                if self.recorded.get(name) != self._digest(value):
                    return False
            elif not same(item, other, unordered=False, digest=self._digest):
                return False
        inherited = self.observed.defaults.get(name)
        if not isinstance(inherited, Mapping):
            inherited = {}
        extra = [key for key in there if key not in value and inherited.get(key, MISSING) != there[key]]
        if not extra:
            return True
        return name in SHARED_MAPS and not any(map(self._ours(name, value, removed=removed), extra))

    def _ours(self, name: str, value: Value, *, removed: bool) -> Callable[[str], bool]:
        """Whether an entry of a shared map that is not declared was put there by us."""
        kept = self.values.get(name)
        if isinstance(kept, Mapping) and kept:
            return kept.__contains__
        # Nobody wrote down which entries were ours: they can be only if the declaration changed since.
        changed = removed or self.recorded.get(name) not in (None, self._digest(value))
        return lambda _: changed

    # -- showing ---------------------------------------------------------------------------------------------------

    def _change(self, name: str, before: Value, after: Value, reason: Reason) -> Change:
        if before is MISSING:
            before = None
        elif before is not None:
            before = self._shown_before(name, before)
        return Change(
            field=name,
            before=before,
            after=shown(after, self._digest),
            reason=reason,
            replaces=name in self.marks.replaces,
            where=self.desired.positions.get(name, self.desired.where),
        )

    def _shown_before(self, name: str, before: Value) -> Value:
        declared = self.declared.get(name, MISSING)
        kept = self.values.get(name, MISSING)
        left_out = kept is None or (kept is MISSING and bool(self.values) and name in self.recorded)
        if is_secret(declared) or left_out:
            return redacted(before, self._digest)
        if isinstance(before, Mapping):
            inherited = self.observed.defaults.get(name)
            if isinstance(inherited, Mapping):
                before = {key: item for key, item in before.items() if inherited.get(key, MISSING) != item}
            if name in SHARED_MAPS and not any(True for _ in unknowns(self.filled.get(name))):
                mine = self.filled.get(name)
                ours = self._ours(name, mine, removed=mine is None)
                before = {key: item for key, item in before.items() if key in (mine or ()) or ours(key)}
        # Where secrets may stand, what nobody declares or has recorded in clear may be one.
        return shown_beside(before, declared, kept, self._digest, open_=name not in self.marks.secret)


def same(value: Value, there: Value, unordered: bool, digest: Digester) -> bool:
    """Whether a declared value (no Unknown in it) and an observed one are the same; secrets by their digests."""
    if value == there:
        return True
    if isinstance(value, Unknown):
        return False
    if isinstance(there, Redacted):
        return there.digest == digest(value)
    if is_secret(value):
        return there is not None and there is not MISSING and not holds_secret(there) and digest(value) == digest(there)
    if isinstance(value, Mapping):
        if not isinstance(there, Mapping) or value.keys() != there.keys():
            return False
        return all(same(item, there[key], False, digest) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        if not isinstance(there, (list, tuple)) or len(value) != len(there):
            return False
        if unordered:
            return _tally(value, digest) == _tally(there, digest)
        return all(same(item, other, False, digest) for item, other in zip(value, there, strict=True))
    return False


def _tally(items: Iterable[Value], digest: Digester) -> list[str]:
    """The items of an unordered list, comparable whatever their order."""
    return sorted(item.digest if isinstance(item, Redacted) else digest(item) for item in items)


def _nothing(one: Value, other: Value) -> bool:
    """Whether both say *nothing*: no value, an empty one, false and zero are one and the same to an engine."""
    return not one and not other and not isinstance(one, Redacted) and not isinstance(other, Redacted)


def image_digest(value: Value) -> str:
    """The manifest digest in an image's name: ``shop:1@sha256:..`` and ``sha256:..``; ``""`` where there is none."""
    if not isinstance(value, str):
        return ""
    return value.rpartition("@")[2] if "@" in value or value.startswith(("sha256:", "sha512:")) else ""


def same_image(value: Value, there: Value) -> bool | None:
    """Images are what their digests say. None: not an image's name.

    A name without a digest is one that could not be resolved when the world was looked at, which is a problem of its own;
    that the image changed cannot be said.
    """
    if not isinstance(value, str) or not isinstance(there, str) or not image_digest(there):
        return None
    wanted = image_digest(value)
    return not wanted or wanted == image_digest(there)
