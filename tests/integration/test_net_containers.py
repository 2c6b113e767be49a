"""Containers on networks: whom they reach, who reaches them, and what is left when they are gone."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_net_world import MACHINE, OTHER, Machine, _machine, run, setting  # noqa: F401

from bayplan.errors import BayplanError
from bayplan.runtime.kernel import until
from bayplan.runtime.net import namespaces, nft
from bayplan.runtime.spec import Attachment, Port

pytestmark = pytest.mark.root


def test_containers_reach_each_other_and_the_outside(machine: Machine) -> None:
    networks = machine.networks()
    a = networks.attach("a" * 12, "a", (), ())
    b = networks.attach("b" * 12, "b", (), ())
    machine.serve(b.netns, 80, b"b")
    machine.serve(machine.other, 80, b"outside")
    assert machine.ask(b.addresses["bridge"], 80, source=a.netns) == b"b"
    assert machine.ask(OTHER, 80, source=a.netns) == b"outside"


def test_packets_are_as_small_as_the_way_out_needs(machine: Machine) -> None:
    state = machine.networks().attach("a", "a", (), ())
    assert "mtu 1400" in run("nsenter", f"--net={state.netns}", "ip", "link", "show", "eth0")


@pytest.mark.parametrize("bridge_filter", ["0", "1"])
def test_a_published_port_answers_from_everywhere(machine: Machine, bridge_filter: str) -> None:
    if Path("/proc/sys/net/bridge").exists():
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(bridge_filter)
    networks = machine.networks()
    networks.create("n")
    web = networks.attach("web", "web", (), [Port(3000, 8080)])
    beside = networks.attach("beside", "beside", (), ())
    elsewhere = networks.attach("elsewhere", "elsewhere", [Attachment("n")], ())
    machine.serve(web.netns, 3000, b"web")
    assert web.ports == (Port(3000, 8080),)
    assert machine.ask("127.0.0.1", 8080) == b"web"
    assert machine.ask(MACHINE, 8080) == b"web"
    assert machine.ask(MACHINE, 8080, source=machine.other) == b"web"
    for client in (beside, elsewhere, web):
        assert machine.ask(MACHINE, 8080, source=client.netns) == b"web", client


def test_a_port_published_on_loopback_answers_there_alone(machine: Machine) -> None:
    web = machine.networks().attach("web", "web", (), [Port(3000, 8080, "127.0.0.1")])
    machine.serve(web.netns, 3000, b"web")
    assert machine.ask("127.0.0.1", 8080) == b"web"
    assert machine.ask(MACHINE, 8080, source=machine.other, timeout=0.3) is None


def test_a_container_cannot_use_published_loopback_ports_to_reach_the_machines_own_loopback(machine: Machine) -> None:
    # The attack of CVE-2020-8558: a route for 127.0.0.1 by the gateway, from inside.
    networks = machine.networks()
    a = networks.attach("a", "a", (), [Port(1, 8080, "127.0.0.1")])
    machine.serve(None, 9000, b"private", host="127.0.0.1")
    assert machine.ask("127.0.0.1", 9000) == b"private"
    inside = ["nsenter", f"--net={a.netns}"]
    namespaces.enter(a.netns, lambda: setting("ipv4/conf/all/route_localnet", "1"))
    run(*inside, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    run(*inside, "ip", "route", "add", "127.0.0.0/8", "via", a.gateway, "dev", "eth0")
    assert machine.ask("127.0.0.1", 9000, source=a.netns, timeout=0.3) is None


def test_nobody_outside_routes_into_a_container_past_its_published_ports(machine: Machine) -> None:
    a = machine.networks().attach("a", "a", (), [Port(80, 8080)])
    machine.serve(a.netns, 80, b"a")
    machine.serve(a.netns, 81, b"private")
    run("nsenter", f"--net={machine.other}", "ip", "route", "add", "10.180.0.0/14", "via", MACHINE)
    assert machine.ask(a.addresses["bridge"], 81, source=machine.other, timeout=0.3) is None
    assert machine.ask(a.addresses["bridge"], 80, source=machine.other, timeout=0.3) is None
    assert machine.ask(MACHINE, 8080, source=machine.other) == b"a"


def test_networks_are_apart_and_a_container_on_both_reaches_both(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("one")
    networks.create("two")
    one = networks.attach("1", "one", [Attachment("one")], ())
    two = networks.attach("2", "two", [Attachment("two")], ())
    both = networks.attach("3", "both", [Attachment("one"), Attachment("two")], ())
    for state in (one, two):
        machine.serve(state.netns, 80, b"x")
    assert machine.ask(two.addresses["two"], 80, source=one.netns, timeout=0.3) is None
    assert machine.ask(one.addresses["one"], 80, source=both.netns) == b"x"
    assert machine.ask(two.addresses["two"], 80, source=both.netns) == b"x"


def test_an_internal_network_has_no_way_out_and_none_in(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("inner", internal=True)
    networks.create("n")
    a = networks.attach("a", "a", [Attachment("inner")], ())
    b = networks.attach("b", "b", [Attachment("inner"), Attachment("n")], [Port(80, 8080)])
    machine.serve(machine.other, 80, b"outside")
    machine.serve(b.netns, 80, b"b")
    assert a.gateway == ""
    assert machine.ask(b.addresses["inner"], 80, source=a.netns) == b"b"
    run("nsenter", f"--net={a.netns}", "ip", "route", "add", "default", "via", str(networks.get("inner").gateway))
    assert machine.ask(OTHER, 80, source=a.netns, timeout=0.3) is None
    assert machine.ask(MACHINE, 8080, source=a.netns, timeout=0.3) is None
    assert machine.ask(OTHER, 80, source=b.netns) == b"outside"
    assert machine.ask("127.0.0.1", 8080) == b"b"
    with pytest.raises(BayplanError, match="internal"):
        networks.attach("c", "c", [Attachment("inner")], [Port(80, 8081)])


def test_attaching_again_changes_nothing_and_another_request_makes_it_anew(machine: Machine) -> None:
    networks = machine.networks()
    first = networks.attach("a", "a", (), [Port(80, 8080)])
    before = machine.kernel()
    assert networks.attach("a", "a", (), [Port(80, 8080)]) == first
    assert machine.kernel() == before
    second = networks.attach("a", "a", (), [Port(80, 8081)])
    machine.serve(second.netns, 80, b"a")
    assert machine.ask("127.0.0.1", 8081) == b"a"
    assert machine.ask("127.0.0.1", 8080, timeout=0.3) is None
    assert networks.state("a") == second


def test_the_host_port_0_is_a_free_one_of_the_machine(machine: Machine) -> None:
    networks = machine.networks()
    a = networks.attach("a", "a", (), [Port(80), Port(81)])
    machine.serve(a.netns, 81, b"a")
    first, second = (port.host for port in a.ports)
    assert first != second
    assert machine.ask(MACHINE, second, source=machine.other) == b"a"
    assert networks.attach("a", "a", (), [Port(80), Port(81)]) == a


def test_a_taken_port_names_its_holder_and_leaves_nothing_behind(machine: Machine) -> None:
    networks, other_root = machine.networks(), machine.networks("second")
    networks.attach("a", "web", (), [Port(80, 8080)])
    other_root.attach("b", "far", (), [Port(80, 8081, "127.0.0.1")])
    machine.serve(None, 8082, b"process")
    before = machine.kernel()
    me = f"the process {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    holders = {
        8080: "the container web",
        8081: f"the container far of another root (nftables table bayplan-{machine.root('second').hash})",
        8082: me,
    }
    for number, holder in holders.items():
        assert networks.check_ports([Port(80, number)]) == [f"port {number}/tcp is taken by {holder}"]
        with pytest.raises(BayplanError) as caught:
            networks.attach("c", "c", (), [Port(80, number)])
        assert (caught.value.code, caught.value.message) == ("port-taken", f"port {number}/tcp is taken by {holder}")
    assert networks.check_ports([Port(80, 8080, "127.0.0.1"), Port(80, 8080, protocol="udp"), Port(80, 8083)]) == [
        "port 127.0.0.1:8080/tcp is taken by the container web"
    ]
    assert networks.check_ports([Port(80, 8080)], besides=["a"]) == []
    assert networks.check_ports([Port(80, 8081, "127.0.0.2")]) == []
    assert machine.kernel() == before


def test_an_address_that_is_not_the_machines_is_refused(machine: Machine) -> None:
    with pytest.raises(BayplanError) as caught:
        machine.networks().attach("a", "a", (), [Port(80, 8080, "203.0.113.9")])
    assert caught.value.code == "bad-port"


def test_a_udp_client_that_keeps_its_port_is_served_by_whoever_publishes_now(machine: Machine) -> None:
    networks = machine.networks()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)

        def ask() -> bytes | None:
            # Two tries: an earlier ICMP error is reported by the first.
            for _ in range(2):
                try:
                    client.sendto(b"?", (MACHINE, 5000))
                    return client.recv(100)
                except OSError:
                    continue
            return None

        assert ask() is None
        for at in range(2):
            state = networks.attach(f"c{at}", f"c{at}", (), [Port(53, 5000, protocol="udp")])
            machine.serve_udp(state.netns, 53, b"answer %d" % at)
            assert ask() == b"answer %d" % at
            networks.detach(f"c{at}")


def test_two_roots_never_meet(machine: Machine) -> None:
    one, two = machine.networks("one"), machine.networks("two")
    a, b = one.attach("a", "a", (), ()), two.attach("a", "a", (), ())
    assert a.addresses != b.addresses
    machine.serve(a.netns, 80, b"a")
    assert machine.ask(a.addresses["bridge"], 80, source=b.netns, timeout=0.3) is None
    one.detach("a")
    assert two.state("a") == b


def test_subnets_keep_off_routes_and_other_networks(machine: Machine) -> None:
    run("ip", "route", "add", "10.180.0.0/23", "via", OTHER)
    networks = machine.networks()
    assert str(networks.create("a").subnet) == "10.180.2.0/24"
    assert str(machine.networks("second").create("a").subnet) == "10.180.3.0/24"
    assert str(networks.create("mine", subnet="10.9.8.0/28").gateway) == "10.9.8.1"
    for wanted in ("10.180.1.0/24", "10.180.3.0/24", "10.9.8.8/29"):
        with pytest.raises(BayplanError) as caught:
            networks.create("b", subnet=wanted)
        assert caught.value.code == "subnet-taken", wanted


def test_a_subnet_whose_place_was_taken_while_nothing_ran_moves(machine: Machine) -> None:
    networks = machine.networks()
    assert str(networks.create("n").subnet) == "10.180.0.0/24"
    networks.create("pinned", subnet="10.9.8.0/24")
    run("ip", "route", "add", "10.180.0.0/24", "via", OTHER)
    run("ip", "route", "add", "10.9.8.0/24", "via", OTHER)
    assert networks.attach("a", "a", [Attachment("n")], ()).addresses == {"n": "10.180.1.2"}
    assert networks.get("n").gateway.compressed == "10.180.1.1"
    with pytest.raises(BayplanError) as caught:
        networks.attach("b", "b", [Attachment("pinned")], ())
    assert caught.value.code == "subnet-taken"


def test_a_network_in_use_is_not_removed_and_the_error_names_the_containers(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n", labels={"k": "v"})
    with pytest.raises(BayplanError) as caught:
        networks.create("n")
    assert caught.value.code == "network-exists"
    assert [network.name for network in networks.list({"k": "v"})] == ["n"]
    assert networks.list({"k": "w"}) == []
    networks.attach("a", "web", [Attachment("n")], ())
    with pytest.raises(BayplanError, match="used by web"):
        networks.remove("n")
    networks.detach("a")
    networks.remove("n")
    assert networks.get("n") is None
    with pytest.raises(BayplanError) as caught:
        networks.attach("a", "web", [Attachment("n")], ())
    assert caught.value.code == "unknown-network"


def test_addresses_rest_before_they_are_given_out_again(machine: Machine) -> None:
    networks = machine.networks()
    networks.attach("keeps", "keeps", (), ())
    seen = []
    for at in range(4):
        seen.append(networks.attach(f"c{at}", "c", (), ()).addresses["bridge"])
        networks.detach(f"c{at}")
    assert len(set(seen)) == 4


def test_a_build_has_a_way_out_until_it_ends(machine: Machine) -> None:
    networks = machine.networks()
    machine.serve(machine.other, 80, b"outside")
    with networks.step_network() as step:
        assert machine.ask(OTHER, 80, source=step.netns) == b"outside"
        assert networks.reconcile([]).detached == ()
        assert step.netns.exists()
    assert machine.settled() == []


def test_the_network_of_a_build_that_was_killed_is_freed(machine: Machine) -> None:
    networks = machine.networks()
    child = os.fork()
    if child == 0:
        networks.step_network()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(machine.kernel()) > 0
    assert len(networks.reconcile([]).detached) == 1
    assert machine.settled() == []


def test_after_the_last_container_nothing_stands(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    networks.attach("a", "a", [Attachment("n")], [Port(80, 8080)])
    networks.attach("b", "b", (), ())
    assert not networks.teardown_if_unused()
    networks.detach("a")
    networks.detach("a")
    networks.detach("b")
    assert machine.settled() == []
    assert networks.teardown_if_unused()


def test_reconcile_puts_back_what_somebody_took_away_and_removes_what_is_nobodys(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    a = networks.attach("a", "a", [Attachment("n")], [Port(80, 8080)])
    networks.attach("gone", "gone", [Attachment("n")], [Port(80, 8081)])
    machine.serve(a.netns, 80, b"a")
    prefix = f"bp{machine.root().hash}"
    nft.run("flush ruleset")
    run("ip", "link", "del", networks.get("n").bridge)
    run("ip", "link", "add", f"{prefix}vffff", "type", "veth", "peer", "name", "peer0")
    namespaces.create(a.netns.parent / "stale")
    assert machine.ask("127.0.0.1", 8080, timeout=0.3) is None
    found = networks.reconcile(["a"])
    assert (found.detached, found.namespaces, found.repaired) == (("gone",), ("stale",), ("a",))
    assert machine.ask("127.0.0.1", 8080) == b"a"
    assert machine.ask("127.0.0.1", 8081, timeout=0.3) is None
    # The ends of the one that is gone go when the kernel comes to it, a moment later.
    quiet = dataclasses.replace(found, detached=(), links=(), namespaces=(), repaired=())
    assert until(lambda: networks.reconcile(["a"]) == quiet, 10.0)
    assert f"{prefix}vffff" not in {name for _, name in socket.if_nameindex()}


def test_a_flushed_table_is_made_again_by_the_next_change(machine: Machine) -> None:
    networks = machine.networks()
    a = networks.attach("a", "a", (), [Port(80, 8080)])
    machine.serve(a.netns, 80, b"a")
    nft.run("flush ruleset")
    networks.attach("b", "b", (), [Port(80, 8081)])
    assert machine.ask("127.0.0.1", 8080) == b"a"


def test_a_connection_lives_through_reconcile(machine: Machine) -> None:
    networks = machine.networks()
    a = networks.attach("a", "a", (), [Port(80, 8080)])
    machine.serve(a.netns, 80, b"a")
    with socket.create_connection(("127.0.0.1", 8080), 2) as client:
        assert client.recv(10) == b"a"
        for _ in range(5):
            networks.reconcile(["a"])
            client.sendall(b"more")
            assert client.recv(10) == b"more"
