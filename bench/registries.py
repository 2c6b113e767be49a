"""Registries as users start them, on loopback, and what is done to them: bayplan's, Debian's docker-registry, distribution v3.

A server is measured from outside: its processor time is that of its processes in ``/proc/<pid>/stat``, its memory the sum of
their peaks. bayplan's is asked with a login and writes its audit trail; the others know no caller and write no log, which is
what they are fastest at.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bayplan.oci.root import Root
from bayplan.registry.access import tokens
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.registry import Registry
from bench.measure import FailedError, output
from bench.site import Site

_START_SECONDS = 30.0
_TIMEOUT = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")
_CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs. ``headers`` are what each request shows; ``started`` seconds until its first answer."""

    name: str
    port: int
    pid: int
    headers: Mapping[str, str]
    started: float

    def cpu(self) -> float:
        """Seconds of processor time of its processes so far, those that have ended with them."""
        return sum(_used(pid) for pid in _tree(self.pid))

    def peak(self) -> int:
        """The sum of its processes' peaks of resident memory, in bytes."""
        total = 0
        for pid in _tree(self.pid):
            found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            total += int(found[1]) * 1024 if found else 0
        return total

    def client(self) -> Client:
        return Client(self)


class Client:
    """A connection that is kept. Raises FailedError for an answer that is not the expected one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT)
        self._buffer = memoryview(bytearray(1 << 20))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()

    def ask(
        self, method: str, target: str, expected: int, body: bytes | memoryview = b"", kind: str = ""
    ) -> tuple[Mapping[str, str], bytes]:
        """The headers and the body of an answer."""
        headers = {**self._server.headers, **({"Content-Type": kind} if kind else {})}
        if method in ("POST", "PUT"):
            headers["Content-Length"] = str(len(body))
        self._line.putrequest(method, target, skip_accept_encoding=True)
        for name, value in headers.items():
            self._line.putheader(name, value)
        self._line.endheaders(body or None)
        if self._line.sock is not None:
            self._line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = self._line.getresponse()
        said = answer.read()
        if answer.status != expected:
            raise FailedError(f"{self._server.name}: {method} {target}: {answer.status} {said[:500]!r}")
        return dict(answer.headers.items()), said

    def push_blob(self, repository: str, data: bytes | memoryview) -> str:
        """In two requests, as docker does; its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        begun, _ = self.ask("POST", f"/v2/{repository}/blobs/uploads/", 202)
        target = re.sub(r"^https?://[^/]*", "", begun["Location"])
        self.ask(
            "PUT",
            f"{target}{'&' if '?' in target else '?'}digest={digest}",
            201,
            data,
            kind="application/octet-stream",
        )
        return digest

    def push_small(self, repository: str, tag: str, seed: bytes) -> None:
        """An image of one small layer: five requests, three of which are durable when they are answered."""
        layer, config = (
            seed * (1024 // len(seed)),
            b'{"architecture":"amd64","os":"linux","seed":"' + seed.hex().encode() + b'"}',
        )
        digests = self.push_blob(repository, layer), self.push_blob(repository, config)
        self.ask(
            "PUT", f"/v2/{repository}/manifests/{tag}", 201, manifest(digests, (len(layer), len(config))), MANIFEST
        )

    def fetch(self, target: str) -> int:
        """Get a blob and verify it, as every client does; its bytes."""
        self._line.putrequest("GET", target, skip_accept_encoding=True)
        for name, value in self._server.headers.items():
            self._line.putheader(name, value)
        self._line.endheaders()
        answer = self._line.getresponse()
        if answer.status != 200:
            raise FailedError(f"{self._server.name}: GET {target}: {answer.status}")
        total, seen = 0, hashlib.sha256()
        while count := answer.readinto(self._buffer):
            seen.update(self._buffer[:count])
            total += count
        if not target.endswith(seen.hexdigest()):
            raise FailedError(f"{self._server.name}: GET {target}: the bytes are others")
        return total


def manifest(digests: tuple[str, str], sizes: tuple[int, int]) -> bytes:
    """Of one layer and a configuration, in that order of ``digests`` and ``sizes``."""
    (layer, config), (layer_size, config_size) = digests, sizes
    return (
        f'{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json",'
        f'"digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",'
        f'"digest":"{layer}","size":{layer_size}}}]}}'
    ).encode()


def together(server: Server, count: int, width: int, work: Callable[[Client, int], None]) -> float:
    """Do ``work`` for the numbers below ``count`` over ``width`` connections at once; seconds. Raises what it raised."""
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with server.client() as client:
                while not failures:
                    try:
                        number = numbers.get_nowait()
                    except queue.Empty:
                        return
                    work(client, number)
        except Exception as error:  # noqa: BLE001  (raised below, by the thread that waits)
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(width)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise failures[0]
    return took


def rate(server: Server, target: str, seconds: int) -> float:
    """GETs a second that ``wrk`` gets answered with 200, over 32 connections."""
    shown = [part for name, value in server.headers.items() for part in ("-H", f"{name}: {value}")]
    shown += ["-H", f"Accept: {MANIFEST}"]
    url = f"http://127.0.0.1:{server.port}{target}"
    said = output(["wrk", "-t2", "-c32", f"-d{seconds}s", *shown, url])
    found = re.search(r"^Requests/sec:\s*([\d.]+)", said, re.MULTILINE)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise FailedError(f"{server.name}: {said}")
    return float(found[1])


# -- the servers ---------------------------------------------------------------------------------------------------


@contextmanager
def bayplan(
    site: Site, name: str = "bayplan", *, root: Path | None = None, repositories: Sequence[str] = ()
) -> Iterator[Server]:
    """``bayplan registry serve`` as it is: no anonymous caller, the audit trail on. The login is of the account's root."""
    place = Root.at(root or site.folder / name)
    registry = Registry(place.ensure())
    for repository in repositories:
        registry.ensure_repository(repository)
    registry.close()
    account = Accounts(place).load()
    password, _ = tokens.issue(account, account.root_key.id, time.time())
    shown = "Basic " + base64.b64encode(f"AWS:{password}".encode()).decode()
    port = _free_port()
    command = site.bayplan("--root", str(place.path), "registry", "serve", "--quiet", "--listen", f"127.0.0.1:{port}")
    with _running(site, name, command.argv, command.variables, port, {"Authorization": shown}) as server:
        yield server


@contextmanager
def docker_registry(site: Site) -> Iterator[Server]:
    """Debian's, of distribution 2.8."""
    program = shutil.which("docker-registry")
    if program is None or shutil.which("wrk") is None:
        raise FailedError("not installed: docker-registry, wrk (tools/system-packages bench installs them)")
    with _distribution(site, "docker-registry", program) as server:
        yield server


@contextmanager
def distribution(site: Site) -> Iterator[Server]:
    """Distribution v3, built from its pinned module."""
    script = Path(__file__).parents[1] / "tools/go/build"
    folder = Path(output([str(script), "distribution"], limit=900.0).strip())
    with _distribution(site, "distribution-v3", str(folder / "registry")) as server:
        yield server


@contextmanager
def _distribution(site: Site, name: str, program: str) -> Iterator[Server]:
    port = _free_port()
    config = site.folder / f"{name}.yml"
    config.write_text(_CONFIG.format(folder=site.folder / name, port=port))
    with _running(site, name, [program, "serve", str(config)], {"OTEL_TRACES_EXPORTER": "none"}, port, {}) as server:
        yield server


@contextmanager
def _running(
    site: Site, name: str, argv: Sequence[str], variables: Mapping[str, str], port: int, headers: Mapping[str, str]
) -> Iterator[Server]:
    with (site.folder / f"{name}.log").open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **variables}
        )
    try:
        while True:
            try:
                line = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
                line.request("GET", "/v2/", headers=dict(headers))
                status = line.getresponse().status
                line.close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - began > _START_SECONDS:
                    raise FailedError(
                        f"{name} did not start:\n{(site.folder / f'{name}.log').read_text()[-4000:]}"
                    ) from None
                time.sleep(0.002)
        if status != 200:
            raise FailedError(f"{name} answers /v2/ with {status}")
        yield Server(name, port, process.pid, headers, time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that ends meanwhile
                found += map(int, (task / "children").read_text().split())
    return found


def _used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def versions() -> str:
    """One line on who was measured against."""
    debian = output(["docker-registry", "--version"]).split()
    module = (Path(__file__).parents[1] / "tools/go/distribution/go.mod").read_text()
    third = re.search(r"distribution/v3 (v\S+)", module)
    return f"against docker-registry {debian[-1]}, distribution {third[1] if third else '?'}"
