"""The distribution API over plain sockets: codes, ranges, uploads in every form, and peers that misbehave."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bayplan.errors import BayplanError
from bayplan.oci.descriptor import MediaType
from bayplan.oci.root import Root
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.connection import Limits
from bayplan.registry.exchange import Access
from bayplan.registry.server import Settings, address, serve


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["errors"][0]["code"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Peer:
    """One registry, asked over fresh connections."""

    def __init__(self, root: Root, **settings: Any) -> None:
        self.log: list[Access] = []
        self.failures: list[Exception] = []
        self.stop = threading.Event()
        self.port = 0
        up = threading.Event()

        def ready(_: str, port: int) -> None:
            self.port = port
            up.set()

        self.thread = threading.Thread(
            target=serve,
            args=(root,),
            kwargs={
                "settings": Settings(**{"listen": "127.0.0.1:0", "anonymous": Anonymous.PUSH, **settings}),
                "log": self.log.append,
                "failed": lambda _, error: self.failures.append(error),
                "ready": ready,
                "stop": self.stop,
            },
        )
        self.thread.start()
        assert up.wait(20)

    def __call__(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> Answer:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            line.request(method, path, body, sent, encode_chunked=body is not None and not isinstance(body, bytes))
            raw = line.getresponse()
            return Answer(raw.status, {name.lower(): value for name, value in raw.getheaders()}, raw.read())
        finally:
            line.close()

    def raw(self, data: bytes, *, wait: float = 10.0) -> bytes:
        """What comes back for bytes that need not be HTTP, until the server ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as line:
            line.sendall(data)
            got = b""
            try:
                while piece := line.recv(65536):
                    got += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return got

    def close(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.failures, self.failures

    def blob(self, data: bytes, name: str = "team/app") -> str:
        digest = sha(data)
        assert self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data).status == 201
        return digest

    def image(self, name: str = "team/app", tag: str = "1", data: bytes = b"layer") -> tuple[str, bytes]:
        config = self.blob(b"{}", name)
        layer = self.blob(data, name)
        content = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MediaType.MANIFEST,
                "config": {"mediaType": MediaType.CONFIG, "digest": config, "size": 2},
                "layers": [{"mediaType": MediaType.LAYER, "digest": layer, "size": len(data)}],
            }
        ).encode()
        answer = self("PUT", f"/v2/{name}/manifests/{tag}", content, Content_Type=MediaType.MANIFEST)
        assert answer.status == 201, answer.body
        return answer.headers["docker-content-digest"], content


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    made = Peer(Root.at(tmp_path_factory.mktemp("root")).ensure())
    yield made
    made.close()


# -- the API ---------------------------------------------------------------------------------------------------------


def test_the_version_endpoint_answers(peer: Peer) -> None:
    answer = peer("GET", "/v2/")
    assert (answer.status, answer.body) == (200, b"{}")
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/no/such/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/no/such/manifests/1", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/team/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/team/app/manifests/{sha(b'none')}", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/team/app/blobs/{sha(b'none')}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/team/app/blobs/sha256:zz", 400, "DIGEST_INVALID"),
        ("GET", "/v2/team/app/blobs/md5:00", 400, "DIGEST_INVALID"),
        ("GET", "/v2/UPPER/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/team/app/manifests/.bad", 400, "TAG_INVALID"),
        ("GET", "/v2/team/app/tags/list?n=x", 400, "UNSUPPORTED"),
        ("DELETE", "/v2/team/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", f"/v2/team/app/blobs/{sha(b'none')}", 404, "BLOB_UNKNOWN"),
        ("PATCH", "/v2/team/app/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", f"/v2/team/app/blobs/uploads/none?digest={sha(b'')}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("POST", "/v2/team/app/blobs/uploads/?digest=sha256:zz", 400, "DIGEST_INVALID"),
        ("POST", "/v2/team/app/blobs/uploads/?digest-algorithm=md5", 400, "UNSUPPORTED"),
        ("PUT", "/v2/team/app/manifests/1", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/team/app/tags/list", 405, "UNSUPPORTED"),
        ("GET", "/v1/", 404, "NAME_INVALID"),
    ],
)
def test_what_is_wrong_has_the_specifications_code(peer: Peer, method: str, path: str, status: int, code: str) -> None:
    peer.image()
    answer = peer(method, path)
    assert (answer.status, answer.code) == (status, code)


def test_a_manifest_is_served_with_type_digest_and_length(peer: Peer) -> None:
    digest, content = peer.image("team/manifest")
    for reference in ("1", digest):
        for method in ("GET", "HEAD"):
            answer = peer(method, f"/v2/team/manifest/manifests/{reference}")
            assert answer.status == 200
            assert answer.headers["content-type"] == MediaType.MANIFEST
            assert answer.headers["docker-content-digest"] == digest
            assert answer.headers["content-length"] == str(len(content))
            assert answer.body == (content if method == "GET" else b"")
    assert peer("GET", "/v2/team/manifest/manifests/1", If_None_Match=f'"{digest}"').status == 304


