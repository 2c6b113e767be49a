"""What the entries under ``hosts`` and ``registries`` come to: the place that a resource stands in, or a mere name.

The embedded host and registry are one place, the root. A registry that speaks the OCI Distribution API and nothing else has
no call that makes a repository: the first push does. So a Repository there is nothing that could be planned, seen or
removed; it stands for its name, and what refers to its ``uri`` gets that name here, before anything is planned. What such
a registry could not keep (tag mutability, tags, a forced removal) is refused rather than dropped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bayplan.errors import BayplanError, BayplanErrors
from bayplan.kinds.expressions import Ref, Template
from bayplan.plan.model import Value
from bayplan.records import replace
from bayplan.stack import Resource, Stack

#: What a Repository may declare where the first push makes it.
_NAME_ONLY = frozenset({"registry", "repository_name"})


def home_of(root: Path) -> str:
    """The identity of an embedded root (an alias in a file is no part of it)."""
    return f"embedded:{os.path.realpath(root)}"


def with_names(stack: Stack) -> Stack:
    """``stack`` with the repositories of registries elsewhere turned into their names wherever something refers to them.

    Raises BayplanErrors for what such a registry cannot do, and for registries of a type that is not served yet.
    """
    if all(entry.get("type") == "embedded" for entry in stack.registries.values()):
        return stack
    elsewhere = {
        address: one
        for address, one in stack.resources.items()
        if one.kind == "Repository" and _entry(stack, one).get("type") != "embedded"
    }
    if not elsewhere:
        return stack
    errors = [error for one in elsewhere.values() for error in _mistakes(_entry(stack, one), one)]
    if errors:
        raise BayplanErrors(errors)
    names = _Names(stack, elsewhere)
    kept = {address: names.filled(one) for address, one in stack.resources.items() if address not in elsewhere}
    return replace(stack, resources=kept, outputs={name: names.value(one) for name, one in stack.outputs.items()})


def _entry(stack: Stack, one: Resource) -> Mapping[str, Value]:
    return stack.registries.get(str(one.properties.get("registry", "local")), {"type": "embedded"})


def _mistakes(entry: Mapping[str, Value], one: Resource) -> list[BayplanError]:
    alias = one.properties["registry"]
    place = ("resources", one.key)
    if entry["type"] != "oci":
        return [
            one.source.error(
                "registry-not-served",
                f"{one.address} stands in {alias}, and bayplan makes no repositories in registries of the type"
                f" {entry['type']} yet",
                (*place, "registry"),
                hint="make it by other means and push to its whole name, with the credentials of 'bayplan login'",
            )
        ]
    return [
        one.source.error(
            "conflicting-properties",
            f"{one.address} declares {name}, which {alias}, a registry of the type oci, cannot keep",
            (*place, name),
            key=True,
            hint=f"its repositories are made by the first push: leave {name} out",
        )
        for name in one.properties
        if name not in _NAME_ONLY
    ]


class _Names:
    """The outputs of repositories elsewhere, put in where they are referred to."""

    def __init__(self, stack: Stack, elsewhere: Mapping[str, Resource]) -> None:
        self._stack = stack
        self._elsewhere = elsewhere

    def filled(self, one: Resource) -> Resource:
        """``one`` with every reference to such a repository resolved, and no dependency on it."""
        if not any(ref.address in self._elsewhere for ref in one.references) and not (
            one.depends_on.keys() & self._elsewhere.keys()
        ):
            return one
        properties = {name: self.value(value) for name, value in one.properties.items()}
        needed = {address: what for address, what in one.depends_on.items() if address not in self._elsewhere}
        left = tuple(ref for ref in one.references if ref.address not in self._elsewhere)
        return one._replace(properties=properties, depends_on=needed, references=left)

    def value(self, value: Value) -> Value:
        if isinstance(value, Ref):
            return self._output(value) if value.address in self._elsewhere else value
        if isinstance(value, Template):
            return _joined([self.value(part) for part in value.parts])
        if isinstance(value, Mapping):
            return {name: self.value(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return value

    def _output(self, ref: Ref) -> Value:
        one = self._elsewhere[ref.address]
        name = self.value(one.properties["repository_name"])
        return name if ref.attribute == "name" else _joined([f"{_entry(self._stack, one)['address']}/", name])


def _joined(parts: list[Value]) -> Value:
    """One text, or a template where something in it is still to be known."""
    flat = [inner for part in parts for inner in (part.parts if isinstance(part, Template) else (part,))]
    texts = [part for part in flat if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(flat) else Template(tuple(flat))
