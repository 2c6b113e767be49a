"""The TLS listener: HTTP/1.1 and HTTP/2 by granian (Rust: hyper and rustls), in this process and on this event loop.

The plain listener (:mod:`.connection`) owes its speed to ``sendfile``, which TLS has no use for; so here somebody else reads the
heads and seals the bytes, and the application is the same. What that somebody does not do is done here: a body that stands still is
given up, an answer must be taken, and a body that ends before its Content-Length is no body.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from bayplan.errors import BayplanError
from bayplan.registry.certificates import Certificate
from bayplan.registry.connection import Limits
from bayplan.registry.exchange import (
    Access,
    Application,
    BodyTooLarge,
    FileSlice,
    Incoming,
    PeerGone,
    Request,
    Response,
)

_PIECE = 1 << 20  # bytes of a file that are sent at once
_LINGER_BYTES = 32 << 20
_LINGER_SECONDS = 10.0
_ONCE = frozenset({"content-length", "content-range", "host", "authorization"})


class SecureListener:
    """Serves ``application`` on ``host`` and ``port`` with a certificate, within a running event loop."""

    def __init__(
        self,
        application: Application,
        limits: Limits,
        certificate: Certificate,
        host: str,
        port: int,
        log: Callable[[Access], None] | None = None,
    ) -> None:
        self._application = application
        self._limits = limits
        self._certificate = certificate
        self._host, self._port = host, port
        self._log = log
        self._live: set[asyncio.Task[Any]] = set()

    @property
    def under_way(self) -> int:
        """How many requests are being answered."""
        return len(self._live)

    async def start(self) -> tuple[str, int]:
        """Listen; (host, port) as it turned out. Raises OSError where the address cannot be had."""
        from granian.constants import HTTPModes, Interfaces, SSLProtocols
        from granian.http import HTTP1Settings, HTTP2Settings
        from granian.server.embed import Server

        # granian shares a port with whoever else asks it to; a registry has its port for itself.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((self._host, self._port))
            probe.listen()
            host, port = probe.getsockname()[:2]
        limits = self._limits
        self._granian: Any = Server(
            self._answer,
            address=host,
            port=port,
            interface=Interfaces.RSGI,
            http=HTTPModes.auto,
            websockets=False,
            log_enabled=False,
            backpressure=limits.connections,
            http1_settings=HTTP1Settings(
                header_read_timeout=int(limits.head_seconds * 1000),
                max_buffer_size=max(limits.headers + limits.target, 8192),
            ),
            http2_settings=HTTP2Settings(
                max_headers_size=limits.headers,
                max_concurrent_streams=100,
                keep_alive_interval=int(limits.idle_seconds * 1000),
                initial_connection_window_size=4 << 20,
                initial_stream_window_size=2 << 20,
            ),
            ssl_cert=self._certificate.certificate,
            ssl_key=self._certificate.key,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        self._serving = asyncio.get_running_loop().create_task(self._granian.serve())
        await self._wait_for(host, port)
        return host, port

    async def _wait_for(self, host: str, port: int) -> None:
        until = time.monotonic() + 20
        while True:
            if self._serving.done():
                error = self._serving.exception()
                raise BayplanError("listen-failed", f"cannot listen on {host}:{port}: {error or 'granian ended'}")
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return

    async def close(self, grace: float) -> None:
        """Take no more requests, answer those under way within ``grace`` seconds, end the rest."""
        if self._live:
            await asyncio.wait(tuple(self._live), timeout=grace)
        self._granian.stop()
        for task in tuple(self._live):
            task.cancel()
        try:
            async with asyncio.timeout(5):
                await self._serving
        except TimeoutError:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving

    # -- one request ---------------------------------------------------------------------------------------------------

    async def _answer(self, scope: Any, protocol: Any) -> None:
        """RSGI's application: one request."""
        task = asyncio.current_task()
        assert task is not None
        self._live.add(task)
        try:
            await self._exchange(scope, protocol)
        finally:
            self._live.discard(task)

    async def _exchange(self, scope: Any, protocol: Any) -> None:
        began, when = time.perf_counter(), time.time()
        headers = _headers(scope)
        if headers is None or len(scope.path) + len(scope.query_string) > self._limits.target:
            status = HTTPStatus.BAD_REQUEST if headers is None else HTTPStatus.REQUEST_URI_TOO_LONG
            protocol.response_empty(status, [("content-length", "0")])
            return
        pump = _Pump(protocol, headers, scope.method, self._limits)
        request = Request(scope.method, scope.path, scope.query_string, headers, pump.body, scope.client)
        sent = 0
        try:
            response = await self._response(request)
            await pump.linger()
            try:
                sent = await self._send(protocol, request, response)
            finally:
                response.close()
                if self._log is not None:
                    self._log(Access.of(request, response.status, sent, when, time.perf_counter() - began))
        except (PeerGone, TimeoutError, ConnectionError):
            return  # the client sees a connection that broke, or is gone itself
        finally:
            await pump.close()

    async def _response(self, request: Request) -> Response:
        try:
            return await self._application(request)
        except BodyTooLarge:
            return Response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except PeerGone:
            return Response(HTTPStatus.REQUEST_TIMEOUT)
        except Exception as error:  # noqa: BLE001  (reported below; one request's bug must not hang its client)
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{request.method} {request.path} failed", "exception": error}
            )
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _send(self, protocol: Any, request: Request, response: Response) -> int:
        headers = [(name.lower(), value) for name, value in response.headers]
        status = int(response.status)
        if status != HTTPStatus.NO_CONTENT:
            headers.append(("content-length", str(response.size if response.length is None else response.length)))
        bare = request.method == "HEAD" or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if bare or not response.size:
            protocol.response_empty(status, headers)
            return 0
        if not isinstance(response.body, FileSlice):
            protocol.response_bytes(status, headers, response.body)
            return len(response.body)
        return await self._send_file(protocol.response_stream(status, headers), response.body)

    async def _send_file(self, transport: Any, part: FileSlice) -> int:
        loop = asyncio.get_running_loop()
        part.file.seek(part.offset)
        done = 0
        while done < part.size:
            piece = await loop.run_in_executor(None, part.file.read, min(_PIECE, part.size - done))
            if not piece:
                raise OSError("a blob ended before its size")
            async with asyncio.timeout(self._limits.send_seconds):
                try:
                    await transport.send_bytes(piece)
                except RuntimeError:  # RSGIProtocolClosed
                    raise PeerGone("the client went away") from None
            done += len(piece)
        return done


