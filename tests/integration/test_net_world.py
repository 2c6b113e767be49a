"""A machine of its own for each network test: a network namespace with a link to "another host", and roots on it.

The test's thread moves into the namespace, so that whatever it does (policies of FORWARD, sysctls, ports) never meets the
real machine or another test. When the test ends, nothing of any root may be left in the kernel, or the test fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bayplan.runtime.net import Networks, namespaces, nft

MACHINE, OTHER = "192.0.2.2", "192.0.2.1"
_libc = ctypes.CDLL(None, use_errno=True)
_NEWNET = 0x40000000


@dataclass(frozen=True)
class Root:
    path: Path
    hash: str
    run_dir: Path


@dataclass
class Machine:
    """``other``: the namespace of another host, at the far end of eth0."""

    folder: Path
    run: Path
    other: Path
    roots: list[Root] = field(default_factory=list)
    closers: list[Callable[[], None]] = field(default_factory=list)

    def networks(self, name: str = "root") -> Networks:
        return Networks(self.root(name))

    def root(self, name: str = "root") -> Root:
        path = self.folder / name
        path.mkdir(exist_ok=True)
        digest = hashlib.blake2b(os.fsencode(path), digest_size=4).hexdigest()
        root = Root(path, digest, self.run / digest)
        if root not in self.roots:
            self.roots.append(root)
        return root

    def serve(self, netns: Path | None, port: int, answer: bytes, *, host: str = "0.0.0.0") -> None:
        """A TCP server in a namespace (None: this machine) that says ``answer`` and echoes lines afterwards."""
        work = lambda: socket.create_server((host, port))  # noqa: E731
        listener = namespaces.enter(netns, work) if netns else work()

        def talk(peer: socket.socket) -> None:
            with peer:
                peer.sendall(answer)
                while data := peer.recv(1000):
                    peer.sendall(data)

        def accept() -> None:
            peer, _ = listener.accept()
            threading.Thread(target=talk, args=(peer,), daemon=True).start()

        self._keep(listener, accept)

    def serve_udp(self, netns: Path, port: int, answer: bytes) -> None:
        def work() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind(("0.0.0.0", port))
            return made

        server = namespaces.enter(netns, work)
        self._keep(server, lambda: server.sendto(answer, server.recvfrom(1000)[1]))

    def _keep(self, server: socket.socket, serve_one: Callable[[], object]) -> None:
        """Serve until the test ends. The socket is closed after its thread: a number that is free may be the next one's."""
        server.settimeout(0.1)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    serve_one()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def close() -> None:
            ended.set()
            thread.join()
            server.close()

        self.closers.append(close)

    def ask(self, host: str, port: int, *, source: Path | None = None, timeout: float = 1.0) -> bytes | None:
        """What a server says to a client in ``source`` (None: this machine); None when nobody answers."""

        def work() -> bytes | None:
            try:
                with socket.create_connection((host, port), timeout) as peer:
                    return peer.recv(100)
            except OSError:
                return None

        return namespaces.enter(source, work) if source else work()

    def resolve(self, name: str, server: str, *, source: Path) -> str | None:
        """The address that a name server gives for ``name``; None for none."""
        words = b"".join(bytes([len(word)]) + word.encode() for word in name.split("."))
        question = b"\0\1\1\0\0\1\0\0\0\0\0\0" + words + b"\0\0\1\0\1"

        def work() -> str | None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(2)
                client.sendto(question, (server, 53))
                try:
                    answer = client.recv(1000)
                except OSError:
                    return None
            return socket.inet_ntoa(answer[-4:]) if answer[7] else None

        return namespaces.enter(source, work)

    def kernel(self) -> list[str]:
        """Everything of any root that stands in the kernel of this machine."""
        links = [name for _, name in socket.if_nameindex() if name.startswith("bp")]
        tables = [entry["table"]["name"] for entry in nft.query("list tables")]
        rules = [line for line in run("nft", "list", "ruleset").splitlines() if "bayplan-" in line]
        names = []
        for root in self.roots:
            folder = root.run_dir / "net" / "ns"
            names += [f"netns {path.name}" for path in folder.iterdir()] if folder.exists() else []
        return links + [name for name in tables if name.startswith("bayplan-")] + rules + names + self.name_servers()

    def name_servers(self) -> list[str]:
        out = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    command = (folder / "cmdline").read_bytes()
                except OSError:
                    continue
                if os.fsencode(self.run) in command and b"aardvark" in command:
                    out.append(f"aardvark-dns {folder.name}")
        return out

    def settled(self, timeout: float = 5.0) -> list[str]:
        """What still stands after the kernel had time to free what it frees by itself."""
        end = time.monotonic() + timeout
        while (left := self.kernel()) and time.monotonic() < end:
            time.sleep(0.02)
        return left


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout


def setting(name: str, value: str) -> None:
    namespaces.write_setting(name, value)


@pytest.fixture(name="machine")
def _machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with eth0 192.0.2.2/24 and a default route by 192.0.2.1, which is another host."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    other = tmp_path / "other"
    assert _libc.unshare(_NEWNET) == 0, os.strerror(ctypes.get_errno())
    # On tmpfs, as the real one is.
    made = Machine(tmp_path, Path(tempfile.mkdtemp(prefix="bayplan-test-", dir="/run")), other)
    try:
        namespaces.create(other)
        namespaces.enter(other, lambda: run("ip", "link", "set", "lo", "up"))
        run("ip", "link", "set", "lo", "up")
        inside = ["nsenter", f"--net={other}", "ip"]
        run("ip", "link", "add", "eth0", "mtu", "1400", "type", "veth", "peer", "name", "far0", "mtu", "1400")
        descriptor = os.open(other, os.O_RDONLY)
        run("ip", "link", "set", "far0", "netns", f"/proc/{os.getpid()}/fd/{descriptor}")
        os.close(descriptor)
        run(*inside, "link", "set", "far0", "up")
        run(*inside, "addr", "add", f"{OTHER}/24", "dev", "far0")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "addr", "add", f"{MACHINE}/24", "dev", "eth0")
        run("ip", "route", "add", "default", "via", OTHER)
        yield made
        for close in made.closers:
            close()
        for root in made.roots:
            Networks(root).reconcile([])
        assert made.settled() == []
    finally:
        for close in made.closers:
            close()
        namespaces.remove(other)
        shutil.rmtree(made.run, ignore_errors=True)
        assert _libc.setns(home, _NEWNET) == 0
        os.close(home)


@pytest.mark.root
def test_a_test_has_a_machine_of_its_own_that_sees_another_host(machine: Machine) -> None:
    machine.serve(machine.other, 80, b"far")
    assert machine.ask(OTHER, 80) == b"far"
    assert sorted(name for _, name in socket.if_nameindex()) == ["eth0", "lo"]
    assert machine.kernel() == []
