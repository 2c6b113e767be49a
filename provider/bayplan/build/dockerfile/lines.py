"""From the bytes of a Dockerfile to logical lines: directives, comments, continuations, heredoc bodies.

A Dockerfile is read line by line, and what a line means depends on what came before: parser directives stand only at
the very top, a comment inside a continued instruction vanishes, the body of a heredoc is taken raw. This room does
exactly that reading and knows no instruction beyond what it needs: which ones may carry heredocs.

Each logical line remembers, for every piece it was glued from, the physical line and column it came from, so that an
error inside a continued instruction points at the line where the mistake really stands.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from bayplan.build.dockerfile.expand import Expander
from bayplan.build.dockerfile.model import Directives, Heredoc
from bayplan.errors import BayplanError, Where
from bayplan.records import dataclass

_DIRECTIVE = re.compile(r"#[^\S\n]*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*$")
_DIRECTIVES = frozenset({"syntax", "escape", "check"})
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)\Z")
_TAKES_HEREDOC = frozenset({"ADD", "COPY", "RUN"})
#: One gigabyte of Dockerfile is a mistake; so is one megabyte.
MAX_SIZE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One instruction's text with its continuations joined, and where each character came from.

    ``offsets`` and ``places`` run in parallel: the text from ``offsets[i]`` on comes from ``places[i]`` = (line, column)
    of the file, both from 1.
    """

    text: str
    offsets: tuple[int, ...]
    places: tuple[tuple[int, int], ...]
    end_line: int
    heredocs: tuple[Heredoc, ...] = ()

    def place(self, offset: int = 0) -> tuple[int, int]:
        """Line and column in the file of the character at ``offset`` of the text."""
        at = max(bisect_right(self.offsets, offset) - 1, 0)
        line, column = self.places[at]
        return line, column + offset - self.offsets[at]


@dataclass(frozen=True, slots=True)
class Source:
    """A whole file as logical lines. ``physical`` are its lines for showing them in errors."""

    file: str
    directives: Directives
    lines: tuple[LogicalLine, ...]
    physical: tuple[str, ...]
    warnings: tuple[tuple[Where, str], ...]

    def error(self, code: str, message: str, line: int, column: int = 1, hint: str = "") -> BayplanError:
        """An error at a place of this file, with the line that it shows."""
        shown = self.physical[line - 1].rstrip("\r\n") if 0 < line <= len(self.physical) else ""
        return BayplanError(code, message, where=Where(self.file, line, column), hint=hint, source=shown)


