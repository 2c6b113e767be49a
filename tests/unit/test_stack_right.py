"""Every right stack file under ``tests/cases/stack/right`` becomes what the JSON beside it says.

A case is ``NAME.yaml`` with ``NAME.expected.json``, or a folder with ``bayplan.yaml`` and ``expected.json``; the first line
gives options as in the wrong ones. Expressions are written as they print, absolute paths from ``<case>``. What an edge is
stands there too. ``BAYPLAN_ACCEPT=1`` writes the files anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from stack_cases import options

from bayplan.kinds.expressions import Ref, SecretRef, Template
from bayplan.stack import NO_LIFECYCLE, Stack, edges, load

RIGHT = Path(__file__).parents[1] / "cases" / "stack" / "right"
CASES = sorted(path for path in RIGHT.iterdir() if not path.name.endswith(".expected.json"))


def plain(value: Any) -> Any:
    if isinstance(value, (Ref, SecretRef, Template)):
        return f"{type(value).__name__} {value}"
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def described(stack: Stack) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for address, resource in stack.resources.items():
        one: dict[str, Any] = {"name": resource.name, "properties": plain(dict(resource.properties))}
        if resource.depends_on:
            one["depends_on"] = dict(resource.depends_on)
        if resource.lifecycle != NO_LIFECYCLE:
            one["lifecycle"] = resource.lifecycle._asdict()
        if needs := edges(stack)[address]:
            one["needs"] = sorted(needs)
        resources[address] = one
    return {
        "stack": stack.name,
        "files": [str(path) for path in stack.files],
        "hosts": stack.hosts,
        "registries": stack.registries,
        "variables": plain(stack.variables),
        "outputs": plain(stack.outputs),
        "resources": resources,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_right_file_becomes_the_stack_that_is_expected(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = (case, case / "bayplan.yaml") if case.is_dir() else (RIGHT, case)
    expected = case / "expected.json" if case.is_dir() else case.with_suffix(".expected.json")
    monkeypatch.chdir(folder)
    stack = load([Path(file.name)], **options(file.read_text(encoding="utf-8").split("\n")[0]))
    text = json.dumps(described(stack), indent=1, ensure_ascii=False) + "\n"
    text = text.replace(str(folder.resolve()), "<case>").replace(str(folder.resolve().parent), "<cases>")
    if os.environ.get("BAYPLAN_ACCEPT"):
        expected.write_text(text, encoding="utf-8")
    assert json.loads(text) == json.loads(expected.read_text(encoding="utf-8"))
    assert "planted" not in repr(stack)
