"""Names on both sides: camelCase in Pulumi, snake_case in the schemas. Keys of maps that users choose stay as they are.

Outputs called ``id`` get the kind's name before it (``containerId``): Pulumi keeps ``id`` for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from bayplan import kinds
from bayplan.pulumi.values import Secret

#: Inputs that every type has besides those of its kind.
ADDRESS = "address"
#: The output of an Image that says what its definition and files were when it was made.
CONTENT = "contentDigest"


@cache
def camel(name: str) -> str:
    """``source_date_epoch`` -> ``sourceDateEpoch``."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def output_name(kind: str, name: str) -> str:
    """The name of an output on Pulumi's side."""
    return f"{kind.lower()}Id" if name == "id" else camel(name)


@cache
def kind_of(type_: str) -> str:
    """``bayplan:index:Container`` -> ``Container``. Raises BayplanError ``unknown-kind``."""
    name = type_.rpartition(":")[2]
    kinds.schema(name)
    return name


def inward(kind: str, wire: Mapping[str, Any]) -> dict[str, Any]:
    """Properties as Pulumi names them, as the schemas name them. Names that neither knows stay."""
    names, deep, schema = _top_names(kind), _deep(kind), kinds.load()[kind].schema["properties"]
    out = {}
    for name, value in wire.items():
        snake = names.get(name, name)
        out[snake] = _renamed(schema[snake], value, _to_snake) if snake in deep else value
    return out


@cache
def _top_names(kind: str) -> Mapping[str, str]:
    return _to_snake(kinds.load()[kind].schema)


@cache
def _deep(kind: str) -> frozenset[str]:
    """Properties in whose values names of the schemas may stand."""
    return frozenset(name for name, one in kinds.load()[kind].schema["properties"].items() if _has_names(one))


def _has_names(schema: Mapping[str, Any]) -> bool:
    inner = (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties"))
    return "properties" in schema or any(_has_names(one) for one in inner if isinstance(one, Mapping))


def outward(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round."""
    found = _renamed(kinds.load()[kind].schema, properties, _to_camel)
    return dict(found)


def outward_path(kind: str, path: Sequence[str | int]) -> str:
    """A path in the schemas' names as Pulumi writes it: ``healthcheck.startPeriod``, ``env["a.b"]``."""
    schema: Mapping[str, Any] = kinds.load()[kind].schema
    steps: list[str | int] = []
    for step in path:
        known = _to_camel(schema) if isinstance(step, str) else {}
        steps.append(known.get(step, step) if isinstance(step, str) else step)
        schema = _below(schema, step)
    return property_path(steps)


def property_path(steps: Sequence[str | int]) -> str:
    """Pulumi's text of a path: names after dots, indices and names that are no words in brackets."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.replace("_", "a").isalnum() and not step[:1].isdigit():
            text += f".{step}" if text else step
        else:
            escaped = step.replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{escaped}"]'
    return text


def _to_snake(schema: Mapping[str, Any]) -> Mapping[str, str]:
    return {camel(name): name for name in schema.get("properties", ())}


def _to_camel(schema: Mapping[str, Any]) -> Mapping[str, str]:
    return {name: camel(name) for name in schema.get("properties", ())}


def _alternative(schema: Mapping[str, Any], wanted: str) -> Mapping[str, Any]:
    """The alternative of ``anyOf`` that takes the JSON type ``wanted``; the schema itself where there are none."""
    for one in schema.get("anyOf", ()):
        if one.get("type") == wanted:
            return dict(one)
    return schema


def _below(schema: Mapping[str, Any], step: str | int) -> Mapping[str, Any]:
    if isinstance(step, int):
        found = _alternative(schema, "array").get("items", {})
    else:
        inner = _alternative(schema, "object")
        found = inner.get("properties", {}).get(step, inner.get("additionalProperties"))
    return found if isinstance(found, Mapping) else {}


def _renamed(schema: Mapping[str, Any], value: Any, names_of: Any) -> Any:
    if isinstance(value, Secret):
        return Secret(_renamed(schema, value.value, names_of))
    if isinstance(value, Mapping):
        inner = _alternative(schema, "object")
        names = names_of(inner)
        out = {}
        for name, one in value.items():
            new = names.get(name, name)
            snake = new if names_of is _to_snake else name
            out[new] = _renamed(_below(inner, snake), one, names_of)
        return out
    if isinstance(value, (list, tuple)):
        items = _below(schema, 0)
        return [_renamed(items, one, names_of) for one in value]
    return value
