"""What people are told, as data: tests/cases/kinds/*.yaml. A case is {kind or section, given, says: [...]}.

Text in ``${...}`` is an expression, as in the files of a stack. ``says`` is the whole of it: path, code, message, hint.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bayplan import kinds
from bayplan.kinds.expressions import Ref, SecretRef, Template

_CASES = Path(__file__).resolve().parents[1] / "cases/kinds"


def _load() -> list[Any]:
    return [
        pytest.param(case, id=f"{file.stem}-{case['name']}".replace(" ", "-"))
        for file in sorted(_CASES.glob("*.yaml"))
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))
    ]


def _expression(name: str) -> Ref | SecretRef:
    if name.startswith("secret."):
        return SecretRef(name.removeprefix("secret."))
    address, _, attribute = name.rpartition(".")
    return Ref(address, attribute)


def _value(given: Any) -> Any:
    if isinstance(given, dict):
        return {key: _value(one) for key, one in given.items()}
    if isinstance(given, list):
        return [_value(one) for one in given]
    if not isinstance(given, str) or "${" not in given:
        return given
    parts = [
        _expression(one[2:-1]) if one.startswith("${") else one for one in re.split(r"(\$\{[^}]*\})", given) if one
    ]
    return parts[0] if len(parts) == 1 else Template(tuple(parts))


@pytest.mark.parametrize("case", _load())
def test_mistakes_are_told_in_words_of_the_domain(case: dict[str, Any]) -> None:
    given = _value(case["given"])
    if "section" in case:
        problems = kinds.validate_stack_section(case["section"], given)
    elif case["kind"].startswith("common of "):
        problems = kinds.validate_common(case["kind"].removeprefix("common of "), given)
    else:
        problems = kinds.validate(case["kind"], given)
    said = [{"path": list(one.path), "code": one.code, "message": one.message, "hint": one.hint} for one in problems]
    assert said == case["says"]
