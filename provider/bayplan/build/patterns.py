"""Path patterns: ``.dockerignore`` lines, ``--exclude`` and the wildcards of COPY.

Two rules of the field meet here. Patterns that leave files out follow moby's ``patternmatcher`` (``**`` crosses
directories, ``!`` takes back in, the last match wins, what matches a directory matches all below it). Wildcards of a
COPY source follow Go's ``filepath.Match`` (``*`` stays within one name), with ``**`` besides.

Both become regular expressions once, so that a walk over ten thousand files costs one match each.
Source: moby/patternmatcher (patternmatcher.go, ignorefile/ignorefile.go).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

_WILD = re.compile(r"[*?\[\\]")
_MAGIC = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")


class BadPattern(ValueError):
    """A pattern that cannot be read, in words."""


def ignore_lines(text: str) -> list[str]:
    """The patterns of an ignore file: comments and blank lines dropped, paths cleaned, the leading ``/`` taken off."""
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        inverted = pattern.startswith("!")
        if inverted:
            pattern = pattern[1:].strip()
        if pattern:
            pattern = clean(pattern)
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append(("!" if inverted else "") + pattern)
    return patterns


def clean(path: str) -> str:
    """Go's filepath.Clean: like normpath, but ``//a`` is ``/a``."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def has_wildcard(path: str) -> bool:
    return _MAGIC.search(path) is not None


class PathFilter:
    """Which paths a list of patterns leaves out. Paths are relative, with ``/``, without a leading ``./``.

    Raises BadPattern for a pattern that cannot be read.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        self._taken_back: list[str] = []
        for written in patterns:
            pattern = written.strip()
            if not pattern:
                continue
            pattern = clean(pattern)
            inverted = pattern.startswith("!")
            if inverted:
                pattern = pattern[1:]
                if not pattern:
                    raise BadPattern('the pattern "!" takes back nothing')
                self._taken_back.append(_literal_start(pattern))
            self._rules.append((inverted, _compile(f"(?:{_expression(pattern)})(?:/.*)?", written)))
        self._all = None
        if self._rules and not self._taken_back:
            self._all = re.compile("|".join(rule.pattern for _, rule in self._rules), re.DOTALL)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str) -> bool:
        """True where ``path`` is left out: the last pattern that matches it, or a directory above it, decides."""
        if self._all is not None:
            return self._all.fullmatch(path) is not None
        out = False
        for inverted, rule in self._rules:
            if inverted == out and rule.fullmatch(path):
                out = not inverted
        return out

    def excludes_all_below(self, directory: str) -> bool:
        """True where nothing below the left-out ``directory`` can be taken back: a walk need not go in."""
        below = directory + "/"
        return not any(start.startswith(below) or below.startswith(start) for start in self._taken_back)


def wildcard(pattern: str) -> re.Pattern[str]:
    """The wildcard of a COPY source, matched against the whole relative path. Raises BadPattern."""
    return _compile(_expression(pattern, crossing_suffix=False), pattern)


def _compile(expression: str, written: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as error:
        raise BadPattern(f"the pattern {written!r} cannot be read: {error}") from None


def _literal_start(pattern: str) -> str:
    """The part of a pattern before its first wildcard, cut back to whole names."""
    match = _WILD.search(pattern)
    if not match:
        return pattern
    return pattern[: match.start()].rpartition("/")[0] + "/" if "/" in pattern[: match.start()] else ""


def _expression(pattern: str, *, crossing_suffix: bool = True) -> str:
    """A pattern as a regular expression for the whole path (without anchors)."""
    if crossing_suffix and pattern.startswith("**") and not _WILD.search(pattern[2:]):
        # moby's short cut for a leading ** and plain text: the path merely has to end so (``**foo`` matches ``xfoo``).
        rest = pattern[2:]
        if rest.startswith("/"):
            return "(?:.*/)?" + re.escape(rest[1:])
        return ".*" + re.escape(rest)
    if pattern.endswith("**") and not _WILD.search(pattern[:-2]):
        return re.escape(pattern[:-2]) + ".*"
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if pattern[at : at + 1] != "*":
                out.append("[^/]*")
                continue
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
            out.append(".*" if at >= len(pattern) else "(?:.*/)?")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            if at >= len(pattern):
                raise BadPattern(f"the pattern {pattern!r} ends with a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            end, group = _bracket(pattern, at)
            out.append(group)
            at = end
        else:
            out.append(re.escape(char))
    return "".join(out)


def _bracket(pattern: str, at: int) -> tuple[int, str]:
    """``[a-z]`` or ``[^a-z]`` from behind the bracket; never matches a slash."""
    start = at
    negated = pattern[at : at + 1] == "^"
    at += negated
    parts: list[str] = []
    while at < len(pattern) and (pattern[at] != "]" or not parts):
        char = pattern[at]
        if char == "\\":
            at += 1
            char = pattern[at : at + 1]
        at += 1
        if char == "-" and parts and at < len(pattern) and pattern[at] != "]":
            parts.append("-")
        else:
            parts.append(re.escape(char) if char else "")
    if at >= len(pattern) or not parts:
        raise BadPattern(f"the bracket in {pattern!r} (character {start}) is not closed")
    return at + 1, f"(?!/)[{'^' if negated else ''}{''.join(parts)}]"
