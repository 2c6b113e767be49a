"""The order of package versions, as dpkg and apk see it.

Sources: Debian Policy 5.6.12 (and deb-version(7)); apk-tools, ``src/version.c``. Both functions give -1, 0 or 1.
"""

from __future__ import annotations

import re

_DIGITS = re.compile(r"\d+")
_APK = re.compile(
    r"(?P<numbers>\d+(?:\.\d+)*)(?P<letter>[a-z]?)(?P<suffixes>(?:_[a-z]+\d*)*)(?:~(?P<commit>[0-9a-f]+))?(?:-r(?P<release>\d+))?"
)
_SUFFIX = re.compile(r"_([a-z]+)(\d*)")
_BEFORE = ("alpha", "beta", "pre", "rc")
_AFTER = ("cvs", "svn", "git", "hg", "p")


def compare_debian(left: str, right: str) -> int:
    """Two versions ``[epoch:]upstream[-revision]``."""
    for one, other in zip(_debian(left), _debian(right), strict=True):
        found = _part(one, other)
        if found:
            return found
    return 0


def _debian(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", version.strip()
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _part(left: str, right: str) -> int:
    """Letters before other signs, ``~`` before everything and even the end; numbers by their value."""
    while left or right:
        at, to = _text_end(left), _text_end(right)
        one, other = left[:at], right[:to]
        for index in range(max(len(one), len(other))):
            first = _weight(one[index]) if index < len(one) else 0
            second = _weight(other[index]) if index < len(other) else 0
            if first != second:
                return -1 if first < second else 1
        left, right = left[at:], right[to:]
        number, against = _DIGITS.match(left), _DIGITS.match(right)
        first, second = int(number[0]) if number else 0, int(against[0]) if against else 0
        if first != second:
            return -1 if first < second else 1
        left = left[number.end() :] if number else left
        right = right[against.end() :] if against else right
    return 0


def _text_end(text: str) -> int:
    found = _DIGITS.search(text)
    return found.start() if found else len(text)


def _weight(sign: str) -> int:
    if sign == "~":
        return -1
    return ord(sign) if sign.isalpha() else ord(sign) + 256


def compare_apk(left: str, right: str) -> int:
    """Two versions ``1.2.3a_rc1_git2-r4``. What is no version comes before all that are."""
    one, other = _apk(left), _apk(right)
    if one is None or other is None:
        return (one is not None) - (other is not None)
    return (one > other) - (one < other)


def _apk(version: str) -> tuple[object, ...] | None:
    match = _APK.fullmatch(version.strip())
    if match is None:
        return None
    first, *more = match["numbers"].split(".")
    # Behind the first, a number that begins with 0 is a fraction and goes by its digits (1.05 is before 1.1).
    numbers = (
        (1, int(first), ""),
        *((0, 0, one) if one[0] == "0" and len(one) > 1 else (1, int(one), "") for one in more),
    )
    suffixes = tuple(_suffix(name, number) for name, number in _SUFFIX.findall(match["suffixes"]))
    # A suffix that is missing stands between those that come before a release and those that come after it.
    return numbers, match["letter"], (*suffixes, (0, 0)), int(match["release"] or 0)


def _suffix(name: str, number: str) -> tuple[int, int]:
    if name in _BEFORE:
        return _BEFORE.index(name) - len(_BEFORE), int(number or 0)
    return (_AFTER.index(name) + 1 if name in _AFTER else len(_AFTER) + 1), int(number or 0)