class _Pump:
    """Carries a request's body from granian to an :class:`Incoming`, once somebody reads it."""

    def __init__(self, protocol: Any, headers: dict[str, str], method: str, limits: Limits) -> None:
        self._protocol = protocol
        self._limits = limits
        length = headers.get("content-length")
        chunked = length is None and ("transfer-encoding" in headers or method in ("POST", "PUT", "PATCH"))
        self.body = Incoming(None if chunked else int(length or 0), self._flow, self._begin)
        self._task: asyncio.Task[None] | None = None
        self._may = asyncio.Event()
        self._may.set()

    def _flow(self, wait: bool) -> None:
        if wait:
            self._may.clear()
        else:
            self._may.set()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        body = self.body
        pieces = aiter(self._protocol)
        try:
            while True:
                try:
                    async with asyncio.timeout(self._limits.body_seconds):
                        piece = await anext(pieces)  # not anext(pieces, None): CPython 3.11 ends in a fault on it
                except StopAsyncIteration:
                    break
                if piece:
                    body.put(memoryview(piece))
                await self._may.wait()
        except TimeoutError:
            body.fail(PeerGone("the client stood still in the middle of a body"))
        except RuntimeError:  # RSGIProtocolError, RSGIProtocolClosed
            body.fail(PeerGone("the client ended in the middle of a body"))
        else:
            if body.length is not None and body.received < body.length:
                body.fail(PeerGone("the client ended in the middle of a body"))
            else:
                body.end()

    async def linger(self) -> None:
        """Read away the rest of the body within limits: who is still sending reads no answer."""
        body = self.body
        if body.finished or (body.length is not None and body.length - body.received > _LINGER_BYTES):
            return
        taken = 0
        with contextlib.suppress(PeerGone, TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while taken < _LINGER_BYTES and (pieces := await body.pieces()):
                    taken += sum(map(len, pieces))

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def _headers(scope: Any) -> dict[str, str] | None:
    """Headers by name; None where one stands twice that may not."""
    found: dict[str, str] = {}
    for name, value in scope.headers.items():
        if name in found:
            if name in _ONCE:
                return None
            value = f"{found[name]}, {value}"
        found[name] = value
    if scope.authority:  # HTTP/2 has no Host
        found.setdefault("host", scope.authority)
    return found
