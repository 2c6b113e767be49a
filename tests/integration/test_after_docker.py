"""A stack on a machine where dockerd has run: its FORWARD policy stands, and everything works all the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from engine_processes import dockerd
from test_net_world import MACHINE, OTHER, Machine, _machine, run  # noqa: F401

pytestmark = pytest.mark.root

STACK = """\
stack: pair
resources:
  Image.tools:
    build: { context: ./tools }
    tags: ["tools:1"]
  Network.inside: {}
  Container.web:
    image: tools:1
    command: ["httpd", "-f", "-p", "80", "-h", "/www"]
    networks: ["${Network.inside.name}"]
    ports: ["8080:80"]
    stop_signal: SIGKILL
    healthcheck: { test: ["CMD", "/bin/busybox", "wget", "-q", "-O-", "http://127.0.0.1/"], start_interval: 100ms, start_period: 10s }
  Container.client:
    image: tools:1
    command: ["sleep", "3600"]
    networks: ["${Network.inside.name}"]
    stop_signal: SIGKILL
    depends_on: { Container.web: healthy }
"""


def test_a_stack_reaches_and_is_reached_where_dockerd_has_run(machine: Machine, bayplan, busybox) -> None:
    run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")  # dockerd closes FORWARD where it opens forwarding itself
    with dockerd(networks=True):
        assert "docker0" in run("ip", "-o", "link")
    rules = run("iptables", "-S")
    assert "-P FORWARD DROP" in rules, "dockerd left its policy behind: that is what this test is about"

    tools = bayplan.cwd / "tools"
    tools.mkdir()
    shutil.copy(busybox, tools / "busybox")
    (tools / "index.html").write_text("from the container\n")
    (tools / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /bin/busybox\nCOPY index.html /www/\nENTRYPOINT ["/bin/busybox"]\n'
    )
    (bayplan.cwd / "bayplan.yaml").write_text(STACK)
    machine.serve(machine.other, 80, b"HTTP/1.0 200 OK\r\n\r\nfrom outside\n")
    bayplan.run("apply", "--yes")

    def inside(*command: str) -> str:
        return bayplan.run("container", "exec", "pair-client", "/bin/busybox", *command).stdout

    def fetched(address: str) -> str:
        # A static busybox has no resolver, and its wget cannot do without: nslookup and nc can.
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | /bin/busybox nc -w 5 {address} 80"
        return inside("sh", "-c", ask).replace("\r", "").partition("\n\n")[2]

    address = inside("nslookup", "web").split("Address:")[-1].split()[0]
    assert inside("nslookup", "pair-web").split("Address:")[-1].split()[0] == address
    assert fetched(address) == "from the container\n"
    assert fetched(OTHER).startswith("from outside\n")
    fetch = ["nsenter", f"--net={machine.other}", "curl", "--silent", "--max-time", "5", f"http://{MACHINE}:8080/"]
    assert (
        subprocess.run(fetch, capture_output=True, text=True, timeout=20, check=True).stdout == "from the container\n"
    )
    bayplan.run("destroy", "--yes")
    assert run("iptables", "-S") == rules
