"""A push, cut off by a loss of power after each of its calls: what was acknowledged is there, and no tag dangles.

The server runs under strace; each state of the disk that its fsyncs permit, the most and the least, is put together and opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from disk_model import CALLS, Disk, calls
from registry_processes import image

from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry
from bayplan.registry.storage.keys import add_key

_LOCATION = re.compile(rb"\r\n[Ll]ocation: (/v2/\S+)\r\n")
SECONDS = 60


class Recorded:
    """``bayplan registry serve`` under strace."""

    def __init__(self, folder: Path, sealed: bool) -> None:
        self.root = folder / "root"
        self.log = folder / "strace"
        self.root.mkdir()
        configuration: dict[str, object] = {"listen": "127.0.0.1:0", "anonymous": "push", "audit": {"enabled": False}}
        if sealed:
            add_key(folder / "keys", "first")
            configuration["storage"] = {"encryption": {"key_file": str(folder / "keys")}}
        (folder / "registry.json").write_text(json.dumps(configuration))
        serve = [
            "registry",
            "serve",
            "--root",
            str(self.root),
            "--config",
            str(folder / "registry.json"),
            "--json",
            "-q",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bayplan.cli.main", *serve], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = str(json.loads(self.process.stdout.readline())["address"])

    def record(self) -> None:
        """Begin to record; what lies there until then is durable."""
        command = ["strace", "-f", "-xx", "-s", "4000000", "-e", f"trace={CALLS}", "-o", str(self.log), "-p"]
        self.tracer = subprocess.Popen([*command, str(self.process.pid)], stderr=subprocess.PIPE, text=True)
        assert self.tracer.stderr is not None
        assert "attached" in self.tracer.stderr.readline()
        time.sleep(0.3)

    def stop(self) -> None:
        self.tracer.send_signal(signal.SIGINT)
        self.tracer.wait(SECONDS)
        self.process.terminate()
        assert self.process.wait(SECONDS) == 0


def acknowledged(sent: list[bytes]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The blobs and the manifests (repository, digest) that answers have said are created."""
    blobs, manifests = set(), set()
    for answer in sent:
        if not answer.startswith(b"HTTP/1.1 201"):
            continue
        for location in _LOCATION.findall(answer):
            name, kind, digest = location.decode().removeprefix("/v2/").rsplit("/", 2)
            (manifests if kind == "manifests" else blobs).add((name, digest))
    return blobs, manifests


def check(root: Path, blobs: set[tuple[str, str]], manifests: set[tuple[str, str]]) -> None:
    """What was acknowledged is there and its own; every tag leads to an image that is whole."""
    registry = Registry(Root.at(root))

    def own(repository: str, digest: str) -> None:
        with registry.storage(repository).open(Digest.parse(digest)) as file:
            assert "sha256:" + hashlib.sha256(file.read()).hexdigest() == digest

    try:
        for repository, digest in blobs:
            registry.blob(repository, Digest.parse(digest))
            own(repository, digest)
        for repository, digest in manifests:
            registry.manifest(repository, digest)
        for repository_found in registry.list():
            for row in registry.manifests(repository_found.name):
                _, content = registry.manifest(repository_found.name, str(row.digest))
                document = json.loads(content)
                for entry in (document["config"], *document["layers"]):
                    own(repository_found.name, entry["digest"])
    finally:
        registry.close()


@pytest.mark.parametrize("sealed", [False, True])
def test_every_moment_of_a_push(tmp_path: Path, sealed: bool) -> None:
    server = Recorded(tmp_path, sealed)
    here = Store(Root.at(tmp_path / "here").ensure())
    with RegistryClient(environment={"HOME": str(tmp_path)}) as client:
        client.push(here, image(here, [b"before"]), ImageName(server.address, "app", "v0"))
        os.sync()
        disk = Disk(server.root)
        disk.attach(server.process.pid)
        server.record()
        for number in range(10 if os.environ.get("BAYPLAN_SOAK") else 1):
            digest = image(here, [os.urandom(120_000), b"small" * (number + 1)], tag=str(number))
            client.push(here, digest, ImageName(server.address, "app", f"v{number + 1}"))
        client.push(here, digest, ImageName(server.address, "other", "v1"))
    server.stop()
    states = 0
    seen: set[int] = set()
    for call in calls(server.log):
        if not disk.apply(call) and not disk.sent:
            continue
        blobs, manifests = acknowledged(disk.sent)
        for state in (disk.all(), disk.least()):
            key = hash((frozenset((path, hash(data)) for path, data in state.items()), len(manifests), len(blobs)))
            if key in seen:
                continue
            seen.add(key)
            target = tmp_path / f"state{states}"
            disk.make(state, target)
            try:
                check(target, blobs, manifests)
            except BaseException as error:
                error.add_note(f"after {call.name}({call.arguments[:200]}) = {call.result}")
                raise
            states += 1
    blobs, manifests = acknowledged(disk.sent)
    assert len(manifests) >= 2, "the recording saw the answers"
    assert len(blobs) >= 3
    assert states > 60, states
    assert {path for path in disk.all() if "/blobs/" in path} <= set(disk.least()), "at the end all blobs are durable"
