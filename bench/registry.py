"""The registry beside Debian's docker-registry and distribution v3: large blobs, manifests, small pushes.

What a server costs is the processor time of its processes; the wall time of pushes and pulls has the client's hashing and
copying in it, on the same processors.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import attrgetter

from bench import machine, registries
from bench.measure import FailedError, Sample
from bench.registries import Client, Server
from bench.site import Site
from bench.table import Budget, Row, Table, at_most, times

_ROUNDS = 5
_BLOB = 64 << 20
_BLOBS = 4
_PULLS = 8
_GET_SECONDS = 3
PUSHES = 200
_WIDTH = 16
_GIB = float(1 << 30)
_LARGE, _SMALL = "large/app", "small/app"
WHAT = "wall time, CPU time of the server, peak of its resident memory in the whole run"


@dataclass
class _Figures:
    """Of one server: per GiB, per GET, per push, in seconds of wall and of the server's CPU, one of each round."""

    push: list[tuple[float, float]] = field(default_factory=list)
    pull: list[tuple[float, float]] = field(default_factory=list)
    get: list[tuple[float, float]] = field(default_factory=list)
    small: list[tuple[float, float]] = field(default_factory=list)
    peak: int = 0

    def sample(self, what: str) -> Sample:
        rounds = getattr(self, what)
        return Sample(
            statistics.median(one[0] for one in rounds), statistics.median(one[1] for one in rounds), self.peak
        )


def tables(site: Site) -> list[Table]:
    """Raises FailedError."""
    figures: dict[str, _Figures] = {}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(registries.docker_registry(site)),
            stack.enter_context(registries.distribution(site)),
            stack.enter_context(registries.bayplan(site, repositories=[_LARGE, _SMALL])),
        ]
        for server in servers:
            figures[server.name] = _Figures()
            with server.client() as client:
                client.push_small(_SMALL, "got", b"manifests of the same size")
        base = os.urandom(_BLOB)
        for number in range(-1, _ROUNDS):
            for server in servers:
                _round(server, number, base, _Figures() if number < 0 else figures[server.name])
        for server in servers:
            figures[server.name].peak = server.peak()
    theirs, third, mine = (figures[server.name] for server in servers)
    found = []
    for what, title, most, least in (
        ("push", f"Blobs of {_BLOB >> 20} MiB pushed, for each GiB", 0.45, None),
        ("pull", f"Blobs of {_BLOB >> 20} MiB pulled, for each GiB", 0.35, None),
        ("get", "GET of a manifest over 32 connections, each", None, 10.0),
        ("small", f"Pushes of small images over {_WIDTH} connections, each", None, 5.0),
    ):
        other, ours = theirs.sample(what), mine.sample(what)
        budgets: list[Budget] = []
        if most is not None:
            budgets.append(at_most(ours.cpu, other.cpu, most, "docker-registry's CPU"))
        if least is not None:
            budgets.append(
                Budget(
                    f"{other.wall / ours.wall:.1f}x of at least {least:g}x docker-registry's rate",
                    ours.wall,
                    other.wall / least,
                )
            )
        if what == "small":
            budgets.append(at_most(ours.memory, other.memory, 1.0, "docker-registry's memory"))
        cost = attrgetter("cpu" if most is not None else "wall")
        rows = [
            Row("docker-registry", other, "1x"),
            Row("distribution v3", third.sample(what), times(cost(third.sample(what)), cost(other))),
            Row("bayplan, login and audit", ours, times(cost(ours), cost(other)), tuple(budgets)),
        ]
        found.append(Table(title, _ROUNDS, rows, what=WHAT))
    versions = registries.versions()
    found[-1] = replace(found[-1], notes=(versions,))
    return found


def _round(server: Server, number: int, base: bytes, kept: _Figures) -> None:
    pieces = [memoryview(number.to_bytes(4, "big", signed=True) + bytes([one]) + base) for one in range(_BLOBS)]
    machine.resident(_BLOBS * _BLOB * 6)
    with server.client() as client:
        digests: list[str] = []
        kept.push.append(
            measured(
                server, lambda: digests.extend(client.push_blob(_LARGE, one) for one in pieces), _BLOBS * _BLOB / _GIB
            )
        )
        kept.pull.append(measured(server, lambda: _pull(client, digests), _PULLS * _BLOBS * _BLOB / _GIB))
    cpu = server.cpu()
    rate = registries.rate(server, f"/v2/{_SMALL}/manifests/got", _GET_SECONDS)
    kept.get.append((1 / rate, (server.cpu() - cpu) / (rate * _GET_SECONDS)))
    kept.small.append(small(server, _SMALL, number))


def _pull(client: Client, digests: list[str]) -> None:
    for digest in digests * _PULLS:
        if client.fetch(f"/v2/{_LARGE}/blobs/{digest}") < _BLOB:
            raise FailedError("a blob came short")


def small(server: Server, repository: str, number: int) -> tuple[float, float]:
    """Wall and CPU seconds of each of ``PUSHES`` small pushes."""

    def push(client: Client, one: int) -> None:
        client.push_small(
            repository, f"r{number}-{one}", hashlib.sha256(f"{repository} {number} {one}".encode()).digest()
        )

    cpu = server.cpu()
    wall = registries.together(server, PUSHES, _WIDTH, push)
    return wall / PUSHES, (server.cpu() - cpu) / PUSHES


def measured(server: Server, work: Callable[[], object], amount: float) -> tuple[float, float]:
    cpu, began = server.cpu(), time.perf_counter()
    work()
    return (time.perf_counter() - began) / amount, (server.cpu() - cpu) / amount
