"""Answers that are given again: the same bytes, and only as long as nothing that they depend on has changed."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from registry_processes import image, serving

from bayplan.oci.root import Root
from bayplan.registry.access import tokens
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.audit.trail import files
from bayplan.registry.exchange import Access
from bayplan.registry.registry import Registry
from bayplan.registry.server import TRAIL, Settings

_MOVE = """
import sys
from pathlib import Path
from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.registry.registry import Registry
registry = Registry(Root.at(Path(sys.argv[1])))
registry.push_local("app", "one", Digest.parse(sys.argv[2]))
"""


class Place:
    """A registry with two images, one of them tagged, and a client with a login."""

    def __init__(self, root: Root, where: str, log: list[Access]) -> None:
        self.root = root
        self.registry = Registry(root)
        self.log = log
        self.accounts = Accounts(root)
        self.host, _, port = where.partition(":")
        self.port = int(port)
        self.line = http.client.HTTPConnection(self.host, self.port, timeout=20)
        account = self.accounts.load()
        password, _ = tokens.issue(account, account.root_key.id, time.time())
        self.login = {"Authorization": "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()}

    def get(self, target: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        self.line.request(method, target, headers={**self.login, **headers})
        answer = self.line.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders() if name.lower() != "date"}
        return answer.status, found, answer.read()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = Root.at(tmp_path / "root").ensure()
    registry = Registry(root)
    registry.create_repository("app")
    registry.push_local("app", "one", image(registry.store, [b"one"]))
    registry.close()
    log: list[Access] = []
    with serving(root, Settings(listen="127.0.0.1:0"), log) as where:
        found = Place(root, where, log)
        with contextlib.closing(found.line), contextlib.closing(found.registry):
            yield found


def test_an_answer_that_is_given_again_is_the_same(place: Place) -> None:
    digest = place.registry.resolve("app", "one").digest
    for target in ("/v2/app/manifests/one", f"/v2/app/manifests/{digest}"):
        answers = [place.get(target) for _ in range(5)]
        assert answers == [answers[0]] * 5
        assert answers[0][0] == 200
        heads = [place.get(target, "HEAD") for _ in range(5)]
        assert heads == [(200, answers[0][1], b"")] * 5


def test_what_another_process_writes_is_seen_with_the_next_request(place: Place) -> None:
    digests = [image(place.registry.store, [data]) for data in (b"two", b"three")]
    for _ in range(3):
        place.get("/v2/app/manifests/one")
    for digest in digests:
        argv = [sys.executable, "-c", _MOVE, str(place.root.path), str(digest)]
        subprocess.run(argv, check=True, timeout=60)
        assert place.get("/v2/app/manifests/one")[1]["docker-content-digest"] == digest
    place.registry.delete_tag("app", "one")
    assert place.get("/v2/app/manifests/one")[0] == 404


def test_a_caller_gets_nothing_of_another_ones(place: Place) -> None:
    for _ in range(3):
        assert place.get("/v2/app/manifests/one")[0] == 200
    for shown in ("", "Basic QVdTOng=", place.login["Authorization"][:-4]):
        assert place.get("/v2/app/manifests/one", Authorization=shown)[0] == 401


def test_a_key_that_is_removed_opens_nothing_any_more(place: Place) -> None:
    for _ in range(3):
        assert place.get("/v2/app/manifests/one")[0] == 200
    first = place.accounts.load().root_key.id
    place.accounts.add_key("root")
    place.accounts.remove_key(first)
    assert place.get("/v2/app/manifests/one")[0] == 401


def test_what_a_request_asks_for_besides_is_not_lost(place: Place) -> None:
    for _ in range(3):
        status, headers, _ = place.get("/v2/app/manifests/one")
    assert status == 200
    assert place.get("/v2/app/manifests/one", **{"If-None-Match": headers["etag"]})[0] == 304
    assert place.get("/v2/app/manifests/one?link=x")[0] == 200
    place.line.request("GET", "/v2/app/manifests/one", headers={**place.login, "Connection": "close"})
    answer = place.line.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "close")
    assert len(answer.read()) > 100


def test_each_one_is_audited_and_logged(place: Place) -> None:
    for _ in range(20):
        assert place.get("/v2/app/manifests/one", **{"User-Agent": 'a "client"'})[0] == 200
    deadline = time.monotonic() + 10
    records: list[dict[str, object]] = []
    while len(records) < 20 and time.monotonic() < deadline:
        lines = [line for file in files(place.root.path / TRAIL) for line in file.read_text().splitlines()]
        records = [record for record in map(json.loads, lines) if record["eventName"] == "BatchGetImage"]
        time.sleep(0.02)
    assert len(records) == 20
    assert len({record["eventID"] for record in records} | {record["requestID"] for record in records}) == 40
    same = [{k: v for k, v in record.items() if k not in ("eventID", "requestID", "eventTime")} for record in records]
    assert same == [same[0]] * 20
    assert same[0]["userAgent"] == 'a "client"'
    assert len(place.log) == 20
    assert {(one.method, one.target, one.status, one.agent) for one in place.log} == {
        ("GET", "/v2/app/manifests/one", 200, 'a "client"')
    }
    assert {one.id for one in place.log} == {record["requestID"] for record in records}


def test_pipelined_requests_are_answered_in_their_order(place: Place) -> None:
    for _ in range(3):
        _, _, body = place.get("/v2/app/manifests/one")
    login = f"Authorization: {place.login['Authorization']}\r\nHost: x\r\n\r\n"
    asked = f"GET /v2/app/tags/list HTTP/1.1\r\n{login}GET /v2/app/manifests/one HTTP/1.1\r\n{login}" * 30
    with socket.create_connection((place.host, place.port), timeout=20) as line:
        line.sendall(asked.encode() + b"GET /v2/ HTTP/1.1\r\nConnection: close\r\n" + login.encode())
        said = b""
        while part := line.recv(65536):
            said += part
    bodies = [part.partition(b"\r\n\r\n")[2] for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b'{"name":"app","tags":["one"]}', body] * 30 + [b"{}"]
