"""The kinds: what the schemas say, as data and as quick pure functions. The one place where a property means something.

``schemas/`` holds one JSON Schema a kind; everything here is made from them when it is first asked for. Nothing above this
room knows a property's default, type or mark but through :func:`load`, nothing checks one but :func:`validate`, and two
values are the same exactly when their canonical forms are (:func:`normalise`, :func:`equal`).

The room does no I/O but reading its own schemas, and knows nothing of files, plans or runtimes. jsonschema is the oracle of
its tests and is not imported at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayplan import rooms

if TYPE_CHECKING:
    from bayplan.kinds.canonical import equal, normalise
    from bayplan.kinds.check import COMMON, validate, validate_address, validate_common, validate_stack_section
    from bayplan.kinds.model import KIND_NAMES, Kind, Property, load, schema
    from bayplan.kinds.places import anchored, anchored_section
    from bayplan.kinds.problem import Problem

__getattr__ = rooms.names(
    __name__,
    {
        "COMMON": "check",
        "KIND_NAMES": "model",
        "Kind": "model",
        "Problem": "problem",
        "Property": "model",
        "anchored": "places",
        "anchored_section": "places",
        "equal": "canonical",
        "load": "model",
        "normalise": "canonical",
        "schema": "model",
        "validate": "check",
        "validate_address": "check",
        "validate_common": "check",
        "validate_stack_section": "check",
    },
)

__all__ = [
    "COMMON",
    "KIND_NAMES",
    "Kind",
    "Problem",
    "Property",
    "anchored",
    "anchored_section",
    "equal",
    "load",
    "normalise",
    "schema",
    "validate",
    "validate_address",
    "validate_common",
    "validate_stack_section",
]
