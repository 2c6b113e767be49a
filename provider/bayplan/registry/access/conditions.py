"""Conditions of IAM policies: the operators and how several keys and values count.

Source: IAM user guide, "IAM JSON policy elements: Condition operators" and "Multivalued context keys". All operators of one
statement must hold, all keys of one operator, and one value of each key. A key that a request does not have fails every
operator but the negated ones, ``...IfExists`` and ``Null``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address, ip_network

from bayplan.registry.access.model import Context

Test = Callable[[str, str], bool]


@lru_cache(maxsize=1024)
def _pattern(text: str, *, fold: bool = False) -> re.Pattern[str]:
    parts = (".*" if char == "*" else "." if char == "?" else re.escape(char) for char in text)
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if fold else 0))


def like(pattern: str, text: str, *, fold: bool = False) -> bool:
    """Whether ``text`` is as ``pattern`` says: ``*`` is any text, ``?`` any character."""
    return _pattern(pattern, fold=fold).fullmatch(text) is not None


def arn_like(pattern: str, text: str) -> bool:
    """:func:`like` in each of an ARN's six parts; a ``*`` reaches over colons in the last one alone."""
    wanted, given = pattern.split(":", 5), text.split(":", 5)
    if pattern == "*":
        return True
    return len(wanted) == len(given) == 6 and all(map(like, wanted, given))


def _number(compare: Callable[[float, float], bool]) -> Test:
    def test(wanted: str, given: str) -> bool:
        try:
            return compare(float(given), float(wanted))
        except ValueError:
            return False

    return test


def _moment(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _date(compare: Callable[[float, float], bool]) -> Test:
    def test(wanted: str, given: str) -> bool:
        try:
            return compare(_moment(given), _moment(wanted))
        except ValueError:
            return False

    return test


def _address(wanted: str, given: str) -> bool:
    try:
        return ip_address(given) in ip_network(wanted, strict=False)
    except ValueError:
        return False


def _equal(a: float, b: float) -> bool:
    return a == b


#: Operators that hold where one of the values fits.
_POSITIVE: dict[str, Test] = {
    "StringEquals": lambda wanted, given: wanted == given,
    "StringEqualsIgnoreCase": lambda wanted, given: wanted.lower() == given.lower(),
    "StringLike": like,
    "NumericEquals": _number(_equal),
    "NumericLessThan": _number(lambda given, wanted: given < wanted),
    "NumericLessThanEquals": _number(lambda given, wanted: given <= wanted),
    "NumericGreaterThan": _number(lambda given, wanted: given > wanted),
    "NumericGreaterThanEquals": _number(lambda given, wanted: given >= wanted),
    "DateEquals": _date(_equal),
    "DateLessThan": _date(lambda given, wanted: given < wanted),
    "DateLessThanEquals": _date(lambda given, wanted: given <= wanted),
    "DateGreaterThan": _date(lambda given, wanted: given > wanted),
    "DateGreaterThanEquals": _date(lambda given, wanted: given >= wanted),
    "Bool": lambda wanted, given: wanted.lower() == given.lower(),
    "BinaryEquals": lambda wanted, given: wanted == given,
    "IpAddress": _address,
    "ArnEquals": arn_like,
    "ArnLike": arn_like,
}
#: Operators that hold where none of the values fits, also where the request has no such key.
_NEGATIVE: dict[str, str] = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}
_SETS = ("ForAllValues:", "ForAnyValue:")


def known(operator: str) -> bool:
    """Whether there is such an operator."""
    bare = _bare(operator)[1]
    return bare == "Null" or bare in _POSITIVE or bare in _NEGATIVE


def _bare(operator: str) -> tuple[str, str, bool]:
    """(set prefix, operator, whether IfExists)."""
    prefix = next((one for one in _SETS if operator.startswith(one)), "")
    rest = operator.removeprefix(prefix)
    return prefix, rest.removesuffix("IfExists"), rest.endswith("IfExists")


def holds(operator: str, key: str, wanted: Sequence[str], context: Context) -> bool:
    """Whether one line of a condition block holds. ``operator`` is :func:`known`."""
    prefix, bare, if_exists = _bare(operator)
    given = context.get(key.lower())
    if bare == "Null":
        return any((given is None) == (one.lower() == "true") for one in wanted)
    if given is None:
        return if_exists or bare in _NEGATIVE or prefix == "ForAllValues:"
    if bare in _NEGATIVE:
        test = _POSITIVE[_NEGATIVE[bare]]

        def fits(value: str) -> bool:
            return not any(test(one, value) for one in wanted)
    else:
        test = _POSITIVE[bare]

        def fits(value: str) -> bool:
            return any(test(one, value) for one in wanted)

    if prefix == "ForAnyValue:":
        return any(map(fits, given))
    if prefix == "ForAllValues:" or bare in _NEGATIVE:
        return all(map(fits, given))
    return any(map(fits, given))
