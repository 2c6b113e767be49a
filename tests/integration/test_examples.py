"""The examples, run as a user runs them: they apply as they stand, follow a change exactly, and leave nothing behind."""

from __future__ import annotations

import shutil
import socket
import time
import urllib.request
from pathlib import Path

import pytest

from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.targets.embedded.garbage import usage

REPOSITORY = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.root


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def copy_example(name: str, to: Path) -> Path:
    shutil.copytree(
        REPOSITORY / "examples" / name, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tar", "busybox")
    )
    return to


def nothing_left(root: Path) -> None:
    """No mount, namespace, rule or unreferenced blob of this root."""
    place = Root.at(root)
    mounts = Path("/proc/self/mounts").read_text()
    assert str(root) not in mounts
    assert str(place.run_dir) not in mounts
    assert not list((place.run_dir / "net").glob("ns/*")) if (place.run_dir / "net").is_dir() else True
    import subprocess

    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True, timeout=10).stdout
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=10).stdout
    assert place.hash not in links
    assert place.hash not in tables
    found = usage(place, Store(place))
    assert (found.free_blobs, found.free_bytes) == (0, 0)
    assert not list((root / "containers").glob("[0-9a-f]*"))


def test_hello_serves_its_page_and_goes_without_a_trace(bayplan, busybox) -> None:
    folder = copy_example("hello", bayplan.cwd)
    shutil.copy(busybox, folder / "site" / "busybox")
    port = free_port()
    bayplan.environ["BAYPLAN_VAR_port"] = str(port)
    bayplan.run("apply", "--yes")
    assert "Hello from a container" in get(f"http://127.0.0.1:{port}/")
    assert bayplan.run("output", "url").stdout.strip() == f"http://127.0.0.1:{port}/"
    bayplan.run("plan", "--detailed-exitcode")
    bayplan.run("destroy", "--yes")
    nothing_left(bayplan.root)


def test_the_first_stack_of_init_applies_as_it_is(bayplan) -> None:
    bayplan.run("init", "--name", "first")
    port = free_port()
    bayplan.environ["BAYPLAN_VAR_port"] = str(port)
    bayplan.run("apply", "--yes")
    assert get(f"http://127.0.0.1:{port}/")
    bayplan.run("destroy", "--yes")
    nothing_left(bayplan.root)


def test_node_shop_follows_its_source_exactly(bayplan, debian_node) -> None:
    folder = copy_example("node-shop", bayplan.cwd)
    (folder / "debian-node.tar").symlink_to(debian_node)
    port = free_port()
    bayplan.environ["BAYPLAN_VAR_port"] = str(port)
    bayplan.run("apply", "--yes", timeout=600)
    url = f"http://127.0.0.1:{port}/"
    assert get(url) == "hello, visitor 1\n"

    again = bayplan.run("apply", "--yes")
    assert "node-shop: no changes" in again.stdout

    server = folder / "app" / "server.js"
    server.write_text(server.read_text().replace("visitor ${visitors}", "guest ${visitors}"))
    plan = bayplan.json("plan")
    assert [(one["address"], one["action"]) for one in plan["operations"]] == [
        ("Image.shop", "build"),
        ("Image.shop", "tag"),
        ("Image.shop", "push"),
        ("Container.shop", "replace"),
    ]
    cause = plan["operations"][0]["cause"]
    assert cause.startswith("COPY . . (app/Dockerfile:6) reads app/server.js, which changed; 1 of 5 steps run")
    bayplan.run("apply", "--yes", timeout=600)
    assert get(url) == "hello, guest 2\n"

    bayplan.run("container", "stop", "node-shop-shop")
    drift = bayplan.run("drift", check=2)
    assert "Container.shop" in drift.stdout
    assert "stopped by hand" in drift.stdout
    bayplan.run("apply", "--yes")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            assert get(url) == "hello, guest 3\n"
            break
        except OSError:
            time.sleep(0.2)
    bayplan.run("destroy", "--yes")
    nothing_left(bayplan.root)
