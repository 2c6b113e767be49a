"""Ports and names of containers: published, refused with the holder's name, and handed over without a gap."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_world import World, eventually, world

from bayplan.errors import BayplanError
from bayplan.runtime.spec import Attachment, Port

pytestmark = pytest.mark.root

SERVE = "mkdir -p /www; echo {} > /www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, timeout: float = 3.0) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=timeout) as answer:
        return str(answer.read().decode().strip())


def answers(port: int, text: str) -> bool:
    try:
        return get(port) == text
    except (urllib.error.URLError, OSError):
        return False


def serve(w: World, name: str, text: str, port: int, *, succeeds: str = "") -> str:
    spec = w.spec(name, "sh", "-c", SERVE.format(text), network_mode="bridge", ports=(Port(80, port),))
    id = w.runtime.create(spec, succeeds=succeeds)
    w.runtime.start(id)
    return id


def test_a_published_port_answers_and_a_second_holder_is_refused_by_name(w: World) -> None:
    port = free_port()
    serve(w, "web", "one", port)
    eventually(lambda: answers(port, "one"), "it answers")
    assert [(p[0], p[1]) for p in w.runtime.inspect("web").status.ports] == [(80, port)]
    with pytest.raises(BayplanError) as error:
        serve(w, "web2", "two", port)
    assert error.value.code == "port-taken"
    assert "web" in error.value.message
    assert w.runtime.inspect("web2").state.value == "created"


def test_a_hand_over_moves_port_and_name_and_a_client_misses_no_answer(w: World) -> None:
    port = free_port()
    old = serve(w, "shop", "old", port)
    eventually(lambda: answers(port, "old"), "the old one answers")
    new = serve(w, "shop-next", "new", port, succeeds=old)
    eventually(lambda: "80" in w.inside(new, "busybox", "netstat", "-ltn")[1], "the new one listens")
    missed: list[str] = []
    seen: list[str] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            try:
                seen.append(get(port))
            except OSError as error:
                missed.append(str(error))

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.2)
    w.runtime.hand_over(old, new, "shop-aside")
    time.sleep(0.2)
    w.runtime.remove(old, force=True)
    time.sleep(0.2)
    done.set()
    thread.join()
    assert missed == []
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert seen == sorted(seen, reverse=True), "never back"
    assert w.runtime.inspect("shop").id == new
    assert [p[1] for p in w.runtime.inspect("shop").status.ports] == [port]
    w.runtime.restart("shop")
    eventually(lambda: answers(port, "new"), "after a restart it publishes by itself")


def test_the_one_set_aside_can_be_given_everything_back(w: World) -> None:
    port = free_port()
    old = serve(w, "api", "old", port)
    new = serve(w, "api-next", "new", port, succeeds=old)
    w.runtime.hand_over(old, new, "api-aside")
    assert w.runtime.inspect("api-aside").id == old
    w.runtime.stop(old)
    w.runtime.start(old)
    assert not w.runtime.inspect(old).status.ports, "it comes back without the ports"
    w.runtime.hand_over(new, old, "api-failed")
    assert w.runtime.inspect("api").id == old
    eventually(lambda: answers(port, "old"), "and gets them back")


def test_containers_of_a_network_find_each_other_by_name(w: World) -> None:
    w.runtime.networks.create("backend")
    w.run("db", "sh", "-c", SERVE.format("db"), network_mode="bridge", networks=(Attachment("backend", ("database",)),))
    w.run("app", network_mode="bridge", networks=(Attachment("backend"),))
    eventually(lambda: w.inside("app", "wget", "-q", "-O-", "http://db/")[1] == "db\n", "by name")
    assert w.inside("app", "wget", "-q", "-O-", "http://database/")[1] == "db\n"
    address = w.runtime.inspect("db").status.addresses["backend"]
    assert f"{address}\t" in w.inside("db", "cat", "/etc/hosts")[1]


def test_a_network_that_is_not_there_is_told_and_nothing_is_left(w: World) -> None:
    w.create("lost", network_mode="bridge", networks=(Attachment("nowhere"),))
    with pytest.raises(BayplanError) as error:
        w.runtime.start("lost")
    assert error.value.code == "unknown-network"
