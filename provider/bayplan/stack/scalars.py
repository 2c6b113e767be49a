"""What a plain scalar means: the core schema of YAML 1.2, section 10.3.2, and nothing more.

YAML 1.1 is where the famous accidents come from: ``no`` is a country, ``22:22`` a port pair, ``0123`` a file mode. So the
scalars are resolved here and not by the YAML library: ``yes``, ``no``, ``on`` and ``off`` are strings, there are no
sexagesimal numbers and no dates, and ``012`` is the number twelve.

A string that holds ``${`` is an expression. It leaves this module as a tuple of one string, which no other value of a
file can be: it survives the parse cache, and a check for "is this a plain string" says no to it at no extra cost, so that
plain resources never pay for expressions.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

from bayplan.kinds.expressions import Ref

#: A value as read: dict, list, str, int, float, bool, None, or an expression, a tuple of its one source text.
Tree: TypeAlias = Any

#: Stands where something was broken (an unknown anchor, an expression with a mistake), so that one mistake is told once:
#: a reference fits everywhere.
BROKEN = Ref("", "")

CORE_TAG = "tag:yaml.org,2002:"

#: Longer integers are refused: Python itself refuses 4300 digits, and nothing in a stack is that large.
MAX_DIGITS = 64

_CONSTANTS: dict[str, Tree] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    ".inf": float("inf"),
    ".Inf": float("inf"),
    ".INF": float("inf"),
    "+.inf": float("inf"),
    "+.Inf": float("inf"),
    "+.INF": float("inf"),
    "-.inf": float("-inf"),
    "-.Inf": float("-inf"),
    "-.INF": float("-inf"),
    ".nan": float("nan"),
    ".NaN": float("nan"),
    ".NAN": float("nan"),
}
_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)


def plain(text: str) -> Tree:
    """The value of a plain (unquoted) scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] in _NUMBER_STARTS and len(text) <= MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _OCTAL.fullmatch(text):
            return int(text[2:], 8)
        if _HEXADECIMAL.fullmatch(text):
            return int(text[2:], 16)
    return string(text)


def string(text: str) -> Tree:
    """The value of a quoted or block scalar: the text itself, or an expression where it holds one."""
    return (text,) if "${" in text else text


def tagged(tag: str, text: str, style: str) -> Tree:
    """The value of a scalar with an explicit tag of the core schema (``!!str 5``), or of ``!``.

    Raises LookupError where the tag is not a scalar's tag of the core schema, ValueError where the text is not of it.
    """
    if tag in ("!", CORE_TAG + "str"):
        return string(text)
    kinds: dict[str, tuple[type, ...]] = {
        "null": (type(None),),
        "bool": (bool,),
        "int": (int,),
        "float": (float, int),
    }
    wanted = kinds[tag.removeprefix(CORE_TAG)]
    value = plain(text) if not style else plain(text.strip())
    if type(value) not in wanted:
        raise ValueError(text)
    return float(value) if tag.endswith("float") else value
