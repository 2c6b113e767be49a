"""Colours on a terminal, apart from the rest of the rendering because every plan needs no more than this."""

from __future__ import annotations

import sys


def colour(text: str) -> str:
    """The plan's notation with its actions in colour, on a terminal only."""
    if not sys.stdout.isatty():
        return text
    import re

    colours = {
        "create": "32",
        "build": "32",
        "push": "36",
        "replace": "33",
        "update": "33",
        "delete": "31",
        "stop": "31",
    }
    return re.sub(
        r"(?m)^(  \[\d+\] \S+ +)(\w+)",
        lambda found: f"{found[1]}\x1b[{colours.get(found[2], '36')}m{found[2]}\x1b[0m",
        text,
    )
