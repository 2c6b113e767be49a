"""The tables that a run prints: what was measured, its ratio to what it is measured against, the budget and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.measure import Sample


@dataclass(frozen=True, slots=True)
class Budget:
    """``value`` may be ``most`` at the most; ``text`` says both with their unit."""

    text: str
    value: float
    most: float

    @property
    def kept(self) -> bool:
        return self.value <= self.most


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured. ``count`` divides the wall time where a price for each is of interest."""

    name: str
    sample: Sample
    ratio: str = ""
    budgets: tuple[Budget, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """``rounds`` is how many the medians are of; ``what`` says what the columns of figures hold."""

    title: str
    rounds: int
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    what: str = "wall and CPU time of the whole command, its peak of resident memory"

    @property
    def over(self) -> list[Budget]:
        return [budget for row in self.rows for budget in row.budgets if not budget.kept]

    def lines(self) -> Iterator[str]:
        """As Markdown, which is as good to read in a terminal."""
        yield f"### {self.title}"
        yield ""
        rounds = "1 round" if self.rounds == 1 else f"medians of {self.rounds} rounds, interleaved"
        yield f"{rounds}; {self.what}"
        yield ""
        cells = [("", "wall", "CPU", "memory", "ratio", "budget", "")]
        for row in self.rows:
            budgets = row.budgets or (None,)
            for index, budget in enumerate(budgets):
                first = index == 0
                cells.append(
                    (
                        row.name if first else "",
                        seconds(row.sample.wall) if first else "",
                        seconds(row.sample.cpu) if first else "",
                        f"{row.sample.memory / 1e6:.0f} MB" if first else "",
                        row.ratio if first else "",
                        budget.text if budget else "",
                        ("pass" if budget.kept else "**over**") if budget else "",
                    )
                )
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        for index, cell in enumerate(cells):
            # Names and budgets stand left, figures right.
            parts = [
                text.ljust(width) if column in (0, 5, 6) else text.rjust(width)
                for column, (text, width) in enumerate(zip(cell, widths, strict=True))
            ]
            yield "| " + " | ".join(parts) + " |"
            if index == 0:
                rules = [
                    "-" * (width + 1) + ("-" if column in (0, 5, 6) else ":") for column, width in enumerate(widths)
                ]
                yield "|" + "|".join(rules) + "|"
        for note in self.notes:
            yield ""
            yield note


def seconds(value: float) -> str:
    """``120 us``, ``1.2 ms``, ``12 ms``, ``1.23 s``, ``102 s``."""
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    if value < 0.01:
        return f"{value * 1000:.1f} ms"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def times(value: float, other: float) -> str:
    """``2.3x``."""
    return f"{value / other:.2f}x"


def at_most(value: float, other: float, factor: float, what: str) -> Budget:
    """A budget of ``factor`` times ``other``: ``2.31x of 2.5x a bare parse``."""
    return Budget(f"{value / other:.2f}x of {factor:.3g}x {what}", value, other * factor)