def test_a_manifest_above_four_mebibytes_is_refused(peer: Peer) -> None:
    peer.image()
    answer = peer("PUT", "/v2/team/app/manifests/big", b" " * (4 << 20) + b"{}", Content_Type=MediaType.MANIFEST)
    assert (answer.status, answer.code) == (413, "MANIFEST_INVALID")


def test_a_manifest_without_its_blobs_is_refused(peer: Peer) -> None:
    _, content = peer.image("team/one", data=b"only in one")
    answer = peer("PUT", "/v2/team/two/manifests/1", content, Content_Type=MediaType.MANIFEST)
    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_tags_are_listed_in_pages(peer: Peer) -> None:
    for tag in ("a", "b", "c"):
        peer.image("team/pages", tag)
    first = peer("GET", "/v2/team/pages/tags/list?n=2")
    assert first.json == {"name": "team/pages", "tags": ["a", "b"]}
    assert first.headers["link"] == '</v2/team/pages/tags/list?n=2&last=b>; rel="next"'
    assert peer("GET", "/v2/team/pages/tags/list?n=2&last=b").json["tags"] == ["c"]
    assert peer("GET", "/v2/team/pages/tags/list?n=0").json["tags"] == []
    assert "team/pages" in peer("GET", "/v2/_catalog").json["repositories"]
    assert "rel" in peer("GET", "/v2/_catalog?n=1").headers["link"]


def test_a_digest_is_pushed_with_several_tags_at_once(peer: Peer) -> None:
    digest, content = peer.image("team/many")
    path = f"/v2/team/many/manifests/{digest}"
    answer = peer("PUT", f"{path}?tag=x&tag=y", content, Content_Type=MediaType.MANIFEST)
    assert answer.status == 201
    assert peer("GET", "/v2/team/many/tags/list").json["tags"] == ["1", "x", "y"]
    many = "&".join(f"tag=t{number}" for number in range(101))
    assert peer("PUT", f"{path}?{many}", content, Content_Type=MediaType.MANIFEST).status == 414


@pytest.mark.parametrize(
    ("asked", "status", "expected"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=5-", 206, slice(5, None)),
        ("bytes=-3", 206, slice(-3, None)),
        ("bytes=-99", 206, slice(None)),
        ("bytes=8-99", 206, slice(8, None)),
        ("bytes=10-", 416, None),
        ("bytes=5-2", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=a-b", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=0-1,3-4", 200, slice(None)),
    ],
)
def test_ranges_of_a_blob(peer: Peer, asked: str, status: int, expected: slice | None) -> None:
    data = b"0123456789"
    answer = peer("GET", f"/v2/team/app/blobs/{peer.blob(data)}", Range=asked)
    assert answer.status == status
    if expected is not None:
        assert answer.body == data[expected]


# -- uploads ---------------------------------------------------------------------------------------------------------


def begin(peer: Peer, name: str = "team/up", query: str = "") -> str:
    answer = peer("POST", f"/v2/{name}/blobs/uploads/{query}")
    assert answer.status == 202
    return answer.headers["location"]


def test_an_upload_in_one_put(peer: Peer) -> None:
    data = random.Random(1).randbytes(3_000_001)
    where = begin(peer)
    answer = peer("PUT", f"{where}?digest={sha(data)}", data)
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, sha(data))
    assert peer("GET", answer.headers["location"]).body == data


def test_an_upload_streamed_in_chunks_of_http(peer: Peer) -> None:
    pieces = [random.Random(2).randbytes(size) for size in (1, 100_000, 7, 2_000_000)]
    where = begin(peer)
    answer = peer("PATCH", where, iter(pieces), Transfer_Encoding="chunked")
    assert (answer.status, answer.headers["range"]) == (202, f"0-{sum(map(len, pieces)) - 1}")
    assert peer("PUT", f"{where}?digest={sha(b''.join(pieces))}").status == 201


def test_an_upload_in_chunks_that_is_asked_where_it_stands_and_resumed(peer: Peer) -> None:
    data = b"0123456789"
    where = begin(peer)
    assert peer("PATCH", where, data[:4], Content_Range="0-3").status == 202
    state = peer("GET", where)
    assert (state.status, state.headers["range"]) == (204, "0-3")
    for wrong in ("0-3", "5-9", "4-8", "x"):
        assert peer("PATCH", where, data[4:], Content_Range=wrong).status == 416
    refused = peer("PUT", f"{where}?digest={sha(data)}", data[5:], Content_Range="5-9")
    assert (refused.status, refused.headers["range"]) == (416, "0-3")
    assert peer("PUT", f"{where}?digest={sha(data)}", data[4:], Content_Range="4-9").status == 201
    assert peer("GET", where).code == "BLOB_UPLOAD_UNKNOWN"


