"""What somebody outside sees of a resource: words of cases, and how each is answered.

An observation is asked of the container's namespaces, the kernel or the network, never of what bayplan wrote down:

``$ COMMAND``      what a shell in the container says (exec)
``log``            what the container's program said
``env NAME``       a variable of the first process, from /proc
``proc FIELD``     a line of the first process's /proc/PID/status
``argv``, ``cwd``  of the first process
``cgroup FILE``    one of ``memory``, ``cpu``, ``pids``: the kernel's limit
``get URL``        the body that a published port answers with
``udp PORT INNER`` what comes back through a published UDP port from a socket on INNER in the container
``state``, ``health``, ``ports``, ``label NAME``, ``restarts``  what ``container inspect`` tells

An expected value is compared with ``==``; ``{like: PATTERN}`` is a regular expression, ``{has: TEXT}`` a part of it.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apply_site import Site

from bayplan.runtime import cgroup

_PATIENCE = 15.0  # seconds that the world has to become what a case says


def process(site: Site, name: str) -> Path:
    """/proc/PID of the container's first process."""
    init = site.container(name).status.init
    assert init is not None, f"{name} has no process"
    return Path("/proc") / str(init.pid)


def limit(site: Site, name: str, what: str) -> str:
    """A limit of the kernel: bytes, thousandths of a processor, processes; ``none`` without."""
    group = f"/bayplan-{site.world.root.hash}/{site.container(name).id}"
    files = {
        "memory": ("memory/memory.limit_in_bytes", "memory.max"),
        "cpu": ("cpu/cpu.cfs_quota_us", "cpu.max"),
        "pids": ("pids/pids.max", "pids.max"),
    }
    old, new = files[what]
    controller, _, file = old.partition("/")
    path = cgroup.folder(group, controller) / file
    text = (path if path.exists() else cgroup.folder(group, controller) / new).read_text().split()
    if text[0] in ("max", "-1") or int(text[0]) > 1 << 60:
        return "none"
    if what != "cpu":
        return text[0]
    period = text[1] if len(text) > 1 else (path.parent / "cpu.cfs_period_us").read_text()
    return str(int(text[0]) * 1000 // int(period))


def get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return str(answer.read().decode().strip())
    except (urllib.error.URLError, OSError) as error:
        return f"nobody: {error}"


_ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering:
    answering.bind(("0.0.0.0", {port}))
    print("up", flush=True)
    data, peer = answering.recvfrom(100)
    answering.sendto(data[::-1], peer)
"""


def udp(site: Site, name: str, outer: int, inner: int) -> str:
    """What a datagram comes back as from a socket that is opened in the container's network namespace."""
    namespace = str(process(site, name) / "ns/net")
    argv = ["nsenter", f"--net={namespace}", sys.executable, "-c", _ECHO.format(port=inner)]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as echo,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == "up\n"
            probe.settimeout(3)
            probe.sendto(b"gnip", ("127.0.0.1", outer))
            return probe.recv(100).decode()
        except OSError as error:
            return f"nobody: {error}"
        finally:
            echo.kill()


def look(site: Site, name: str, word: str) -> Any:
    """One observation of the container ``name``."""
    verb, _, rest = word.partition(" ")
    if verb == "$":
        _, text = site.world.inside(name, "/bin/busybox", "sh", "-c", rest)
        return text.strip()
    if verb == "log":
        return site.world.output(name).strip()
    if verb == "env":
        pairs = (process(site, name) / "environ").read_bytes().decode().split("\0")
        return dict(pair.partition("=")[::2] for pair in pairs if pair).get(rest)
    if verb == "proc":
        lines = (process(site, name) / "status").read_text().splitlines()
        return " ".join(next(line for line in lines if line.startswith(f"{rest}:")).split()[1:])
    if verb == "argv":
        return (process(site, name) / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
    if verb == "cwd":
        return look(site, name, f"$ readlink /proc/1/cwd{rest}")
    if verb == "cgroup":
        return limit(site, name, rest)
    if verb == "get":
        return get(rest)
    if verb == "udp":
        outer, inner = rest.split()
        return udp(site, name, int(outer), int(inner))
    return _told(site, name, verb, rest)


def _told(site: Site, name: str, verb: str, rest: str) -> Any:
    one = site.run("container", "inspect", name).document
    if verb == "label":
        return one["labels"].get(rest)
    if verb == "health":
        return one["health"]["status"]
    if verb == "ports":
        return [f"{p['host_ip']}:{p['host']}:{p['container']}/{p['protocol']}" for p in one["ports"]]
    return one[verb]


def agrees(found: Any, expected: Any) -> bool:
    if isinstance(expected, Mapping) and expected.keys() == {"like"}:
        return re.fullmatch(expected["like"], str(found), re.DOTALL) is not None
    if isinstance(expected, Mapping) and expected.keys() == {"has"}:
        return expected["has"] in str(found)
    if isinstance(expected, Mapping) and expected.keys() == {"lacks"}:
        return expected["lacks"] not in str(found)
    return bool(found == expected)


def settled(site: Site, name: str, word: str, expected: Any) -> None:
    """Wait until an observation is what it should be."""
    deadline = time.monotonic() + _PATIENCE
    while not agrees(found := look(site, name, word), expected):
        assert time.monotonic() < deadline, f"{name}: {word}: {found!r}, not {expected!r}"
        time.sleep(0.1)


def filled(value: Any, words: Mapping[str, str]) -> Any:
    """A case's values with PORT1, ... put in."""
    text = json.dumps(value)
    for word, put in words.items():
        text = text.replace(word, put)
    return json.loads(text)
