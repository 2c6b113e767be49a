"""A plan as text: the short notation that people read and tests compare (DESIGN 10), and the long one with every field.

One line is one operation: its number, address, action and cause, what it comes after, the line of the file that asks for it,
and what it costs the service. The functions return plain text without an end of line at the last one; colours are a face's
business. Nothing secret can appear, since a plan holds nothing secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bayplan.errors import Where
from bayplan.plan.model import (
    Action,
    Change,
    Operation,
    Plan,
    Reason,
    Redacted,
    Ref,
    SecretRef,
    Template,
    Unknown,
    Value,
)

#: Their cause names the place in a definition, or the property alone says enough.
_PLACELESS = frozenset({Action.PUSH, Action.TAG})

_SIZES = ((1 << 40, "t"), (1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"))


def short(plan: Plan) -> str:
    """The golden text: head, one line an operation, problems and warnings, and what was looked at."""
    return "\n".join(_lines(plan, long=False, forms={}))


def long(plan: Plan, kinds: Mapping[str, Any] | None = None) -> str:
    """The same with each field's change below its operation. ``kinds`` (as ``kinds.load()`` gives) tells sizes and times."""
    forms = {
        (kind, name): getattr(mark, "form", "")
        for kind, one in (kinds or {}).items()
        for name, mark in one.properties.items()
    }
    return "\n".join(_lines(plan, long=True, forms=forms))


def head(plan: Plan) -> str:
    """``shop: 3 operations``."""
    count = len(plan.operations)
    return f"{plan.stack}: {count} operation{'' if count == 1 else 's'}"


def looked(plan: Plan) -> str:
    """``41 resources looked at in 2 calls``."""
    resources = f"{plan.looked_at} resource{'' if plan.looked_at == 1 else 's'}"
    return f"{resources} looked at in {plan.calls} call{'' if plan.calls == 1 else 's'}"


def _lines(plan: Plan, *, long: bool, forms: Mapping[tuple[str, str], str]) -> Iterator[str]:
    if plan.operations:
        yield head(plan)
        digits = len(str(len(plan.operations)))
        addresses = max(len(operation.address) for operation in plan.operations)
        actions = max(len(operation.action.value) for operation in plan.operations)
        indent = " " * (digits + 5)
        for operation in plan.operations:
            number = f"[{operation.number}]".rjust(digits + 2)
            columns = f"{operation.address:<{addresses}}   {operation.action.value:<{actions}}"
            yield f"  {number} {columns}   {line(operation)}".rstrip()
            if operation.warning:
                yield f"{indent}warning: {operation.warning}"
            if long:
                for change in operation.changes:
                    yield from (
                        indent + text for text in changed(change, forms.get((operation.kind, change.field), ""))
                    )
    for problem in plan.problems:
        yield f"problem: {problem}"
    for warning in plan.warnings:
        yield f"warning: {warning}"
    yield f"{'nothing else changes' if plan.operations else f'{plan.stack}: no changes'}; {looked(plan)}"


def line(operation: Operation) -> str:
    """What stands behind the action: cause, order, place, cost."""
    text = operation.cause
    if operation.after:
        numbers = ", ".join(f"[{number}]" for number in operation.after)
        # After a sentence with parts of its own a comma would be lost.
        joint = " " if operation.action is Action.PUSH else "; " if "; " in text else ", "
        text = f"{text}{joint}after {numbers}"
    where = operation.where
    if where is not None and operation.action not in _PLACELESS and _place(where) not in operation.cause:
        text = f"{text}; {_place(where)}"
    return f"{text}; {operation.note}" if operation.note else text


def _place(where: Where) -> str:
    return f"{where.file}:{where.line}" if where.line else where.file


# -- fields --------------------------------------------------------------------------------------------------------


def changed(change: Change, form: str = "") -> Iterator[str]:
    """``memory: 64m -> 128m (drift)``; a map says it entry by entry, with those that stay left out."""
    marks = {Reason.DRIFT: " (drift)", Reason.REMOVED: " (no longer declared)"}
    mark = marks.get(change.reason, "")
    before, after = change.before, change.after
    if isinstance(before, Mapping) and (after is None or isinstance(after, Mapping)):
        yield from _entries(change.field, before, after or {}, mark)
    elif isinstance(after, Mapping) and before is None:
        yield from _entries(change.field, {}, after, mark)
    else:
        yield f"{change.field}: {written(before, form)} -> {written(after, form)}{mark}"


def _entries(name: str, before: Mapping[str, Value], after: Mapping[str, Value], mark: str) -> Iterator[str]:
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if old != new or (key in before) != (key in after):
            yield f"{name}.{key}: {written(old)} -> {written(new)}{mark}"


def written(value: Value, form: str = "") -> str:
    """A value as the files would have it; sizes and times with their unit, what nobody set as ``(none)``."""
    if value is None:
        return "(none)"
    if isinstance(value, (Unknown, Redacted, Ref, SecretRef, Template)):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)) and form == "bytes":
        return size(value)
    if isinstance(value, (int, float)) and form == "duration":
        return f"{value:g}s"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(item) for item in value) + "]"
    return str(value)


def _text(value: str) -> str:
    """A string, quoted where it would be taken for something else; the middle of a long digest left out."""
    if value and value.isprintable() and value == value.strip() and not any(c in value for c in ',"{}[]'):
        name, at, digest = value.rpartition("@")
        algorithm, colon, hexes = digest.partition(":")
        if colon and len(hexes) >= 64 and algorithm in ("sha256", "sha512"):
            return f"{name}{at}{algorithm}:{hexes[:12]}"
        return value
    return json.dumps(value, ensure_ascii=False)


def size(count: float) -> str:
    """Bytes as the files write them: ``64m``; with one decimal where it is not whole: ``1.5g``."""
    for unit, letter in _SIZES:
        if count >= unit:
            whole = count / unit
            return f"{whole:.0f}{letter}" if whole == int(whole) else f"{whole:.1f}{letter}"
    return f"{count:g}"
