"""What entries under ``registries`` do, and what a Repository is where: other clients see it."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apply_site import Site, root_with_box, sleeper
from registry_processes import serving
from runtime_world import World

from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.registry.registry import Registry

pytestmark = pytest.mark.root

SMALL = {"build": {"context": "./context"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with root_with_box(tmp_path_factory.mktemp("root")) as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, world: World) -> Iterator[Site]:
    made = Site(tmp_path, world, re.sub("[^a-z0-9]", "", tmp_path.name.lower()))
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(f"FROM scratch\nCOPY word /word\nLABEL from={tmp_path.name}\n")
    (tmp_path / "context/word").write_text("small\n")
    yield made
    if made.file.exists():
        made.run("destroy", code=None)


def skopeo(*words: str) -> Any:
    assert shutil.which("skopeo"), "skopeo is missing: tools/system-packages test"
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout


def seen(name: str) -> Any:
    return skopeo("inspect", "--tls-verify=false", f"docker://{name}")


def test_the_embedded_registry_is_called_by_its_declared_address(site: Site, world: World) -> None:
    """proves: stack.registries, stack.registries.address, Repository.repository_name, Repository.image_tag_mutability,
    Repository.tags, Image.push"""
    with serving(world.root) as address:
        site.write(
            {
                "Repository.app": {
                    "registry": "here",
                    "repository_name": "team/app",
                    "image_tag_mutability": "IMMUTABLE",
                    "tags": {"owner": "shop", "level": 3},
                },
                "Image.app": {**SMALL, "push": ["${Repository.app.uri}:1.0"]},
            },
            registries={"here": {"type": "embedded", "address": address}},
            outputs={"uri": "${Repository.app.uri}", "name": "${Repository.app.name}", "digest": "${Image.app.digest}"},
        )
        site.settle()
        outputs = site.run("output", "--json").document["outputs"]
        assert outputs["uri"] == f"{address}/team/app"
        assert outputs["name"] == "team/app"
        assert seen(f"{address}/team/app:1.0")["Digest"] == outputs["digest"]
        # A tag of an immutable repository keeps its content, whoever pushes.
        refused = subprocess.run(
            [
                *("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
                f"docker://{address}/team/app:1.0",
                f"docker://{address}/team/app:2.0",
            ],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert refused.returncode == 0
        (site.folder / "context/word").write_text("other\n")
        ran = site.apply(code=1)
        assert "1.0" in ran.text
        assert "immutable" in ran.text.lower()
        assert seen(f"{address}/team/app:1.0")["Digest"] == outputs["digest"]


def test_a_saved_plan_keeps_the_declared_address(site: Site, world: World) -> None:
    with serving(world.root) as address:
        site.write(
            {
                "Repository.app": {"repository_name": "team/saved"},
                "Image.app": {**SMALL, "push": ["${Repository.app.uri}:1.0"]},
            },
            registries={"local": {"type": "embedded", "address": address}},
        )
        plan = site.folder / "plan.json"
        site.run("plan", "--out", str(plan))
        done = site.process("apply", str(plan))
        out, err = done.communicate(timeout=60)
        assert done.returncode == 0, out + err
        assert seen(f"{address}/team/saved:1.0")["Digest"].startswith("sha256:")
        site.nothing_to_do()


def test_images_in_a_repository_keep_it_unless_force_delete_says_otherwise(site: Site, world: World) -> None:
    """proves: Repository.force_delete"""
    with serving(world.root) as address:
        both = {
            "Repository.kept": {"repository_name": "keep/kept"},
            "Repository.forced": {"repository_name": "keep/forced", "force_delete": True},
            "Repository.source": {"repository_name": "keep/source"},
            "Image.app": {**SMALL, "push": ["${Repository.source.uri}:1"]},
        }
        registries = {"local": {"type": "embedded", "address": address}}
        site.write(both, registries=registries)
        site.settle()
        for name in ("kept", "forced"):
            words = ("copy", "--src-tls-verify=false", "--dest-tls-verify=false")
            skopeo(*words, f"docker://{address}/keep/source:1", f"docker://{address}/keep/{name}:by-hand")
        site.write({}, registries=registries)
        ran = site.apply(code=1)
        assert "keep/kept" in ran.text
        assert seen(f"{address}/keep/kept:by-hand")
        gone = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{address}/keep/forced:by-hand"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert gone.returncode != 0
        both["Repository.kept"]["force_delete"] = True
        site.write(both, registries=registries)
        site.settle()


def test_a_repository_of_an_oci_registry_is_a_name_that_the_first_push_makes(site: Site, tmp_path: Path) -> None:
    """No operation of its own; its uri is where images are pushed to, copied from and run from.

    proves: stack.registries.type, Image.copy, Image.tags"""
    other = Root.at(tmp_path / "other").ensure()
    with serving(other) as address:
        resources: dict[str, Any] = {
            "Repository.out": {"registry": "far", "repository_name": "team/out"},
            "Image.app": {**SMALL, "push": ["${Repository.out.uri}:1.0"], "depends_on": ["Repository.out"]},
        }
        more = {
            "registries": {"far": {"type": "oci", "address": address}},
            "outputs": {"uri": "${Repository.out.uri}", "name": "${Repository.out.name}"},
        }
        site.write(resources, **more)
        assert [line.split()[:2] for line in site.operations()] == [["Image.app", "build"], ["Image.app", "push"]]
        site.settle()
        assert site.run("output", "--json").document["outputs"] == {"uri": f"{address}/team/out", "name": "team/out"}
        pushed = seen(f"{address}/team/out:1.0")["Digest"]
        assert site.run("validate").out.startswith(site.name)

        resources["Image.back"] = {"copy": "${Repository.out.uri}:1.0", "tags": ["back:1"]}
        site.write(resources, **more)
        site.settle()
        told = site.run("state", "show", "Image.back").document
        assert told["outputs"]["digest"] == pushed
        assert told["outputs"]["tags"] == ["back:1"]


@pytest.mark.parametrize("name", ["image_tag_mutability", "tags", "force_delete"])
def test_what_an_oci_registry_cannot_keep_is_refused_at_its_line(site: Site, name: str) -> None:
    value = {"image_tag_mutability": "IMMUTABLE", "tags": {"a": "b"}, "force_delete": True}[name]
    site.write(
        {"Repository.out": {"registry": "far", "repository_name": "team/out", name: value}},
        registries={"far": {"type": "oci", "address": "registry.example.com"}},
    )
    for verb in ("validate", "plan"):
        ran = site.run(verb, code=1)
        assert f"{site.file}:10:5: error[conflicting-properties]: Repository.out declares {name}" in ran.err
        assert f"leave {name} out" in ran.err


def test_a_repository_of_an_ecr_registry_is_refused_at_its_line(site: Site) -> None:
    """proves: stack.registries.region"""
    registries = {"prod": {"type": "ecr", "region": "eu-west-1"}}
    site.write({"Repository.out": {"registry": "prod", "repository_name": "team/out"}}, registries=registries)
    for verb in ("validate", "plan", "apply", "graph"):
        ran = site.run(verb, code=1)
        assert f"{site.file}:8:15: error[registry-not-served]: Repository.out stands in prod" in ran.err
        assert "hint:" in ran.err
        assert "Traceback" not in ran.text
    found = site.run("plan", "--json", code=1).document["errors"][0]
    assert (found["code"], found["where"]["line"]) == ("registry-not-served", 8)
    site.write({}, registries=registries)
    site.run("plan")  # one that nothing stands in is no trouble


def test_two_names_of_the_embedded_registry_have_one_address(site: Site) -> None:
    site.write(
        {},
        registries={
            "one": {"type": "embedded", "address": "127.0.0.1:5000"},
            "two": {"type": "embedded", "address": "127.0.0.1:6000"},
        },
    )
    ran = site.run("validate", code=1)
    assert f"{site.file}:8:14: error[conflicting-properties]: one and two are both the embedded registry" in ran.err


@contextlib.contextmanager
def relayed(target: str) -> Iterator[str]:
    """``target`` (a service on loopback) under an address of this machine that is no loopback one; TEST-NET-2, RFC 5737."""
    host = f"198.51.100.{random.randrange(2, 250)}"
    subprocess.run(["ip", "address", "add", f"{host}/32", "dev", "lo"], check=True, timeout=10)
    name, _, port = target.rpartition(":")

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((name, int(port)), timeout=20) as onward:
                back = threading.Thread(target=copy, args=(onward, self.request))
                back.start()
                copy(self.request, onward)
                back.join(20)

    def copy(source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    try:
        with Server((host, 0), Relay) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"{host}:{server.server_address[1]}"
            server.shutdown()
    finally:
        subprocess.run(["ip", "address", "del", f"{host}/32", "dev", "lo"], check=True, timeout=10)


def test_insecure_is_what_lets_plain_http_in(site: Site, tmp_path: Path) -> None:
    """Off loopback, TLS is asked for unless the definition says otherwise.

    proves: stack.registries.insecure"""
    other = Root.at(tmp_path / "other").ensure()
    resources = {
        "Repository.out": {"registry": "far", "repository_name": "team/out"},
        "Image.app": {**SMALL, "push": ["${Repository.out.uri}:1.0"]},
    }
    with serving(other) as inner, relayed(inner) as address:
        site.write(resources, registries={"far": {"type": "oci", "address": address}})
        ran = site.apply(code=1)
        assert "insecure" in ran.text
        site.write(resources, registries={"far": {"type": "oci", "address": address, "insecure": True}})
        site.settle()
        assert seen(f"{inner}/team/out:1.0")["Digest"]


def test_a_container_runs_what_was_pushed_under_the_name_it_gives(site: Site) -> None:
    """The name that an Image of the stack is pushed to is as good as a reference to it; one that somebody else pushed is
    looked up."""
    (site.folder / "context/Dockerfile").write_text("FROM box:1\nCOPY word /word\n")
    resources: dict[str, Any] = {
        "Repository.app": {"repository_name": f"{site.name}/app"},
        "Image.app": {**SMALL, "push": ["${Repository.app.uri}:1.0"]},
        "Container.web": sleeper(image="${Repository.app.uri}:1.0"),
    }
    site.write(resources)
    site.settle()
    assert site.inside(f"{site.name}-web", "cat", "/word") == "small"
    digest = site.run("state", "show", "Image.app").document["outputs"]["digest"]
    resources["Container.other"] = sleeper(image="${Repository.app.uri}:by-hand")
    site.write(resources)
    assert "there is no image" in site.apply(code=1).text
    Registry(site.world.root).push_local(f"{site.name}/app", "by-hand", Digest.parse(digest))
    site.settle()
    assert site.inside(f"{site.name}-other", "cat", "/word") == "small"
