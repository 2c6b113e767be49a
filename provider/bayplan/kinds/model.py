"""The kinds as data: what the schemas say of each property, in the words that planner, faces and documents ask for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from bayplan.errors import BayplanError, nearest
from bayplan.kinds.files import read_schema
from bayplan.records import dataclass, field

#: In the order in which documents show them. One file in ``schemas/`` each.
KIND_NAMES = ("Image", "Repository", "Container", "Network", "Volume")


@dataclass(frozen=True, slots=True)
class Property:
    """One property or output of a kind.

    ``type`` are the JSON types that may be written; ``form`` is ``x-type`` (``bytes``, ``port`` ...) or empty. ``default``
    is in canonical form, None where there is none; ``default_text`` says in words what happens without the property.
    ``replaces``: a change replaces the object; ``live``: it is made to the living object; neither: the property tells an
    apply how to go about it, and is never compared. ``secret``: secrets may stand in it. ``computed``: an output.
    ``schema`` is the property's own schema, for what only a schema can tell.
    """

    name: str
    type: tuple[str, ...]
    description: str
    example: Any
    form: str = ""
    default: Any = None
    default_text: str = ""
    required: bool = False
    enum: tuple[str, ...] = ()
    replaces: bool = False
    live: bool = False
    secret: bool = False
    computed: bool = False
    unordered: bool = False
    schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of resource. ``outputs`` are what ``${Kind.name.OUTPUT}`` can read."""

    name: str
    description: str
    properties: Mapping[str, Property]
    outputs: Mapping[str, Property]
    schema: Mapping[str, Any]

    @property
    def place_property(self) -> str:
        """The property that names where the resource stands: ``host``, ``registry``, or ``""`` (the root itself)."""
        return next((name for name in ("host", "registry") if name in self.properties), "")


@cache
def load() -> Mapping[str, Kind]:
    """All kinds by name, read once a process."""
    return MappingProxyType({name: _kind(name) for name in KIND_NAMES})


def kind_named(name: str) -> Kind:
    """The kind of that name. Raises BayplanError ``unknown-kind``."""
    found = load().get(name)
    if found is None:
        raise unknown_kind(name)
    return found


def schema(name: str) -> Mapping[str, Any]:
    """The schema of a kind as it stands in its file, or of the stack file (``stack``, the kinds not put in)."""
    return read_schema("stack.source.json") if name == "stack" else kind_named(name).schema


def unknown_kind(name: str) -> BayplanError:
    close = nearest(name, KIND_NAMES) or nearest(name.capitalize(), KIND_NAMES)
    hint = f"did you mean {close}?" if close else f"there are {', '.join(KIND_NAMES)}"
    return BayplanError("unknown-kind", f"there is no kind '{name}'", hint=hint)


def json_types(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The JSON types that a schema takes, in its order; empty: all of them."""
    if "anyOf" in schema:
        return tuple(dict.fromkeys(name for one in schema["anyOf"] for name in json_types(one)))
    found = schema.get("type", ())
    return (found,) if isinstance(found, str) else tuple(found)


def _kind(name: str) -> Kind:
    schema = read_schema(f"{name.lower()}.schema.json")
    required = frozenset(schema.get("required", ()))
    return Kind(
        name=name,
        description=schema["description"],
        properties=MappingProxyType(
            {key: _property(key, one, key in required) for key, one in schema["properties"].items()}
        ),
        outputs=MappingProxyType({key: _property(key, one, False) for key, one in schema["x-outputs"].items()}),
        schema=MappingProxyType(schema),
    )


def _property(name: str, schema: dict[str, Any], required: bool) -> Property:
    from bayplan.kinds.canonical import default_of

    return Property(
        name=name,
        type=json_types(schema),
        description=schema["description"],
        example=schema["examples"][0],
        form=schema.get("x-type", ""),
        default=default_of(schema),
        default_text=schema.get("x-default", ""),
        required=required,
        enum=tuple(schema.get("enum", ())),
        replaces=schema.get("x-replaces", False),
        live=schema.get("x-live", False),
        secret=schema.get("x-secret", False),
        computed=schema.get("x-computed", False),
        unordered=schema.get("x-unordered", False),
        schema=MappingProxyType(schema),
    )
