"""Rules about several properties at once (``allOf`` of a schema): which go together, which exclude each other.

A rule is JSON Schema that only says yes or no; the words for a no stand beside it (``x-code``, ``x-message``, ``x-hint``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayplan.kinds.problem import Problem

Holds = Callable[[dict[str, Any]], bool]


def compile_rule(schema: Mapping[str, Any], *, named: bool) -> Callable[[dict[str, Any]], Problem | None]:
    """The check of one rule against a map."""
    holds = _holds(schema)
    problem = Problem((), schema["x-code"], schema["x-message"], schema.get("x-hint", ""), named)
    return lambda value: None if holds(value) else problem


def _holds(schema: Mapping[str, Any]) -> Holds:
    words = [word for word in schema if not word.startswith("x-") and word not in ("$comment", "then")]
    # What is required is looked up first: it is the quickest no.
    parts = [_part(word, schema) for word in sorted(words, key=lambda word: word != "required")]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts
        return lambda value: first(value) and second(value)
    return lambda value: all(part(value) for part in parts)


def _part(word: str, schema: Mapping[str, Any]) -> Holds:
    argument = schema[word]
    if word == "required":
        if len(argument) == 1:
            (name,) = argument
            return lambda value: name in value
        names = frozenset(argument)
        return lambda value: names <= value.keys()
    if word == "properties":
        allowed = {name: frozenset(one["enum"]) for name, one in argument.items()}
        if len(allowed) == 1:
            ((only, choices),) = allowed.items()
            return lambda value: only not in value or (isinstance(value[only], str) and value[only] in choices)
        return lambda value: all(
            name not in value or (isinstance(value[name], str) and value[name] in members)
            for name, members in allowed.items()
        )
    if word == "not":
        refused = _holds(argument)
        return lambda value: not refused(value)
    if word == "anyOf":
        any_of = [_holds(one) for one in argument]
        return lambda value: any(one(value) for one in any_of)
    if word == "oneOf":
        one_of = [_holds(one) for one in argument]
        return lambda value: sum(one(value) for one in one_of) == 1
    if word == "if":
        condition, then = _holds(argument), _holds(schema["then"])
        return lambda value: not condition(value) or then(value)
    raise ValueError(f"a rule cannot say {word!r}")
