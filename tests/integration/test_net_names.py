"""Names on networks: who is found under which name, and the name server's own life."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_net_world import Machine, _machine  # noqa: F401

from bayplan.errors import BayplanError
from bayplan.runtime.net import names
from bayplan.runtime.spec import Attachment

pytestmark = pytest.mark.root


def eventually(check, expected) -> None:
    end = time.monotonic() + 5
    while (found := check()) != expected and time.monotonic() < end:
        time.sleep(0.02)
    assert found == expected


def test_containers_find_each_other_by_name_alias_and_short_id_on_their_networks_alone(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("one")
    networks.create("two")
    db = networks.attach("0123456789abcdef", "DB-1", [Attachment("one", ("db", "store"))], ())
    app = networks.attach("app", "app", [Attachment("one")], ())
    far = networks.attach("far", "far", [Attachment("two")], ())
    assert app.resolv_conf.splitlines()[-2:] == [f"nameserver {app.gateway}", "options ndots:0"]
    for name in ("db-1", "db", "store", "0123456789ab"):
        eventually(lambda name=name: machine.resolve(name, app.gateway, source=app.netns), db.addresses["one"])
    assert machine.resolve("nobody", app.gateway, source=app.netns) is None
    assert machine.resolve("db", far.gateway, source=far.netns) is None
    networks.rename("0123456789abcdef", "renamed")
    eventually(lambda: machine.resolve("renamed", app.gateway, source=app.netns), db.addresses["one"])
    networks.detach("0123456789abcdef")
    eventually(lambda: machine.resolve("db", app.gateway, source=app.netns), None)


def test_the_name_server_starts_with_the_first_name_and_ends_with_the_last(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    networks.attach("plain", "plain", (), ())
    assert machine.name_servers() == []
    networks.attach("a", "a", [Attachment("n")], ())
    assert len(machine.name_servers()) == 1
    networks.detach("a")
    eventually(machine.name_servers, [])


def test_a_name_server_that_was_killed_comes_back(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    a = networks.attach("a", "a", [Attachment("n")], ())
    pid = int(machine.name_servers()[0].split()[1])
    os.kill(pid, signal.SIGKILL)
    eventually(machine.name_servers, [])
    # Its socket closes a moment after its memory is gone.
    eventually(lambda: "dns-silent" in [finding.code for finding in networks.diagnose()], True)
    networks.reconcile(["a"])
    assert "dns-silent" not in [finding.code for finding in networks.diagnose()]
    eventually(lambda: machine.resolve("a", a.gateway, source=a.netns), a.addresses["n"])


def test_without_aardvark_a_network_with_names_is_refused_with_its_package(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = machine.networks()
    monkeypatch.setattr(names, "_PROGRAMS", ())
    with pytest.raises(BayplanError) as caught:
        networks.create("n")
    assert (caught.value.code, caught.value.hint) == ("dns-missing", "apt-get install aardvark-dns")
    networks.attach("a", "a", (), ())
    assert "dns-missing" in [finding.code for finding in networks.diagnose()]


def test_a_name_server_whose_starter_died_is_found_and_not_started_twice(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    a = networks.attach("a", "a", [Attachment("n")], ())
    first = machine.name_servers()
    (machine.root().run_dir / "net" / "dns" / "aardvark.pid").rename(machine.folder / "pid")
    put_back = threading.Timer(0.2, lambda: (machine.folder / "pid").rename(_pid_file(machine)))
    put_back.start()
    networks.attach("b", "b", [Attachment("n")], ())
    put_back.join()
    assert machine.name_servers() == first
    eventually(lambda: machine.resolve("b", a.gateway, source=a.netns) is not None, True)


def _pid_file(machine: Machine) -> Path:
    return machine.root().run_dir / "net" / "dns" / "aardvark.pid"


def test_a_name_server_that_cannot_start_stands_in_nobodys_way_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = machine.networks()
    networks.create("n")
    networks.attach("a", "a", [Attachment("n")], ())
    networks.attach("b", "b", [Attachment("n")], ())
    os.kill(int(machine.name_servers()[0].split()[1]), signal.SIGKILL)
    eventually(machine.name_servers, [])
    monkeypatch.setattr(names, "_PROGRAMS", ())
    networks.detach("a")
    networks.reconcile(["b"])
    assert networks.state("a") is None
    monkeypatch.undo()
    networks.attach("c", "c", (), ())
    assert len(machine.name_servers()) == 1


def test_a_machine_that_answers_on_port_53_of_every_address_is_told_and_nothing_is_left(machine: Machine) -> None:
    networks = machine.networks()
    networks.create("n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 53))
        with pytest.raises(BayplanError) as caught:
            networks.attach("a", "a", [Attachment("n")], ())
        assert caught.value.code == "dns-failed"
        assert f"(pid {os.getpid()}) has it on every address" in caught.value.message
        assert machine.settled() == []
