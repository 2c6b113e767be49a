"""``bayplan registry serve``: a listener, its connections, and an orderly end.

It listens on loopback alone and lets anybody there pull and push: access control belongs to a registry that others can
reach, and until bayplan has it no other address is taken. On SIGTERM or SIGINT no new request is accepted, those under
way are answered, and uploads that wait for more end with the process; their clients begin anew.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import dataclass, field
from bayplan.registry.connection import Connection, Limits
from bayplan.registry.distribution import Anonymous, Distribution
from bayplan.registry.endpoint import is_loopback
from bayplan.registry.exchange import Access, Request
from bayplan.registry.registry import Registry
from bayplan.registry.uploads import Uploads

_SWEEP_SECONDS = 60.0
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. ``grace``: seconds that requests under way get at the end."""

    listen: str = "127.0.0.1:5000"
    anonymous: Anonymous = Anonymous.PUSH
    sparse: bool = False
    limits: Limits = field(default_factory=Limits)
    threads: int = 16
    grace: float = 30.0


def address(listen: str) -> tuple[str, int]:
    """(host, port) of ``ADDRESS:PORT``; port 0 takes a free one.

    Raises ``bad-listen-address``, and ``listen-not-loopback`` for what others could reach.
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
    if not host or not is_loopback(host):
        raise BayplanError(
            "listen-not-loopback",
            f"the registry is served on loopback only, and {host or 'every address of this machine'} can be reached by"
            " others",
            hint="access control is not there yet; listen on 127.0.0.1:PORT and forward the port, for instance by ssh",
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
        self._uploads = Uploads(self._registry)
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="registry")
        self._application = Distribution(
            self._registry,
            self._uploads,
            self._threads,
            anonymous=settings.anonymous,
            sparse=settings.sparse,
            failed=failed,
        )
        self._live: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None

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
        return str(name[0]), int(name[1])

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
        await self._server.wait_closed()
        await loop.run_in_executor(None, self._threads.shutdown)
        self._uploads.close()
        self._registry.close()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            await loop.run_in_executor(self._threads, self._uploads.sweep)


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
