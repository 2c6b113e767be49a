"""Every error that a user can meet.

An error is part of the interface: it has a stable code (``docs/errors.md`` lists them), one line in the words of the
domain, the place in a file where the mistake stands, and what to do next. A traceback is never an answer to a user's
mistake; whoever catches :class:`BayplanError` can print :meth:`BayplanError.render` and leave with ``exit_code``.

The module knows nothing of the rest of bayplan, so that every layer can raise its own kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayplan.records import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Where:
    """A place in a file that a user wrote. Lines and columns count from 1; 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


class BayplanError(Exception):
    """One mistake or failure, told to the user.

    ``code`` is a stable lower-case word with dashes (``unknown-property``, ``port-taken``); ``message`` one line without
    a full stop at its end; ``where`` the place in the user's file; ``hint`` what to do next; ``source`` the line of the
    file at ``where``, shown with a caret below it.
    """

    exit_code = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: Where | None = None,
        hint: str = "",
        source: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.hint = hint
        self.source = source

    def render(self) -> str:
        """The error as plain text: ``where: error[code]: message``, the line with its caret, the hint."""
        head = f"{self.where}: " if self.where else ""
        lines = [f"{head}error[{self.code}]: {self.message}"]
        if self.source and self.where and self.where.line:
            number = str(self.where.line)
            lines.append(f" {number} | {self.source}")
            if self.where.column:
                # Tabs are kept so that the caret stands under the character in any terminal.
                lead = "".join(c if c == "\t" else " " for c in self.source[: self.where.column - 1])
                lines.append(f" {' ' * len(number)} | {lead}^")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The error as it stands in ``--json`` output (``schemas/output/error.schema.json``)."""
        out: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.where:
            out["where"] = {"file": self.where.file, "line": self.where.line, "column": self.where.column}
        if self.hint:
            out["hint"] = self.hint
        return out

    def __str__(self) -> str:
        return self.render()


class BayplanErrors(BayplanError):
    """Several errors found in one pass, in the order of their places; a file tells all its mistakes at once."""

    def __init__(self, errors: Sequence[BayplanError]) -> None:
        if not errors:
            raise ValueError("BayplanErrors needs at least one error")
        first = errors[0]
        super().__init__(first.code, first.message, where=first.where, hint=first.hint, source=first.source)
        self.errors = tuple(errors)

    def render(self) -> str:
        return "\n".join(error.render() for error in self.errors)


class UsageError(BayplanError):
    """A wrong command line (exit code 64, EX_USAGE of sysexits.h)."""

    exit_code = 64


def nearest(name: str, candidates: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """The candidate that a misspelt ``name`` most likely meant, or None. difflib is imported only when it is needed."""
    import difflib

    found = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return found[0] if found else None
