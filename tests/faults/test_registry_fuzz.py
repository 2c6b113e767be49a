"""Requests that nobody sends in earnest: whatever comes, the server answers or closes, and goes on serving.

Ten thousand of them, a million with ``BAYPLAN_SOAK``. No answer may be a 5xx (but 501 and 505, which are the client's), none may take
long, nothing may be lost of what was there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from registry_processes import ServerProcess, image

from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.client import RegistryClient
from bayplan.registry.ecr import shapes

COUNT = 1_000_000 if os.environ.get("BAYPLAN_SOAK") else 10_000
LONGEST = 15.0  # seconds of an answer
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAMES = [
    "app",
    "a/b",
    "A",
    "..",
    "a//b",
    "a" * 300,
    "%2e%2e/etc",
    "a\x00b",
    "ü",
    "_catalog",
    "app/manifests/x",
    "-",
    "a" * 255,
    "x/" * 120 + "x",
]
DIGESTS = [
    "sha256:" + "0" * 64,
    "sha256:" + "G" * 64,
    "sha512:" + "a" * 128,
    "sha1:da39",
    "sha256:",
    ":",
    "sha256:" + "0" * 63,
    "v1",
    "a" * 129,
    "%00",
    "..%2f..%2fetc%2fpasswd",
]
METHODS = (
    ["GET"] * 6
    + ["HEAD", "PUT", "POST", "PATCH", "DELETE"] * 2
    + ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get", "CONNECT"]
)
RANGES = [
    "bytes=0-0",
    "bytes=-1",
    "bytes=5-1",
    "bytes=0-",
    "bytes=0-1,3-4",
    "bytes=99999999999999999999-",
    "lines=1-2",
    "bytes=a-b",
    "0-5",
    "5-0",
    "-",
    "0-99999999999999999999",
]
VALUES = [
    "",
    "0",
    "-1",
    "1e9",
    "999999999999999999999",
    "\x01",
    "é",
    "a" * 9000,
    "gzip, gzip",
    "{}",
    "*/*",
    "Basic x",
    "Bearer x",
    "Basic " + "QQ" * 50,
    "AWS4-HMAC-SHA256 x",
]
HEADERS = [
    "Range",
    "Content-Range",
    "Content-Length",
    "Transfer-Encoding",
    "Accept",
    "Authorization",
    "If-None-Match",
    "Content-Type",
    "Expect",
    "Connection",
    "Host",
    "Origin",
    "X-Amz-Target",
    "X-Amz-Date",
    "Cookie",
]
QUERIES = [
    "",
    "n=0",
    "n=-1",
    "n=x",
    "last=%00",
    "digest=",
    "mount=x&from=y",
    "digest=sha256:" + "0" * 64,
    "tag=a&tag=b",
    "tag=" + "&tag=".join("x" * 12),
    "artifactType=%ff",
    "digest-algorithm=md5",
    "n=1&n=2",
    "&&&==",
    "a" * 9000,
]


class Fuzz:
    """Makes requests by chance of a seed."""

    def __init__(self, seed: int, accounts: Accounts, address: str) -> None:
        self.chance = random.Random(seed)
        self.address = address
        account = accounts.load()
        self._signer = SigV4Auth(Credentials(account.root_key.id, account.root_key.secret), "ecr", account.region)
        self._operations = sorted(shapes.operations())

    def one(self) -> bytes:
        kinds: list[Callable[[], bytes]] = [
            self.request,
            self.request,
            self.manifest,
            self.garbage,
            self.signed,
            self.chunks,
        ]
        return self.chance.choice(kinds)()

    def path(self) -> str:
        name, digest = self.chance.choice(NAMES), self.chance.choice(DIGESTS)
        ends = [
            f"manifests/{digest}",
            f"blobs/{digest}",
            "blobs/uploads/",
            f"blobs/uploads/{digest}",
            "tags/list",
            f"referrers/{digest}",
            "",
            digest,
        ]
        path = self.chance.choice(
            [
                f"/v2/{name}/{self.chance.choice(ends)}",
                "/v2/",
                "/v2/_catalog",
                "/",
                "*",
                "/token",
                f"/{name}",
                f"http://x/v2/{name}/tags/list",
            ]
        )
        query = self.chance.choice(QUERIES)
        return (path + (f"?{query}" if query else "")).replace(" ", "%20")

    def request(self) -> bytes:
        headers = [
            f"{self.chance.choice(HEADERS)}: {self.chance.choice(VALUES + RANGES)}"
            for _ in range(self.chance.randrange(4))
        ]
        body = b""
        if self.chance.random() < 0.4:
            body = self.chance.randbytes(self.chance.randrange(2000))
            claimed = len(body) if self.chance.random() < 0.9 else self.chance.choice([0, len(body) + 10, -5])
            headers.append(f"Content-Length: {claimed}")
        line = f"{self.chance.choice(METHODS)} {self.path()} HTTP/{self.chance.choice(['1.1', '1.1', '1.1', '1.0', '2.0', '9'])}"
        return "\r\n".join([line, f"Host: {self.address}", *headers, "", ""]).encode("utf-8", "replace") + body

    def manifest(self) -> bytes:
        value = self.value(3)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": value,
            "layers": [self.value(2)],
            "subject": self.value(1),
        }
        document[self.chance.choice(["mediaType", "layers", "manifests", "annotations", "artifactType", "x"])] = (
            self.value(2)
        )
        body = json.dumps(document).encode()
        if self.chance.random() < 0.2:
            body = b"[" * self.chance.choice([10, 100_000]) + body
        reference, kind = self.chance.choice([*DIGESTS, "v1"]), self.chance.choice([MANIFEST, "x", ""])
        head = f"PUT /v2/app/manifests/{reference} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\n\r\n" + body

    def value(self, depth: int) -> object:
        simple: list[object] = [None, True, -1, 1.5, "", "x", 10**30, "sha256:" + "0" * 64, "\ud800", "é" * 100]
        if depth == 0 or self.chance.random() < 0.4:
            return self.chance.choice(simple)
        keys = ["digest", "size", "mediaType", "annotations", "urls", "data", "platform", "x"]
        if self.chance.random() < 0.6:
            return {self.chance.choice(keys): self.value(depth - 1) for _ in range(self.chance.randrange(4))}
        return [self.value(depth - 1) for _ in range(self.chance.randrange(3))]

    def garbage(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(1, 400)) + self.chance.choice([b"", b"\r\n\r\n"])

    def chunks(self) -> bytes:
        method = self.chance.choice(["POST", "PATCH", "PUT"])
        head = f"{method} /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        bodies = [
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhel",
            b"-1\r\n",
            b"ffffffffffffffff\r\nx",
            b"5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"zz\r\n\r\n",
            b"0\r\n\r\n",
        ]
        return head.encode() + self.chance.choice(bodies)

    def signed(self) -> bytes:
        operation = self.chance.choice(self._operations)
        members = shapes.model()["shapes"][shapes.operations()[operation]["input"]["shape"]].get("members", {})
        given = {name: self.value(2) for name in members if self.chance.random() < 0.8}
        if "repositoryName" in given and self.chance.random() < 0.7:
            given["repositoryName"] = "app"
        body = json.dumps(given).encode()
        headers = {"X-Amz-Target": f"AmazonEC2ContainerRegistry_V20150921.{operation}", "Host": self.address}
        request = AWSRequest("POST", f"http://{self.address}/", headers, body)
        self._signer.add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        return "\r\n".join(["POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def answer(line: socket.socket, request: bytes) -> tuple[int, bool]:
    """(status, whether the connection may go on); 0 where the server closed without a word."""
    try:
        line.sendall(request)
        line.shutdown(socket.SHUT_WR)
        found = http.client.HTTPResponse(line, method="HEAD" if request.startswith(b"HEAD") else None)
        found.begin()
        found.read()
    except (ConnectionError, http.client.HTTPException, BrokenPipeError):
        return 0, False
    return found.status, False


def test_hostile_requests(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "root")
    address = server.start()
    host, _, port = address.partition(":")
    root = Root.at(tmp_path / "root")
    here = Store(Root.at(tmp_path / "here").ensure())
    digest = image(here, [os.urandom(50_000)])
    client = RegistryClient(attempts=1, environment={"HOME": str(tmp_path)})
    client.push(here, digest, ImageName(address, "kept", "v1"))
    fuzz = Fuzz(7, Accounts(root), address)
    statuses: dict[int, int] = {}
    for number in range(COUNT):
        request = fuzz.one()
        with contextlib.closing(socket.create_connection((host, int(port)), timeout=LONGEST)) as line:
            began = time.monotonic()
            try:
                status, _ = answer(line, request)
            except TimeoutError:
                pytest.fail(f"no answer in {LONGEST} s to request {number}: {request[:500]!r}")
        assert status < 500 or status in (501, 505), f"{status} after request {number}: {request[:2000]!r}"
        assert time.monotonic() - began < LONGEST
        statuses[status] = statuses.get(status, 0) + 1
    assert server.process.poll() is None
    assert len(statuses) >= 8, f"the requests reach many ends: {statuses}"
    assert client.resolve(ImageName(address, "kept", "v1")).digest == digest
    fetched = Store(Root.at(tmp_path / "fetched").ensure())
    assert client.pull(ImageName(address, "kept", "v1"), fetched) == digest
    resident = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < 400 << 20, f"{resident >> 20} MiB are held"
    client.close()
    assert server.stop() == 0
