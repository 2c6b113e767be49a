"""One HTTP/1.1 connection of the plain listener: httptools for the heads, the kernel for the bodies.

Written on asyncio's protocols instead of a web framework because of what a registry does all day: blobs go out by
``sendfile`` and come in through ``recv_into`` straight into the buffers that are hashed and written, which takes a
quarter of the processor time of anything in between. So the parser sees heads, chunked bodies and the first bytes of a
body; the rest of a body whose length is known goes past it.

A peer can be slow, silent, greedy or wrong: heads are bounded in size and time, a body must move, an answer must be
taken, pipelined requests wait their turn in the kernel, and what is not HTTP is answered 400 and closed.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.registry import memory
from bayplan.registry.exchange import (
    Access,
    Application,
    BodyTooLarge,
    FileSlice,
    Incoming,
    PeerGone,
    Repeated,
    Request,
    Response,
    head,
)
from bayplan.registry.sending import Sending, pieces

_SLICE = 4 << 20  # bytes of a file between two looks at the clock
_LINGER_BYTES = 32 << 20
_LINGER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask of the server. Sizes in bytes, times in seconds."""

    target: int = 8 << 10
    headers: int = 32 << 10
    header_count: int = 100
    connections: int = 1024
    head_seconds: float = 20.0
    idle_seconds: float = 75.0
    body_seconds: float = 60.0  # without a single byte
    send_seconds: float = 120.0  # for each 4 MiB


