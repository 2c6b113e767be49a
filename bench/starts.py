"""A container from nothing to running, in the background, with a bridge and one published port: the whole command.

All three engines start the same busybox on the same kernel, each on its own storage. The containers of one engine stay while
those of the next ones start, and go at the end.
"""

from __future__ import annotations

from bench import peers
from bench.measure import interleaved, median
from bench.site import Site
from bench.table import Row, Table, at_most, times

_ROUNDS = 11


def tables(site: Site) -> list[Table]:
    with peers.docker(site) as docker:
        podman, ours = peers.podman(site), peers.bayplan(site)
        what = (peers.BASE, "sleep", "1000")
        try:
            samples = interleaved(
                {
                    "docker": lambda number: docker("run", "-d", "-p", f"{20100 + number}:80", *what),
                    "podman": lambda number: podman("run", "-d", "-p", f"{20200 + number}:80", *what),
                    "bayplan": lambda number: ours("container", "run", "-d", "-p", f"{20300 + number}:80", *what),
                },
                _ROUNDS,
                warm=2,
            )
        finally:
            for peer, area, options in ((docker, (), ()), (podman, (), ("-t", "0")), (ours, ("container",), ())):
                started = peers.ids(peer.output(*area, "ps", "-aq"))
                if started:
                    peer.output(*area, "rm", "-f", *options, *started)
        versions = peers.versions([(docker.argv[0], "--version"), ("podman", "--version")])
    theirs, pods, mine = (median(samples[name]) for name in ("docker", "podman", "bayplan"))
    rows = [
        Row("docker run -d -p", theirs, "1x"),
        Row("podman run -d -p", pods, times(pods.wall, theirs.wall)),
        Row(
            "bayplan container run -d -p",
            mine,
            times(mine.wall, theirs.wall),
            (at_most(mine.wall, theirs.wall, 1 / 3, "Docker's"),),
        ),
    ]
    note = f"{versions}. Docker's CPU is its client's alone: the daemon's is not in it."
    return [Table("A container started, with a bridge and a published port", _ROUNDS, rows, (note,))]
