"""AWS's S3 and KMS for tests: moto's server as a process of its own, and a proxy that breaks what goes through it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[str]:
    """``http://HOST:PORT`` of a moto server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "MOTO_ALLOW_NONEXISTENT_REGION": "true"},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < until, (folder / "moto.log").read_text()
                assert process.poll() is None, (folder / "moto.log").read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def client(service: str, url: str) -> Any:
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **KEYS)


def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS credentials in the environment, as whoever serves has them."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 79\r\nConnection: close\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>"
)


class Proxy:
    """A TCP proxy before ``target`` that can be told to refuse, to fall silent, to lose answers, or to break after so many bytes."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition("://")[2].partition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.refuse = False
        self.silent = False  # new connections are taken, and nothing is said
        self.cut_after: int | None = None  # bytes of an answer, once
        self.lose_after: int | None = None  # bytes of a request, once
        self.refuse_then = False  # from that on
        self.lose_answers: set[int] = set()  # numbers of the answers, from 1 on, that never come; whole requests do
        self._answered = 0
        self.slow_down = 0  # requests that are answered 503 in S3's words
        self.gets = 0  # requests with this method that came
        self._mute: list[socket.socket] = []
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended = True
        self._server.close()
        for one in self._mute:
            one.close()

    def _accept(self) -> None:
        while not self._ended:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            if self.refuse:
                peer.close()
                continue
            if self.silent:
                self._mute.append(peer)
                continue
            there = socket.create_connection(self._target, timeout=20)
            threading.Thread(target=self._pump, args=(peer, there, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(there, peer, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.refuse or self.silent:
                    break
                self.gets += not answers and data.startswith(b"GET ")
                if not answers and self.slow_down and b" HTTP/1.1\r\n" in data[:2000]:
                    self.slow_down -= 1
                    source.sendall(SLOW_DOWN)
                    break
                if not answers and self.lose_after is not None:
                    self.lose_after -= len(data)
                    if self.lose_after <= 0:
                        self.lose_after = None
                        target.sendall(data[: len(data) // 2])
                        self.refuse = self.refuse_then
                        break
                if answers and self.lose_answers and b"HTTP/1.1 100 " not in data[:16] and b"HTTP/1.1 " in data[:16]:
                    self._answered += 1
                    if self._answered in self.lose_answers:
                        break
                if answers and self.cut_after is not None:
                    self.cut_after -= len(data)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        target.sendall(data[: len(data) // 2])
                        break
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
