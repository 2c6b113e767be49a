"""How a server is watched: ``/healthz`` says whether it can do its work now, ``/metrics`` what it has done.

Health needs no login and tells nobody anything else: 200 where the database answers and the store can be written, 503 with the
part that fails. Metrics are for who the configuration says.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from http import HTTPStatus
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.registry import metrics
from bayplan.registry.audit.trail import Trail
from bayplan.registry.configuration import Readers
from bayplan.registry.exchange import Request, Response
from bayplan.registry.registry import Registry

_LEAST_FREE = 64 << 20  # bytes of the disk, below which a push is likely to fail


class Watch:
    """The pages. ``folder`` is where the store lies; ``gauges``: what is to be read when the metrics are asked for, by name,
    with what it means."""

    def __init__(
        self,
        registry: Registry,
        folder: Path,
        threads: Executor,
        counted: metrics.Metrics,
        readers: Readers,
        gauges: Mapping[str, tuple[str, Callable[[], float]]],
        trail: Trail | None = None,
    ) -> None:
        self._trail = trail
        self._registry = registry
        self._folder = folder
        self._threads = threads
        self._counted = counted
        self._readers = readers
        self._gauges = gauges

    async def health(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET, HEAD"),))
        loop = asyncio.get_running_loop()
        checks = await loop.run_in_executor(self._threads, self._checks)
        good = all(one == "ok" for one in checks.values())
        body = json.dumps({"status": "ok" if good else "failing", "checks": checks}).encode()
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, (("Content-Type", "application/json"), ("Cache-Control", "no-store")), body)

    def _checks(self) -> dict[str, str]:
        found = {"database": "ok", "store": "ok", "disk": "ok"}
        try:
            self._registry.catalog("", 1)
        except (BayplanError, sqlite3.Error):
            found["database"] = "failing"
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            found["store"] = "not writable"
            return found
        info = os.statvfs(self._folder)
        if info.f_bavail * info.f_frsize < _LEAST_FREE:
            found["disk"] = "full"
        if self._trail is not None:
            found["audit"] = self._trail.failure or "ok"
        return found

    async def metrics(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET, HEAD"),))
        if self._readers is Readers.NONE:
            return Response(HTTPStatus.NOT_FOUND)
        if self._readers is Readers.LOOPBACK and not _loopback(request.address):
            return Response(HTTPStatus.FORBIDDEN)
        body = self._counted.text(self._gauges).encode()
        return Response(HTTPStatus.OK, (("Content-Type", metrics.CONTENT_TYPE), ("Cache-Control", "no-store")), body)


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return False
