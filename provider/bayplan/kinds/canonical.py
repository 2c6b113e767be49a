"""Canonical forms: two ways of writing one thing become one value, so that plans compare values and nothing else.

Sizes become bytes, durations seconds, ports and mounts their one text (:mod:`.values`), scalars of maps of text become
text, a lone file a list of one, lists whose order means nothing are sorted without repetition, and maps with a schema of
their own get their defaults filled in. Properties of the kind that nobody declared stay undeclared. Whatever is no JSON
value (an expression, a redacted or unknown value) is left as it stands, and takes its form when it has a value.

Each schema is compiled once to a closure, or to nothing where every value is canonical already.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bayplan.errors import BayplanError
from bayplan.kinds.forms import FORMS
from bayplan.kinds.values import Value

Canonical = Callable[[Value], Value]

_JSON = frozenset([str, int, float, bool, dict, list, tuple])


def normalise(kind: str, properties: Mapping[str, Value]) -> dict[str, Value]:
    """The declared properties of a kind in canonical form; idempotent. What the kind does not know is kept as it is.

    Raises BayplanError ``bad-value`` or ``wrong-type`` for what validation would refuse: an expression may have become it.
    """
    known = _canonicals(kind)
    out: dict[str, Value] = {}
    for name, value in properties.items():
        make = known.get(name)
        if make is None:
            out[name] = value
            continue
        try:
            out[name] = make(value)
        except BayplanError as error:
            raise BayplanError(error.code, f"{name} of {kind}: {error.message}", hint=error.hint) from None
    return out


def equal(kind: str, prop: str, a: Value, b: Value) -> bool:
    """Whether two values of one property mean the same, however they are written."""
    make = _canonicals(kind).get(prop)
    return same(a, b) if make is None else same(make(a), make(b))


def same(a: Value, b: Value) -> bool:
    """Equality of JSON values: 1 is 1.0 but not true; a tuple is a list."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@cache
def _canonicals(kind: str) -> dict[str, Canonical]:
    from bayplan.kinds.model import kind_named

    schema = kind_named(kind).schema
    made = {name: compile_canonical(one) for name, one in schema["properties"].items()}
    return {name: one for name, one in made.items() if one is not None}


def compile_canonical(schema: Mapping[str, Any]) -> Canonical | None:
    """What makes a value of ``schema`` canonical; None where there is nothing to do."""
    if "anyOf" in schema:
        return _of_alternatives(schema["anyOf"])
    types = schema.get("type", ())
    types = (types,) if isinstance(types, str) else tuple(types)
    form = FORMS[schema["x-type"]] if "x-type" in schema else None
    inner: Canonical | None = None
    if "object" in types:
        inner = _of_map(schema)
    elif "array" in types:
        inner = _of_list(schema)
    if form is not None:
        return _of_form(form.canonical, form.words, types, inner)
    if inner is None and "integer" in types:
        return lambda value: int(value) if value.__class__ is float and value.is_integer() else value
    return inner


def default_of(schema: Mapping[str, Any]) -> Value:
    """The default that a schema gives, in canonical form; None where it gives none."""
    default = schema.get("default")
    make = None if default is None else compile_canonical(schema)
    return default if make is None else make(default)


_CLASSES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int, float),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


def _of_form(form: Canonical, words: str, types: tuple[str, ...], inner: Canonical | None) -> Canonical:
    classes = frozenset(one for name in types for one in _CLASSES[name])

    def make(value: Value) -> Value:
        kind = value.__class__
        if kind in classes:
            return form(value if inner is None or kind is str else inner(value))
        if kind not in _JSON and value is not None:
            return value
        raise BayplanError("wrong-type", f"{'nothing' if value is None else json.dumps(value)[:60]} is not {words}")

    return make


def _of_map(schema: Mapping[str, Any]) -> Canonical | None:
    known = {name: compile_canonical(one) for name, one in schema.get("properties", {}).items()}
    defaults = {name: default_of(one) for name, one in schema.get("properties", {}).items() if "default" in one}
    rest = schema.get("additionalProperties", True)
    other = compile_canonical(rest) if isinstance(rest, dict) and rest else None
    if other is None and not defaults and not any(known.values()):
        return None

    def make(value: Value) -> Value:
        if value.__class__ is not dict:
            return value
        out: dict[str, Value] = {}
        for name, item in value.items():
            one = known.get(name, other)
            out[name] = item if one is None else one(item)
        for name, default in defaults.items():
            if name not in out:
                out[name] = default
        return out

    return make


def _of_list(schema: Mapping[str, Any]) -> Canonical | None:
    item = compile_canonical(schema["items"])
    unordered = schema.get("x-unordered", False)

    def make(value: Value) -> Value:
        if value.__class__ is not list and value.__class__ is not tuple:
            return value
        items = list(value) if item is None else [item(one) for one in value]
        if not unordered:
            return items
        return [one for _, one in sorted({_order(one): one for one in items}.items())]

    return make


def _order(value: Value) -> str:
    """A text that sorts values of any sort, and tells equal ones."""
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, (dict, list)) else str(value)


def _of_alternatives(schemas: list[dict[str, Any]]) -> Canonical | None:
    makers: dict[type, Canonical | None] = {}
    for schema in schemas:
        for name in [schema["type"]] if isinstance(schema["type"], str) else schema["type"]:
            for one in _CLASSES[name]:
                makers[one] = compile_canonical(schema)
    alone = makers.get(str) if list in makers and str in makers else None
    becomes_list = list in makers and str in makers

    def make(value: Value) -> Value:
        if becomes_list and value.__class__ is str:
            return [value if alone is None else alone(value)]
        maker = makers.get(value.__class__)
        return value if maker is None else maker(value)

    return make
