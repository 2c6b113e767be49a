"""What libyaml could not read, in words that say what to do.

libyaml says what it was doing when it met a character that it had no use for; a user wants to know what was meant
otherwise. The table below is its complete vocabulary as far as stack files can provoke it. Its place is often right, but
not for the commonest slip: a quote that is never closed is closed by the next quote of the file, and the error stands
behind that one. So the tokens before the error are looked at once more, and a quoted text that runs over several lines
into the error is reported where it opens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.stack.positions import Fault, bound_fault
from bayplan.stack.source import Source

if TYPE_CHECKING:
    from yaml import MarkedYAMLError

#: libyaml's problem -> code, message, hint. Told at the problem's place.
_PROBLEMS: dict[str, tuple[str, str, str]] = {
    "mapping values are not allowed in this context": (
        "bad-syntax",
        "a colon makes a map here, where a single value is expected",
        "quote a text that holds `: `, or mend the indentation of this line",
    ),
    "block sequence entries are not allowed in this context": (
        "bad-syntax",
        "a list cannot start behind its key on the same line",
        "start the first `- ` on a line of its own, or write the list as [a, b]",
    ),
    "did not find expected key": (
        "bad-syntax",
        "neither the next key nor the end of this map",
        "keys of one map start in the same column",
    ),
    "did not find expected '-' indicator": (
        "bad-syntax",
        "neither the next `- ` nor the end of this list",
        "items of one list start in the same column",
    ),
    "did not find expected node content": ("bad-syntax", "a value is missing here", "remove the comma or quote it"),
    "found unknown escape character": (
        "bad-escape",
        "not an escape that double quotes know",
        "write `\\\\` for a backslash, or use single quotes, which know no escapes",
    ),
    "found invalid Unicode character escape code": ("bad-escape", "not a character's number", ""),
    "did not find expected hexdecimal number": ("bad-escape", "a character's number in hexadecimal is cut short", ""),
    "found undefined tag handle": (
        "unknown-tag",
        "tags are not used here",
        "quote a text that starts with `!`",
    ),
    "found incompatible YAML document": (
        "bad-syntax",
        "the file asks for another YAML than 1.2",
        "remove the %YAML line",
    ),
    "found character that cannot start any token": (
        "bad-syntax",
        "a value cannot start with this character",
        "put the value into quotes",
    ),
    "found a tab character that violates indentation": ("tab", "", ""),
    "found a tab character where an indentation space is expected": ("tab", "", ""),
    "did not find expected alphabetic or numeric character": (
        "bad-syntax",
        "`&` and `*` at the start of a value make anchors and aliases, and a name must follow",
        "put the value into quotes",
    ),
    "did not find expected comment or line break": (
        "bad-syntax",
        "only a comment may follow `|` or `>` on its line",
        "start the text on the next line, indented",
    ),
    "could not determine a simple key": ("bad-syntax", "a key must stand on one line", ""),
}
_TAB = ("tab", "a tab is used for indentation", "YAML indents with spaces only")


def explain(source: Source, error: Exception) -> BayplanError:
    """The user's error for what :func:`bayplan.stack.reader.read` raised on ``source``."""
    from yaml import MarkedYAMLError
    from yaml.reader import ReaderError

    if isinstance(error, ReaderError):
        return _unreadable(source, error)
    if isinstance(error, MarkedYAMLError):
        return _broken(source, error)
    fault = bound_fault(source.data, error)
    return source.error_at(fault.code, fault.message, fault.line, fault.column, fault.hint)


def _unreadable(source: Source, error: Exception) -> BayplanError:
    """A byte that is no text. libyaml's own offset is that of its buffer's end or of the byte, by case; we look again."""
    line, column, what = 1, 1, "the file is not text in UTF-8"
    try:
        text = source.data.decode("utf-8")
    except UnicodeDecodeError as bad:
        before = source.data[: bad.start].decode("utf-8")
        what = f"the byte 0x{source.data[bad.start]:02x} is not text in UTF-8"
    else:
        at = next((i for i, c in enumerate(text) if _control(c)), 0)
        before = text[:at]
        what = f"the control character U+{ord(text[at]):04X} cannot stand in a file" if text else str(error)
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return source.error_at("not-text", what, line, column, "save the file as UTF-8 text")


