"""What a stack is once its files are read: plain data, resolved as far as the files alone allow.

Variables, loops and functions are gone; what is left at the leaves are references to other resources and to secrets
(:mod:`bayplan.kinds.expressions`), which only an apply can fill in. A resource knows where it stands, but finds the line
only when it is asked, so that ten thousand valid ones cost nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bayplan.errors import Where
from bayplan.kinds.expressions import Ref
from bayplan.records import dataclass, field
from bayplan.stack.secrets import Secrets
from bayplan.stack.source import Source

#: What ``depends_on`` waits for.
Condition = Literal["started", "healthy"]

#: Hosts and registries that are there without being declared.
DEFAULT_HOST = "here"
DEFAULT_REGISTRY = "local"


class Lifecycle(NamedTuple):
    """``lifecycle:`` of a resource. ``ignore_changes`` are names of its kind's properties."""

    prevent_destroy: bool = False
    ignore_changes: tuple[str, ...] = ()


NO_LIFECYCLE = Lifecycle()
NO_DEPENDENCIES: Mapping[str, Condition] = {}


class Resource(NamedTuple):
    """One resource. (A named tuple: ten thousand of them are made at every start.)

    ``address`` is ``Kind.name``, or ``Kind.name[key]`` where ``for_each`` makes it; ``name`` is ``name`` or ``name-key``,
    fit for a host. ``properties`` are those declared, checked against the kind, not in canonical form yet; relative
    paths are absolute. ``references`` are all references in them. ``source`` and ``key`` say where it stands.
    """

    address: str
    kind: str
    name: str
    properties: Mapping[str, Any]
    depends_on: Mapping[str, Condition]
    lifecycle: Lifecycle
    references: tuple[Ref, ...]
    source: Source
    key: str

    @property
    def where(self) -> Where:
        """The place of the resource's own key."""
        return self.source.where(("resources", self.key), key=True)

    def position(self, path: Sequence[str | int]) -> Where:
        """The place of a property's key, or of a list's item; what is not declared has the nearest place that is."""
        return self.source.where(("resources", self.key, *path), key=True)

    @property
    def positions(self) -> Mapping[str, Where]:
        """The place of each declared property by name, ``""`` for the resource itself; found when it is looked up."""
        return _Positions(self)


class _Positions(Mapping[str, Where]):
    __slots__ = ("_resource",)

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

    def __getitem__(self, name: str) -> Where:
        if not name:
            return self._resource.where
        if name not in self._resource.properties:
            raise KeyError(name)
        return self._resource.position((name,))

    def __contains__(self, name: object) -> bool:
        # Asked for every resource; the lookup that Mapping would try costs the second reading of the file.
        return not name or name in self._resource.properties

    def __iter__(self) -> Iterator[str]:
        yield ""
        yield from self._resource.properties

    def __len__(self) -> int:
        return len(self._resource.properties) + 1


@dataclass(frozen=True, slots=True)
class Stack:
    """A whole stack. ``hosts`` and ``registries`` hold the default ones besides those declared.

    ``outputs`` are values with expressions at their leaves. ``variables`` are the values that were used; a sensitive one
    is a SecretRef. ``files`` are all files that were read for it, in the order of reading.
    """

    name: str
    resources: Mapping[str, Resource]
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    registries: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    secrets: Secrets = field(default_factory=Secrets)
    variables: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


def edges(stack: Stack) -> dict[str, set[str]]:
    """For each address the addresses that it needs: by reference, by ``depends_on``."""
    return {
        address: {ref.address for ref in resource.references} | resource.depends_on.keys()
        for address, resource in stack.resources.items()
    }
