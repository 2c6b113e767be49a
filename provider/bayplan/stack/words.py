"""How messages of this room speak of values and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bayplan.errors import nearest
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.stack.scalars import Tree

#: Characters of a value that a message repeats.
_LONGEST = 60


def quoted(text: str) -> str:
    """A text as messages repeat it, short."""
    return f"'{text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'}'"


def shown(value: Tree) -> str:
    """A value as messages name it. Secrets never get here: they are expressions until they are used."""
    if value is None:
        return "nothing"
    if isinstance(value, (Ref, SecretRef, Template)):
        return "an expression"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return quoted(value[0])
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a map" if isinstance(value, dict) else "a list"


def listed(names: Sequence[str], word: str = "or") -> str:
    """``a, b or c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "") -> str:
    """The hint with the nearest valid name, or ``otherwise``."""
    names = list(candidates)
    found = nearest(name, names) or next((one for one in names if one.lower() == name.lower()), None)
    return f"did you mean {found}?" if found else otherwise
