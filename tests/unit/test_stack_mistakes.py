"""Every wrong stack file under ``tests/cases/stack/wrong`` is told as the file beside it says: code, place, caret, hint.

A case is ``NAME.yaml`` (or ``.json``) with ``NAME.expected``, or a folder with ``bayplan.yaml`` and ``expected``. A first
line ``# --var a=b --var-file values.yaml BAYPLAN_VAR_c=d`` gives the run its options and environment. After a change of
wording: ``BAYPLAN_ACCEPT=1 pytest tests/unit/test_stack_mistakes.py``, and read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stack_cases import options

from bayplan.errors import BayplanError, BayplanErrors
from bayplan.stack import load

WRONG = Path(__file__).parents[1] / "cases" / "stack" / "wrong"
CASES = sorted(path for path in WRONG.iterdir() if path.suffix != ".expected")


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_wrong_file_is_told_as_expected(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, file = (case, case / "bayplan.yaml") if case.is_dir() else (WRONG, case)
    expected = case / "expected" if case.is_dir() else case.with_suffix(".expected")
    monkeypatch.chdir(folder)
    first = file.read_bytes().split(b"\n")[0].decode()
    with pytest.raises(BayplanError) as caught:
        load([Path(file.name)], **options(first))
    assert isinstance(caught.value, BayplanErrors)
    assert caught.value.exit_code == 1
    told = caught.value.render() + "\n"
    if os.environ.get("BAYPLAN_ACCEPT"):
        expected.write_text(told, encoding="utf-8")
    assert told == expected.read_text(encoding="utf-8")
    places = [(one.where.file, one.where.line, one.where.column) for one in caught.value.errors if one.where]
    assert len(places) == len(set(places)), "a place is told once"
    for one in caught.value.errors:
        assert one.where is None or not one.where.line or one.where.column, "a line has its column"
