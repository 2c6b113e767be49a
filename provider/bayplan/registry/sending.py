"""A part of a blob on its way to a peer: by sendfile(2) where it lies in a file of the system, otherwise in pieces.

``loop.sendfile`` registers with the selector anew for each piece, which for a fast peer is half of what a blob costs. Here the
socket is watched once for the whole of it, by a descriptor of its own, since the first belongs to its transport.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from typing import BinaryIO

_PIECE = 256 << 10  # bytes
_SLICE = 4 << 20  # bytes of one call, after which others get their turn


class Sending:
    """``await Sending(sock, file, offset, size, seconds)``: the transport has nothing left to send, and sends nothing meanwhile.

    Raises TimeoutError where the peer takes less than 4 MiB in ``seconds``, OSError where the connection or the file ends, and what
    :meth:`fail` is given.
    """

    def __init__(self, sock: socket.socket, file: int, offset: int, size: int, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._file = file
        self._at = offset
        self._end = offset + size
        self._seconds = seconds
        self._milestone = offset + _SLICE
        self._deadline = self._loop.time() + seconds
        self._watched = os.dup(sock.fileno())

    async def run(self) -> None:
        self._loop.add_writer(self._watched, self._more)
        timer = self._loop.call_at(self._deadline, self._ring)
        try:
            self._timer = timer
            await self._done
        finally:
            self._timer.cancel()
            self._loop.remove_writer(self._watched)
            os.close(self._watched)

    def fail(self, error: BaseException) -> None:
        """End it: the connection is gone."""
        if not self._done.done():
            self._done.set_exception(error)

    def _more(self) -> None:
        if self._done.done():
            return
        try:
            sent = os.sendfile(self._watched, self._file, self._at, min(_SLICE, self._end - self._at))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.fail(error)
            return
        if not sent:
            self.fail(OSError("a blob ended before its size"))
            return
        self._at += sent
        if self._at == self._end:
            self._done.set_result(None)
        elif self._at >= self._milestone:
            self._milestone = self._at + _SLICE
            self._deadline = self._loop.time() + self._seconds

    def _ring(self) -> None:
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._ring)
        else:
            self.fail(TimeoutError("the peer takes nothing"))


async def pieces(file: BinaryIO, offset: int, size: int, seconds: float) -> AsyncGenerator[bytes, None]:
    """``size`` bytes of ``file`` from ``offset``, read in other threads: each piece while the one before it is sent.

    ``loop.sendfile`` reads such a file, too, but 16 KiB at a time. Raises TimeoutError where a piece takes ``seconds``, OSError where
    the file ends early, and what reading it raises. Nothing reads the file any more when this ends.
    """
    loop = asyncio.get_running_loop()
    file.seek(offset)
    sizes = [min(_PIECE, size - at) for at in range(0, size, _PIECE)]
    ahead: asyncio.Future[bytes] | None = None
    try:
        for number, length in enumerate(sizes):
            ahead = ahead or loop.run_in_executor(None, file.read, length)
            async with asyncio.timeout(seconds):
                piece = await asyncio.shield(ahead)
            ahead = None
            if len(piece) != length:
                raise OSError("a blob ended before its size")
            if number + 1 < len(sizes):
                ahead = loop.run_in_executor(None, file.read, sizes[number + 1])
            yield piece
    finally:
        if ahead is not None:
            await asyncio.wait([ahead])
            ahead.cancelled() or ahead.exception()  # nobody asks for it any more
