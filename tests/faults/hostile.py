"""Requests that nobody in good faith sends to a registry, from a seed: bytes for both of its faces, and what may come back.

A request is mostly right and wrong in one or two places, so that it gets far: a name, a digest, a range, a header, the framing of
its body, a manifest with one value exchanged, a signed call of the ECR API with one parameter of another kind.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from bayplan.registry.access import sigv4
from bayplan.registry.access.accounts import Account
from bayplan.registry.ecr import shapes

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
#: Operations that make the server talk to other machines.
_OUTWARD = re.compile(r"PullThroughCache|Replication")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*\r\n")
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~\x80-\xff]*")

NAMES = (
    "fuzz/a",
    "fuzz/b",
    "a",
    "fuzz",
    "library/x.y-z__0",
    "fuzz/a/../b",
    "..",
    "/",
    "//",
    "A",
    "fuzz//a",
    "fuzz/a/",
    ".a",
    "a" * 300,
)
TAGS = (
    "one",
    "two",
    "latest",
    "v1.0",
    "",
    ".",
    "..",
    "-a",
    "a" * 128,
    "a" * 129,
    "%00",
    "a:b",
    "\N{SNOWMAN}",
    "one%0d%0aX: y",
)
ODD = (
    "", " ", "0", "-1", "1", "18446744073709551616", "9" * 400, "0x10", "+1", "1e3", "NaN", "null", "true", "\x01", "\x7f", "\t",
    "a" * 5000, "%", "%zz", "%00", "%ff", "\u00e9", "../../etc/passwd", "';--", "<script>", "{}", "[]", "*", ",", ";", "=", "&", "?",
    "\ud7ff", "\U0001f980",
)  # fmt: skip
RANGES = (
    "bytes=0-0", "bytes=0-", "bytes=-1", "bytes=5-2", "bytes=999999999-", "bytes=-0", "bytes=0-1,3-4", "bytes=", "bytes=a-b", "0-1",
    "bytes=18446744073709551616-", "bytes=-18446744073709551616", "bytes 0-1/2", "items=0-1", "bytes=0-0," * 200, "0-", "5-1", "-",
)  # fmt: skip
METHODS = (
    "GET",
    "HEAD",
    "PUT",
    "POST",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "BREW",
    "",
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 1.5, 1e308, "", "x", "\x00", "\ud800", "a" * 70000, [], {}, [[]],
    [None], {"": ""}, {"a": {"b": []}}, "sha256:" + "0" * 64, "sha256:", "md5:00", [1] * 1000, {"x" * 500: "y" * 5000},
)  # fmt: skip


_HEADERS = (
    "Range", "Content-Range", "If-None-Match", "Expect", "Connection", "Accept", "Content-Type", "Authorization", "X-Amz-Target",
    "Cookie", "Origin", "Upgrade", "TE", "Trailer", "Accept-Encoding", "X" * 300, "User-Agent",
)  # fmt: skip
_CODINGS = ("chunked", "gzip", "chunked, gzip", "Chunked", "x", "")
_ENDPOINTS = ("manifests", "blobs", "tags", "referrers", "blobs/uploads")


@dataclass
class Ground:
    """What a run has made on the server: blobs that are there, and uploads under way."""

    account: Account
    host: str
    blobs: list[bytes] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """Bytes to send, and what they were meant to be. ``cut``: the peer sends no more after them."""

    kind: str
    data: bytes


def well_formed(said: bytes, sent: bytes) -> list[int]:
    """The statuses of answers that follow each other without a gap. Raises ValueError for what is none."""
    found = []
    bodiless = b"HEAD " in sent
    while said:
        status = _STATUS.match(said)
        if status is None:
            raise ValueError(f"no status line: {said[:200]!r}")
        lines, mark, rest = said[status.end() - 2 :].partition(b"\r\n\r\n")
        if not mark:
            raise ValueError(f"headers without an end: {said[:500]!r}")
        headers: dict[bytes, bytes] = {}
        for line in lines.split(b"\r\n"):
            if line and not _HEADER.fullmatch(line):
                raise ValueError(f"no header: {line!r}")
            name, _, value = line.partition(b": ")
            if name.lower() == b"content-length" and name.lower() in headers:
                raise ValueError("two lengths")
            headers[name.lower()] = value
        code = int(status[1])
        length = int(headers.get(b"content-length", b"0"))
        if code in (100, 204, 304):
            length = 0
        elif b"content-length" not in headers:
            raise ValueError(f"no length: {said[:500]!r}")
        if bodiless and (not rest or rest.startswith(b"HTTP/1.1 ")):
            length = 0
        if len(rest) < length:
            raise ValueError(f"{len(rest)} bytes of {length}: {said[:500]!r}")
        said = rest[length:]
        if code != 100:
            found.append(code)
    return found


class Hostile:
    """Cases from a seed. The same seed makes the same cases as far as the server's own names (uploads) are the same."""

    def __init__(self, seed: int, ground: Ground) -> None:
        self._chance = random.Random(seed)
        self._ground = ground
        self._made = (
            self._target_case, self._target_case, self._blob, self._upload, self._upload, self._manifest, self._manifest, self._lists,
            self._framing, self._chunked, self._noise, self._pipeline, self._ecr, self._ecr, self._unsigned,
        )  # fmt: skip

    def case(self) -> Case:
        make = self._chance.choice(self._made)
        data = make()
        if self._chance.random() < 0.05:
            data = self._damaged(data)
        return Case(make.__name__, data)

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _one(self, values: Sequence[Any], odd: float = 0.1) -> str:
        """Of ``values``, now and then of the odd ones, as it stands in a target."""
        text = self._chance.choice(ODD) if self._chance.random() < odd else self._chance.choice(values)
        return quote(text, safe="/:%@._-~") if self._chance.random() < 0.8 else str(text)

    def _digest(self) -> str:
        chance = self._chance
        if self._ground.blobs and chance.random() < 0.6:
            found = f"sha256:{hashlib.sha256(chance.choice(self._ground.blobs)).hexdigest()}"
        else:
            found = "sha256:" + f"{chance.getrandbits(256):064x}"
        if chance.random() < 0.2:
            found = chance.choice(
                (
                    found.upper(),
                    found[:-1],
                    found + "0",
                    found.replace("256", "512"),
                    "md5:" + "0" * 32,
                    ":",
                    "a:",
                    found + "/x",
                    "sha256",
                )
            )
        return found

    def _head(self, method: str, target: str, headers: Mapping[str, str], version: str = "HTTP/1.1") -> bytes:
        lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n"

    def _headers(self, body: bytes = b"", **more: str) -> dict[str, str]:
        chance = self._chance
        found = {"Host": self._ground.host, **{name.replace("_", "-"): value for name, value in more.items()}}
        if body or chance.random() < 0.3:
            found["Content-Length"] = str(len(body))
        if chance.random() < 0.25:
            name = chance.choice(_HEADERS)
            found[name] = str(
                chance.choice(
                    (*RANGES, *ODD, "close", "keep-alive", "100-continue", "Basic QVdTOng=", "Bearer x.y", "Basic %%")
                )
            )
        return found

    def _request(self, method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
        if self._chance.random() < 0.05:
            method = self._chance.choice(METHODS)
        version = (
            "HTTP/1.1"
            if self._chance.random() < 0.97
            else self._chance.choice(("HTTP/1.0", "HTTP/2.0", "HTTP/9", "http/1.1", ""))
        )
        return self._head(method, target, self._headers(body, **headers), version) + body

    def _damaged(self, data: bytes) -> bytes:
        chance, damaged = self._chance, bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(damaged) + 1)
            damaged[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        return bytes(damaged[: chance.randrange(len(damaged) + 1)] if chance.random() < 0.3 else damaged)

    # -- the distribution API --------------------------------------------------------------------------------------

    def _target_case(self) -> bytes:
        chance = self._chance
        target = chance.choice(
            ("/v2", "/v2/", "/", "/healthz", "/metrics", "/token", "/v1/", "*", "//v2//", "/v2/%2e%2e/", "http://x/v2/")
        )
        if chance.random() < 0.7:
            target = f"/v2/{self._one(NAMES)}/{self._one(_ENDPOINTS)}/{self._one(TAGS)}"
        if chance.random() < 0.3:
            target += "?" + "&".join(
                f"{self._one(('n', 'last', 'digest', 'mount', 'from', 'tag'))}={self._one(TAGS, 0.5)}"
                for _ in range(chance.randrange(1, 5))
            )
        return self._request(chance.choice(METHODS), target, chance.randbytes(chance.choice((0, 0, 1, 500))))

    def _blob(self) -> bytes:
        method = self._chance.choice(("GET", "GET", "HEAD", "DELETE"))
        headers = {"Range": str(self._chance.choice(RANGES))} if self._chance.random() < 0.6 else {}
        return self._request(method, f"/v2/{self._one(NAMES[:2], 0.05)}/blobs/{self._digest()}", **headers)

    def _upload(self) -> bytes:
        chance, ground = self._chance, self._ground
        name, body = self._one(NAMES[:2], 0.05), chance.randbytes(chance.choice((0, 1, 100, 100, 3000)))
        if not ground.uploads or chance.random() < 0.4:
            query = chance.choice(
                (
                    "",
                    "",
                    f"?digest={self._digest()}",
                    f"?mount={self._digest()}&from={self._one(NAMES)}",
                    f"?digest-algorithm={self._one(('sha512', 'sha256'))}",
                )
            )
            if chance.random() < 0.3:
                ground.blobs.append(body)
                del ground.blobs[:-50]
                query = f"?digest=sha256:{hashlib.sha256(body).hexdigest()}"
            return self._request("POST", f"/v2/{name}/blobs/uploads/{query}", body)
        target = chance.choice(ground.uploads)
        headers = (
            {"Content_Range": str(chance.choice((*RANGES, f"0-{len(body) - 1}")))} if chance.random() < 0.4 else {}
        )
        method = chance.choice(("PATCH", "PUT", "GET", "DELETE", "PATCH"))
        if method in ("PUT", "DELETE"):
            ground.uploads.remove(target)
        return self._request(method, target + (f"?digest={self._digest()}" if method == "PUT" else ""), body, **headers)

    def _manifest(self) -> bytes:
        chance = self._chance
        reference = self._one(TAGS[:4], 0.05) if chance.random() < 0.7 else self._digest()
        target = f"/v2/{self._one(NAMES[:2], 0.05)}/manifests/{reference}"
        if chance.random() < 0.3:
            return self._request(chance.choice(("GET", "HEAD", "DELETE", "GET")), target)
        if ":" in reference and chance.random() < 0.3:
            target += "?" + "&".join(f"tag={self._one(TAGS)}" for _ in range(chance.choice((1, 3, 150))))
        kind = str(chance.choice((_MANIFEST, _INDEX, "application/json", *ODD[:20])))
        return self._request("PUT", target, self._document(), Content_Type=kind)

    def _document(self) -> bytes:
        chance = self._chance
        if chance.random() < 0.1:
            return chance.choice(
                (
                    b"",
                    b"[" * 100_000,
                    b'{"a":' * 50_000,
                    b"\xff\xfe",
                    b"nul",
                    b'"x"',
                    b"{}" * 3,
                    b"\x00" * 100,
                    b'{"a":1,"a":2}',
                    b"NaN",
                    b"9" * 5000,
                )
            )

        def descriptor(kind: str) -> dict[str, Any]:
            data = chance.choice(self._ground.blobs) if self._ground.blobs else b"{}"
            return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}

        found: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar") for _ in range(chance.randrange(4))],
        }
        if chance.random() < 0.3:
            found = {
                "schemaVersion": 2,
                "mediaType": _INDEX,
                "manifests": [descriptor(_MANIFEST) for _ in range(chance.randrange(3))],
            }
        if chance.random() < 0.3:
            found["subject"] = descriptor(_MANIFEST)
        if chance.random() < 0.3:
            found["annotations"] = {"a": "b", "org.opencontainers.image.created": "now"}
        if chance.random() < 0.2:
            found["artifactType"] = "application/x"
        for _ in range(chance.choice((0, 1, 1, 1, 2))):
            self._exchange(found)
        return json.dumps(found).encode("utf-8", "surrogatepass")

    def _exchange(self, document: Any) -> None:
        """Put an odd value, or nothing, in one place of a document."""
        places: list[tuple[Any, Any]] = []

        def walk(value: Any) -> None:
            for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
                places.append((value, key))
                walk(value[key])

        walk(document)
        if places:
            holder, key = self._chance.choice(places)
            if isinstance(holder, dict) and self._chance.random() < 0.2:
                del holder[key]
            else:
                holder[key] = copy.deepcopy(self._chance.choice(VALUES))

    def _lists(self) -> bytes:
        chance = self._chance
        query = "&".join(
            f"{chance.choice(('n', 'last', 'artifactType'))}={self._one(TAGS, 0.7)}" for _ in range(chance.randrange(4))
        )
        target = chance.choice(
            (f"/v2/{self._one(NAMES)}/tags/list", "/v2/_catalog", f"/v2/{self._one(NAMES)}/referrers/{self._digest()}")
        )
        return self._request("GET", f"{target}?{query}")

    # -- the framing -----------------------------------------------------------------------------------------------

    def _framing(self) -> bytes:
        chance = self._chance
        body = chance.randbytes(chance.choice((0, 10, 2000)))
        lines = [
            f"{chance.choice(METHODS)} {self._one(('/v2/', '/v2/fuzz/a/blobs/uploads/', '/', '*'))} HTTP/1.1",
            f"Host: {self._ground.host}",
        ]
        for _ in range(chance.randrange(1, 4)):
            length = chance.choice((len(body), len(body) + 1, max(len(body) - 1, 0), *ODD[:12]))
            lines.append(
                chance.choice(
                    (f"Content-Length: {length}", f"Transfer-Encoding: {chance.choice(_CODINGS)}", "Host: other",
                     " folded", "No colon", ": empty", "A: " + "b" * chance.choice((10, 40_000)),
                     "Connection: " + chance.choice(("close", "upgrade")),
                     "Upgrade: h2c", "Expect: 100-continue", "X:\x00y", "\x00: y", "A : b")
                )
            )  # fmt: skip
        lines += ["X: y"] * chance.choice((0, 0, 0, 150))
        return (
            chance.choice(("\r\n", "\r\n", "\r\n", "\n", "\r")).join(lines).encode("latin-1", "replace")
            + b"\r\n\r\n"
            + body
        )

    def _chunked(self) -> bytes:
        chance = self._chance
        target = chance.choice(
            (*self._ground.uploads[-3:], "/v2/fuzz/a/blobs/uploads/", f"/v2/fuzz/a/manifests/{self._one(TAGS)}", "/")
        )
        out = self._head(
            chance.choice(("POST", "PUT", "PATCH", "GET")),
            target,
            {"Host": self._ground.host, "Transfer-Encoding": "chunked"},
        )
        for _ in range(chance.randrange(6)):
            data = chance.randbytes(chance.choice((0, 1, 10, 1000)))
            size = f"{len(data):x}"
            if chance.random() < 0.3:
                size = chance.choice(
                    (
                        "",
                        "-1",
                        "g",
                        "0x5",
                        "f" * 17,
                        "f" * 300,
                        size + ";a=b",
                        size + ' ;x="' + "y" * 500,
                        " " + size,
                        "+" + size,
                    )
                )
            out += (
                size.encode()
                + chance.choice((b"\r\n", b"\r\n", b"\r\n", b"\n"))
                + data
                + chance.choice((b"\r\n", b"\r\n", b"\r\n", b"", b"x"))
            )
        return out + chance.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"0"))

    def _noise(self) -> bytes:
        chance = self._chance
        start = chance.choice(
            (
                b"",
                b"GET ",
                b"GET /v2/ HTTP/1.1\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00",
                b"\r\n\r\n",
                b"SSH-2.0-x\r\n",
            )
        )
        return start + chance.randbytes(chance.choice((0, 5, 100, 10_000)))

    def _pipeline(self) -> bytes:
        chance = self._chance
        return b"".join(
            chance.choice((self._blob, self._manifest, self._lists, self._upload))()
            for _ in range(chance.randrange(2, 12))
        )

    # -- the ECR API -----------------------------------------------------------------------------------------------

    def _ecr(self) -> bytes:
        chance = self._chance
        service = "ecr" if chance.random() < 0.85 else "ecr-public"
        name = chance.choice([one for one in shapes.operations(service) if not _OUTWARD.search(one)])
        model = shapes.model(service)["shapes"]
        shape = shapes.operations(service)[name].get("input")
        document = self._value(model, shape["shape"]) if shape else {}
        for _ in range(chance.choice((0, 0, 1, 1, 2))):
            self._exchange(document)
        body = json.dumps(document).encode()
        if chance.random() < 0.05:
            body = chance.choice((b"", b"[" * 100_000, b"null", b"[]", b"\xff", b'{"a"', chance.randbytes(50)))
        target = "AmazonEC2ContainerRegistry_V20150921" if service == "ecr" else "SpencerFrontendService"
        return self.signed(f"{target}.{name}", body, service)

    def signed(self, target: str, body: bytes, service: str) -> bytes:
        """A call of the ECR API, signed with the root's key."""
        account = self._ground.account
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        region = account.region if service == "ecr" else sigv4.PUBLIC_REGION
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "host": self._ground.host,
            "x-amz-date": stamp,
            "x-amz-target": target,
        }
        names = sorted(headers)
        signed = sigv4.Signed("POST", "/", "", headers, body)
        signature = sigv4.sign(signed, names, account.root_key.secret, stamp, region, service)
        scope = f"{account.root_key.id}/{stamp[:8]}/{region}/{service}/aws4_request"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        headers["content-length"] = str(len(body))
        return self._head("POST", "/", headers) + body

    def _value(self, model: Mapping[str, Any], name: str, depth: int = 0) -> Any:
        """A value of a shape of the API's model: mostly of its kind."""
        chance, shape = self._chance, model[name]
        kind = shape["type"]
        if kind == "structure":
            if depth > 6:
                return {}
            needed = set(shape.get("required", ()))
            return {
                key: self._value(model, one["shape"], depth + 1)
                for key, one in shape["members"].items()
                if key in needed or chance.random() < 0.3
            }
        if kind == "list":
            return [self._value(model, shape["member"]["shape"], depth + 1) for _ in range(chance.randrange(3))]
        if kind == "map":
            return {str(chance.choice(TAGS)): self._value(model, shape["value"]["shape"], depth + 1)}
        if kind in ("integer", "long", "timestamp", "float", "double"):
            return chance.choice((0, 1, 2, 5, 20, -1, 2**40))
        if kind == "boolean":
            return chance.random() < 0.5
        if "enum" in shape:
            return chance.choice(shape["enum"])
        if name in ("RepositoryName", "PublicRepositoryName"):
            return chance.choice(NAMES)
        if "Digest" in name:
            return self._digest()
        if "Policy" in name or "Manifest" in name:
            return chance.choice(
                (
                    self._document().decode("utf-8", "replace"),
                    '{"rules":[]}',
                    "{}",
                    '{"Version":"2012-10-17","Statement":[]}',
                    "x",
                )
            )
        if kind == "blob":
            return chance.choice(("", "AAAA", "AA", "%%%", "QUJD" * 1000))
        return chance.choice((*TAGS[:4], self._ground.account.number, *ODD))

    def _unsigned(self) -> bytes:
        """A call whose signature, or what it is taken over, was changed."""
        chance = self._chance
        name = chance.choice(("PutImage", "GetAuthorizationToken", "x", ""))
        target = f"{chance.choice(('AmazonEC2ContainerRegistry_V20150921', 'SpencerFrontendService', 'x'))}.{name}"
        data = self.signed(target, self._document(), "ecr")
        at = data.find(chance.choice((b"Signature=", b"Credential=", b"x-amz-date: ", b"SignedHeaders=", b"AWS4-"))) + 8
        return data[:at] + str(chance.choice(ODD[:20])).encode("utf-8") + data[at + chance.randrange(8) :]
