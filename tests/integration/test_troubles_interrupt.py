"""SIGINT and SIGTERM in the middle of an apply: what is in flight ends or is undone, the state is right, the exit code says
which signal it was, and the next apply goes on from there."""

from __future__ import annotations

import http.server
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from apply_site import Site, astray, busybox_context, eventually, free_port, get, root_with_box, server, sleeper
from runtime_world import World

pytestmark = pytest.mark.root

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SOON = 5.0  # seconds in which an interrupted command has to end


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(world: World, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, world, f"i{free_port()}")
    yield made
    made.write({})
    made.apply()
    eventually(lambda: not astray(world), "something was left behind")


def interrupted(process: subprocess.Popen[str], at: str, number: int) -> str:
    """Send the signal when the command says ``at``; its output. It ends soon, with the signal's exit code."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if at in line:
            break
    else:
        raise AssertionError(f"it never said {at!r}: {said} {process.communicate(timeout=20)}")
    began = time.monotonic()
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    seconds = time.monotonic() - began
    text = "".join(said) + out + err
    assert process.returncode == 128 + number, text
    assert seconds < SOON, f"{seconds:.1f} s\n{text}"
    assert "Traceback" not in text
    return text


def unwell(**more: object) -> dict[str, object]:
    """A health check that never succeeds, in time."""
    return {"healthcheck": {"test": ["CMD", "false"], "start_interval": "200ms", "start_period": "60s"}, **more}


@pytest.mark.parametrize("number", SIGNALS)
def test_in_the_health_wait_of_a_new_container(site: Site, number: int) -> None:
    site.write({"Container.a": sleeper(), "Container.b": sleeper(depends_on={"Container.a": "started"}, **unwell())})
    text = interrupted(site.process("apply"), "waits until it is healthy", number)
    assert "cancelled" in text
    assert site.names() == [f"{site.name}-a"]
    assert sorted(site.rows()) == ["Container.a"]
    assert [one["outcome"] for one in site.run("state", "history", "--json").document["runs"]] == ["cancelled"]
    site.write({"Container.a": sleeper(), "Container.b": sleeper()})
    site.settle()


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_replacement_the_old_one_goes_on_serving(site: Site, number: int) -> None:
    port = free_port()
    site.write({"Container.web": server(port, "one")})
    site.settle()
    before = site.rows()
    site.write({"Container.web": server(port, "two", **unwell())})
    interrupted(site.process("apply"), "waits until it is healthy", number)
    assert get(port) == "one"
    assert site.rows() == before
    assert site.names() == [f"{site.name}-web"]
    site.write({"Container.web": server(port, "three")})
    site.settle()
    assert get(port) == "three"


def test_in_a_replacement_that_stops_the_old_one_first_it_comes_back(site: Site) -> None:
    volume = {"volumes": ["${Volume.v.name}:/data"]}
    site.write({"Volume.v": {}, "Container.db": sleeper(**volume)})
    site.settle()
    before = site.rows()
    site.write({"Volume.v": {}, "Container.db": sleeper(env={"A": "1"}, **volume, **unwell())})
    interrupted(site.process("apply"), "waits until it is healthy", signal.SIGTERM)
    assert site.rows() == before
    assert site.container(f"{site.name}-db").running
    assert site.names() == [f"{site.name}-db"]
    site.write({"Volume.v": {}, "Container.db": sleeper(env={"A": "1"}, **volume)})
    site.settle()


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_build(site: Site, number: int) -> None:
    context = busybox_context(site.folder / "app", 'FROM box:1\nRUN ["/bin/sh", "-c", "echo at it; sleep 60"]\n', {})
    site.write({"Image.app": {"build": {"context": str(context)}, "tags": [f"{site.name}:1"]}})
    interrupted(site.process("apply"), "at it", number)
    assert site.rows() == {}
    busybox_context(site.folder / "app", 'FROM box:1\nRUN ["/bin/sh", "-c", "echo done > /done"]\n', {})
    site.settle()


class _Stalling(http.server.BaseHTTPRequestHandler):
    """A registry that knows nothing and never answers an upload."""

    protocol_version = "HTTP/1.1"

    def _answer(self, code: int) -> None:
        body = b"{}" if self.command == "GET" else b""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_POST(self) -> None:
        self.server.stalled.set()  # type: ignore[attr-defined]
        self.server.over.wait(60)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


class _Registry(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture
def stalling() -> Iterator[_Registry]:
    with _Registry(("127.0.0.1", 0), _Stalling) as made:
        made.stalled, made.over = threading.Event(), threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.over.set()  # type: ignore[attr-defined]
        made.shutdown()


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_push_to_a_registry_that_is_silent(site: Site, stalling: _Registry, number: int) -> None:
    address = f"127.0.0.1:{stalling.server_address[1]}"
    context = busybox_context(site.folder / "app", "FROM box:1\nCOPY word /word\n", {"word": site.name})
    image = {"build": {"context": str(context)}, "tags": [f"{site.name}:1"]}
    registries = {"lab": {"type": "oci", "address": address, "insecure": True}}
    site.write({"Image.app": {**image, "push": [f"{address}/team/app:1"]}}, registries=registries)
    process = site.process("apply")
    assert stalling.stalled.wait(30), process.communicate(timeout=30)  # type: ignore[attr-defined]
    began = time.monotonic()
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number, out + err
    assert time.monotonic() - began < SOON, out + err
    assert "Traceback" not in out + err
    assert sorted(site.rows()) == ["Image.app"]
    site.write({"Image.app": image})
    site.settle()


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_waits_for_a_lock(site: Site, number: int) -> None:
    site.write({"Container.a": sleeper(**unwell())})
    holder = site.process("apply")
    assert holder.stdout is not None
    for line in holder.stdout:
        if "waits until it is healthy" in line:
            break
    site.write({"Container.a": sleeper(**unwell()), "Container.b": sleeper()})
    interrupted(site.process("apply"), "nothing else changes", number)
    assert holder.poll() is None
    holder.send_signal(signal.SIGINT)
    holder.communicate(timeout=20)
    assert holder.returncode == 130


def test_a_second_signal_leaves_at_once_and_the_next_apply_goes_on(site: Site) -> None:
    site.write({"Container.a": sleeper(stop_signal="SIGTERM", stop_timeout="4s", command=["sleep", "1000"])})
    site.settle()
    site.write({})
    process = site.process("apply")
    assert process.stdout is not None
    for line in process.stdout:
        if "delete: started" in line:
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, out + err
    assert time.monotonic() - began < 2
    site.settle()
    assert site.names() == []
