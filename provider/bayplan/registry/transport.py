"""Bytes to and from a registry: connections that are kept, bodies that are streamed, nothing about images.

Built on :mod:`http.client` because it is the cheapest thing in Python for large bodies: a download is ``recv_into`` on
the socket, an upload on plain HTTP is ``sendfile``, and hashing beside it runs without the interpreter's lock. A
connection belongs to one thread at a time and goes back to the pool when its answer has been read to the end.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import BinaryIO
from urllib.parse import urlsplit

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.registry.endpoint import Origin, Proxy, proxy_for, tls_context

_PIECE = 256 << 10
_IDLE_PER_ORIGIN = 8
_LIMIT = 8 << 20  # of an answer that is read whole


@dataclass(frozen=True, slots=True)
class FileBody:
    """A request body of ``size`` bytes from a file that can be opened again for another try."""

    open: Callable[[], BinaryIO]
    size: int
    progress: Callable[[int], None] | None = None  # called with the number of bytes sent so far


Body = bytes | FileBody


@dataclass(frozen=True, slots=True)
class Line:
    """An open connection and where it leads."""

    connection: http.client.HTTPConnection
    origin: Origin


class Answer:
    """An answer whose body is not read yet. A context manager: leaving it gives the connection back or closes it."""

    def __init__(self, raw: http.client.HTTPResponse, line: Line, pool: Pool) -> None:
        self._raw = raw
        self._line = line
        self._pool = pool
        self.status: int = raw.status
        self.headers = raw.headers
        self.origin = line.origin

    def header(self, name: str) -> str:
        return str(self.headers.get(name) or "")

    @property
    def length(self) -> int | None:
        """What Content-Length says, where it says something."""
        text = self.header("Content-Length")
        return int(text) if text.isdecimal() else None

    def read(self, limit: int = _LIMIT) -> bytes:
        """The whole body. Raises ``registry-answer`` beyond ``limit`` bytes, OSError/HTTPException for a cut one."""
        data = self._raw.read(limit + 1)
        if len(data) > limit:
            raise BayplanError("registry-answer", f"{self.origin} answered more than {limit} bytes")
        expected = self.length
        if expected is not None and len(data) < expected and self._raw.status not in (204, 304):
            raise http.client.IncompleteRead(data, expected - len(data))
        return data

    def readinto(self, buffer: memoryview) -> int:
        """The next bytes; 0 at the end, which may be early: compare with :attr:`length`."""
        return self._raw.readinto(buffer)

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        # Read to the end it may serve again; a body cut short or left unread takes its connection with it.
        if self._raw.isclosed() and not self._raw.will_close:
            self._pool.keep(self._line)
        else:
            self._raw.close()
            self._line.connection.close()


class Pool:
    """The connections of one client; :meth:`trust` names the origins that may show any certificate."""

    def __init__(
        self,
        *,
        connect_timeout: float = 15.0,
        environment: Mapping[str, str] | None = None,
        user_agent: str = "bayplan",
    ) -> None:
        self._connect_timeout = connect_timeout
        self._environment = dict(os.environ if environment is None else environment)
        self._agent = user_agent
        self._idle: dict[Origin, list[Line]] = {}
        self._contexts: dict[tuple[Origin, bool], ssl.SSLContext] = {}
        self._guard = threading.Lock()
        self._unverified: set[Origin] = set()

    def trust(self, origin: Origin) -> None:
        """From now on ``origin`` may show any certificate (the user marked the registry insecure)."""
        self._unverified.add(origin)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None, timeout: float) -> Answer:
        """One request, one answer: no redirect followed, no retry but on a kept connection that had died meanwhile.

        Raises OSError (ssl.SSLError and timeouts are such) and http.client.HTTPException.
        """
        origin = Origin.of(url)
        while True:
            line, fresh = self._take(origin)
            try:
                return self._exchange(line, method, url, headers, body, timeout)
            except (ConnectionError, http.client.BadStatusLine):
                line.connection.close()
                if fresh:
                    raise
                # Each turn takes one idle connection away, so this ends with a fresh one.
            except BaseException:
                line.connection.close()
                raise

    def close(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, {}
        for lines in idle.values():
            for line in lines:
                line.connection.close()

    # -- connections -----------------------------------------------------------------------------------------------

    def keep(self, line: Line) -> None:
        with self._guard:
            idle = self._idle.setdefault(line.origin, [])
            if len(idle) < _IDLE_PER_ORIGIN:
                idle.append(line)
                return
        line.connection.close()

    def _take(self, origin: Origin) -> tuple[Line, bool]:
        with self._guard:
            idle = self._idle.get(origin)
            if idle:
                return idle.pop(), False
        return Line(self._connect(origin), origin), True

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        proxy = proxy_for(origin, self._environment)
        host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
        connection: http.client.HTTPConnection
        if origin.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, port, timeout=self._connect_timeout, context=self._context(origin)
            )
            if proxy:
                extra = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
                connection.set_tunnel(origin.host, origin.port, extra)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self._connect_timeout)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _context(self, origin: Origin) -> ssl.SSLContext:
        verify = origin not in self._unverified
        with self._guard:
            context = self._contexts.get((origin, verify))
            if context is None:
                context = tls_context(origin, verify=verify, environment=self._environment)
                self._contexts[origin, verify] = context
        return context

    # -- one exchange ----------------------------------------------------------------------------------------------

    def _exchange(
        self,
        line: Line,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        timeout: float,
    ) -> Answer:
        connection, origin = line.connection, line.origin
        connection.sock.settimeout(timeout)
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Host": origin.netloc, "User-Agent": self._agent, "Accept-Encoding": "identity", **headers}
        proxy = proxy_for(origin, self._environment) if origin.scheme == "http" else None
        if proxy:
            target = f"{origin}{target}"
            sent |= _proxy_header(proxy)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        size = 0 if body is None else len(body) if isinstance(body, bytes) else body.size
        if body is not None or method in ("POST", "PUT", "PATCH"):
            connection.putheader("Content-Length", str(size))
        try:
            connection.endheaders(body if isinstance(body, bytes) and body else None)
            if isinstance(body, FileBody):
                _send_file(connection.sock, body)
        except (BrokenPipeError, ConnectionResetError):
            # A registry that refuses a body early says why and closes; that word is worth more than "broken pipe".
            if not isinstance(body, FileBody):
                raise
        raw = connection.getresponse()
        return Answer(raw, line, self)


def _proxy_header(proxy: Proxy) -> dict[str, str]:
    return {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}


def _send_file(sock: socket.socket, body: FileBody) -> None:
    with body.open() as stream:
        sent = 0
        encrypted = isinstance(sock, ssl.SSLSocket)
        while sent < body.size:
            if encrypted:
                piece = stream.read(min(_PIECE, body.size - sent))
                sock.sendall(piece)
                count = len(piece)
            else:
                # One megabyte a call keeps progress and interrupts alive; the kernel moves the pages.
                count = sock.sendfile(stream, sent, min(4 * _PIECE, body.size - sent))
            if not count:
                raise BayplanError(
                    "blob-cut", f"a blob of {body.size} bytes ended after {sent} while it was being sent"
                )
            sent += count
            if body.progress:
                body.progress(sent)
