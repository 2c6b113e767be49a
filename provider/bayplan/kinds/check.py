"""Are these properties what their kind says? And the sections of a stack file, by the same means.

The caller turns each problem's ``path`` into a place in a file. Properties come without the keys that every resource has
(``depends_on``, ``for_each``, ``lifecycle``: :data:`COMMON`), which :func:`validate_common` checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from bayplan.kinds.files import read_schema
from bayplan.kinds.model import KIND_NAMES, kind_named, load, unknown_kind
from bayplan.kinds.problem import Problem, did_you_mean
from bayplan.kinds.validator import Around, Check, compile_schema
from bayplan.kinds.values import pattern, quoted

#: Keys of a resource that are not its kind's.
COMMON = ("depends_on", "for_each", "lifecycle")
#: Name behind the dot of ``Kind.name``.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"

_STACK = "stack.source.json"


def validate(kind: str, properties: Mapping[str, Any]) -> list[Problem]:
    """All that is wrong with the declared properties of one resource; empty where nothing is.

    Expressions may stand at any leaf that takes text. Raises BayplanError ``unknown-kind``.
    """
    found = _kind_check(kind)(properties)
    return [problem.told() for problem in found] if found else []


def validate_common(kind: str, keys: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with ``depends_on``, ``for_each`` and ``lifecycle`` of a resource (those that are given)."""
    found = list(_common_check()(dict(keys)) or ())
    ignored = keys.get("lifecycle")
    names = ignored.get("ignore_changes") if isinstance(ignored, Mapping) else None
    known = kind_named(kind).properties
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str) and name not in known:
            message = f"unknown property {quoted(name)} of {kind}"
            path = ("lifecycle", "ignore_changes", index)
            found.append(Problem(path, "unknown-property", message, did_you_mean(name, list(known))))
    waits = keys.get("depends_on")
    for address in waits if isinstance(waits, Mapping) else ():
        if isinstance(address, str) and "." in address and (wrong := validate_address(address, indexed=True)):
            found.append(Problem(("depends_on", address), wrong.code, wrong.message, wrong.hint))
    return [problem.told() for problem in found]


def validate_stack_section(section: str, value: Any) -> list[Problem]:
    """What is wrong with one top-level key of a stack file, its expressions resolved. ``path`` begins inside of it.

    ``resources`` is checked for its addresses only (:func:`validate` and :func:`validate_common` look inside); a key that
    does not exist is told with its nearest name.
    """
    if section == "resources":
        return _resources(value)
    check = _section_checks().get(section)
    if check is None:
        hint = did_you_mean(section, [*_section_checks(), "resources"])
        return [Problem((), "unknown-key", f"unknown key {quoted(section)} of a stack file", hint, False)]
    return [_in_section(section, problem) for problem in check(value) or ()]


def validate_address(address: str, *, indexed: bool = False) -> Problem | None:
    """Whether ``address`` is ``Kind.name`` of a kind that exists; ``indexed``: ``[key]`` of a for_each may follow."""
    kind, dot, name = address.partition(".")
    if not dot:
        if kind in load():
            return Problem((), "bad-address", f"{quoted(address)} has no name", f"write {kind}.NAME", False)
        hint = f"write Kind.name; kinds are {', '.join(KIND_NAMES)}"
        return Problem((), "bad-address", f"{quoted(address)} is not an address", hint, False)
    if kind not in load():
        error = unknown_kind(kind)
        return Problem((), error.code, error.message, error.hint, False)
    if indexed and name.endswith("]"):
        name = name.partition("[")[0]
    if not pattern(NAME).match(name):
        hint = "names have letters, digits, - and _, and at most 63 characters"
        return Problem((), "bad-address", f"{quoted(name)} is not a resource's name", hint, False)
    return None


def _resources(value: Any) -> list[Problem]:
    if not isinstance(value, dict):
        return [
            Problem((), "wrong-type", "resources: must be a map", "for example Container.web: {image: nginx}", False)
        ]
    found = []
    for address, body in value.items():
        wrong = validate_address(address if isinstance(address, str) else str(address))
        if wrong is not None:
            found.append(wrong.below(address))
        elif not isinstance(body, dict):
            kind = address.partition(".")[0]
            hint = "write {} where nothing needs saying" if body is None else ""
            found.append(
                Problem((address,), "wrong-type", f"{address}: must be a map of {kind}'s properties", hint, False)
            )
    return found


def _in_section(section: str, problem: Problem) -> Problem:
    told = problem.below(section).told()
    return Problem(problem.path, told.code, told.message, told.hint, False)


@cache
def _kind_check(kind: str) -> Check:
    one = kind_named(kind)
    outputs = frozenset(one.outputs) - frozenset(one.properties)
    return compile_schema(one.schema, Around(noun=kind, also=COMMON, outputs=outputs))


@cache
def _common_check() -> Check:
    schema = read_schema(_STACK)["$defs"]["resource"]
    return compile_schema({**schema, "additionalProperties": False}, Around(noun="a resource"))


@cache
def _section_checks() -> dict[str, Check]:
    properties = read_schema(_STACK)["properties"]
    return {
        name: compile_schema(one, Around(noun=name, key=name, example=one["examples"][0]))
        for name, one in properties.items()
        if name != "resources"
    }
