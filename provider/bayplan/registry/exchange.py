"""One HTTP request and its answer, as the registry's API sees them: no socket, no parser.

A request's body is read in pieces while it arrives (:class:`Incoming`); an answer's body is bytes or a slice of a file,
which the connection hands to ``sendfile``.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO, Protocol
from urllib.parse import parse_qsl

from bayplan.records import dataclass, field

PIECE = 1 << 19  # bytes of a body that are handed over at once
_LINK = re.compile(r"(?:^|(?<=&))link=[^&]*")
HELD = 2 * PIECE  # beyond this the peer is not read from until the consumer has caught up


class PeerGone(ConnectionError):
    """The client went away, or stood still too long, in the middle of a body."""


class BodyTooLarge(Exception):
    """More bytes than the caller of :meth:`Incoming.read` allows."""


class Incoming:
    """The body of a request, piece by piece. ``length`` is its Content-Length, None for a chunked one.

    Filled by the connection (:meth:`put`, :meth:`end`, :meth:`fail`), emptied by one reader. ``flow`` is told True when
    the peer must wait and False when it may go on; ``spare`` takes the pieces back that were read.
    """

    def __init__(
        self,
        length: int | None,
        flow: Callable[[bool], None],
        first: Callable[[], None],
        spare: Callable[[memoryview], None] | None = None,
    ) -> None:
        self.length = length
        self.received = 0
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._ended = length == 0
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._flow = flow
        self._spare = spare
        self._given: list[memoryview] = []
        self._first: Callable[[], None] | None = None if self._ended else first

    # -- the connection's side -------------------------------------------------------------------------------------

    def put(self, piece: memoryview) -> None:
        self.received += len(piece)
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held >= HELD:
            self._flow(True)
        self._wake()

    def end(self) -> None:
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        if not self._ended:
            self._failure = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the reader's side -----------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether everything has arrived and been read."""
        return self._ended and not self._pieces

    async def pieces(self) -> list[memoryview]:
        """What has arrived since the last call, waiting for something; empty at the end. Raises PeerGone.

        All of it at once, so that a reader who was busy pays one change of threads for many small pieces. With the next
        call, the memory of these is filled anew.
        """
        if self._spare is not None and self._given:
            for piece in self._given:
                self._spare(piece)
            self._given = []
        if self._first is not None:
            first, self._first = self._first, None
            first()
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        pieces, held = list(self._pieces), self._held
        self._pieces.clear()
        self._held = 0
        if held >= HELD:
            self._flow(False)
        if self._spare is not None:
            self._given = list(pieces)
        return pieces

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge beyond ``limit`` bytes."""
        if self.length is not None and self.length > limit:
            raise BodyTooLarge
        parts: list[bytes] = []
        total = 0
        while pieces := await self.pieces():
            total += sum(map(len, pieces))
            if total > limit:
                raise BodyTooLarge
            parts.extend(map(bytes, pieces))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` is percent-decoded text, ``query`` what stands behind the ``?``; header names are lower case.

    ``notes`` is for who answers: what is found out about the request on its way, for the lines that are written about it:
    ``principal``, ``who`` (its ARN or ``anonymous``), ``id``, and of the call its ``event`` (the name of an operation of ECR's API),
    ``parameters`` and ``response``.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: Incoming
    peer: str
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The peer without its port."""
        return self.peer.rpartition(":")[0] or self.peer

    def parameters(self) -> dict[str, list[str]]:
        """The query's values by name, in their order."""
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.query, keep_blank_values=True, max_num_fields=200):
            found.setdefault(name, []).append(value)
        return found


@dataclass(frozen=True, slots=True)
class FileSlice:
    """``size`` bytes of an open file from ``offset``; whoever sends it closes the file."""

    file: BinaryIO
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. ``length`` is told instead of the body's own where there is no body to send (HEAD)."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | FileSlice = b""
    length: int | None = None

    @property
    def size(self) -> int:
        return self.body.size if isinstance(self.body, FileSlice) else len(self.body)

    def close(self) -> None:
        if isinstance(self.body, FileSlice):
            self.body.file.close()


@dataclass(frozen=True, slots=True)
class Access:
    """What the access log and the metrics know of one request. ``when`` in Unix seconds, ``seconds`` from the request's head
    to the answer's end; ``target`` never shows what opens a link to a blob."""

    when: float
    peer: str
    method: str
    target: str
    status: int
    received: int
    sent: int
    seconds: float
    agent: str = ""
    who: str = ""
    id: str = ""

    @staticmethod
    def of(request: Request, status: int, sent: int, when: float, seconds: float) -> Access:
        target = request.path
        if request.query:
            target += "?" + _LINK.sub("link=***", request.query)
        agent, notes = request.headers.get("user-agent", ""), request.notes
        return Access(
            when,
            request.peer,
            request.method,
            target,
            status,
            request.body.received,
            sent,
            seconds,
            agent,
            notes.get("who", ""),
            notes.get("id", ""),
        )

    def __str__(self) -> str:
        import time

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.when))
        return (
            f"{stamp} {self.peer} {self.who or '-'} {self.method} {self.target} {self.status} in={self.received} "
            f"out={self.sent} ms={self.seconds * 1000:.1f} agent={self.agent!r}"
        )


@dataclass(frozen=True, slots=True)
class Repeated:
    """An answer that is known in bytes: ``lead`` up to the value of its last header, Date."""

    lead: bytes
    body: bytes
    status: int
    who: str
    id: str


class Application(Protocol):
    """What answers requests. It raises nothing but PeerGone and BodyTooLarge for what the peer did."""

    def __call__(self, request: Request) -> Awaitable[Response]: ...


def lead(response: Response, *, close: bool = False) -> bytes:
    """The status line and headers up to the value of Date. A line break in a value is a bug of ours, and never leaves."""
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Status"
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    for name, value in response.headers:
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line break in the header {name}")
        lines.append(f"{name}: {value}")
    if response.status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {response.size if response.length is None else response.length}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\nDate: "


def head(response: Response, *, date: bytes, close: bool) -> bytes:
    """The status line and headers, in bytes."""
    return lead(response, close=close) + date + b"\r\n\r\n"