class Wrong(Exception):
    """A request that gets an answer without being looked at: ``status`` and the connection's end."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Connection(asyncio.BufferedProtocol):
    """Serves the requests of one client one after the other with ``application``; ``log`` gets each one's line.

    ``again`` may know the answer to a request without a body already, by its method, target, headers and address.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        live: set[Connection],
        log: Callable[[Access], None] | None,
        again: Callable[[str, str, Mapping[str, str], str], Repeated | None] | None = None,
    ) -> None:
        self._application = application
        self._again = again
        self._limits = limits
        self._live = live
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._feed = memory.feed()
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._body: Incoming | None = None  # of the request whose body is arriving
        self._piece: memoryview | None = None  # where a body of known length is received to, past the parser
        self._filled = 0
        self._left = 0
        self._ending = False  # no further request is taken
        self._writable = asyncio.Event()
        self._writable.set()
        self._sending: Sending | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        self._new_parser()

    # -- asyncio ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
        self._live.add(self)
        if len(self._live) > self._limits.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        self._alarm(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._live.discard(self)
        self._ending = True
        self._quiet()
        if self._body is not None:
            self._body.fail(PeerGone("the client went away"))
        if self._sending is not None:
            self._sending.fail(PeerGone("the client went away"))
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        self._ending = True
        if self._body is not None:
            self._body.fail(PeerGone("the client ended in the middle of a body"))
        return self._task is not None  # an answer under way is still sent

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._feed if self._piece is None else self._piece[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._piece is not None:
            self._direct(nbytes)
            return
        try:
            self._parser.feed_data(self._feed[:nbytes])
        except self._httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause.status if isinstance(cause, Wrong) else HTTPStatus.BAD_REQUEST)
            return
        except self._httptools.HttpParserUpgrade:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        except self._httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        if self._body is not None:
            self._alarm(self._limits.body_seconds)
            if self._body.length is not None:
                self._left = self._body.length - self._body.received
                self._next_piece()
        elif self._waiting and len(self._waiting) > 8:
            self._transport.pause_reading()

    # -- receiving -------------------------------------------------------------------------------------------------

    def _new_parser(self) -> None:
        import httptools

        self._httptools: Any = httptools
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._size = 0

    def _direct(self, count: int) -> None:
        body, piece = self._body, self._piece
        assert body is not None
        assert piece is not None
        self._filled += count
        self._left -= count
        self._alarm(self._limits.body_seconds)
        if self._filled < len(piece):
            return
        body.put(piece)
        if self._left:
            self._next_piece()
            return
        self._piece = None
        self._end_body()
        self._new_parser()

    def _next_piece(self) -> None:
        self._piece = memory.piece(self._left)
        self._filled = 0

    def _end_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.end()
        self._quiet()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._ending and self._waiting:
            raise Wrong(HTTPStatus.BAD_REQUEST)
        self._target, self._headers, self._size = b"", {}, 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > self._limits.target:
            raise Wrong(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > self._limits.headers or len(self._headers) >= self._limits.header_count:
            raise Wrong(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1").strip()
        if key in self._headers:
            if key in ("content-length", "content-range", "host", "authorization"):
                raise Wrong(HTTPStatus.BAD_REQUEST)
            text = f"{self._headers[key]}, {text}"
        self._headers[key] = text

    def on_headers_complete(self) -> None:
        headers = self._headers
        chunked = "transfer-encoding" in headers
        if chunked and headers["transfer-encoding"].lower() != "chunked":
            raise Wrong(HTTPStatus.NOT_IMPLEMENTED)
        if "host" not in headers and self._parser.get_http_version() == "1.1":
            raise Wrong(HTTPStatus.BAD_REQUEST)
        if self._again is not None and self._repeated(self._again):
            return
        length = None if chunked else int(headers.get("content-length") or 0)
        path, _, query = self._target.decode("latin-1").partition("?")
        if "://" in path.partition("?")[0]:  # the absolute form that a proxy's client sends
            path = "/" + path.partition("://")[2].partition("/")[2]
        expects = headers.get("expect", "").lower() == "100-continue"
        body = Incoming(length, self._flow, self._go_on if expects else _nothing, memory.take_back)
        request = Request(self._parser.get_method().decode("latin-1"), unquote(path), query, headers, body, self._peer)
        options = {option.strip().lower() for option in headers.get("connection", "").split(",")}
        keep = "close" not in options if self._parser.get_http_version() == "1.1" else "keep-alive" in options
        self._body = None if length == 0 else body
        self._waiting.append((request, keep))
        self._quiet()
        if self._task is None:
            self._task = self._loop.create_task(self._serve())

    def on_body(self, data: bytes) -> None:
        if self._body is not None:
            self._body.put(memoryview(data))

    def on_message_complete(self) -> None:
        self._end_body()
        self._target, self._headers, self._size = b"", {}, 0
        if self._task is None:
            self._alarm(self._limits.idle_seconds)

    def _repeated(self, again: Callable[[str, str, Mapping[str, str], str], Repeated | None]) -> bool:
        """Answer at once, without a task, what is known already; False where it is not, or others are before it."""
        if self._task is not None or self._ending or not self._writable.is_set():
            return False
        method, target = self._parser.get_method().decode("latin-1"), self._target.decode("latin-1")
        answer = again(method, target, self._headers, self._peer.rpartition(":")[0] or self._peer)
        if answer is None or self._parser.get_http_version() != "1.1":
            return False
        self._transport.write(b"".join((answer.lead, _date(), b"\r\n\r\n", answer.body)))
        if self._log is not None:
            agent = self._headers.get("user-agent", "")
            said = len(answer.body)
            self._log(
                Access(
                    time.time(), self._peer, method, target, answer.status, 0, said, 0.0, agent, answer.who, answer.id
                )
            )
        return True

    def _flow(self, wait: bool) -> None:
        if self._transport.is_closing():
            return
        if wait:
            self._transport.pause_reading()
            self._quiet()  # it is we who are slow
        else:
            self._transport.resume_reading()
            if self._body is not None:
                self._alarm(self._limits.body_seconds)

    def _go_on(self) -> None:
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- the clock -------------------------------------------------------------------------------------------------

    def _alarm(self, seconds: float) -> None:
        """Set the one deadline; cheap when it is only moved on, as for each piece of a body."""
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._ring)

    def _quiet(self) -> None:
        self._deadline = 0.0

    def _ring(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
        elif self._body is not None:
            self._ending = True
            self._body.fail(PeerGone("the client stood still in the middle of a body"))
            if self._task is None:
                self._transport.abort()
        elif self._size or self._target:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._transport.close()

    # -- answering -------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while self._waiting:
                request, keep = self._waiting.popleft()
                keep = await self._answer(request, keep)
                if not keep or self._transport.is_closing():
                    self._ending = True
                    self._transport.close()
                    return
                self._transport.resume_reading()
        except BayplanError as error:  # a blob that could not be read to its end
            self._loop.call_exception_handler({"message": "a blob broke off", "exception": error, "protocol": self})
            self._transport.abort()
        except (OSError, TimeoutError):
            self._transport.abort()
        finally:
            self._task = None
        if self._ending:
            self._transport.close()
        elif self._body is None:
            self._alarm(self._limits.idle_seconds)

    async def _answer(self, request: Request, keep: bool) -> bool:
        began, when = self._loop.time(), time.time()
        try:
            response = await self._application(request)
        except BodyTooLarge:
            response = Response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except PeerGone:
            response = Response(HTTPStatus.REQUEST_TIMEOUT)
            keep = False
        except Exception as error:  # noqa: BLE001  (reported below; one request's bug must not hang its client)
            self._loop.call_exception_handler(
                {"message": f"{request.method} {request.path} failed", "exception": error, "protocol": self}
            )
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR)
            keep = False
        keep = keep and not self._ending
        # A client that is still sending reads no answer from a connection that is reset under it: take what comes.
        complete = request.body.finished or await self._linger(request.body)
        keep = keep and complete
        sent = 0
        try:
            sent = await self._send(request, response, close=not keep)
        finally:
            response.close()
            if self._log is not None:
                self._log(Access.of(request, response.status, sent, when, self._loop.time() - began))
        return keep

    async def _linger(self, body: Incoming) -> bool:
        """Read away the rest of a body, within limits; False where the connection cannot serve again."""
        if body.length is not None and body.length - body.received > _LINGER_BYTES:
            return False
        taken = 0
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while taken < _LINGER_BYTES:
                    pieces = await body.pieces()
                    if not pieces:
                        return True
                    taken += sum(map(len, pieces))
        except (PeerGone, TimeoutError):
            return False
        return False

    async def _send(self, request: Request, response: Response, *, close: bool) -> int:
        text = head(response, date=_date(), close=close)
        bare = request.method == "HEAD" or response.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if bare or not isinstance(response.body, FileSlice):
            body = b"" if bare or isinstance(response.body, FileSlice) else response.body
            self._transport.write(text + body)
            await self._drained()
            return len(body)
        self._transport.write(text)
        part, done = response.body, 0
        number = _number(part.file)
        if number is None:  # no file of the system, such as a sealed blob
            async with aclosing(pieces(part.file, part.offset, part.size, self._limits.send_seconds)) as read:
                async for piece in read:
                    self._transport.write(piece)
                    await self._drained()
            return part.size
        while done < part.size and self._transport.get_write_buffer_size():  # it comes behind a head that waits itself
            count = min(_SLICE, part.size - done)
            if self._transport.is_closing():
                raise PeerGone("the client went away")
            async with asyncio.timeout(self._limits.send_seconds):
                moved = await self._loop.sendfile(self._transport, part.file, part.offset + done, count)
            if moved != count:
                raise OSError("a blob ended before its size")
            done += moved
        if done < part.size:
            await self._send_file(number, part.offset + done, part.size - done)
        return part.size

    async def _send_file(self, file: int, offset: int, size: int) -> None:
        if self._transport.is_closing():
            raise PeerGone("the client went away")
        sock = self._transport.get_extra_info("socket")
        self._sending = Sending(sock, file, offset, size, self._limits.send_seconds)
        try:
            await self._sending.run()
        finally:
            self._sending = None

    async def _drained(self) -> None:
        if not self._writable.is_set():
            async with asyncio.timeout(self._limits.send_seconds):
                await self._writable.wait()
        if self._transport.is_closing():
            raise PeerGone("the client went away")

    def _refuse(self, status: int) -> None:
        """Answer what is not a request, and end. A request being answered is left to its own end."""
        self._ending = True
        self._quiet()
        if self._body is not None:
            self._body.fail(PeerGone("the body is not HTTP"))
        if self._transport.is_closing():
            return
        if self._task is not None:
            self._transport.pause_reading()
            return
        self._transport.write(head(Response(status), date=_date(), close=True))
        if self._log is not None:
            self._log(Access(time.time(), self._peer, "-", "-", status, 0, 0, 0.0))
        self._transport.close()

    # -- the server's end ------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Take no further request; close now if none is under way."""
        self._ending = True
        if self._task is None:
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


def _number(file: BinaryIO) -> int | None:
    """The descriptor of a file that has one."""
    try:
        return file.fileno()
    except OSError:
        return None


def _nothing() -> None:
    """What is done for a client that does not wait to be told to go on."""


_stamp: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """The Date header's value, made once a second."""
    global _stamp
    now = int(time.time())
    if _stamp[0] != now:
        _stamp = (now, email.utils.formatdate(now, usegmt=True).encode())
    return _stamp[1]
