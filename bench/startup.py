"""What the command line costs before it does anything: ``bayplan --help`` against an interpreter that does nothing."""

from __future__ import annotations

from bench.measure import interleaved, median
from bench.site import Site
from bench.table import Budget, Row, Table, times

_ROUNDS = 21


def tables(site: Site) -> list[Table]:
    samples = interleaved(
        {
            "pass": lambda _: site.python("-c", "pass"),
            "version": lambda _: site.bayplan("--version"),
            "help": lambda _: site.bayplan("--help"),
        },
        _ROUNDS,
    )
    nothing, version, overview = (median(samples[name]) for name in ("pass", "version", "help"))
    more = (overview.cpu - nothing.cpu) * 1000
    budget = Budget(f"{more:.0f} ms of 60 ms of CPU more", more, 60)
    rows = [
        Row("python -c pass", nothing, "1x"),
        Row("bayplan --version", version, times(version.wall, nothing.wall)),
        Row("bayplan --help", overview, times(overview.wall, nothing.wall), (budget,)),
    ]
    return [Table("The start of the command", _ROUNDS, rows)]
