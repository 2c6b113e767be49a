"""Attacks three promises of the registry: what was acknowledged is there, a tag never dangles, an orderly end is one.

Ten kills, two hundred with ``BAYPLAN_SOAK``.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from registry_processes import ServerProcess, image

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry


def whole(registry: Registry) -> dict[tuple[str, str], Digest]:
    """Every tag with its digest, after everything below it has been read and verified."""
    found = {}
    for repository in registry.list():
        for tag in registry.tags(repository.name):
            row, content = registry.manifest(repository.name, tag.name)
            manifest = json.loads(content)
            for entry in (manifest["config"], *manifest["layers"]):
                with registry.store.open(Digest.parse(entry["digest"])) as file:
                    assert "sha256:" + hashlib.sha256(file.read()).hexdigest() == entry["digest"]
                assert registry.blob(repository.name, Digest.parse(entry["digest"])) == entry["size"]
            found[repository.name, tag.name] = row.digest
    return found


@pytest.mark.parametrize("seed", range(20 if os.environ.get("BAYPLAN_SOAK") else 1))
def test_a_server_killed_during_pushes_keeps_what_it_acknowledged_and_no_dangling_tag(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    here = Store(Root.at(tmp_path / "here").ensure())
    shared = os.urandom(200_000)
    server = ServerProcess(tmp_path / "root")
    acknowledged: dict[tuple[str, str], Digest] = {}
    for turn in range(10):
        where = server.start()
        ended = threading.Event()

        def push(worker: int, where: str = where, turn: int = turn, ended: threading.Event = ended) -> None:
            client = RegistryClient(attempts=1, timeout=10, environment={"HOME": str(tmp_path)})
            number = 0
            while not ended.is_set():
                digest = image(here, [shared, os.urandom(100_000)], tag=f"{turn}-{worker}-{number}")
                key = (f"team/app{worker % 2}", f"{turn}-{worker}-{number}")
                try:
                    client.push(here, digest, ImageName.parse(f"{where}/{key[0]}:{key[1]}"))
                except BayplanError:
                    break
                acknowledged[key] = digest
                number += 1
            client.close()

        threads = [threading.Thread(target=push, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.3, 1.0))
        server.kill()
        ended.set()
        for thread in threads:
            thread.join(60)
        registry = Registry(Root.at(server.root))
        there = whole(registry)
        assert acknowledged.items() <= there.items()
        registry.store.collect([registry.references])  # drafts of the dead are swept, nothing that counts is
        assert whole(registry) == there
        registry.close()
    assert acknowledged
    server.start()
    last = max(acknowledged)
    with RegistryClient(environment={"HOME": str(tmp_path)}) as client:
        elsewhere = Store(Root.at(tmp_path / "elsewhere").ensure())
        name = ImageName.parse(f"127.0.0.1:{server.port}/{last[0]}:{last[1]}")
        assert client.pull(name, elsewhere) == acknowledged[last]
    assert server.stop() == 0


def test_a_server_that_is_told_to_end_answers_what_is_under_way(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "root")
    server.start()
    data = os.urandom(2_000_000)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    idle = socket.create_connection(("127.0.0.1", server.port))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        head = f"POST /v2/team/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        line.sendall(head.encode() + data[:1_000_000])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=2)
        line.sendall(data[1_000_000:])
        answer = line.recv(4096)
    assert answer.startswith(b"HTTP/1.1 201")
    assert b"Connection: close" in answer
    assert server.stop() == 0
    idle.close()
    assert Registry(Root.at(server.root)).blob("team/app", Digest.parse(digest)) == len(data)


def test_pushes_beside_collections_lose_nothing(tmp_path: Path) -> None:
    root = Root.at(tmp_path / "root").ensure()
    registry = Registry(root)
    registry.create_repository("app")
    ended = threading.Event()
    failures: list[BaseException] = []

    def collect() -> None:
        own = Registry(root, grace=0)
        try:
            while not ended.is_set():
                own.expire()
                own.store.collect([own.references])
        except BaseException as error:
            failures.append(error)
            raise

    collector = threading.Thread(target=collect)
    collector.start()
    pushed = 0
    shared = os.urandom(1000)
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with registry.store.lease():
                digest = image(registry.store, [shared, os.urandom(1000)], tag=str(pushed))
                registry.push_local("app", str(pushed), digest)
            if pushed >= 5:
                registry.delete_manifest("app", registry.resolve("app", str(pushed - 5)).digest)
            pushed += 1
    finally:
        ended.set()
        collector.join(60)
    assert not failures
    assert len(whole(registry)) == 5
    assert pushed > 20
