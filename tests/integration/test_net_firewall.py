"""Machines with somebody else's firewall: Docker's FORWARD policy, DOCKER-USER, legacy tables, a closed INPUT."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_net_world import MACHINE, OTHER, Machine, _machine, run  # noqa: F401

from bayplan.runtime.spec import Attachment, Port

pytestmark = pytest.mark.root


def iptables_variants() -> list[str]:
    """nft always; legacy where this kernel still has it (tried in a namespace of its own)."""
    tried = subprocess.run(["unshare", "-n", "iptables-legacy", "-S"], capture_output=True, timeout=30, check=False)
    return ["iptables-nft", *(["iptables-legacy"] if tried.returncode == 0 else [])]


@pytest.fixture(params=["policy", "docker-user"])
def dropping(request: pytest.FixtureRequest, machine: Machine) -> str:
    """The kind of chain in which accepts must stand."""
    return str(request.param)


@pytest.mark.parametrize("iptables", iptables_variants())
def test_containers_reach_and_are_reached_although_forward_drops(
    machine: Machine, dropping: str, iptables: str
) -> None:
    assert shutil.which(iptables)
    run(iptables, "-P", "FORWARD", "DROP")
    if dropping == "docker-user":
        run(iptables, "-N", "DOCKER-USER")
        run(iptables, "-A", "DOCKER-USER", "-j", "RETURN")
        run(iptables, "-A", "FORWARD", "-j", "DOCKER-USER")
    untouched = run(iptables, "-S")
    tag = f"bayplan-{machine.root().hash}"
    networks = machine.networks()
    networks.create("n")
    assert [f.code for f in networks.diagnose() if f.code.startswith("forward")] == ["forward-accepted"]
    a = networks.attach("a", "a", (), [Port(80, 8080)])
    b = networks.attach("b", "b", [Attachment("n")], ())
    machine.serve(a.netns, 80, b"a")
    machine.serve(b.netns, 80, b"b")
    machine.serve(machine.other, 80, b"outside")

    def works() -> list[bytes | None]:
        return [
            machine.ask(OTHER, 80, source=a.netns, timeout=0.5),
            machine.ask(OTHER, 80, source=b.netns, timeout=0.5),
            machine.ask(MACHINE, 8080, source=machine.other, timeout=0.5),
            machine.ask("127.0.0.1", 8080, timeout=0.5),
        ]

    assert works() == [b"outside", b"outside", b"a", b"a"]
    chain = "DOCKER-USER" if dropping == "docker-user" else "FORWARD"
    ours = [line for line in run(iptables, "-S").splitlines() if tag in line]
    assert len(ours) == 2
    assert all(line.startswith(f"-A {chain} ") for line in ours)
    # They do not open what our own table closes.
    assert machine.ask(b.addresses["n"], 80, source=a.netns, timeout=0.3) is None

    for line in ours[:1]:
        run(iptables, "-D", *line.split()[1:])
    assert "forward-drop" in [finding.code for finding in networks.diagnose()]
    networks.reconcile(["a", "b"])
    networks.reconcile(["a", "b"])
    assert works() == [b"outside", b"outside", b"a", b"a"]
    assert len([line for line in run(iptables, "-S").splitlines() if tag in line]) == 2

    networks.detach("a")
    networks.detach("b")
    assert run(iptables, "-S") == untouched


def test_a_firewall_that_comes_later_is_met_by_the_next_change(machine: Machine) -> None:
    networks = machine.networks()
    a = networks.attach("a", "a", (), ())
    machine.serve(machine.other, 80, b"outside")
    run("iptables", "-P", "FORWARD", "DROP")
    assert machine.ask(OTHER, 80, source=a.netns, timeout=0.3) is None
    networks.attach("b", "b", (), ())
    assert machine.ask(OTHER, 80, source=a.netns) == b"outside"


def test_names_are_answered_although_input_drops(machine: Machine) -> None:
    run("iptables", "-P", "INPUT", "DROP")
    run("iptables", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    networks = machine.networks()
    networks.create("n")
    a = networks.attach("a", "a", [Attachment("n")], ())
    assert machine.resolve("a", a.gateway, source=a.netns) == a.addresses["n"]


def test_two_roots_keep_their_own_accepts(machine: Machine) -> None:
    run("iptables", "-P", "FORWARD", "DROP")
    one, two = machine.networks("one"), machine.networks("two")
    one.attach("a", "a", (), ())
    b = two.attach("b", "b", (), ())
    machine.serve(machine.other, 80, b"outside")
    one.detach("a")
    assert machine.ask(OTHER, 80, source=b.netns) == b"outside"


def test_doctor_names_a_table_that_we_do_not_change(machine: Machine) -> None:
    run("nft", "add table inet guard; add chain inet guard fw { type filter hook forward priority 0; policy drop; }")
    found = [finding for finding in machine.networks().diagnose() if finding.code == "foreign-drop"]
    assert "inet guard fw" in found[0].message
