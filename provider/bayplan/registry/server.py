"""``bayplan registry serve``: a listener, its connections, and an orderly end.

Callers are known by tokens and signatures (:mod:`.gateway`); what anybody may do is told by ``anonymous``. On SIGTERM or SIGINT
no new request is accepted, those under way are answered, and uploads that wait for more end with the process; their clients
begin anew. While it serves, the address stands in ``root/registry/server.json``, for ``bayplan registry env``; and lifecycle
policies are carried out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import dataclass, field
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.guard import Anonymous, Guard
from bayplan.registry.connection import Connection, Limits
from bayplan.registry.distribution import Distribution
from bayplan.registry.exchange import Access, Request
from bayplan.registry.gateway import Gateway
from bayplan.registry.registry import Registry
from bayplan.registry.uploads import Uploads

if TYPE_CHECKING:
    from bayplan.registry.ecr.face import Ecr

_SWEEP_SECONDS = 60.0
_POLICY_SECONDS = 3600.0  # between two times that lifecycle policies are carried out
SERVER_FILE = "registry/server.json"
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. ``grace``: seconds that requests under way get at the end; ``account`` and ``region``: what the registry's
    account is to be called from now on."""

    listen: str = "127.0.0.1:5000"
    anonymous: Anonymous = Anonymous.NONE
    account: str | None = None
    region: str | None = None
    sparse: bool = False
    limits: Limits = field(default_factory=Limits)
    threads: int = 16
    grace: float = 30.0


def address(listen: str) -> tuple[str, int]:
    """(host, port) of ``ADDRESS:PORT``; port 0 takes a free one.

    Raises ``bad-listen-address``.
    """
    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    if port is None or parts.path or parts.username:
        raise BayplanError(
            "bad-listen-address", f"{listen!r} is not an ADDRESS:PORT", hint="for example 127.0.0.1:5000 or [::1]:5000"
        )
    if not host:
        raise BayplanError(
            "bad-listen-address",
            f"{listen!r} names no address",
            hint="127.0.0.1:PORT for this machine alone, 0.0.0.0:PORT for all that can reach it",
        )
    return host, port


class Server:
    """The registry of ``root`` on an address, within a running event loop.

    ``log`` gets one :class:`Access` per request; ``failed`` what went wrong inside (both are called on the loop).
    """

    def __init__(
        self,
        root: Root,
        settings: Settings,
        *,
        log: Callable[[Access], None] | None = None,
        failed: Callable[[Request, Exception], None] | None = None,
    ) -> None:
        self._settings = settings
        self._host, self._port = address(settings.listen)
        self._log = log
        self._registry = Registry(root)
        self._place = root.path / SERVER_FILE
        self._uploads = Uploads(self._registry)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="registry")
        accounts = Accounts(root)
        accounts.settle(settings.account, settings.region)
        guard = Guard(self._registry, accounts, settings.anonymous)
        faces = Distribution(self._registry, self._uploads, self._threads, guard, sparse=settings.sparse)
        self._application = Gateway(faces, lambda: self._ecr(guard), guard, self._threads, failed=failed)
        self._live: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def _ecr(self, guard: Guard) -> Ecr:
        """The ECR API, made with its first call: its model takes a moment to read."""
        from bayplan.registry.ecr.face import Ecr

        return Ecr(self._registry, self._uploads, guard)

    async def start(self) -> tuple[str, int]:
        """Listen; (host, port) as it turned out. Raises ``port-taken``, ``listen-failed``."""
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self._application, self._settings.limits, self._live, self._log),
                self._host,
                self._port,
                backlog=_BACKLOG,
                reuse_address=True,
            )
        except OSError as error:
            self._threads.shutdown()
            where = f"{self._host}:{self._port}"
            if isinstance(error, PermissionError):
                raise BayplanError("listen-failed", f"this user may not listen on {where}") from None
            if "in use" in str(error):
                raise BayplanError(
                    "port-taken", f"something listens on {where} already", hint="choose another port with --listen"
                ) from None
            raise BayplanError("listen-failed", f"cannot listen on {where}: {error.strerror or error}") from None
        self._sweeper = loop.create_task(self._sweep())
        name = self._server.sockets[0].getsockname()
        self._remember(str(name[0]), int(name[1]))
        return str(name[0]), int(name[1])

    def _remember(self, host: str, port: int) -> None:
        """Write down where this server is: the last one that was started is the one that is meant."""
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (not bound: translated)
        where = f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"
        self._place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._place.with_suffix(f".{os.getpid()}.{port}.new")
        draft.write_text(json.dumps({"address": where, "pid": os.getpid()}))
        draft.replace(self._place)

    def _forget(self) -> None:
        with suppress(FileNotFoundError, ValueError):
            if json.loads(self._place.read_text())["pid"] == os.getpid():
                self._place.unlink()

    async def close(self) -> None:
        """Take no more requests, answer those under way within the grace, end the rest."""
        self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.grace
        for connection in tuple(self._live):
            connection.finish()
        while self._live and loop.time() < until:
            await asyncio.sleep(0.02)
        for connection in tuple(self._live):
            connection.abort()
        self._forget()
        await self._server.wait_closed()
        await loop.run_in_executor(None, self._threads.shutdown)
        self._uploads.close()
        self._registry.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        carried_out = loop.time()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await loop.run_in_executor(self._threads, self._uploads.sweep)
            if loop.time() - carried_out >= _POLICY_SECONDS:
                carried_out = loop.time()
                await loop.run_in_executor(self._threads, self._expire)

    def _expire(self) -> None:
        from bayplan.registry.ecr.lifecycle import carry_out

        for repository in self._registry.list():
            with suppress(BayplanError):  # one that was deleted meanwhile
                carry_out(self._registry, repository.name)


def serve(
    root: Root,
    listen: str = "127.0.0.1:5000",
    *,
    settings: Settings | None = None,
    log: Callable[[Access], None] | None = None,
    failed: Callable[[Request, Exception], None] | None = None,
    ready: Callable[[str, int], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``, and then end in order. ``ready`` is told the address.

    ``settings`` overrides ``listen``. Raises what :func:`address` and :meth:`Server.start` raise.
    """
    chosen = settings or Settings(listen=listen)
    address(chosen.listen)  # before anything is made
    asyncio.run(_serve(Server(root, chosen, log=log, failed=failed), ready, stop))


async def _serve(server: Server, ready: Callable[[str, int], None] | None, stop: threading.Event | None) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
    where = await server.start()
    if ready is not None:
        ready(*where)
    while not ended.is_set():
        if stop is not None and stop.is_set():
            break
        with suppress(TimeoutError):
            async with asyncio.timeout(None if stop is None else 0.05):
                await ended.wait()
    await server.close()
