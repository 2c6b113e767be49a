"""The ECR API's model, as botocore ships it, and the check of parameters against it.

The model is data of AWS's own SDK (``service-2.json``): which operations there are, what each takes and gives, which errors
it declares. Reading it costs a server 30 ms once; a copy of our own would be a second truth. What ECR says of a parameter that
breaks a constraint is said here in its words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from bayplan.registry.ecr.errors import EcrError

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "blob": str,  # base64 on the wire
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "boolean": bool,
    "timestamp": (int, float),
}


@cache
def model(service: str = "ecr") -> Mapping[str, Any]:
    """The whole model of ``ecr`` or ``ecr-public``."""
    from botocore.loaders import Loader

    found: Mapping[str, Any] = Loader().load_service_model(service, "service-2")
    return found


def operations(service: str = "ecr") -> Mapping[str, Any]:
    """Every operation by name."""
    found: Mapping[str, Any] = model(service)["operations"]
    return found


def declared(operation: str, service: str = "ecr") -> frozenset[str]:
    """The errors that an operation declares."""
    return frozenset(one["shape"] for one in operations(service)[operation].get("errors", ()))


def check(operation: str, parameters: Mapping[str, Any], service: str = "ecr") -> None:
    """Whether ``parameters`` are what the operation takes. Raises EcrError ``InvalidParameterException``."""
    shapes = model(service)["shapes"]
    shape = operations(service)[operation].get("input")
    if shape is not None:
        _structure(shapes, shapes[shape["shape"]], parameters, "")


def _wrong(path: str, constraint: str) -> EcrError:
    return EcrError(
        "InvalidParameterException", f"Invalid parameter at '{path}' failed to satisfy constraint: '{constraint}'"
    )


def _structure(shapes: Mapping[str, Any], shape: Mapping[str, Any], value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(path or "body", "must be an object")
    members = shape.get("members", {})
    for name in shape.get("required", ()):
        if value.get(name) is None:
            raise _wrong(f"{path}.{name}" if path else name, "must not be null")
    for name, given in value.items():
        if name in members and given is not None:
            _value(shapes, shapes[members[name]["shape"]], given, f"{path}.{name}" if path else name)


def _value(shapes: Mapping[str, Any], shape: Mapping[str, Any], value: Any, path: str) -> None:
    kind = shape["type"]
    if kind == "structure":
        _structure(shapes, shape, value, path)
    elif kind == "list":
        if not isinstance(value, list):
            raise _wrong(path, "must be a list")
        _bounds(shape, len(value), path, "Member must have length")
        for number, one in enumerate(value):
            if one is None:
                raise _wrong(f"{path}[{number}]", "must not be null")
            _value(shapes, shapes[shape["member"]["shape"]], one, f"{path}[{number}]")
    elif kind == "map":
        if not isinstance(value, dict):
            raise _wrong(path, "must be a map")
        for key, one in value.items():
            _value(shapes, shapes[shape["key"]["shape"]], key, f"{path}.key")
            _value(shapes, shapes[shape["value"]["shape"]], one, f"{path}.{key}")
    else:
        wanted = _TYPES[kind]
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "boolean"):
            raise _wrong(path, f"must be a {kind}")
        if kind == "string":
            _text(shape, value, path)
        elif kind in ("integer", "long"):
            _bounds(shape, value, path, "Member must have value")


def _text(shape: Mapping[str, Any], value: Any, path: str) -> None:
    _bounds(shape, len(value), path, "Member must have length")
    if "enum" in shape and value not in shape["enum"]:
        raise _wrong(path, f"Member must satisfy enum value set: [{', '.join(shape['enum'])}]")
    if "pattern" in shape and not _pattern(shape["pattern"]).fullmatch(value):
        raise _wrong(path, f"must satisfy regular expression '{shape['pattern']}'")


def _bounds(shape: Mapping[str, Any], value: Any, path: str, what: str) -> None:
    if "min" in shape and value < shape["min"]:
        raise _wrong(path, f"{what} greater than or equal to {shape['min']}")
    if "max" in shape and value > shape["max"]:
        raise _wrong(path, f"{what} less than or equal to {shape['max']}")


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)
