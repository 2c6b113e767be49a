"""Signed requests: AWS Signature Version 4, checked.

Source: IAM user guide, "Create a signed AWS API request". Only the header form is taken (``Authorization: AWS4-HMAC-SHA256
...``), since the ECR API takes no other. A signature covers method, path, query, the signed headers and the body; it holds
for five minutes around its ``X-Amz-Date``. Failures are told with AWS's own codes and words, which SDKs act upon.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote

from bayplan.records import dataclass
from bayplan.registry.access.accounts import Account
from bayplan.registry.access.model import Principal

SKEW = 300.0  # seconds that a signature may lie in the past or in the future
PUBLIC_REGION = "us-east-1"  # where Amazon ECR Public is, whatever the caller's region
_ALGORITHM = "AWS4-HMAC-SHA256"
_FORM = re.compile(
    rf"{_ALGORITHM} +Credential=([^/, ]+)/(\d{{8}})/([^/, ]+)/([^/, ]+)/aws4_request *, *"
    r"SignedHeaders=([a-z0-9;._-]+) *, *Signature=([0-9a-f]{64})"
)
_DATE = re.compile(r"\d{8}T\d{6}Z")


class Unsigned(Exception):
    """Why a request counts as unsigned: an AWS error code, its message, and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature is taken over. ``path`` and ``query`` as they came, header names in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def verify(request: Signed, account: Account, now: float, *, service: str) -> Principal:
    """Who signed a request for ``service`` in this account's region. Raises Unsigned."""
    header = request.headers.get("authorization", "")
    if not header:
        raise Unsigned("MissingAuthenticationTokenException", "Missing Authentication Token")
    found = _FORM.fullmatch(header)
    if found is None:
        raise Unsigned(
            "IncompleteSignatureException", "the Authorization header has not the form of Signature Version 4"
        )
    id, day, region, named, signed, signature = found.groups()
    stamp = request.headers.get("x-amz-date", "")
    if not _DATE.fullmatch(stamp):
        raise Unsigned(
            "IncompleteSignatureException", "Authorization header requires existence of an 'X-Amz-Date' header."
        )
    names = signed.split(";")
    if names != sorted(names) or "host" not in names or "x-amz-date" not in names:
        raise Unsigned("IncompleteSignatureException", "'host' and 'x-amz-date' must be signed headers, in their order")
    if any(name not in request.headers for name in names):
        raise Unsigned("IncompleteSignatureException", "a signed header is missing")
    unsigned = [name for name in request.headers if name.startswith("x-amz-") and name not in names]
    if unsigned:
        raise Unsigned(
            "InvalidSignatureException",
            f"There were headers present in the request which were not signed: {unsigned[0]}",
        )
    regions = (account.region, PUBLIC_REGION) if service == "ecr-public" else (account.region,)
    if region not in regions or named != service or day != stamp[:8]:
        raise Unsigned(
            "InvalidSignatureException",
            f"Credential should be scoped to a valid region and service: {account.region}/{service}",
        )
    when = timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    if abs(now - when) > SKEW:
        word = "expired" if when < now else "not yet current"
        raise Unsigned(
            "InvalidSignatureException", f"Signature {word}: {stamp} is not within five minutes of the server's time"
        )
    key = account.keys.get(id)
    if key is None:
        raise Unsigned("UnrecognizedClientException", "The security token included in the request is invalid.")
    if not hmac.compare_digest(signature, sign(request, names, key.secret, stamp, region, named)):
        raise Unsigned(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
            403,
        )
    return account.principal(key)


def sign(request: Signed, names: list[str], secret: str, stamp: str, region: str, service: str) -> str:
    """The signature of a request, in hexadecimal."""
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(_canonical(request, names)).hexdigest()))
    key = f"AWS4{secret}".encode()
    for part in (stamp[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _canonical(request: Signed, names: list[str]) -> bytes:
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    headers = "".join(f"{name}:{' '.join(request.headers[name].split())}\n" for name in names)
    lines = (
        request.method,
        quote(request.path, safe="/-_.~"),
        "&".join(f"{name}={value}" for name, value in query),
        headers,
        ";".join(names),
        hashlib.sha256(request.body).hexdigest(),
    )
    return "\n".join(lines).encode()
