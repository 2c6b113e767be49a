"""A Dockerfile of ten instructions, three of them COPY and three RUN: built anew, and again with everything in the cache."""

from __future__ import annotations

from pathlib import Path

from bench import peers
from bench.measure import Command, always, interleaved, median
from bench.site import Site
from bench.table import Row, Table, at_most, times

_COLD = 7
_CACHED = 11
_TAG = "bench-built"

_DOCKERFILE = f"""\
FROM {peers.BASE}
ENV MODE=production
WORKDIR /srv/app
COPY manifest.txt ./
RUN sort manifest.txt > sorted.txt
COPY sources/ ./sources/
RUN cat sources/* > bundle.txt && wc -c bundle.txt > size.txt
COPY settings.txt ./
RUN mkdir -p /srv/data && cp settings.txt /srv/data/
CMD ["cat", "size.txt"]
"""


def context(site: Site) -> Path:
    """A small application: a manifest, forty sources of 4 kB, settings."""
    folder = site.folder / "context"
    (folder / "sources").mkdir(parents=True)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    (folder / "manifest.txt").write_text("".join(f"part-{number % 13}\n" for number in range(200)))
    for number in range(40):
        (folder / "sources" / f"part-{number:02}.txt").write_text(f"line of part {number}\n" * 200)
    (folder / "settings.txt").write_text("port = 3000\n")
    return folder


def tables(site: Site) -> list[Table]:
    folder = str(context(site))
    with peers.docker(site) as docker:
        buildah, ours = peers.buildah(site), peers.bayplan(site)

        def commands(*more: str) -> dict[str, Command]:
            common = (*more, "-t", _TAG, folder)
            return {
                "docker": docker("build", "-q", *common, DOCKER_BUILDKIT="0"),
                "buildkit": docker("build", "-q", *common, DOCKER_BUILDKIT="1"),
                "buildah": buildah("bud", "--layers", "-q", *common),
                "bayplan": ours("image", "build", "-q", *common),
            }

        cold = interleaved({name: always(one) for name, one in commands("--no-cache").items()}, _COLD)
        cached = interleaved({name: always(one) for name, one in commands().items()}, _CACHED)
        versions = peers.versions([(docker.argv[0], "--version"), ("buildah", "--version")])
    found = []
    for title, samples, rounds, factor in (
        ("A Dockerfile of ten instructions, built anew", cold, _COLD, 0.5),
        ("The same, everything cached", cached, _CACHED, 1.0),
    ):
        middle = {name: median(one) for name, one in samples.items()}
        best = min(middle["docker"].wall, middle["buildkit"].wall)
        rows = [
            Row(name, middle[key], times(middle[key].wall, best))
            for name, key in (
                ("docker build, classic", "docker"),
                ("docker build, BuildKit", "buildkit"),
                ("buildah bud --layers", "buildah"),
            )
        ]
        budget = at_most(middle["bayplan"].wall, best, factor, "the faster of Docker's")
        rows.append(Row("bayplan image build", middle["bayplan"], times(middle["bayplan"].wall, best), (budget,)))
        found.append(Table(title, rounds, rows, (f"{versions}. Docker's CPU is its client's alone.",)))
    return found