def test_a_cancelled_upload_is_gone(peer: Peer) -> None:
    where = begin(peer)
    assert peer("DELETE", where).status == 204
    assert peer("PATCH", where, b"x").status == 404


def test_an_upload_with_another_digest_leaves_nothing(peer: Peer) -> None:
    where = begin(peer)
    answer = peer("PUT", f"{where}?digest={sha(b'other')}", b"data")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert peer("HEAD", f"/v2/team/up/blobs/{sha(b'data')}").status == 404


@pytest.mark.parametrize("query", ["", "?digest-algorithm=sha512"])
def test_sha512_is_taken_whether_or_not_it_was_announced(peer: Peer, query: str) -> None:
    digest = "sha512:" + hashlib.sha512(b"five-twelve").hexdigest()
    where = begin(peer, query=query)
    assert peer("PATCH", where, b"five-").status == 202
    assert peer("PUT", f"{where}?digest={digest}", b"twelve").status == 201
    assert peer("GET", f"/v2/team/up/blobs/{digest}").body == b"five-twelve"


def test_an_empty_blob_is_a_blob(peer: Peer) -> None:
    assert peer("GET", f"/v2/team/app/blobs/{peer.blob(b'')}").headers["content-length"] == "0"


def test_a_blob_is_mounted_from_a_repository_or_from_anywhere_or_is_uploaded(peer: Peer) -> None:
    digest = peer.blob(b"to be mounted", "team/source")
    for name, query in (("m/one", "&from=team/source"), ("m/two", "")):
        answer = peer("POST", f"/v2/{name}/blobs/uploads/?mount={digest}{query}")
        assert (answer.status, answer.headers["location"]) == (201, f"/v2/{name}/blobs/{digest}")
        assert peer("GET", f"/v2/{name}/blobs/{digest}").body == b"to be mounted"
    assert peer("POST", f"/v2/m/three/blobs/uploads/?mount={digest}&from=no/such").status == 202
    assert peer("POST", f"/v2/m/three/blobs/uploads/?mount={sha(b'none')}").status == 202


def test_a_broken_chunk_can_be_resumed_on_another_connection(peer: Peer) -> None:
    where = begin(peer)
    with socket.create_connection(("127.0.0.1", peer.port)) as line:
        line.sendall(f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b"a" * 40)
    deadline = time.monotonic() + 5
    while peer("GET", where).headers.get("range") != "0-39" and time.monotonic() < deadline:
        time.sleep(0.02)
    answer = peer("PUT", f"{where}?digest={sha(b'a' * 100)}", b"a" * 60, Content_Range="40-99")
    assert answer.status == 201


