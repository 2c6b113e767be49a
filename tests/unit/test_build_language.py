"""The Dockerfile language, by cases: what is read, what is refused and how it is told."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bayplan.build.dockerfile import parse
from bayplan.build.dockerfile.expand import Expander, SubstitutionError
from bayplan.errors import BayplanError, BayplanErrors

CASES = Path(__file__).parents[1] / "cases" / "build"
PARSE = [
    (path.stem, case) for path in sorted((CASES / "parse").glob("*.yaml")) for case in yaml.safe_load(path.read_text())
]
EXPAND = yaml.safe_load((CASES / "expand.yaml").read_text())
VARIABLES = {"a": "apple", "empty": "", "p": "foo/bar/baz.tar.gz", "s": "two words"}


def plain(value: Any) -> Any:
    """Tuples as lists, so that YAML can be compared with them."""
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value


def holds(actual: Any, expected: Any, at: str) -> None:
    """Every field that a case names has the value that it says."""
    if isinstance(expected, dict):
        assert actual is not None, at
        for name, value in expected.items():
            if name in ("line", "column"):
                assert getattr(actual.where, name) == value, f"{at}.{name}"
            else:
                holds(getattr(actual, name), value, f"{at}.{name}")
    elif isinstance(expected, list) and any(isinstance(each, dict) for each in expected):
        assert len(actual) == len(expected), at
        for number, (one, other) in enumerate(zip(actual, expected, strict=True)):
            holds(one, other, f"{at}[{number}]")
    else:
        assert not is_dataclass(actual), at
        assert plain(actual) == expected, at


def told(error: BayplanError) -> str:
    where = f"{error.where.line}:{error.where.column}" if error.where else "-"
    return f"{error.code} {where} {error.message}" + (f" ({error.hint})" if error.hint else "")


@pytest.mark.parametrize(("file", "case"), PARSE, ids=[f"{file}: {case['name']}" for file, case in PARSE])
def test_a_dockerfile_is_read_as_the_reference_says(file: str, case: dict[str, Any]) -> None:
    data = case["dockerfile"].encode()
    if "errors" in case:
        with pytest.raises(BayplanError) as caught:
            parse(data, "Dockerfile")
        errors = caught.value.errors if isinstance(caught.value, BayplanErrors) else (caught.value,)
        assert [told(error) for error in errors] == case["errors"]
        return
    dockerfile = parse(data, "Dockerfile")
    holds(dockerfile.directives, case.get("directives", {}), "directives")
    if "stages" in case:
        assert [[s.start.stage, s.start.image, s.start.platform] for s in dockerfile.stages] == case["stages"]
    holds(dockerfile.stages[-1].instructions, case["instructions"], "instructions")
    assert len(dockerfile.stages[-1].instructions) == len(case["instructions"])
    assert [f"{where.line} {text}" for where, text in dockerfile.warnings] == case.get("warnings", [])


@pytest.mark.parametrize("case", EXPAND, ids=[case["text"] for case in EXPAND])
def test_variables_are_substituted(case: dict[str, Any]) -> None:
    expander = Expander(VARIABLES)
    if "error" in case:
        with pytest.raises(SubstitutionError) as caught:
            expander.word(case["text"])
        assert str(caught.value) == case["error"]
    elif "words" in case:
        assert expander.words(case["text"]) == case["words"]
    else:
        assert expander.word(case["text"]) == case["word"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet="FROMscratchUNCPY \\\n\t#<>-\"'${}[]=,`:/é\x0c", max_size=120))
def test_no_text_makes_the_parser_fall_over(text: str) -> None:
    code = ""
    try:
        parse(b"FROM scratch\n" + text.encode(), "Dockerfile")
    except BayplanError as error:
        code = error.code
    assert code in {"", "dockerfile-syntax", "unknown-instruction", "unknown-flag", "not-supported"}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="ab $'\"\\{}:-+?#%/*", max_size=40), st.text(max_size=10))
def test_substitution_ends_with_a_word_or_a_reason(text: str, value: str) -> None:
    reason = "none"
    try:
        Expander({"a": value}).words(text)
    except SubstitutionError as error:
        reason = str(error)
    assert reason
