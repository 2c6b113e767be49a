"""Verbs below a command (``container run``): each gets its parser and arguments only when it is called.

A command with twenty verbs would otherwise pay for the parsers and options of all of them every time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bayplan.cli.options import add_places

Fill = Callable[[argparse.ArgumentParser], None]


def add_verbs(
    parser: argparse.ArgumentParser,
    verbs: Mapping[str, str],
    aliases: Mapping[str, Sequence[str]],
    fill: Callable[[str], Fill],
) -> None:
    """Verbs with their lines of help; ``fill(verb)`` gives what adds a verb's arguments. The verb is ``arguments.verb``."""
    made: Any = type(parser)

    def later(**given: Any) -> _Later:
        return _Later(lambda: made(**given, formatter_class=parser.formatter_class))

    add: Any = parser.add_subparsers  # typed for classes of parsers alone
    below = add(dest="verb", required=True, metavar="VERB", parser_class=later)
    for name, text in verbs.items():
        verb = below.add_parser(name, help=text, description=text, aliases=aliases.get(name, ()), allow_abbrev=False)
        verb.fills(name, fill)


class _Later:
    """What stands for a verb's parser until it is wanted; argparse itself asks it for nothing but to parse."""

    def __init__(self, make: Callable[[], argparse.ArgumentParser]) -> None:
        self._make = make
        self._made: argparse.ArgumentParser | None = None

    def fills(self, name: str, fill: Callable[[str], Fill]) -> None:
        self._name, self._fill = name, fill

    def parser(self) -> argparse.ArgumentParser:
        """The parser itself, with all of its arguments."""
        if self._made is None:
            self._made = self._make()
            self._made.set_defaults(verb=self._name)
            add_places(self._made)
            self._fill(self._name)(self._made)
        return self._made

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parser().parse_known_args(args, namespace)


def complete(verb: Any) -> argparse.ArgumentParser:
    """The parser of a verb with its arguments, for whoever wants to look at it."""
    found: argparse.ArgumentParser = verb.parser() if isinstance(verb, _Later) else verb
    return found
