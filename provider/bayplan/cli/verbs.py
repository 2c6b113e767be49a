"""Verbs below a command (``container run``): each gets its arguments only when it is called.

A command with twenty verbs would otherwise pay for the options of all of them every time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayplan.cli.options import add_places

Fill = Callable[[argparse.ArgumentParser], None]

_FILL = "_bayplan_fill"


def add_verbs(
    parser: argparse.ArgumentParser,
    verbs: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]],
    fill: Callable[[str], Fill],
) -> None:
    """Verbs with their lines of help; ``fill(verb)`` gives what adds a verb's arguments. The verb is ``arguments.verb``."""
    below = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in verbs.items():
        verb = below.add_parser(name, help=text, description=text, aliases=aliases.get(name, ()), allow_abbrev=False)
        _later(verb, name, fill)


def _later(verb: argparse.ArgumentParser, name: str, fill: Callable[[str], Fill]) -> None:
    parse = verb.parse_known_args

    def filled() -> None:
        setattr(verb, _FILL, None)
        verb.set_defaults(verb=name)
        add_places(verb)
        fill(name)(verb)

    def parse_filled(args: Any = None, namespace: Any = None) -> Any:
        complete(verb)
        return parse(args, namespace)

    setattr(verb, _FILL, filled)
    setattr(verb, "parse_known_args", parse_filled)  # noqa: B010  (an instance's own method)


def complete(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser with its arguments, for whoever wants to look at it."""
    filled: Callable[[], None] | None = getattr(verb, _FILL, None)
    if filled is not None:
        filled()
    return verb