def read(data: bytes, file: str) -> Source:
    """Split ``data`` into logical lines. Raises BayplanError ``dockerfile-syntax`` for what cannot be read on."""
    if len(data) > MAX_SIZE:
        raise BayplanError("dockerfile-syntax", f"the Dockerfile is larger than {MAX_SIZE} bytes", where=Where(file))
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BayplanError("dockerfile-syntax", "the Dockerfile is not UTF-8", where=Where(file, line)) from None
    return _Reader(text, file).read()


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        # Only \n ends a line here; splitlines would break at form feeds and Unicode separators inside strings too.
        self.physical = [line + "\n" for line in text.split("\n")]
        self.physical[-1] = self.physical[-1][:-1]
        if not self.physical[-1]:
            self.physical.pop()
        self.file = file
        self.at = 0
        self.lines: list[LogicalLine] = []
        self.warnings: list[tuple[Where, str]] = []
        self.escape = "\\"

    def read(self) -> Source:
        directives = self._directives()
        self.escape = directives.escape
        mark = re.escape(self.escape)
        self.continuation = re.compile(rf"(?:(?<!{mark})|^){mark}[ \t]*$")
        while self.at < len(self.physical):
            stripped = self.physical[self.at].strip()
            if not stripped or stripped.startswith("#"):
                self.at += 1
                continue
            self._instruction()
        return Source(self.file, directives, tuple(self.lines), tuple(self.physical), tuple(self.warnings))

    def _source(self) -> Source:
        return Source(self.file, Directives(), (), tuple(self.physical), ())

    def _directives(self) -> Directives:
        """Directives stand at the top, before any comment, blank or instruction; the first other line ends them."""
        found: dict[str, str] = {}
        start = 1 if self.physical and self.physical[0].startswith("#!") else 0
        for number, line in enumerate(self.physical[start:], start + 1):
            match = _DIRECTIVE.match(line.strip())
            key = match.group(1).lower() if match else ""
            if not match or key not in _DIRECTIVES:
                break
            if key in found:
                raise self._source().error("dockerfile-syntax", f"the parser directive {key!r} is given twice", number)
            if key == "escape" and match.group(2) not in ("\\", "`"):
                message = f"the escape character is {match.group(2)!r}; it can be \\ or `"
                raise self._source().error("dockerfile-syntax", message, number)
            found[key] = match.group(2)
        return Directives(found.get("syntax", ""), found.get("escape", "\\"), found.get("check", ""))

    def _instruction(self) -> None:
        first = self.at
        pieces: list[str] = []
        offsets: list[int] = []
        places: list[tuple[int, int]] = []
        length = 0
        more = True
        while more and self.at < len(self.physical):
            line = self.physical[self.at].rstrip("\r\n")
            number = self.at + 1
            self.at += 1
            column = 1
            if number - 1 == first:
                column += len(line) - len(line.lstrip())
                line = line.lstrip()
            else:
                bare = line.strip()
                if bare.startswith("#"):
                    continue
                if not bare:
                    self.warnings.append((Where(self.file, number), "an empty line inside a continued instruction"))
                    continue
            cut = self.continuation.search(line)
            more = cut is not None
            if cut:
                line = line[: cut.start()]
            offsets.append(length)
            places.append((number, column))
            pieces.append(line)
            length += len(line)
        text = "".join(pieces)
        if not text.strip():
            return
        glued = LogicalLine(text, tuple(offsets), tuple(places), self.at)
        heredocs = self._heredocs(glued)
        self.lines.append(LogicalLine(text, glued.offsets, glued.places, self.at, heredocs))

    def _heredocs(self, line: LogicalLine) -> tuple[Heredoc, ...]:
        if "<<" not in line.text or not _may_carry(line.text):
            return ()
        found: list[Heredoc] = []
        lexer = Expander({}, "\\", raw_quotes=True, raw_escapes=True, skip_unset=True)
        for word in lexer.words_leniently(line.text):
            heredoc = heredoc_word(word)
            if heredoc is not None:
                found.append(self._body(heredoc, line))
        return tuple(found)

    def _body(self, heredoc: Heredoc, line: LogicalLine) -> Heredoc:
        start = self.at
        while self.at < len(self.physical):
            bare = self.physical[self.at].rstrip("\r\n")
            if (bare.lstrip("\t") if heredoc.chomp else bare) == heredoc.name:
                content = "".join(self.physical[start : self.at])
                self.at += 1
                return Heredoc(heredoc.name, content, heredoc.expand, heredoc.chomp, heredoc.descriptor)
            self.at += 1
        number, column = line.place(max(line.text.find("<<"), 0))
        hint = f"a line with {heredoc.name} alone ends it"
        raise self._source().error(
            "dockerfile-syntax", f"the heredoc {heredoc.name} is not ended", number, column, hint
        )


def _may_carry(text: str) -> bool:
    """Heredocs belong to RUN, COPY and ADD, also behind ONBUILD, and never to their JSON form."""
    words = text.split(None, 1)
    while words and words[0].upper() == "ONBUILD" and len(words) == 2:
        words = words[1].split(None, 1)
    if len(words) < 2 or words[0].upper() not in _TAKES_HEREDOC:
        return False
    rest = words[1].lstrip()
    while rest.startswith("--"):
        rest = rest.split(None, 1)[1].lstrip() if len(rest.split(None, 1)) == 2 else ""
    return not (rest.startswith("[") and rest.endswith("]"))


def heredoc_word(word: str) -> Heredoc | None:
    """``<<EOF``, ``3<<-"EOF"`` as a Heredoc without its body; None where ``word`` is not one."""
    match = _HEREDOC.match(word)
    if not match or not match.group(3):
        return None
    rest = match.group(3)
    plain = Expander({}, "\\", skip_unset=True).words(rest)
    quoted = Expander({}, "\\", skip_unset=True, raw_quotes=True).words(rest)
    if len(plain) != 1 or len(quoted) != 1:
        return None
    marks = sum(plain[0].count(mark) - quoted[0].count(mark) for mark in "'\"")
    return Heredoc(plain[0], "", marks == 0, match.group(2) == "-", int(match.group(1) or 0))
