"""kill -9 of a process in the middle of attach, detach and hand_over.

The promise under attack: whatever the moment, the next call or `reconcile` leaves no orphan in the kernel and no half
of a change; and in a hand-over there is no moment at which nobody answers.

Two ways: exhaustively, before and after every single effect (netlink message, nftables transaction, mount, rename); and
by a signal at random times.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_net_world import Machine, _machine  # noqa: F401

from bayplan.runtime.net import Networks, namespaces, netlink, nft
from bayplan.runtime.spec import Attachment, Port

pytestmark = pytest.mark.root

PORTS = [Port(80, 8080)]


def in_a_process(work: Callable[[], object], kill_after: float | None = None) -> bool:
    """Run ``work`` in a child; with ``kill_after`` it is killed after so many seconds. True when it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), "the call itself failed"
    return status == 0


def dying_at(point: int, work: Callable[[], object]) -> Callable[[], object]:
    """``work``, killed at its ``point``-th chance: each effect has one before it and one after it."""

    def run() -> None:
        chances = 0

        def chance() -> None:
            nonlocal chances
            if chances == point:
                os.kill(os.getpid(), signal.SIGKILL)
            chances += 1

        def around(owner: object, name: str) -> None:
            real = getattr(owner, name)

            def wrapped(*args: object, **options: object) -> object:
                chance()
                result = real(*args, **options)
                chance()
                return result

            setattr(owner, name, wrapped)

        around(netlink.Messages, "request")
        around(nft, "run")
        around(namespaces, "create")
        around(namespaces, "remove")
        around(Path, "replace")
        around(Path, "unlink")
        work()

    return run


def every_point(work: Callable[[], object], setup: Callable[[], object], check: Callable[[], object]) -> int:
    """Setup, ``work`` killed at point 0, 1, 2 ... until it comes to its end, and ``check`` after each; their number."""
    point = 0
    while True:
        setup()
        ended = in_a_process(dying_at(point, work))
        try:
            check()
        except AssertionError as error:
            raise AssertionError(f"killed at point {point}: {error}") from error
        if ended:
            return point
        point += 1


def clients(networks: Networks) -> set[str]:
    return set(networks._records.load().records)


def test_attach_killed_at_every_point_is_undone_or_done_again(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    attach = lambda: networks.attach("c", "web", [Attachment("n")], PORTS)  # noqa: E731

    def setup() -> None:
        networks.detach("c")

    def reconciled() -> None:
        networks.reconcile([])
        assert machine.settled() == []

    def repeated() -> None:
        state = attach()
        machine.serve(state.netns, 80, b"web")
        assert machine.ask("127.0.0.1", 8080) == b"web"
        assert machine.resolve("web", state.gateway, source=state.netns) == state.addresses["n"]

    assert every_point(attach, setup, reconciled) > 40
    networks.attach("beside", "beside", (), ())
    assert every_point(attach, setup, repeated) > 20


def test_detach_killed_at_every_point_is_finished(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")

    def both() -> None:
        networks.attach("a", "a", [Attachment("n")], PORTS)
        networks.attach("b", "b", (), [Port(80, 8081)])

    def one_left() -> None:
        networks.detach("a")
        assert clients(networks) == {"b"}
        assert networks.check_ports(PORTS) == []
        assert machine.name_servers() == []

    assert every_point(lambda: networks.detach("a"), both, one_left) > 10

    def alone() -> None:
        networks.detach("b")
        networks.attach("a", "a", [Attachment("n")], PORTS)

    def nothing_left() -> None:
        networks.reconcile([])
        assert machine.settled() == []

    assert every_point(lambda: networks.detach("a"), alone, nothing_left) > 10


def test_hand_over_killed_at_every_point_leaves_one_that_answers(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    on = [Attachment("n")]
    states = {name: networks.attach(name, name, on, PORTS, publish=name == "old") for name in ("old", "new")}
    for name, state in states.items():
        machine.serve(state.netns, 80, name.encode())
    client = states["old"]
    who = {state.addresses["n"]: name.encode() for name, state in states.items()}

    def setup() -> None:
        networks.hand_over("new", "old", "web")
        assert machine.ask("127.0.0.1", 8080) == b"old"

    def check() -> None:
        assert machine.ask("127.0.0.1", 8080) in (b"old", b"new")
        networks.reconcile(["old", "new"])
        answers = machine.ask("127.0.0.1", 8080)
        published = [r.id.encode() for r in networks._records.load().records.values() if r.published]
        assert published == [answers]
        end = time.monotonic() + 2
        while (named := machine.resolve("web", client.gateway, source=client.netns)) is None or who[named] != answers:
            assert time.monotonic() < end, "the name does not follow the port"
            time.sleep(0.01)

    assert every_point(lambda: networks.hand_over("old", "new", "web"), setup, check) > 5


def test_random_kills_in_a_life_of_containers_leave_nothing(machine: Machine, request: pytest.FixtureRequest) -> None:
    networks = machine.networks()
    networks.create("n")
    networks.attach("keep", "keep", (), [Port(80, 9000)])
    dice = random.Random(7)

    def life() -> None:
        networks.attach("a", "web", [Attachment("n")], PORTS)
        networks.attach("b", "next", [Attachment("n")], PORTS, publish=False)
        networks.hand_over("a", "b", "web")
        networks.detach("a")
        with networks.step_network():
            networks.detach("b")

    for _ in range(25):
        in_a_process(life, dice.uniform(0.0, 0.12))
        networks.reconcile(["keep"])
        assert clients(networks) == {"keep"}
        assert machine.name_servers() == []
    networks.detach("keep")
    assert machine.settled() == []


def test_many_processes_at_once_get_different_addresses_ports_and_interfaces(machine: Machine) -> None:
    networks = machine.networks()
    networks.ensure_default()
    children = []
    for at in range(8):
        child = os.fork()
        if child == 0:
            try:
                for turn in range(3):
                    networks.attach(f"c{at}-{turn}", "c", (), [Port(80)])
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    states = [networks.state(f"c{at}-{turn}") for at in range(8) for turn in range(3)]
    assert len({state.addresses["bridge"] for state in states if state}) == 24
    assert len({state.ports[0].host for state in states if state}) == 24
