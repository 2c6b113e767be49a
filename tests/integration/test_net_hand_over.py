"""Replacement: the new container takes the ports and the names at one moment, and no client misses an answer."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_net_world import MACHINE, Machine, _machine  # noqa: F401

from bayplan.errors import BayplanError
from bayplan.runtime.spec import Attachment, Port

pytestmark = pytest.mark.root


def test_a_polling_client_misses_no_answer_while_containers_replace_each_other(machine: Machine) -> None:
    networks = machine.networks()
    ports = [Port(3000, 8080), Port(3000, 8081, "127.0.0.1")]
    first = networks.attach("c0", "web", (), ports)
    machine.serve(first.netns, 3000, b"c0")
    seen: list[bytes | None] = []
    ended = threading.Event()

    def poll(source: Path | None, host: str, port: int) -> None:
        while not ended.is_set():
            seen.append(machine.ask(host, port, source=source, timeout=5))

    clients = [(None, "127.0.0.1", 8080), (None, "127.0.0.1", 8081), (machine.other, MACHINE, 8080)]
    threads = [threading.Thread(target=poll, args=client) for client in clients]
    for thread in threads:
        thread.start()
    for at in range(1, 6):
        new = networks.attach(f"c{at}", f"web-{at}", (), ports, publish=False)
        assert new.ports == ()
        machine.serve(new.netns, 3000, b"c%d" % at)
        assert networks.hand_over(f"c{at - 1}", f"c{at}", "web").ports == tuple(ports)
        asked = machine.ask("127.0.0.1", 8080)
        assert asked == b"c%d" % at
        networks.detach(f"c{at - 1}")
    ended.set()
    for thread in threads:
        thread.join()
    assert len(seen) > 50
    assert None not in seen
    assert b"" not in seen
    assert set(seen) == {b"c%d" % at for at in range(6)}


def test_a_connection_goes_on_with_the_old_container_until_it_ends(machine: Machine) -> None:
    networks = machine.networks()
    old = networks.attach("old", "web", (), [Port(80, 8080)])
    machine.serve(old.netns, 80, b"old")
    with socket.create_connection(("127.0.0.1", 8080), 2) as client:
        assert client.recv(10) == b"old"
        new = networks.attach("new", "aside", (), [Port(80, 8080)], publish=False)
        machine.serve(new.netns, 80, b"new")
        networks.hand_over("old", "new", "web")
        assert machine.ask("127.0.0.1", 8080) == b"new"
        client.sendall(b"still there?")
        assert client.recv(20) == b"still there?"


def test_names_follow_and_are_kept_back_until_then(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    on = [Attachment("n", ("db",))]
    old = networks.attach("old000000000000", "web", on, ())
    new = networks.attach("new000000000000", "web-next", on, (), publish=False)
    client = networks.attach("client", "client", [Attachment("n")], ())

    def names() -> dict[str, str | None]:
        asked = ("web", "db", "extra", "web-next", "old000000000", "new000000000")
        return {name: machine.resolve(name, client.gateway, source=client.netns) for name in asked}

    before, after = old.addresses["n"], new.addresses["n"]
    short = {"old000000000": before, "new000000000": after}

    def settle(expected: dict[str, str | None]) -> None:
        end = time.monotonic() + 10  # the name server reads its files a few milliseconds later
        while (found := names()) != expected and time.monotonic() < end:
            time.sleep(0.02)
        assert found == expected

    settle({"web": before, "db": before, "extra": None, "web-next": None, **short})
    networks.hand_over("old000000000000", "new000000000000", "web", ("extra",))
    settle({"web": after, "db": after, "extra": after, "web-next": None, **short})


def test_a_number_that_the_kernel_chose_stays(machine: Machine) -> None:
    networks = machine.networks()
    old = networks.attach("old", "web", (), [Port(80)])
    networks.attach("new", "aside", (), [Port(80)], publish=False)
    assert networks.hand_over("old", "new", "web").ports == old.ports


def test_ports_that_only_one_of_them_has_are_taken_up_and_given_up(machine: Machine) -> None:
    networks = machine.networks()
    networks.attach("old", "web", (), [Port(80, 8080), Port(80, 8081)])
    new = networks.attach("new", "aside", (), [Port(80, 8081), Port(80, 8082)], publish=False)
    machine.serve(new.netns, 80, b"new")
    networks.hand_over("old", "new", "web")
    networks.hand_over("old", "new", "web")
    assert [machine.ask("127.0.0.1", n, timeout=0.3) for n in (8080, 8081, 8082)] == [None, b"new", b"new"]
    assert networks.check_ports([Port(80, 8080)]) == []
    assert networks.check_ports([Port(80, 8082)]) == ["port 8082/tcp is taken by the container web"]


def test_it_can_go_back_when_the_new_one_fails(machine: Machine) -> None:
    networks = machine.networks()
    old = networks.attach("old", "web", (), [Port(80, 8080)])
    machine.serve(old.netns, 80, b"old")
    networks.attach("new", "aside", (), [Port(80, 8080)], publish=False)
    networks.hand_over("old", "new", "web")
    networks.hand_over("new", "old", "web")
    assert machine.ask("127.0.0.1", 8080) == b"old"


def test_a_port_of_a_third_is_not_taken_over(machine: Machine) -> None:
    networks = machine.networks()
    old = networks.attach("old", "web", (), [Port(80, 8080)])
    machine.serve(old.netns, 80, b"old")
    networks.attach("third", "third", (), [Port(80, 8081)])
    networks.attach("new", "aside", (), [Port(80, 8080), Port(80, 8081)], publish=False)
    with pytest.raises(BayplanError, match="8081/tcp is taken by the container third"):
        networks.hand_over("old", "new", "web")
    assert machine.ask("127.0.0.1", 8080) == b"old"
    with pytest.raises(BayplanError) as caught:
        networks.hand_over("old", "nobody", "web")
    assert caught.value.code == "not-attached"


def test_an_old_one_that_is_gone_already_has_nothing_to_give(machine: Machine) -> None:
    networks = machine.networks()
    new = networks.attach("new", "aside", (), [Port(80, 8080)], publish=False)
    machine.serve(new.netns, 80, b"new")
    networks.hand_over("gone", "new", "web")
    assert machine.ask("127.0.0.1", 8080) == b"new"