# -- HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 not http\r\n\r\n", b"400"),
        (b"GET /v2/ HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(200)) + b"\r\n", b"431"),
        (b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_http_is_refused_and_closed(peer: Peer, data: bytes, status: bytes) -> None:
    answer = peer.raw(data)
    assert answer.startswith(b"HTTP/1.1 " + status), answer[:100]
    assert b"Connection: close" in answer


def test_requests_that_come_at_once_are_answered_in_order(peer: Peer) -> None:
    digest = peer.blob(b"p" * 10)
    data = (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
        b"POST /v2/team/up/blobs/uploads/?digest=" + sha(b"piped").encode() + b" HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 5\r\n\r\npiped"
        b"GET /v2/team/app/blobs/" + digest.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /v2/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    statuses = [line.split()[1] for line in peer.raw(data).split(b"\r\n") if b"HTTP/1.1 " in line]
    assert statuses == [b"200", b"201", b"200", b"404"]


def test_a_connection_serves_again_and_again(peer: Peer) -> None:
    line = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
    line.connect()
    first = line.sock
    for _ in range(5):
        line.request("GET", "/v2/")
        assert line.getresponse().read() == b"{}"
    assert line.sock is first
    line.close()


def test_a_client_that_waits_for_continue_is_told_to_go_on(peer: Peer) -> None:
    with socket.create_connection(("127.0.0.1", peer.port), timeout=10) as line:
        head = f"POST /v2/team/up/blobs/uploads/?digest={sha(b'go')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        line.sendall(f"{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 100")
        line.sendall(b"go")
        assert line.recv(1000).startswith(b"HTTP/1.1 201")


def test_a_refused_push_is_told_why_while_the_client_still_sends(peer: Peer) -> None:
    answer = peer("PUT", "/v2/team/app/blobs/uploads/none?digest=" + sha(b""), b"x" * 5_000_000)
    assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_web_page_may_look_but_not_push(peer: Peer) -> None:
    answer = peer("POST", "/v2/team/app/blobs/uploads/", Origin="http://evil.example")
    assert (answer.status, answer.code) == (403, "DENIED")


def test_noise_is_answered_or_closed_and_the_server_goes_on(peer: Peer) -> None:
    noise = random.Random(7)
    words = [b"GET", b"PUT", b"POST", b"/v2/", b"a/b", b"blobs/uploads/", b"manifests/", b"?n=", b"%00", b"%2e%2e/", b" ",
             b"HTTP/1.1", b"\r\n", b"Host: x", b"Range: bytes=", b"Content-Length: ", b"9" * 30, b"-1", b"\r\n\r\n",
             b"Transfer-Encoding: chunked", b"0\r\n\r\n", b"sha256:", b"\xff\xfe"]  # fmt: skip
    for _ in range(150):
        data = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" if noise.random() < 0.5 else b""
        data += b"".join(noise.choice(words) for _ in range(noise.randrange(1, 30)))
        with socket.create_connection(("127.0.0.1", peer.port), timeout=10) as line:
            line.sendall(data)
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass
    assert peer("GET", "/v2/").status == 200


# -- limits of time, and who may do what -----------------------------------------------------------------------------


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Peer]:
    limits = Limits(head_seconds=0.2, idle_seconds=0.2, body_seconds=0.3, connections=3)
    made = Peer(Root.at(tmp_path).ensure(), limits=limits)
    yield made
    made.close()


def test_a_client_that_says_nothing_or_stops_halfway_is_not_waited_for(hasty: Peer) -> None:
    began = time.monotonic()
    assert hasty.raw(b"") == b""
    assert b" 408 " in hasty.raw(b"GET /v2/ HTTP/1.1\r\nHo")
    assert b" 408 " in hasty.raw(b"POST /v2/a/blobs/uploads/?digest=" + sha(b"x").encode() +
                                 b" HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")  # fmt: skip
    assert hasty.raw(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").count(b"HTTP/1.1") == 1
    assert time.monotonic() - began < 5


def test_more_connections_than_allowed_are_turned_away(hasty: Peer) -> None:
    lines = [socket.create_connection(("127.0.0.1", hasty.port)) for _ in range(3)]
    time.sleep(0.05)
    assert hasty.raw(b"").startswith(b"HTTP/1.1 503")
    for line in lines:
        line.close()


def test_a_registry_for_pulling_only_refuses_to_change(tmp_path: Path) -> None:
    made = Peer(Root.at(tmp_path).ensure(), anonymous=Anonymous.PULL)
    try:
        assert made("GET", "/v2/").status == 200
        answer = made("POST", "/v2/team/app/blobs/uploads/")
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith('Basic realm="http://127.0.0.1:')
        assert made("GET", "/v2/team/app/tags/list").code == "NAME_UNKNOWN"
    finally:
        made.close()


def test_each_request_leaves_a_line(peer: Peer) -> None:
    peer("GET", "/v2/team/app/tags/list", User_Agent="me")
    deadline = time.monotonic() + 5
    while not any(line.agent == "me" for line in peer.log) and time.monotonic() < deadline:
        time.sleep(0.01)
    (line,) = [line for line in peer.log if line.agent == "me"]
    assert (line.method, line.target, line.status) == ("GET", "/v2/team/app/tags/list", 200)
    assert "GET /v2/team/app/tags/list 200" in str(line)


@pytest.mark.parametrize("listen", [":5000", "127.0.0.1", "http://127.0.0.1:5000"])
def test_what_is_no_address_is_not_listened_on(tmp_path: Path, listen: str) -> None:
    with pytest.raises(BayplanError) as caught:
        serve(Root.at(tmp_path / "root"), listen)
    assert caught.value.code == "bad-listen-address"
    assert not (tmp_path / "root").exists()


def test_nobody_gets_anything_where_nothing_is_given_to_everybody(tmp_path: Path) -> None:
    made = Peer(Root.at(tmp_path).ensure(), anonymous=Anonymous.NONE)
    try:
        for method, path in (("GET", "/v2/"), ("GET", "/v2/_catalog"), ("GET", "/v2/team/app/tags/list")):
            assert made(method, path).status == 401
        assert made("GET", "/v2/", Authorization="Bearer abc").status == 401
        assert made("GET", "/v2/", Authorization="Basic QVdTOm5vdGhpbmc=").status == 401
    finally:
        made.close()


def test_addresses_to_listen_on() -> None:
    assert address("127.0.0.1:5000") == ("127.0.0.1", 5000)
    assert address("[::1]:0") == ("::1", 0)
    for wrong in ("127.0.0.1", "", "a/b:1", "127.0.0.1:99999"):
        with pytest.raises(BayplanError):
            address(wrong)


def test_a_port_that_is_taken_is_said_so(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(BayplanError) as caught:
        serve(Root.at(tmp_path), f"127.0.0.1:{peer.port}")
    assert caught.value.code == "port-taken"
