"""``python -m bench [NAME...]``: run these benchmarks (all where none is named) and print their tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bench import builds, machine, peers, plans, registry, registry_size, starts, startup
from bench.measure import FailedError
from bench.site import Site, site
from bench.table import Table

#: In the order of a run: what only this process loads goes first, while the machine is quiet.
BENCHMARKS: dict[str, Callable[[Site], list[Table]]] = {
    "startup": startup.tables,
    "plans": plans.tables,
    "starts": starts.tables,
    "builds": builds.tables,
    "registry": registry.tables,
    "registry-size": registry_size.tables,
}
_WITH_PEERS = frozenset({"starts", "builds"})


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; with ``--check`` 1 where a budget is exceeded; 2 where something could not be measured."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--sizes", metavar="N,N", help="numbers of repositories (default 1000,10000,100000)")
    parser.add_argument("--check", action="store_true", help="leave with 1 where a budget is exceeded")
    parsed = parser.parse_args(arguments)
    unknown = set(parsed.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    names = [name for name in BENCHMARKS if not parsed.names or name in parsed.names]
    sizes = tuple(int(text) for text in parsed.sizes.split(",")) if parsed.sizes else plans.SIZES
    over = 0
    try:
        if not _WITH_PEERS.isdisjoint(names):
            peers.apart(arguments)
        print("\n".join(f"{line}  " for line in machine.lines()), flush=True)
        with site() as place:
            for name in names:
                room = place.room(name)
                tables = plans.tables(room, sizes) if name == "plans" else BENCHMARKS[name](room)
                for table in tables:
                    print("\n" + "\n".join(table.lines()), flush=True)
                    over += len(table.over)
    except FailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(f"\n{over} budget{'' if over == 1 else 's'} exceeded" if over else "\nall budgets kept")
    return 1 if over and parsed.check else 0


if __name__ == "__main__":
    sys.exit(main())
