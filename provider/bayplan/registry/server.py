"""``bayplan registry serve``: a listener, its connections, and an orderly end.

Plain HTTP is served by :mod:`.connection`, TLS by :mod:`.secure`; the application behind them is one (:mod:`.gateway`). On
SIGTERM or SIGINT no new request is accepted, those under way are answered, and uploads that wait for more end with the process;
their clients begin anew. While it serves, the address stands in ``root/registry/server.json``, for ``bayplan registry env``; and
lifecycle policies are carried out.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.credentials import Credentials
from bayplan.registry.access.guard import Anonymous, Guard
from bayplan.registry.audit.records import policy_executed, stamp
from bayplan.registry.audit.trail import Trail
from bayplan.registry.configuration import Challenge, Settings
from bayplan.registry.connection import Connection
from bayplan.registry.distribution import Distribution
from bayplan.registry.exchange import Access, Request
from bayplan.registry.gateway import Gateway
from bayplan.registry.metrics import Metrics
from bayplan.registry.recent import Recent
from bayplan.registry.registry import Registry
from bayplan.registry.retention import Kept, Rule
from bayplan.registry.storage.vaults import settle
from bayplan.registry.throttle import Throttle
from bayplan.registry.token_service import PATH, TokenService
from bayplan.registry.uploads import Uploads
from bayplan.registry.watch import Watch
from bayplan.registry.works import Works

if TYPE_CHECKING:
    from bayplan.registry.certificates import Certificate
    from bayplan.registry.ecr.face import Ecr
    from bayplan.registry.secure import SecureListener

__all__ = ["SERVER_FILE", "Server", "Settings", "address", "serve"]

_SWEEP_SECONDS = 60.0
_POLICY_SECONDS = 3600.0  # between two times that lifecycle policies are carried out
_IMAGES_AN_EVENT = 10
SERVER_FILE = "registry/server.json"
TRAIL = "registry/audit"
_BACKLOG = 512
_ARENA_MAX = -8  # <malloc.h>


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
        in_use: Callable[[], AbstractSet[Digest]] | None = None,
    ) -> None:
        self._settings = settings
        self._in_use = in_use
        self._host, self._port = address(settings.listen)
        self._registry = Registry(root)
        self._registry.store.leases.spares = settings.threads
        self._root = root
        self._place = root.path / SERVER_FILE
        self._uploads = Uploads(self._registry, most=settings.uploads)
        accounts = Accounts(root)
        accounts.settle(settings.account, settings.region)
        settle(self._registry, settings.placing)
        self._trail = Trail(root.path / TRAIL, settings.audit) if settings.audit is not None else None
        self._accounts = accounts
        self._works = Works(
            self._registry,
            lambda: accounts.load().number,
            vulnerabilities=settings.vulnerabilities,
            destinations=settings.destinations,
        )
        self._certificate = self._own_certificate()
        passwords, named = None, Anonymous.NONE
        if settings.htpasswd is not None:
            from bayplan.registry.access.passwords import Passwords

            passwords, named = Passwords(settings.htpasswd.file), settings.htpasswd.allow
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="registry")
        guard = Guard(self._registry, accounts, settings.anonymous, named, token_life=settings.token_life)
        credentials = Credentials(accounts, self._threads, passwords, settings.rates.wrong_passwords)
        metrics = Metrics()
        self._log = _both(metrics, log)
        self._live: set[Connection] = set()
        self._secure: SecureListener | None = None
        watch = Watch(self._registry, root.path, self._threads, metrics, settings.metrics, self._gauges(), self._trail)
        rates = settings.rates
        self._application = Gateway(
            Distribution(
                self._registry,
                self._uploads,
                self._threads,
                guard,
                sparse=settings.sparse,
                upstream=self._works.upstream,
            ),
            lambda service: self._ecr(guard, service),
            guard,
            credentials,
            self._threads,
            secure=self._certificate is not None,
            bearer=settings.challenge is Challenge.BEARER,
            throttle=Throttle(rates.per_second, rates.burst) if rates.per_second else None,
            pages={
                PATH: TokenService(guard, credentials, self._threads, settings.bearer_life),
                "/healthz": watch.health,
                "/metrics": watch.metrics,
            },
            failed=failed,
            trail=self._trail,
            recent=Recent(self._registry, accounts, self._trail),
        )
        self._sweeper: asyncio.Task[None] | None = None

    def _own_certificate(self) -> Certificate | None:
        if self._settings.tls is None:
            return None
        from bayplan.registry.certificates import certificate_for

        return certificate_for(self._root, self._settings.tls, self._host)

    def _gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        def connections() -> float:
            return len(self._live) + (self._secure.under_way if self._secure is not None else 0)

        return {
            "bayplan_registry_connections": ("Connections; over TLS, requests under way.", connections),
            "bayplan_registry_uploads": ("Uploads under way.", lambda: self._uploads.under_way),
        }

    def _ecr(self, guard: Guard, service: str) -> Ecr:
        """The ECR API, made with its first call: its model takes a moment to read."""
        from bayplan.registry.ecr.face import Ecr

        return Ecr(self._registry, self._uploads, guard, self._works, service)

    async def start(self) -> tuple[str, int]:
        """Listen; (host, port) as it turned out. Raises ``port-taken``, ``listen-failed``."""
        try:
            host, port = await self._listen()
        except OSError as error:
            self._threads.shutdown()
            where = f"{self._host}:{self._port}"
            if isinstance(error, PermissionError):
                raise BayplanError("listen-failed", f"this user may not listen on {where}") from None
            if error.errno == errno.EADDRINUSE:
                raise BayplanError(
                    "port-taken", f"something listens on {where} already", hint="choose another port with --listen"
                ) from None
            raise BayplanError("listen-failed", f"cannot listen on {where}: {error.strerror or error}") from None
        self._works.start()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())
        self._remember(host, port)
        return host, port

    async def _listen(self) -> tuple[str, int]:
        limits = self._settings.limits
        if self._certificate is not None:
            from bayplan.registry.secure import SecureListener

            self._secure = SecureListener(
                self._application, limits, self._certificate, self._host, self._port, self._log
            )
            return await self._secure.start()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._application, limits, self._live, self._log, self._application.again),
            self._host,
            self._port,
            backlog=_BACKLOG,
            reuse_address=True,
        )
        name = self._server.sockets[0].getsockname()
        return str(name[0]), int(name[1])

    def _remember(self, host: str, port: int) -> None:
        """Write down where this server is: the last one that was started is the one that is meant."""
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (not bound: translated)
        where = f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"
        self._place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._place.with_suffix(f".{os.getpid()}.{port}.new")
        said = {"address": where, "pid": os.getpid()}
        if self._certificate is not None:
            said["tls"] = str(self._certificate.certificate) if self._certificate.own else "given"
        draft.write_text(json.dumps(said))
        draft.replace(self._place)

    def _forget(self) -> None:
        with suppress(FileNotFoundError, ValueError):
            if json.loads(self._place.read_text())["pid"] == os.getpid():
                self._place.unlink()

    async def close(self) -> None:
        """Take no more requests, answer those under way within the grace, end the rest."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        loop = asyncio.get_running_loop()
        if self._secure is not None:
            await self._secure.close(self._settings.grace)
        else:
            await self._close_plain(loop)
        self._forget()
        await loop.run_in_executor(None, self._threads.shutdown)
        await loop.run_in_executor(None, self._works.close)
        if self._trail is not None:
            self._trail.close()
        self._uploads.close()
        self._registry.store.leases.close()
        self._registry.close()

    async def _close_plain(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server.close()
        until = loop.time() + self._settings.grace
        for connection in tuple(self._live):
            connection.finish()
        while self._live and loop.time() < until:
            await asyncio.sleep(0.02)
        for connection in tuple(self._live):
            connection.abort()
        await self._server.wait_closed()

    def _record(self, trail: Trail, repository: str, taken: list[tuple[Kept, Rule]]) -> None:
        """A policy's work in the audit trail: up to ten images an event, as ECR has it."""
        from bayplan.registry.templates import LIFECYCLE

        text = self._registry.repository_document(repository, LIFECYCLE) or ""
        actions = [_action(image, rule) for image, rule in taken]
        for start in range(0, len(actions), _IMAGES_AN_EVENT):
            some = actions[start : start + _IMAGES_AN_EVENT]
            trail.write(policy_executed(self._accounts.load(), repository, text, some, time.time()))

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
                taken = carry_out(self._registry, repository.name, in_use=self._in_use)
                if self._trail is not None and taken:
                    self._record(self._trail, repository.name, taken)


def _action(image: Kept, rule: Rule) -> dict[str, Any]:
    """An image that a policy took, in the words of ECR's service event."""
    tags = list(image.tags)[:100]
    told = {
        "digest": image.digest,
        "tagStatus": "Tagged" if tags else "Untagged",
        "tagList": tags,
        "pushedAt": stamp(image.pushed),
    }
    return {
        "lifecycleEventImage": told,
        "rulePriority": rule.priority,
        "action": "transition" if rule.transition else "expire",
    }


def _both(metrics: Metrics, log: Callable[[Access], None] | None) -> Callable[[Access], None]:
    if log is None:
        return metrics

    def each(access: Access) -> None:
        metrics(access)
        log(access)

    return each


def serve(
    root: Root,
    listen: str = "127.0.0.1:5000",
    *,
    settings: Settings | None = None,
    log: Callable[[Access], None] | None = None,
    failed: Callable[[Request, Exception], None] | None = None,
    ready: Callable[[str, int], None] | None = None,
    stop: threading.Event | None = None,
    in_use: Callable[[], AbstractSet[Digest]] | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``, and then end in order. ``ready`` is told the address; ``in_use`` says which
    images no lifecycle policy takes, because containers run from them.

    ``settings`` overrides ``listen``. Raises what :func:`address` and :meth:`Server.start` raise.
    """
    chosen = settings or Settings(listen=listen)
    address(chosen.listen)  # before anything is made
    if threading.current_thread() is threading.main_thread():
        _share_memory()
    asyncio.run(_serve(Server(root, chosen, log=log, failed=failed, in_use=in_use), ready, stop))


def _share_memory() -> None:
    """Let all threads take memory from the same two places (mallopt(3), M_ARENA_MAX): by glibc's own choice each of sixteen keeps
    its own, which is a fifth of the process. Other libraries know no such thing, and need none."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)


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
