"""Every case under ``tests/cases/plan`` gives the expected notation, and keeps the laws that every plan keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from plan_cases import Case, read

from bayplan.errors import BayplanErrors
from bayplan.kinds.model import load
from bayplan.plan import codec, notation
from bayplan.plan.model import Plan

FOLDER = Path(__file__).parent.parent / "cases" / "plan"
CASES = sorted(FOLDER.glob("*/*.yaml"))


def test_the_corpus_is_there() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_case(path: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    case = read(document)
    if "error" in document:
        with pytest.raises(BayplanErrors) as caught:
            case.plan()
        assert caught.value.render() == document["error"].rstrip("\n")
        return
    plan = case.plan()
    assert notation.short(plan) == document["expect"].rstrip("\n")
    if "long" in document:
        assert notation.long(plan, load()) == document["long"].rstrip("\n")
    saved = json.loads(codec.dump(plan))["plan"]["operations"]
    for number, fields in document.get("operations", {}).items():
        assert {name: saved[number - 1][name] for name in fields} == fields
    _keeps_the_laws(case, plan)


def _keeps_the_laws(case: Case, plan: Plan) -> None:
    for number, operation in enumerate(plan.operations, 1):
        assert operation.number == number
        assert all(0 < earlier < number for earlier in operation.after)
    text = codec.dump(plan)
    assert codec.load(text) == plan, "a saved plan is read back without loss"
    assert codec.digest(codec.load(text)) == codec.digest(plan)
    shuffled = replace(case.world, objects={a: found[::-1] for a, found in reversed(case.world.objects.items())})
    again = case.plan(world=shuffled, recorded=dict(reversed(case.recorded.items())))
    assert replace(again, known={}) == replace(plan, known={}), "the order of what was looked at does not matter"
    everything = "\n".join((text, json.dumps(codec.as_output(plan)), notation.long(plan, load())))
    for secret in (*case.digests.secrets.values(), *case.document.get("never", ())):
        assert secret not in everything, "a secret in clear"
