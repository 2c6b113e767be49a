"""What is wrong with a declaration, in words of the domain, and where in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bayplan.errors import nearest
from bayplan.records import dataclass

Path = tuple[str | int, ...]

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``path`` leads to it from the checked value: ``("healthcheck", "interval")``, ``("ports", 0)``.

    What is missing or in conflict has the path of the map that it is missing from: ``()`` is the resource itself. ``named``:
    the message begins with the path.
    """

    path: Path
    code: str
    message: str
    hint: str = ""
    named: bool = True

    def below(self, key: str | int) -> Problem:
        """The same problem, seen from the value that holds this one under ``key``."""
        return Problem((key, *self.path), self.code, self.message, self.hint, self.named)

    def told(self) -> Problem:
        """With the path in the message, for who reads only that."""
        if not self.named or not self.path:
            return self
        return Problem(self.path, self.code, f"{dotted(self.path)}: {self.message}", self.hint, False)


def plain(text: str) -> str:
    """``text`` on one line: what cannot be shown as it is stands as Python writes it."""
    return text if text.isprintable() else repr(text)[1:-1]


def dotted(path: Path) -> str:
    """``healthcheck.test[1]``; a key that cannot be shown as it is stands as Python writes it."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = plain(step)
            text += f".{shown}" if text else shown
    return text


def type_word(value: Any) -> str:
    """What a value is, in a person's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    for kind, name in ((str, "text"), (int, "a number"), (float, "a number"), (dict, "a map"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "an expression"


def types_words(types: Iterable[str]) -> str:
    return " or ".join(_TYPES[name] for name in types)


def example_hint(name: str, example: Any) -> str:
    """``for example ports: ["8080:3000"]``."""
    text = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)
    return f"for example {name}: {text}"


def did_you_mean(name: str, candidates: Iterable[str], also_known: Mapping[str, str] | None = None) -> str:
    """The nearest valid name as a hint, else all of them where they are few.

    ``also_known`` maps the words that other tools have to the names that stand here.
    """
    names, words = list(candidates), also_known or {}
    plain = _plain(name)
    close = (
        next((one for one in names if _plain(one) == plain), None)
        or next((meant for word, meant in words.items() if _plain(word) == plain), None)
        or nearest(name, names)
    )
    if close:
        return f"did you mean {close}?"
    return f"there are {', '.join(names)}" if 0 < len(names) <= 12 else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
