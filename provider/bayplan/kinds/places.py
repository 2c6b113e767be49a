"""Relative paths, taken from the folder of the file that they stand in."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from bayplan.kinds.expressions import Template
from bayplan.kinds.files import read_schema
from bayplan.kinds.model import kind_named
from bayplan.kinds.values import Value

Anchor = Callable[[Value, str], Value]


def anchored(kind: str, properties: Mapping[str, Value], folder: str) -> dict[str, Value]:
    """The properties with each relative path of the host made absolute from ``folder``: ``x-type`` path, and the sources
    of mounts that are paths. Values that validation would refuse stay as they are."""
    known = _kind_anchors(kind)
    return {name: known[name](value, folder) if name in known else value for name, value in properties.items()}


def anchored_section(section: str, value: Value, folder: str) -> Value:
    """The same for a top-level key of a stack file (``include``, ``secrets``)."""
    anchor = _compile(read_schema("stack.source.json")["properties"].get(section, {}))
    return value if anchor is None else anchor(value, folder)


@cache
def _kind_anchors(kind: str) -> dict[str, Anchor]:
    made = {name: _compile(one) for name, one in kind_named(kind).schema["properties"].items()}
    return {name: one for name, one in made.items() if one is not None}


def _compile(schema: Mapping[str, Any]) -> Anchor | None:
    form = schema.get("x-type")
    if form == "path":
        return _path
    if form == "mount":
        return _mount
    if "anyOf" in schema:
        return next(filter(None, (_several(_compile(one)) for one in schema["anyOf"])), None)
    if "items" in schema:
        return _several(_compile(schema["items"]))
    known = {name: one for name, each in schema.get("properties", {}).items() if (one := _compile(each)) is not None}
    rest = schema.get("additionalProperties")
    other = _compile(rest) if isinstance(rest, dict) else None
    if not known and other is None:
        return None

    def inside(value: Value, folder: str) -> Value:
        if not isinstance(value, dict):
            return value
        return {
            name: item if (one := known.get(name, other)) is None else one(item, folder) for name, item in value.items()
        }

    return inside


def _several(one: Anchor | None) -> Anchor | None:
    if one is None:
        return None
    return lambda value, folder: (
        [one(item, folder) for item in value] if isinstance(value, list) else one(value, folder)
    )


def _path(value: Value, folder: str) -> Value:
    if isinstance(value, str) and value:
        return posixpath.normpath(posixpath.join(folder, value))
    if isinstance(value, Template) and isinstance(value.parts[0], str) and not value.parts[0].startswith("/"):
        return Template((_below(folder, value.parts[0]), *value.parts[1:]))
    return value


def _below(folder: str, start: str) -> str:
    """The start of a path whose rest is not known yet; a slash at its end stays."""
    return posixpath.normpath(posixpath.join(folder, start)) + ("/" if start.endswith("/") else "")


def _mount(value: Value, folder: str) -> Value:
    if isinstance(value, Template) and isinstance(value.parts[0], str) and value.parts[0].startswith("."):
        source, colon, rest = value.parts[0].partition(":")
        head = f"{_path(source, folder)}{colon}{rest}" if colon else _below(folder, source)
        return Template((head, *value.parts[1:]))
    if not isinstance(value, str):
        return value
    source, colon, rest = value.partition(":")
    if not colon or source.startswith(("/", "~")) or not ("/" in source or source in (".", "..")):
        return value
    return f"{_path(source, folder)}{colon}{rest}"
