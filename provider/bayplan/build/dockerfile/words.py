"""How an instruction's text falls apart: its name, its ``--flags``, words that keep their quotes, JSON arrays.

Every word carries its offset in the logical line, so that a mistake can be shown where it stands.
Source: BuildKit frontend/dockerfile/parser (split_command.go, line_parsers.go).
"""

from __future__ import annotations

import re

from bayplan.records import dataclass

_BLANKS = re.compile(r"[\t\v\f\r ]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A piece of a logical line and where it starts in it."""

    text: str
    offset: int


@dataclass(frozen=True, slots=True)
class Split:
    """An instruction taken apart: ``name`` as written, the flags without their quotes, the rest from ``rest.offset``."""

    name: Word
    flags: tuple[Word, ...]
    rest: Word


def split(text: str, escape: str, start: int = 0) -> Split:
    """Take ``text`` from ``start`` apart into name, flags and the rest."""
    while start < len(text) and text[start].isspace():
        start += 1
    end = start
    while end < len(text) and not text[end].isspace():
        end += 1
    name = Word(text[start:end], start)
    flags, at = _flags(text, end, escape)
    while at < len(text) and text[at].isspace():
        at += 1
    return Split(name, tuple(flags), Word(text[at:].rstrip(), at))


def _flags(text: str, at: int, escape: str) -> tuple[list[Word], int]:
    """The words that start with ``--``, up to the first that does not or to a bare ``--``."""
    flags: list[Word] = []
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith("--", at):
            return flags, at
        start = at
        out: list[str] = []
        quote = ""
        while at < len(text):
            char = text[at]
            if not quote and char.isspace():
                break
            at += 1
            if char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            elif char == escape and at < len(text):
                out.append(text[at])
                at += 1
            elif char != escape:
                out.append(char)
        word = "".join(out)
        if word == "--":
            return flags, at
        flags.append(Word(word, start))


def quoted_words(rest: Word, escape: str) -> list[Word]:
    """Words divided by blanks outside quotes; quotes and escapes stay in them (ENV, LABEL, ARG)."""
    text = rest.text
    words: list[Word] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        start = at
        out: list[str] = []
        quote = ""
        while at < len(text):
            char = text[at]
            if not quote and char.isspace():
                break
            at += 1
            if char == escape and quote != "'":
                if at < len(text):
                    out.append(char + text[at])
                    at += 1
                continue
            if quote:
                if char == quote:
                    quote = ""
            elif char in "'\"":
                quote = char
            out.append(char)
        if out:
            words.append(Word("".join(out), rest.offset + start))
    return words


def blank_words(rest: Word) -> list[Word]:
    """Words divided by any blank, quotes or not (FROM, EXPOSE, the list form of COPY, ADD and VOLUME)."""
    words: list[Word] = []
    at = 0
    for gap in [*_BLANKS.finditer(rest.text), None]:
        end = gap.start() if gap else len(rest.text)
        if end > at:
            words.append(Word(rest.text[at:end], rest.offset + at))
        at = gap.end() if gap else end
    return words


class NotStrings(ValueError):
    """A JSON array that holds something other than strings."""


def json_array(text: str) -> list[str] | None:
    """The strings of a JSON array; None where ``text`` is not one (then it is the shell or list form).

    Raises NotStrings for an array of other things: nobody means that.
    """
    if not text.startswith("["):
        return None
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    if not all(isinstance(item, str) for item in value):
        raise NotStrings("an array in exec form holds strings only")
    return [str(item) for item in value]
