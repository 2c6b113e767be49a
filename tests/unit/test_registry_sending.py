"""A part of a file on its way: to peers that read, read slowly, stop reading, or go away."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from bayplan.registry.sending import Sending

SIZE = 20_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


def pair() -> tuple[socket.socket, socket.socket]:
    """The server's end, which does not block, and the client's, of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=20)
        server, _ = listener.accept()
    server.setblocking(False)
    return server, client


def send(file: Path, server: socket.socket, offset: int, size: int, seconds: float = 20.0) -> None:
    async def run() -> None:
        with file.open("rb") as source:
            await Sending(server, source.fileno(), offset, size, seconds).run()

    before = len(os.listdir("/proc/self/fd"))
    try:
        asyncio.run(run())
    finally:
        assert len(os.listdir("/proc/self/fd")) <= before, "no descriptor stays"


@pytest.mark.parametrize(("offset", "size"), [(0, SIZE), (1, 1), (5_000_000, 7_000_000), (SIZE - 10, 10)])
def test_a_reader_gets_the_part(file: Path, offset: int, size: int) -> None:
    server, client = pair()
    got = bytearray()

    def read() -> None:
        while part := client.recv(100_000):
            got.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    with client, server:
        send(file, server, offset, size)
        server.shutdown(socket.SHUT_WR)
        reader.join(20)
    assert bytes(got) == file.read_bytes()[offset : offset + size]


def test_a_peer_that_stops_reading_is_given_up(file: Path) -> None:
    server, client = pair()
    with client, server:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            send(file, server, 0, SIZE, seconds=0.3)
        assert time.monotonic() - began < 5


def test_a_peer_that_goes_away_ends_it(file: Path) -> None:
    server, client = pair()
    threading.Timer(0.2, client.close).start()
    with server, pytest.raises(ConnectionError):
        send(file, server, 0, SIZE)


def test_a_file_that_is_too_short_is_told(file: Path) -> None:
    server, client = pair()
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: client.recv(1 << 20), b"")])
    reader.start()
    with server:
        with pytest.raises(OSError, match="ended before its size"):
            send(file, server, 0, SIZE + 1)
        server.shutdown(socket.SHUT_RDWR)
        reader.join(20)
    client.close()
