"""Property values on the wire and here (Pulumi's implementers' guide, "property values").

On the wire a value is a protobuf ``Struct``: JSON, in which a map with the signature key stands for a secret, an asset or an
output, and seven texts stand for values that are not known yet. Here a secret is a :class:`Secret` around its value, and
what is not known is :data:`UNKNOWN`. Numbers arrive as doubles; whole ones become int.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.pulumi.protocol import ListValue, Struct, Value
from bayplan.records import dataclass

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105  (the signature of secrets, no secret)
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_REFUSED = {
    "c44067f5952c0a294b673a41bacd8c17": "an asset",
    "0def7320c3a5731c473e5ecbe6d01bc7": "an archive",
    "5cf8f73096256a8f31e491e813e4eb8e": "a resource",
}
UNKNOWN_TEXT = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWN_TEXTS = frozenset(
    (
        UNKNOWN_TEXT,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    )
)


class _Unknown:
    """A value that only the deployment will know."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that is kept secret. It shows itself in no repr."""

    value: Any

    def __repr__(self) -> str:
        return "Secret(...)"


def decode(struct: Any) -> dict[str, Any]:
    """A Struct's fields. Raises BayplanError ``wrong-type`` for assets, archives and references to resources."""
    return {name: _decoded(value) for name, value in struct.fields.items()}


def _decoded(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        text = value.string_value
        return UNKNOWN if len(text) == 36 and text in _UNKNOWN_TEXTS else text
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decoded(one) for one in value.list_value.values]
    if kind == "struct_value":
        fields = value.struct_value.fields
        if _SIGNATURE in fields:
            return _special(fields)
        return {name: _decoded(one) for name, one in fields.items()}
    return None


def _special(fields: Any) -> Any:
    signature = fields[_SIGNATURE].string_value
    if signature == _SECRET:
        inner = _decoded(fields["value"])
        return inner if isinstance(inner, Secret) else Secret(inner)
    if signature == _OUTPUT:
        inner = _decoded(fields["value"]) if "value" in fields else UNKNOWN
        secret = "secret" in fields and fields["secret"].bool_value
        return Secret(inner) if secret and not isinstance(inner, Secret) else inner
    what = _REFUSED.get(signature, "a value of an unknown form")
    raise BayplanError("wrong-type", f"{what} is no value of any property here", hint="give text, a number or a path")


def encode(values: Mapping[str, Any]) -> Any:
    """The other way round; a ``Struct``."""
    return Struct(fields={name: _encoded(value) for name, value in values.items()})


def _encoded(value: Any) -> Any:
    if value is None:
        return Value(null_value="NULL_VALUE")
    if value is UNKNOWN:
        return Value(string_value=UNKNOWN_TEXT)
    if isinstance(value, Secret):
        fields = {_SIGNATURE: Value(string_value=_SECRET), "value": _encoded(value.value)}
        return Value(struct_value=Struct(fields=fields))
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, (int, float)):
        return Value(number_value=float(value))
    if isinstance(value, Mapping):
        return Value(struct_value=encode(value))
    if isinstance(value, (list, tuple)):
        return Value(list_value=ListValue(values=[_encoded(one) for one in value]))
    return Value(string_value=str(value))


def plain(value: Any) -> Any:
    """``value`` without its marks of secrets."""
    if isinstance(value, Secret):
        return plain(value.value)
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value


def unknown_paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in ``value`` something is not known yet."""
    if value is UNKNOWN:
        yield path
    elif isinstance(value, Secret):
        yield from unknown_paths(value.value, path)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from unknown_paths(one, (*path, name))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from unknown_paths(one, (*path, index))
