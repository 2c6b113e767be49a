"""What the benchmarks say of what they measured: ratios, budgets, verdicts; and that a measured command is whole."""

from __future__ import annotations

import sys

import pytest
from bench import plans
from bench.__main__ import BENCHMARKS, main
from bench.measure import Command, FailedError, Sample, always, interleaved, median, run
from bench.peers import ids
from bench.table import Budget, Row, Table, at_most, seconds


def sample(wall: float, cpu: float = 0.1, memory: int = 50_000_000) -> Sample:
    return Sample(wall, cpu, memory)


def test_a_table_says_what_is_over_its_budget() -> None:
    rows = [
        Row("theirs", sample(1.0), "1x"),
        Row("ours", sample(0.3), "0.30x", (at_most(0.3, 1.0, 1 / 3, "theirs"), Budget("5 of 4", 5, 4))),
    ]
    table = Table("A title", 3, rows, ("A note.",))
    text = "\n".join(table.lines())
    assert [budget.text for budget in table.over] == ["5 of 4"]
    assert "0.30x of 0.333x theirs" in text
    assert text.count("pass") == 1
    assert text.count("**over**") == 1
    assert text.endswith("A note.")
    widths = {len(line) for line in table.lines() if line.startswith("|")}
    assert len(widths) == 1, "columns stand below each other"


@pytest.mark.parametrize(("value", "text"), [(0.0124, "12 ms"), (1.234, "1.23 s"), (102.3, "102 s")])
def test_times_are_read_at_a_glance(value: float, text: str) -> None:
    assert seconds(value) == text


def test_medians_are_taken_of_each_figure_by_itself() -> None:
    assert median([Sample(3, 1, 30), Sample(1, 3, 10), Sample(2, 2, 20)]) == Sample(2, 2, 20)


def test_rounds_are_interleaved_and_warm_ones_not_counted() -> None:
    order: list[tuple[str, int]] = []

    def case(name: str):  # type: ignore[no-untyped-def]
        def make(number: int) -> Command:
            order.append((name, number))
            return Command([sys.executable, "-S", "-c", "pass"])

        return make

    found = interleaved({"a": case("a"), "b": case("b")}, 2, warm=1)
    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(samples) for name, samples in found.items()} == {"a": 2, "b": 2}


def test_a_command_is_measured_with_what_it_uses() -> None:
    busy = "import time\nblob = bytearray(60_000_000)\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    found = run(Command([sys.executable, "-S", "-c", busy]))
    assert found.wall >= found.cpu * 0.5
    assert found.cpu >= 0.1
    assert found.memory >= 60_000_000


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(FailedError, match="no such luck"):
        run(always(Command([sys.executable, "-c", "raise SystemExit('no such luck')"]))(0))


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(FailedError, match="-9"):
        run(Command([sys.executable, "-c", "import time; time.sleep(60)"]), limit=0.2)


def test_the_stack_has_five_lines_a_repository() -> None:
    text = plans.stack(1000)
    assert text.count("\n") == 5002
    assert text.count("Repository.") == 1000


def test_ids_of_engines_are_lines() -> None:
    assert ids("abc\ndef\n") == ["abc", "def"]


def test_an_unknown_benchmark_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["speed"])
    told = capsys.readouterr().err
    assert all(name in told for name in BENCHMARKS)
