"""How messages of this room speak of values and names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bayplan.kinds import problem
from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.stack.scalars import Tree

quoted = problem.quoted


def shown(value: Tree) -> str:
    """A value as messages name it. Secrets never get here: they are expressions until they are used."""
    if isinstance(value, (Ref, SecretRef, Template)):
        return "an expression"
    if isinstance(value, tuple):
        return quoted(value[0])
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {value}"
    return problem.type_word(value)


def listed(names: Sequence[str], word: str = "or") -> str:
    """``a, b or c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "") -> str:
    """The hint with the nearest valid name, or ``otherwise``."""
    hint = problem.did_you_mean(name, list(candidates))
    return hint if hint.startswith("did you mean") else otherwise
