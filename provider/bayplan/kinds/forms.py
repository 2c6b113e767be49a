"""The value forms by the names that schemas give them (``x-type``): how each is read, made canonical, and called.

:mod:`.values` has the readers; this table is what lets a schema refer to them. A form's canonical value is what plans,
records and comparisons hold: a number where it is a quantity, else the one canonical text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bayplan.kinds import values
from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """``canonical`` raises BayplanError ``bad-value``. ``words`` name the form in messages. ``shown`` writes a bound.

    ``stand_in`` takes the place of expressions, so that the rest of a text is checked before they have a value; empty:
    such a text is left unchecked. ``result`` is the Python type of the canonical value, as generated types write it.
    """

    canonical: Callable[[Any], Any]
    words: str
    stand_in: str = ""
    shown: Callable[[float], str] = str
    result: str = "str"


def _size(number: float) -> str:
    for power, unit in ((3, "g"), (2, "m"), (1, "k")):
        if number and number % 1024**power == 0:
            return f"{number // 1024**power:g}{unit}"
    return f"{number:g}"


def _seconds(number: float) -> str:
    return f"{number:g}s" if number >= 1 or not number else f"{number * 1000:g}ms"


FORMS: dict[str, Form] = {
    "address": Form(values.parse_address, "an address"),
    "bytes": Form(values.parse_size, "a size", shown=_size, result="int"),
    "capability": Form(values.parse_capability, "a capability"),
    "duration": Form(values.parse_duration, "a duration", shown=_seconds, result="float"),
    "image": Form(values.parse_image, "an image name", stand_in="x"),
    "ip": Form(values.parse_ip, "an address"),
    "mount": Form(lambda value: str(values.parse_mount(value)), "a mount", stand_in="x"),
    "network": Form(values.lone_name, "a network", result="dict[str, Any]"),
    "number": Form(values.parse_number, "a number", shown=lambda number: f"{number:g}", result="float"),
    "path": Form(values.canonical_path, "a path"),
    "port": Form(lambda value: str(values.parse_port(value)), "a port"),
    "restart": Form(lambda value: str(values.parse_restart(value)), "a restart policy"),
    "signal": Form(values.parse_signal, "a signal"),
    "subnet": Form(values.parse_subnet, "a subnet"),
    "test": Form(values.parse_test, "a test", result="list[str]"),
    "text": Form(values.parse_text, "text"),
    "tmpfs": Form(lambda value: str(values.parse_tmpfs(value)), "a tmpfs", stand_in="x"),
    "user": Form(values.parse_user, "a user"),
}
