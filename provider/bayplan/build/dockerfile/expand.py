"""Variable substitution and word splitting as the Dockerfile reference defines them.

A small shell of its own: quotes, the escape character, ``$v`` and ``${v}`` with the modifiers ``:- - :+ + :? ? # ## % %% /
//``. It is *not* a POSIX shell: no command substitution, no arithmetic, no globbing, and an unset variable is empty.
The rules are those of BuildKit's ``ShellLex`` (frontend/dockerfile/shell); the code is a recursive reader over one string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PLAIN = re.compile(r"""[^$'"\\`<\s]*\Z""")
_SPECIAL = frozenset("@*#?-$!0")


class SubstitutionError(ValueError):
    """What is wrong in a word, in one line; the caller knows where the word stands."""


class Expander:
    """Expands words against ``variables``. ``used`` collects the names that were looked up, ``unset`` those not found.

    ``raw_quotes`` and ``raw_escapes`` keep quotes and escape characters in the result; ``quotes=False`` takes quotes
    as ordinary characters (the bodies of heredocs); ``skip_unset`` leaves ``$x`` of an unset x as it stands.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        escape: str = "\\",
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        quotes: bool = True,
        skip_unset: bool = False,
    ) -> None:
        self.variables = variables
        self.escape = escape
        self.raw_quotes = raw_quotes
        self.raw_escapes = raw_escapes
        self.quotes = quotes
        self.skip_unset = skip_unset
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def word(self, text: str) -> str:
        """``text`` with quotes taken off and variables replaced; spaces stay. Raises SubstitutionError."""
        if _PLAIN.match(text):
            return text
        return _Reading(self, text).run()[0]

    def words(self, text: str) -> list[str]:
        """Like :meth:`word`, then split at blanks that were not quoted (values of variables are split too)."""
        return _Reading(self, text).run()[1]

    def words_leniently(self, text: str) -> list[str]:
        """The words up to the first mistake: for looking for heredocs in a line of shell that is not ours to judge."""
        reading = _Reading(self, text)
        try:
            return reading.run()[1]
        except SubstitutionError:
            return []

    def lookup(self, name: str) -> str | None:
        self.used.add(name)
        value = self.variables.get(name)
        if value is None:
            self.unset.add(name)
        return value


class _Words:
    """Collects words: unquoted blanks end one, raw text never does."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.buffer: list[str] = []

    def add(self, text: str) -> None:
        for char in text:
            if char.isspace():
                self.end()
            else:
                self.buffer.append(char)

    def add_raw(self, text: str) -> None:
        self.buffer.append(text)

    def end(self) -> None:
        word = "".join(self.buffer)
        if word:
            self.done.append(word)
        self.buffer.clear()


class _Reading:
    def __init__(self, expander: Expander, text: str) -> None:
        self.of = expander
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        return char

    def run(self) -> tuple[str, list[str]]:
        return self.until("", self.of.raw_escapes)

    def until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Read up to ``stop`` (``""``: to the end)."""
        result: list[str] = []
        words = _Words()
        while self.at < len(self.text):
            char = self.peek()
            if stop and char == stop:
                self.at += 1
                words.end()
                return "".join(result), words.done
            if char == "$":
                value = self.dollar()
                result.append(value)
                words.add(value)
            elif self.of.quotes and char in "'\"":
                value = self.single() if char == "'" else self.double(raw_escapes)
                result.append(value)
                words.add_raw(value)
            elif char == "<":
                value = self.angle()
                result.append(value)
                words.add_raw(value)
            elif char == self.of.escape:
                self.at += 1
                if raw_escapes:
                    result.append(char)
                    words.add_raw(char)
                escaped = self.take()
                result.append(escaped)
                words.add_raw(escaped)
            else:
                self.at += 1
                result.append(char)
                words.add(char)
        if stop:
            raise SubstitutionError(f"the closing {stop} is missing")
        words.end()
        return "".join(result), words.done

    def angle(self) -> str:
        """``<< WORD``: blanks behind ``<<`` belong to the heredoc's word."""
        self.at += 1
        if self.peek() != "<":
            return "<"
        self.at += 1
        start = self.at
        while self.peek() and self.peek() in "\t\r ":
            self.at += 1
        return "<<" + self.text[start : self.at]

    def single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise SubstitutionError("the closing single quote is missing")
        inner = self.text[self.at + 1 : end]
        self.at = end + 1
        return f"'{inner}'" if self.of.raw_quotes else inner

    def double(self, raw_escapes: bool) -> str:
        mark = '"' if self.of.raw_quotes else ""
        result = [mark]
        self.at += 1
        while True:
            char = self.peek()
            if not char:
                raise SubstitutionError("the closing double quote is missing")
            if char == '"':
                self.at += 1
                return "".join(result) + mark
            if char == "$":
                result.append(self.dollar())
                continue
            self.at += 1
            if char == self.of.escape:
                if raw_escapes:
                    result.append(char)
                following = self.peek()
                if not following:
                    continue
                # Only these can be escaped inside double quotes; any other escape character stays.
                if following in ('"', "$", self.of.escape):
                    char = self.take()
            result.append(char)

    def name(self) -> str:
        start = self.at
        first = self.peek()
        if first and first.isdigit():
            while self.peek() and self.peek().isdigit():
                self.at += 1
        elif first in _SPECIAL:
            self.at += 1
        else:
            while self.peek() and (self.peek().isalnum() or self.peek() == "_"):
                self.at += 1
        return self.text[start : self.at]

    def dollar(self) -> str:
        self.at += 1
        if self.peek() != "{":
            name = self.name()
            if not name:
                return "$"
            value = self.of.lookup(name)
            if value is None and self.of.skip_unset:
                return "$" + name
            return value or ""
        self.at += 1
        if not self.peek():
            raise SubstitutionError("the closing } is missing")
        if self.peek() in "{}:":
            raise SubstitutionError("bad substitution: a name is expected behind ${")
        name = self.name()
        mark = self.take()
        if mark == "}":
            value = self.of.lookup(name)
            if value is None and self.of.skip_unset:
                return "${" + name + "}"
            return value or ""
        if mark == "/":
            return self.replace(name)
        empty_is_unset = mark == ":"
        if empty_is_unset:
            mark = self.take()
        shown = (":" if empty_is_unset else "") + mark
        if not mark or mark not in "-+?#%" or (empty_is_unset and mark in "#%"):
            if not mark:
                raise SubstitutionError("the closing } is missing")
            raise SubstitutionError(f"the modifier {shown} in ${{{name}{shown}...}} is not supported")
        word, _ = self.until("}", raw_escapes=mark in "#%")
        value = self.of.lookup(name)
        if value is None and self.of.skip_unset:
            return "${" + name + shown + word + "}"
        return self.modify(name, value, mark, word, empty_is_unset)

    @staticmethod
    def modify(name: str, value: str | None, mark: str, word: str, empty_is_unset: bool) -> str:
        missing = value is None or (empty_is_unset and value == "")
        if mark == "-":
            return word if missing else value or ""
        if mark == "+":
            return "" if missing else word
        if mark == "?":
            if missing:
                state = "unset" if value is None else "empty"
                raise SubstitutionError(f"{name}: {word or f'is not allowed to be {state}'}")
            return value or ""
        longest = word[:1] == mark
        pattern = word[1:] if longest else word
        text = value or ""
        if mark == "#":
            found = _glob(pattern, longest, name).match(text)
            return text[found.end() :] if found else text
        return _cut_suffix(text, pattern, longest, name)

    def replace(self, name: str) -> str:
        every = self.peek() == "/"
        if every:
            self.at += 1
        pattern, _ = self.until("/", raw_escapes=True)
        replacement, _ = self.until("}", raw_escapes=True)
        value = self.of.lookup(name)
        if value is None and self.of.skip_unset:
            return "${" + name + "/" + pattern + "/" + replacement + "}"
        return _glob(pattern, True, name).sub(lambda _: replacement, value or "", count=0 if every else 1)


def _glob(pattern: str, longest: bool, name: str) -> re.Pattern[str]:
    """A shell pattern (``*`` and ``?`` alone, no brackets) as a regular expression."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append(".*" if longest else ".*?")
        elif char == "?":
            out.append(".")
        elif char == "\\":
            following = pattern[at : at + 1]
            at += 1
            if following not in ("*", "?", "\\", "}", "/"):
                raise SubstitutionError(f"invalid escape \\{following} in the pattern of ${{{name}}}")
            out.append(re.escape(following))
        else:
            out.append(re.escape(char))
    return re.compile("".join(out))


def _cut_suffix(text: str, pattern: str, longest: bool, name: str) -> str:
    """Cut the shortest (or longest) end that matches: try each start, from the right (or from the left)."""
    matcher = _glob(pattern, True, name)
    starts = range(len(text) + 1) if longest else range(len(text), -1, -1)
    for start in starts:
        if matcher.fullmatch(text, start):
            return text[:start]
    return text
