"""Answers that were just given and are given again: what thousands of nodes that pull one image ask for.

A GET or HEAD of a manifest that is asked as it was a moment ago, by the same caller from the same address, is answered from memory
as long as nothing has changed: nobody, in any process, has committed to the registry's database since, the account's file is the
same, and it is less than a second ago, for what depends on the clock (tokens that expire, conditions of policies, the pull-through
cache). The call stands in the audit trail, the metrics and the access log as any other.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from bayplan.records import dataclass
from bayplan.registry.access.accounts import Account, Accounts
from bayplan.registry.audit.records import stamp
from bayplan.registry.audit.trail import Trail
from bayplan.registry.exchange import Repeated, Request, Response, lead
from bayplan.registry.registry import Registry

_SECONDS = 1.0
_LARGEST = 64 << 10  # bytes of an answer
_MOST_BYTES = 4 << 20
_MOST = 1024
#: Headers that such a request may have. With any other it is answered by the long way.
_PLAIN = frozenset({"host", "authorization", "accept", "accept-encoding", "user-agent"})
_READS = frozenset({"GET", "HEAD"})

_Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    """``version`` and ``account`` are what the answer is true for, ``line`` its audit record: around the time and two ids."""

    version: int
    account: Account
    until: float
    lead: bytes
    body: bytes
    status: int
    who: str
    line: tuple[bytes, bytes, bytes, bytes] | None


class Recent:
    """For the event loop of one server."""

    def __init__(self, registry: Registry, accounts: Accounts, trail: Trail | None) -> None:
        self._registry = registry
        self._accounts = accounts
        self._trail = trail
        self._kept: dict[_Key, _Kept] = {}
        self._bytes = 0
        self._stamp = (0, b"")

    def version(self, request: Request) -> int | None:
        """What :meth:`keep` is to be told of a request that is about to be answered; None where its answer is not kept."""
        fitting = (
            request.method in _READS
            and "/manifests/" in request.path
            and not request.query
            and request.headers.keys() <= _PLAIN
        )
        return self._registry.changes() if fitting else None

    def keep(self, request: Request, answer: Response, version: int, record: Mapping[str, Any] | None) -> None:
        """Remember an answer. ``record`` is its line in the audit trail, where there is one."""
        if answer.status != 200 or not isinstance(answer.body, bytes) or len(answer.body) > _LARGEST:
            return
        if len(self._kept) >= _MOST or self._bytes > _MOST_BYTES:
            self._kept.clear()
            self._bytes = 0
        body = answer.body if request.method == "GET" else b""
        self._bytes += len(body)
        self._kept[_key(request.method, request.path, request.headers, request.address)] = _Kept(
            version,
            self._accounts.load(),
            time.monotonic() + _SECONDS,
            lead(answer),
            body,
            answer.status,
            request.notes.get("who", ""),
            None if record is None else _around(record),
        )

    def again(self, method: str, target: str, headers: Mapping[str, str], address: str) -> Repeated | None:
        """The answer to a request without a body, if it is known and still true."""
        kept = self._kept.get(_key(method, target, headers, address))
        if kept is None or headers.keys() - _PLAIN:
            return None
        if (
            time.monotonic() > kept.until
            or self._registry.changes() != kept.version
            or self._accounts.load() is not kept.account
        ):
            return None
        id, event = _ids()
        if kept.line is not None and self._trail is not None:
            first, second, third, last = kept.line
            self._trail.append(
                b"".join((first, self._now(), second, id.encode(), third, event.encode(), last)), now=False
            )
        return Repeated(kept.lead, kept.body, kept.status, kept.who, id)

    def _now(self) -> bytes:
        now = int(time.time())
        if self._stamp[0] != now:
            self._stamp = (now, stamp(now).encode())
        return self._stamp[1]


def _key(method: str, target: str, headers: Mapping[str, str], address: str) -> _Key:
    return method, target, headers.get("authorization", ""), headers.get("user-agent", ""), address


def _around(record: Mapping[str, Any]) -> tuple[bytes, bytes, bytes, bytes]:
    """A record's line without its time and ids, which follow each other in this order."""
    mark = uuid.uuid4().hex
    marked = {**record, "eventTime": mark, "requestID": mark, "eventID": mark}
    first, second, third, last = json.dumps(marked, separators=(",", ":")).encode().split(mark.encode())
    return first, second, third, last + b"\n"


def _ids() -> tuple[str, str]:
    """Two random UUIDs (RFC 9562, version 4)."""
    text = os.urandom(32).hex()
    return (
        f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:32]}",
        f"{text[32:40]}-{text[40:44]}-4{text[45:48]}-a{text[49:52]}-{text[52:]}",
    )
