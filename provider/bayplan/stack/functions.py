"""The functions that expressions may call: pure, total or refusing with a reason, few.

Each takes plain values and gives one. ``join`` alone also takes references, since a text made of pieces can wait for them
(:class:`~bayplan.kinds.expressions.Template`); it is defined with the evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bayplan.records import dataclass


class FunctionError(ValueError):
    """A call that cannot be answered; the text says why."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function: how it is written, and what it does with already checked numbers of arguments."""

    signature: str
    least: int
    most: int
    call: Callable[..., Any]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise FunctionError(f"{what} must be a text")
    return value


def _lower(text: Any) -> str:
    return _text(text, "its argument").lower()


def _upper(text: Any) -> str:
    return _text(text, "its argument").upper()


def _trim(text: Any) -> str:
    return _text(text, "its argument").strip()


def _replace(text: Any, old: Any, new: Any) -> str:
    wanted = _text(old, "what to replace")
    if not wanted:
        raise FunctionError("what to replace cannot be empty")
    return _text(text, "its first argument").replace(wanted, _text(new, "the replacement"))


def _split(separator: Any, text: Any) -> list[str]:
    if not _text(separator, "the separator"):
        raise FunctionError("the separator cannot be empty")
    return _text(text, "its second argument").split(separator)


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None or value == "" else value


def _length(value: Any) -> int:
    if not isinstance(value, (str, list, dict)):
        raise FunctionError("its argument must be a text, a list or a map")
    return len(value)


def _keys(value: Any) -> list[str]:
    if not isinstance(value, dict):
        raise FunctionError("its argument must be a map")
    return list(value)


def _values(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        raise FunctionError("its argument must be a map")
    return list(value.values())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FUNCTIONS: dict[str, Function] = {
    "lower": Function("lower(text)", 1, 1, _lower),
    "upper": Function("upper(text)", 1, 1, _upper),
    "trim": Function("trim(text)", 1, 1, _trim),
    "replace": Function("replace(text, old, new)", 3, 3, _replace),
    "split": Function("split(separator, text)", 2, 2, _split),
    "default": Function("default(value, otherwise)", 2, 2, _default),
    "length": Function("length(value)", 1, 1, _length),
    "keys": Function("keys(map)", 1, 1, _keys),
    "values": Function("values(map)", 1, 1, _values),
    "json": Function("json(value)", 1, 1, _json),
}
#: How ``join`` is written; :mod:`bayplan.stack.evaluate` carries it out.
JOIN = "join(separator, list)"
