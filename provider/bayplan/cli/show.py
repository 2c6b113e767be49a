"""How the commands by hand print: aligned columns for people, one JSON document for programs.

Columns are plain text everywhere, so that a list costs no import of a terminal library; only live progress uses one. The
words for sizes and times are those of docker's lists.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    import argparse

_SPANS = (
    (86400 * 365, "year"),
    (86400 * 30, "month"),
    (86400 * 7, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
)


def document(data: Mapping[str, Any]) -> None:
    """One JSON document on standard output."""
    import json

    json.dump(data, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; the headers are set off on a terminal."""
    text = table_text(headers, rows)
    if sys.stdout.isatty():
        head, _, rest = text.partition("\n")
        text = f"\x1b[1m{head}\x1b[0m\n{rest}"
    sys.stdout.write(text)


def table_text(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart, no space at the ends of lines."""
    lines = [tuple(headers), *(tuple(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(headers))]
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(text + "\n")


def size(count: float) -> str:
    """``12.3kB``: thousands, as docker shows sizes on disk."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f}B" if unit == "B" else f"{count:.3g}{unit}"
        count /= 1000
    raise AssertionError("unreachable")


def binary_size(count: float) -> str:
    """``12.3MiB``: units of 1024, as docker shows memory."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f}B" if unit == "B" else f"{count:.4g}{unit}"
        count /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """``5 minutes``, in one unit."""
    for length, word in _SPANS:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {word}{'' if count == 1 else 's'}"
    count = max(0, int(seconds))
    return f"{count} second{'' if count == 1 else 's'}"


def ago(when: float) -> str:
    """``5 minutes ago`` of seconds since 1970; ``-`` for never."""
    return f"{span(time.time() - when)} ago" if when else "-"


def stamp(when: float) -> str | None:
    """RFC 3339 in UTC of seconds since 1970, None for never."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) if when else None


def short(digest: str) -> str:
    """The twelve characters by which ids and digests are called."""
    return digest.partition(":")[2][:12] if ":" in digest else digest[:12]


def agreed(arguments: argparse.Namespace, what: str) -> bool:
    """Whether the user wants ``what`` to happen: ``--yes``, or the answer on a terminal. Raises UsageError elsewhere."""
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "needs-yes", f"this asks before it removes {what}, and there is no terminal here", hint="pass --yes"
        )
    sys.stderr.write(f"remove {what}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def each(
    arguments: argparse.Namespace,
    plural: str,
    references: Sequence[str],
    work: Callable[[str], Mapping[str, Any]],
    *,
    line: Callable[[Mapping[str, Any]], str] | None = None,
) -> int:
    """Do ``work`` for each reference and tell what it gave; what fails does not keep the others from being done.

    ``work`` gives the entry of the JSON list; its text is ``line`` of it, or its name. Returns the exit code.
    """
    done: list[Mapping[str, Any]] = []
    errors: list[BayplanError] = []
    for reference in references:
        try:
            entry = work(reference)
        except BayplanError as error:
            errors.append(error)
            continue
        done.append(entry)
        if not arguments.json:
            say(line(entry) if line else str(entry["name"]))
    if arguments.json:
        document({plural: done, **({"errors": [error.as_dict() for error in errors]} if errors else {})})
    for failed in errors:
        warn(failed.render())
    return 1 if errors else 0


__all__ = [
    "ago",
    "agreed",
    "binary_size",
    "document",
    "each",
    "say",
    "short",
    "size",
    "span",
    "stamp",
    "table",
    "table_text",
    "warn",
]
