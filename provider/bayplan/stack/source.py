"""One file that was read: its text, its tree, and the places of both.

Everything that a message shows of a file comes from here. The text is kept (it is smaller than any table of positions);
positions are found in it when the first one is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError, Where
from bayplan.stack.scalars import Tree

if TYPE_CHECKING:
    from bayplan.stack.positions import Positions


class Source:
    """A file: ``name`` as messages show it, ``path`` absolute, ``data`` as read, ``tree`` what it says.

    ``special`` are the keys under ``resources`` that are more than plain properties that are right, where the cache knew
    them; None where every resource has to be looked at. Of a ``private`` file (values of variables) no line is ever shown.
    """

    __slots__ = ("_lines", "_positions", "data", "flawed", "name", "path", "private", "special", "tree")

    def __init__(self, name: str, path: Path, data: bytes, tree: Tree = None, *, private: bool = False) -> None:
        self.name = name
        self.path = path
        self.data = data
        self.tree = tree
        self.flawed = False
        self.private = private
        self.special: frozenset[str] | None = None
        self._positions: Positions | None = None
        self._lines: list[bytes] | None = None

    @property
    def folder(self) -> Path:
        """Where relative paths of this file start."""
        return self.path.parent

    @property
    def positions(self) -> Positions:
        if self._positions is None:
            from bayplan.stack.positions import locate

            self._positions = locate(self.data)
        return self._positions

    def line(self, number: int) -> str:
        """A line of the text, from 1, without its end; empty past the last one."""
        if self._lines is None:
            self._lines = self.data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if not 0 < number <= len(self._lines):
            return ""
        text = self._lines[number - 1].rstrip(b"\r").decode("utf-8", "replace")
        return "".join(c if c == "\t" or c.isprintable() else "\ufffd" for c in text)

    def where(self, path: Sequence[str | int] = (), *, key: bool = False) -> Where:
        """The place of the value at ``path``, or of its key; see :meth:`Positions.place`."""
        line, column = self.positions.place(self.tree, path, key=key)
        return Where(self.name, line, column)

    def error(
        self,
        code: str,
        message: str,
        path: Sequence[str | int] = (),
        *,
        key: bool = False,
        hint: str = "",
    ) -> BayplanError:
        """An error at ``path``, or at its key."""
        where = self.where(path, key=key)
        return self.error_at(code, message, where.line, where.column, hint)

    def error_within(
        self, code: str, message: str, path: Sequence[str | int], text: str, offset: int, *, hint: str = ""
    ) -> BayplanError:
        """An error ``offset`` characters into the scalar ``text`` at ``path``: at that character, where the file has the
        text as it is (no escapes, no folding), else where the scalar starts."""
        where = self.where(path)
        row, start = text.count("\n", 0, offset), text.rfind("\n", 0, offset) + 1
        wanted = text.split("\n")[row].strip()
        inside = offset - start - (len(text[start:]) - len(text[start:].lstrip()))
        for number in range(where.line, where.line + text.count("\n") + 2):
            at = self.line(number).find(wanted, where.column - 1 if number == where.line else 0)
            if at >= 0 and wanted:
                return self.error_at(code, message, number, at + 1 + inside, hint)
        return self.error_at(code, message, where.line, where.column, hint)

    def error_at(self, code: str, message: str, line: int, column: int, hint: str = "") -> BayplanError:
        where = Where(self.name, line, column)
        return BayplanError(code, message, where=where, hint=hint, source="" if self.private else self.line(line))

    def faults(self) -> list[BayplanError]:
        """The mistakes of form in this file (a key given twice); none where the reader saw none."""
        if not self.flawed:
            return []
        return [self.error_at(f.code, f.message, f.line, f.column, f.hint) for f in self.positions.faults]
