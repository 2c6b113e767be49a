"""Hostile requests at both faces of a served registry, from fixed seeds; calls of the ECR API are made from its model.

The law: an answer is well formed or the connection is closed; nothing hangs; no answer is of the server's failures (5xx, but 501 for
a transfer coding that nobody knows, as RFC 9112 6.1 has it); what lies in the store stays whole; and whoever comes next is served.
``BAYPLAN_SOAK`` makes it a million.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from hostile import Case, Ground, Hostile, well_formed
from registry_processes import ServerProcess, image, serving

from bayplan.oci.descriptor import MediaType
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry import contents
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry

SOAK = bool(os.environ.get("BAYPLAN_SOAK"))
REQUESTS = 1_000_000 if SOAK else 10_000
THREADS = 2
TURN = 500  # requests between two looks at whether all is well
SECONDS = 20.0  # that an answer may take

pytestmark = pytest.mark.timeout(4 * 3600 if SOAK else 240)

EMPTY = {"digest": str(Digest.of(b"")), "size": 0}
_UPLOAD = re.compile(rb"HTTP/1\.1 202 .*?\r\nLocation: (/v2/\S+/blobs/uploads/\S+)\r\n", re.DOTALL)


def ask(port: int, case: Case) -> bytes:
    """What comes back until the server closes. A connection that is reset is closed; one that stands still is a failure."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as line:
        try:
            line.sendall(case.data)
            line.shutdown(socket.SHUT_WR)
            while part := line.recv(1 << 18):
                said += part
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):
                raise
            return b""  # what had come of an answer is not worth looking at: the kernel may have thrown the rest away
    return said


def judge(case: Case, said: bytes) -> None:
    """Raises AssertionError where the answers break the law."""
    try:
        statuses = well_formed(said, case.data)
    except ValueError as error:
        raise AssertionError(f"{error}\nto {case.kind}: {case.data[:1000]!r}") from None
    allowed = {501} if re.search(rb"(?i)transfer-encoding", case.data) else set()
    failed = {status for status in statuses if status >= 500} - allowed
    assert not failed, f"{said[:1000]!r}\nto {case.kind}: {case.data[:1500]!r}"


def serves(server: ServerProcess, here: Store, home: Path, number: int) -> None:
    """A push, and a pull of it, by a client that means well."""
    with RegistryClient(attempts=1, timeout=SECONDS, environment={"HOME": str(home)}) as client:
        name = ImageName.parse(f"127.0.0.1:{server.port}/sane/app:v{number}")
        digest = image(here, [b"layer", os.urandom(100)], tag=str(number))
        client.push(here, digest, name)
        assert client.pull(name, Store(Root.at(home / f"pulled{number}").ensure())) == digest


def whole(registry: Registry) -> int:
    """How many manifests there are; each one's blobs are in its repository, and all bytes are their own."""
    count = 0
    for repository in registry.list():
        for row in registry.manifests(repository.name):
            _, content = registry.manifest(repository.name, str(row.digest))
            assert Digest.of(content, row.digest.algorithm) == row.digest
            for blob in contents.read(content, row.media_type).blobs:
                assert registry.blob(repository.name, blob.digest) == blob.size
                with registry.store.open(blob.digest) as file:
                    assert len(file.read()) == blob.size
            count += 1
        for tag in registry.tags(repository.name):
            assert registry.resolve(repository.name, tag.digest).digest == tag.digest
    for digest, _ in registry.store.blobs():
        hashed = hashlib.new(digest.algorithm)
        with registry.store.open(digest) as file:
            hashed.update(file.read())
        assert hashed.hexdigest() == digest.hex
    return count


@pytest.mark.parametrize(
    ("target", "document"),
    [
        (
            "AmazonEC2ContainerRegistry_V20150921.DescribeImages",
            {"repositoryName": "a", "imageIds": [{"imageTag": "\ud800"}]},
        ),
        ("SpencerFrontendService.CreateRepository", {"repositoryName": "fuzz/a", "tags": [{}]}),
        (
            "",
            {
                "schemaVersion": 2,
                "mediaType": MediaType.MANIFEST,
                "config": {"mediaType": "\ud800", **EMPTY},
                "layers": [],
            },
        ),
    ],
)
def test_what_was_found_by_chance_stays_answered(tmp_path: Path, target: str, document: dict[str, object]) -> None:
    with serving(Root.at(tmp_path / "root").ensure()) as where:
        port = int(where.partition(":")[2])
        hostile = Hostile(0, Ground(Accounts(Root.at(tmp_path / "root")).load(), where))
        body = json.dumps(document).encode()
        if target:
            data = hostile.signed(target, body, "ecr" if target.startswith("A") else "ecr-public")
        else:
            head = f"PUT /v2/fuzz/a/manifests/one HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            data = head.encode() + body
        assert well_formed(ask(port, Case("found", data)), data) == [400]


def test_hostile_requests_are_answered_or_cut_off_and_harm_nothing(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "root")
    server.start()
    here = Store(Root.at(tmp_path / "here").ensure())
    account = Accounts(Root.at(server.root)).load()
    failures: list[BaseException] = []
    kinds: dict[str, int] = {}
    answered = 0

    def run(seed: int, count: int) -> None:
        nonlocal answered
        ground = Ground(account, f"127.0.0.1:{server.port}")
        hostile = Hostile(seed, ground)
        for number in range(count):
            if failures:
                return
            case = hostile.case()
            try:
                said = ask(server.port, case)
                judge(case, said)
            except Exception as error:  # noqa: BLE001  (raised below, by the thread that waits)
                error.add_note(f"seed {seed}, case {number}, {case.kind}: {case.data[:300]!r}")
                failures.append(error)
                return
            answered += bool(said)
            kinds[case.kind] = kinds.get(case.kind, 0) + 1
            ground.uploads += [one.decode("latin-1") for one in _UPLOAD.findall(said)]
            while len(ground.uploads) > 20:  # what is left alone lives for an hour
                given_up = f"DELETE {ground.uploads.pop(0)} HTTP/1.1\r\nHost: {ground.host}\r\n\r\n"
                judge(case, ask(server.port, Case("cancel", given_up.encode("latin-1"))))

    for turn in range(REQUESTS // (TURN * THREADS)):
        threads = [threading.Thread(target=run, args=(turn * THREADS + one, TURN)) for one in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert server.process.poll() is None, "the server is there"
        serves(server, here, tmp_path, turn)
    assert sum(kinds.values()) == REQUESTS
    assert len(kinds) == 11, kinds
    assert answered > REQUESTS * 0.9, "most were looked at"
    assert server.stop() == 0
    registry = Registry(Root.at(server.root))
    assert whole(registry) > REQUESTS // 1000, "some of what was sent was taken"
    registry.close()
