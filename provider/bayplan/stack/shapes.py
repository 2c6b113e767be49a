"""The kinds as a stack file meets them: is this right, what is wrong and at which place, which values are paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds import Kind, Problem
from bayplan.kinds.files import schema_folder
from bayplan.stack.source import Source

#: Problems that are told at a key: its own, or that of the map in which something is missing or in conflict.
_AT_KEY = frozenset(
    [
        "bad-address",
        "bad-name",
        "computed-property",
        "conflicting-properties",
        "missing-property",
        "unknown-key",
        "unknown-kind",
        "unknown-property",
    ]
)


class Shape:
    """One kind. ``outputs`` are what references can read, ``place`` the property that names where a resource stands."""

    __slots__ = ("has_paths", "name", "outputs", "place", "properties")

    def __init__(self, kind: Kind) -> None:
        self.name = kind.name
        self.properties = kind.properties
        self.outputs = tuple(kind.outputs)
        self.place = kind.place_property
        self.has_paths = _has_paths(kind.schema["properties"])

    def problems(self, properties: Mapping[str, Any]) -> list[Problem]:
        """All that is wrong. A property that holds an expression as it was read is wrong: it is evaluated first."""
        return kinds.validate(self.name, properties)

    def absolute(self, properties: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """The properties with their relative paths taken from ``folder``; the same object where the kind has no paths."""
        return kinds.anchored(self.name, properties, str(folder)) if self.has_paths else properties


@cache
def shapes() -> Mapping[str, Shape]:
    """All kinds by name."""
    return {name: Shape(kind) for name, kind in kinds.load().items()}


def error_of(problem: Problem, source: Source, path: tuple[str | int, ...]) -> BayplanError:
    """The user's error for a problem of the value at ``path``."""
    at_key = problem.code in _AT_KEY
    return source.error(problem.code, problem.message, (*path, *problem.path), key=at_key, hint=problem.hint)


@cache
def kinds_version() -> str:
    """A text that changes with the schemas and with the code that checks by them; for what is kept between runs."""
    parts = []
    for folder in (Path(kinds.__file__).parent, schema_folder()):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".py", ".json")):
                    status = entry.stat()
                    parts.append(f"{entry.name} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(sorted(parts))


def _has_paths(schema: Any) -> bool:
    """Whether a path or a mount can stand anywhere in what ``schema`` describes."""
    if isinstance(schema, Mapping):
        return schema.get("x-type") in ("path", "mount") or any(map(_has_paths, schema.values()))
    return isinstance(schema, list) and any(map(_has_paths, schema))
