"""The language inside ``${...}``: names, a path behind them, and calls of a few pure functions. Nothing else.

::

    text       = { literal | "$${" | "${" expression "}" }
    expression = string | number | "true" | "false" | "null" | call | path
    call       = name "(" [ expression { "," expression } ] ")"
    path       = name { "." name | "[" expression "]" | "[*]" }

There are no operators and no conditions on purpose: whoever needs a programming language uses the Pulumi face. ``$${``
stands for the two characters ``${`` themselves.

This module only parses. What the names mean is decided in :mod:`bayplan.stack.evaluate`. Results are kept by text, since
a resource made for each of a hundred keys holds the same expressions a hundred times.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TypeAlias

from bayplan.records import dataclass

#: Levels of calls and brackets in one another.
_MAX_DEPTH = 32

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}
_WORDS = {"true": True, "false": False, "null": None}


@cache
def _token() -> re.Pattern[str]:
    """Compiled where there is an expression: it costs more than all else that a plan without any does with this module."""
    return re.compile(
        r"""\s*(?:
          (?P<number>-?[0-9]+(?:\.[0-9]+)?(?![A-Za-z0-9_-]))
        | (?P<name>[A-Za-z0-9_][A-Za-z0-9_-]*)
        | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'])*')
        | (?P<mark>[.,()\[\]*}])
        )""",
        re.VERBOSE | re.ASCII | re.DOTALL,
    )


class ExpressionError(ValueError):
    """A mistake in an expression, ``offset`` characters into the text that holds it."""

    def __init__(self, code: str, message: str, offset: int, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.offset = offset
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Literal:
    value: str | int | float | bool | None
    offset: int


@dataclass(frozen=True, slots=True)
class Every:
    """The ``[*]`` of a path: all resources that a for_each makes."""

    offset: int


@dataclass(frozen=True, slots=True)
class PathExpression:
    """A name and what follows it: attribute names as strings, brackets as expressions."""

    root: str
    steps: tuple[str | Expression | Every, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple[Expression, ...]
    offset: int


Expression: TypeAlias = Literal | PathExpression | Call


@lru_cache(maxsize=4096)
def parse(text: str) -> tuple[str | Expression, ...]:
    """The pieces of a text in order. A text that is one expression and nothing else has just this piece.

    Raises ExpressionError.
    """
    pieces: list[str | Expression] = []
    literal: list[str] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        if start > at and text[start - 1] == "$":
            literal.append(text[at : start - 1] + "${")
            at = start + 2
            continue
        literal.append(text[at:start])
        if joined := "".join(literal):
            pieces.append(joined)
        literal = []
        parser = _Parser(text, start)
        pieces.append(parser.whole())
        at = parser.at
    literal.append(text[at:])
    if joined := "".join(literal):
        pieces.append(joined)
    return tuple(pieces)


class _Parser:
    """Reads one ``${...}`` that starts at ``start``; ``at`` is then behind its brace."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.start = start
        self.at = start + 2
        self.lexeme = ""
        self.sort = ""
        self.offset = start
        self.advance()

    def advance(self) -> None:
        """The next token. Raises ExpressionError at the end of the text or at a character of no token."""
        match = _token().match(self.text, self.at)
        if match is None:
            rest = self.text[self.at :].lstrip()
            offset = len(self.text) - len(rest)
            if not rest:
                raise self.unclosed()
            if rest[0] in "\"'":
                raise ExpressionError("bad-expression", "the quote that opens here is not closed", offset)
            hint = "an expression is a name with its path, or a function of some; see the page on stack files"
            if rest[0] in ":-?+":
                hint = "a default is written ${default(var.x, 'y')}; operators do not exist"
            raise ExpressionError("bad-expression", f"`{rest[0]}` has no meaning in an expression", offset, hint)
        self.sort = str(match.lastgroup)
        self.lexeme = match.group(self.sort)
        self.offset = match.start(self.sort)
        self.at = match.end()

    def unclosed(self) -> ExpressionError:
        hint = "close it with `}`, or write `$${` for the two characters themselves"
        return ExpressionError("bad-expression", "the expression that opens here is not closed", self.start, hint)

    def whole(self) -> Expression:
        if self.lexeme == "}":
            raise ExpressionError("bad-expression", "the expression is empty", self.offset)
        found = self.expression(0)
        if self.lexeme != "}":
            message = f"`{self.lexeme}` stands where the expression should end"
            raise ExpressionError("bad-expression", message, self.offset, "close it with `}`")
        return found

    def expression(self, depth: int) -> Expression:
        if depth > _MAX_DEPTH:
            raise ExpressionError("bad-expression", "calls and brackets are nested too deep", self.offset)
        token, sort, offset = self.lexeme, self.sort, self.offset
        if sort == "string":
            self.advance()
            return Literal(_unquote(token), offset)
        if sort == "number":
            self.advance()
            return Literal(float(token) if "." in token else int(token), offset)
        if sort != "name":
            message = f"a name or a value is expected, not `{token}`"
            raise ExpressionError("bad-expression", message, offset)
        self.advance()
        if token in _WORDS:
            return Literal(_WORDS[token], offset)
        if self.lexeme == "(":
            return self.call(token, offset, depth)
        return self.path(token, offset, depth)

    def call(self, function: str, offset: int, depth: int) -> Call:
        self.advance()
        arguments: list[Expression] = []
        while self.lexeme != ")":
            arguments.append(self.expression(depth + 1))
            if self.lexeme == ",":
                self.advance()
            elif self.lexeme != ")":
                message = f"a comma or `)` is expected, not `{self.lexeme}`"
                raise ExpressionError("bad-expression", message, self.offset)
        self.advance()
        return Call(function, tuple(arguments), offset)

    def path(self, root: str, offset: int, depth: int) -> PathExpression:
        steps: list[str | Expression | Every] = []
        while self.lexeme in (".", "["):
            mark = self.lexeme
            self.advance()
            if mark == ".":
                if self.sort not in ("name", "number"):
                    message = f"a name is expected behind the dot, not `{self.lexeme}`"
                    raise ExpressionError("bad-expression", message, self.offset)
                steps.append(self.lexeme)
            elif self.lexeme == "*":
                steps.append(Every(self.offset))
                self.advance()
            else:
                steps.append(self.expression(depth + 1))
            if mark == "[" and self.lexeme != "]":
                message = f"`]` is expected, not `{self.lexeme}`"
                raise ExpressionError("bad-expression", message, self.offset)
            self.advance()
        return PathExpression(root, tuple(steps), offset)


def _unquote(token: str) -> str:
    if token[0] == "'":
        return token[1:-1]
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match.group(1), match.group(0)), token[1:-1])