def _control(character: str) -> bool:
    """Whether YAML 1.2 (section 5.1) forbids the character in a file."""
    code = ord(character)
    allowed = code in (0x9, 0xA, 0xD, 0x85, 0xFEFF) or 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xD7FF
    return not (allowed or 0xE000 <= code <= 0xFFFD or code >= 0x10000)


def _broken(source: Source, error: MarkedYAMLError) -> BayplanError:
    problem = error.problem or ""
    mark, context = error.problem_mark, error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    opened = (context.line + 1, context.column + 1) if context else (line, column)

    if "quoted scalar" in (error.context or "") and problem.startswith("found unexpected"):
        return _at(source, _unclosed_quote(*opened))
    if (fault := _swallowed(source.data, line, column)) is not None:
        return _at(source, fault)
    if "expected ',' or" in problem:
        return _at(source, _unclosed_bracket(source, opened, line))
    if problem.startswith("could not find expected ':'"):
        return source.error_at("bad-syntax", "a key without a colon", *opened, "write `key: value`")
    text = source.line(line)
    if text[column - 1 : column] == "\t" or "tab character" in problem:
        return source.error_at(_TAB[0], _TAB[1], line, column, _TAB[2])
    code, message, hint = _PROBLEMS.get(problem, ("bad-syntax", problem or str(error), ""))
    return source.error_at(code, message, line, column, hint)


def _at(source: Source, fault: Fault) -> BayplanError:
    return source.error_at(fault.code, fault.message, fault.line, fault.column, fault.hint)


def _unclosed_quote(line: int, column: int, closed: int = 0) -> Fault:
    message = "the quote that opens here is not closed"
    if closed:
        message += f" before the one on line {closed}"
    return Fault(
        "unclosed-quote", message, line, column, "close it on the same line, or double a quote that belongs to the text"
    )


def _unclosed_bracket(source: Source, opened: tuple[int, int], line: int) -> Fault:
    bracket = source.line(opened[0])[opened[1] - 1 : opened[1]] or "["
    closing = {"[": "]", "{": "}"}.get(bracket, "]")
    if line == opened[0]:
        message = f"the `{bracket}` that opens here has no comma or `{closing}` where one must stand"
    else:
        message = f"the `{bracket}` that opens here is not closed"
    return Fault("unclosed-bracket", message, *opened, f"close it with `{closing}`")


def _swallowed(data: bytes, line: int, column: int) -> Fault | None:
    """A mistake of quotes, if that is what the error at ``line`` comes from: one left open that the next quote of the file
    closed, or one that was closed too early."""
    from yaml import YAMLError
    from yaml._yaml import CParser
    from yaml.tokens import ScalarToken

    tokens = CParser(data)
    last = None
    try:
        while (token := tokens.get_token()) is not None:
            end = token.end_mark
            if (end.line + 1, end.column + 1) > (line, column):
                break
            if isinstance(token, ScalarToken) and token.style in ("'", '"'):
                last = token
    except YAMLError:  # the scanner meets the same error; what came before it is what we want
        pass
    if last is None:
        return None
    start, end = last.start_mark, last.end_mark
    if end.line + 1 != line:
        return None
    if start.line != end.line:
        return _unclosed_quote(start.line + 1, start.column + 1, end.line + 1)
    between = data.decode("utf-8", "replace").split("\n")[line - 1][end.column : column]
    if between and not between[:-1].strip() and between[-1] not in ",:]}#":
        hint = "double a single quote that belongs to the text ('it''s'), or use the other quotes around it"
        return Fault("bad-syntax", "a text goes on behind its closing quote", line, column, hint)
    return None
