# Copyright (c) The bayplan authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the engine says, as results of Ansible.

A plan is masked once, as a plan (:func:`masked`); operations, notation, drift and diffs are all made from that one, so that
nothing can be forgotten. Masked are the values of every property that may hold a secret, written out or not: a playbook's
output goes to logs that many people read. The names stay, and the masks tell whether a value changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayplan.engine import Planned
    from bayplan.errors import Where
    from bayplan.execute.events import Finished
    from bayplan.plan.model import Change, Operation

_SAME, _OLD, _NEW = "(masked)", "(masked: old)", "(masked: new)"


# -- masks ---------------------------------------------------------------------------------------------------------


def masked(planned: Planned, alias: str = "") -> Planned:
    """``planned`` fit to be shown. ``alias`` is the name of a file that is no more: no place in it is told."""
    from bayplan import kinds

    marks = kinds.load()

    def place(where: Where | None) -> Where | None:
        return None if where is not None and where.file == alias else where

    def change(kind: str, one: Change) -> Change:
        before, after = one.before, one.after
        if _secret(marks, kind, one.field):
            before, after = _pair(before, after)
        return replace(one, before=before, after=after, where=place(one.where))

    def operation(one: Operation) -> Operation:
        inputs = {
            name: _pair(None, value)[1] if _secret(marks, one.kind, name) else value
            for name, value in one.inputs.items()
        }
        changes = tuple(change(one.kind, each) for each in one.changes)
        return replace(one, inputs=inputs, changes=changes, where=place(one.where))

    recorded = {
        key: replace(row, values={n: v for n, v in row.values.items() if not _secret(marks, row.kind, n)})
        for key, row in planned.recorded.items()
    }
    plan = replace(planned.plan, operations=tuple(map(operation, planned.plan.operations)))
    return replace(planned, plan=plan, recorded=recorded)


def _secret(marks: Mapping[str, Any], kind: str, field: str) -> bool:
    found = marks[kind].properties.get(field.partition(".")[0]) if kind in marks else None
    return found is not None and bool(found.secret)


def _pair(before: Any, after: Any) -> tuple[Any, Any]:
    """Both sides masked, entry by entry; equal masks for equal values. What is not there stays not there."""
    if isinstance(before, Mapping) or isinstance(after, Mapping):
        old = before if isinstance(before, Mapping) else {}
        new = after if isinstance(after, Mapping) else {}
        pairs = {key: _pair(old.get(key), new.get(key)) for key in (*old, *new)}
        return (
            {key: pairs[key][0] for key in old} if isinstance(before, Mapping) else before and _OLD,
            {key: pairs[key][1] for key in new} if isinstance(after, Mapping) else after and _NEW,
        )
    if before == after:
        return (None, None) if before is None else (_SAME, _SAME)
    return None if before is None else _OLD, None if after is None else _NEW


# -- results -------------------------------------------------------------------------------------------------------


def operations(planned: Planned, finished: Iterable[Finished] = ()) -> list[dict[str, Any]]:
    """The operations of a plan that was masked, with what became of those that were carried out."""
    from bayplan.plan import codec

    ended = {one.operation.number: one for one in finished}
    told = []
    for entry in codec.as_output(planned.plan)["operations"]:
        del entry["precondition"]
        end = ended.get(entry["number"])
        if end is not None:
            entry["result"] = end.result.value
            entry["seconds"] = round(end.seconds, 3)
            if end.detail:
                entry["detail"] = end.detail
            if end.error is not None:
                entry["error"] = end.error.as_dict()
        told.append(entry)
    return told


def had_effect(finished: Iterable[Finished]) -> bool:
    """Whether something is, or may be, other than it was: an operation whose outcome nobody knows counts."""
    from bayplan.execute.events import Result

    return any(one.result in (Result.OK, Result.UNKNOWN) for one in finished)


def objects(planned: Planned) -> dict[str, list[tuple[str, str]]]:
    """What stood when a plan was made: address -> uid and hash of each of its objects."""
    return {
        address: sorted((one.uid, one.hash) for one in found)
        for address, found in planned.world.objects.items()
        if found
    }


def diffs(planned: Planned) -> list[dict[str, str]]:
    """One entry an operation, as ``--diff`` shows it: only what changes, in the notation of plans."""
    from bayplan import kinds

    marks = kinds.load()
    rows = {(row.place, row.address): row.values for row in planned.recorded.values()}
    found = []
    for one in planned.plan.operations:
        forms = {name: mark.form for name, mark in marks[one.kind].properties.items()} if one.kind in marks else {}
        before, after = _sides(one, rows.get((one.place, one.address), {}))
        title = f"{one.address} ({one.action.value})"
        found.append(
            {
                "before_header": title,
                "after_header": title,
                "before": "".join(_lines(before, after, forms)),
                "after": "".join(_lines(after, before, forms)),
            }
        )
    return found


def _sides(one: Operation, known: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields before and after; of an effect that changes no field, its cause."""
    if one.changes:
        before = {change.field: change.before for change in one.changes if change.before is not None}
        return before, {change.field: change.after for change in one.changes if change.after is not None}
    if one.action.value == "create":
        return {}, dict(one.inputs)
    if one.action.value == "delete":
        return {"exists": True, **known}, {}
    return {}, {one.action.value: one.cause}


def _lines(side: Mapping[str, Any], other: Mapping[str, Any], forms: Mapping[str, str]) -> Iterator[str]:
    """``name: value``, a map's entries one by one; those that are the same on both sides are left out."""
    from bayplan.plan.notation import written

    for name, value in side.items():
        if isinstance(value, Mapping):
            there = other.get(name)
            against = there if isinstance(there, Mapping) else {}
            for key, entry in value.items():
                if key not in against or against[key] != entry:
                    yield f"{name}.{key}: {written(entry)}\n"
        else:
            yield f"{name}: {written(value, forms.get(name, ''))}\n"
