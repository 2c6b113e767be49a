"""The provider protocol, call by call: what changes of every property come to, and the life of objects without a CLI.

The cases are written by hand from the words of ``schemas/``, not from their marks: a mark that is wrong fails here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from pulumi_stub import Stub, kernel_limit, started, tree

from bayplan.pulumi.protocol import Empty, grpc, provider_pb2
from bayplan.pulumi.values import UNKNOWN, Secret, decode, encode

pytestmark = pytest.mark.root

BASE: dict[str, dict[str, Any]] = {
    "Image": {"rootfs": "./tree", "tags": ["shop:1"]},
    "Repository": {"repositoryName": "team/shop"},
    "Container": {"image": "shop:1"},
    "Network": {},
    "Volume": {},
}

#: kind, property, before, after, what the detailed diff says, whether the object is replaced.
CASES: list[tuple[str, str, Any, Any, dict[str, str], bool]] = [
    ("Image", "build", {"context": "."}, {"context": ".", "target": "run"}, {"build.target": "ADD"}, False),
    ("Image", "build", {"context": ".", "noCache": True}, {"context": "."}, {"build.noCache": "UPDATE"}, False),
    ("Image", "rootfs", "./tree", "./other", {"rootfs": "UPDATE"}, False),
    ("Image", "tags", ["shop:1"], ["shop:1", "shop:2"], {"tags": "UPDATE"}, False),
    ("Image", "push", None, ["registry.example/shop:1"], {"push": "ADD"}, False),
    ("Image", "copy", "nginx:1", "nginx:2", {"copy": "UPDATE"}, False),
    ("Repository", "repositoryName", "team/shop", "team/till", {"repositoryName": "UPDATE_REPLACE"}, True),
    ("Repository", "registry", None, "local", {"registry": "ADD_REPLACE"}, True),
    ("Repository", "imageTagMutability", None, "IMMUTABLE", {"imageTagMutability": "ADD"}, False),
    ("Repository", "forceDelete", None, True, {"forceDelete": "ADD"}, False),
    ("Repository", "tags", {"a": "1"}, {"a": "2", "b": "3"}, {"tags.a": "UPDATE", "tags.b": "ADD"}, False),
    ("Container", "host", None, "here", {"host": "ADD_REPLACE"}, True),
    ("Container", "image", "shop:1", "shop:2", {"image": "UPDATE_REPLACE"}, True),
    ("Container", "image", "shop:1", UNKNOWN, {"image": "UPDATE_REPLACE"}, True),
    ("Container", "name", None, "till", {"name": "ADD_REPLACE"}, True),
    ("Container", "command", ["a", "b"], ["a", "c"], {"command[1]": "UPDATE_REPLACE"}, True),
    ("Container", "command", ["a", "b"], ["a"], {"command[1]": "DELETE_REPLACE"}, True),
    ("Container", "entrypoint", None, ["/x"], {"entrypoint": "ADD_REPLACE"}, True),
    ("Container", "env", {"A": "1"}, {"A": "2"}, {"env.A": "UPDATE_REPLACE"}, True),
    ("Container", "env", {"A": "1"}, {"A": Secret("2")}, {"env.A": "UPDATE_REPLACE"}, True),
    ("Container", "env", {"a.b": "1"}, {}, {'env["a.b"]': "DELETE_REPLACE"}, True),
    ("Container", "envFile", None, "./web.env", {"envFile": "ADD_REPLACE"}, True),
    ("Container", "workingDir", "/a", "/b", {"workingDir": "UPDATE_REPLACE"}, True),
    ("Container", "user", "1000", "1001", {"user": "UPDATE_REPLACE"}, True),
    ("Container", "ports", ["8080:80"], ["8081:80"], {"ports": "UPDATE_REPLACE"}, True),
    ("Container", "networks", ["a"], ["b"], {"networks[0]": "UPDATE_REPLACE"}, True),
    ("Container", "networkMode", "none", "host", {"networkMode": "UPDATE_REPLACE"}, True),
    ("Container", "volumes", None, ["data:/data"], {"volumes": "ADD_REPLACE"}, True),
    ("Container", "tmpfs", ["/run"], ["/tmp"], {"tmpfs": "UPDATE_REPLACE"}, True),
    ("Container", "readOnly", None, True, {"readOnly": "ADD_REPLACE"}, True),
    ("Container", "memory", "64m", "128m", {"memory": "UPDATE"}, False),
    ("Container", "cpus", 1, 0.5, {"cpus": "UPDATE"}, False),
    ("Container", "pidsLimit", 100, None, {"pidsLimit": "DELETE"}, False),
    ("Container", "capAdd", None, ["NET_ADMIN"], {"capAdd": "ADD_REPLACE"}, True),
    ("Container", "capDrop", ["ALL"], None, {"capDrop": "DELETE_REPLACE"}, True),
    ("Container", "privileged", True, None, {"privileged": "DELETE_REPLACE"}, True),
    ("Container", "restart", None, "always", {"restart": "ADD"}, False),
    (
        "Container",
        "healthcheck",
        {"test": ["CMD", "x"], "startPeriod": "1s"},
        {"test": ["CMD", "x"], "startPeriod": "2s"},
        {"healthcheck.startPeriod": "UPDATE_REPLACE"},
        True,
    ),
    ("Container", "stopSignal", "SIGTERM", "SIGQUIT", {"stopSignal": "UPDATE_REPLACE"}, True),
    ("Container", "stopTimeout", "10s", "20s", {"stopTimeout": "UPDATE_REPLACE"}, True),
    ("Container", "labels", {"a": "1"}, {"a": "1", "b": "2"}, {"labels.b": "ADD_REPLACE"}, True),
    ("Container", "hostname", None, "web", {"hostname": "ADD_REPLACE"}, True),
    ("Container", "extraHosts", None, {"db": "10.0.0.7"}, {"extraHosts": "ADD_REPLACE"}, True),
    ("Container", "init", None, True, {"init": "ADD_REPLACE"}, True),
    ("Container", "desiredState", None, "stopped", {"desiredState": "ADD"}, False),
    ("Container", "pullPolicy", None, "never", {"pullPolicy": "ADD"}, False),
    ("Container", "waitTimeout", "10s", "20s", {"waitTimeout": "UPDATE"}, False),
    ("Container", "address", None, "till", {"address": "ADD_REPLACE"}, True),
    ("Network", "host", None, "here", {"host": "ADD_REPLACE"}, True),
    ("Network", "name", "a", "b", {"name": "UPDATE_REPLACE"}, True),
    ("Network", "internal", None, True, {"internal": "ADD_REPLACE"}, True),
    ("Network", "subnet", "10.9.0.0/24", "10.8.0.0/24", {"subnet": "UPDATE_REPLACE"}, True),
    ("Network", "labels", {"a": "1"}, {}, {"labels.a": "DELETE"}, False),
    ("Volume", "host", None, "here", {"host": "ADD_REPLACE"}, True),
    ("Volume", "name", "a", "b", {"name": "UPDATE_REPLACE"}, True),
    ("Volume", "labels", None, {"a": "1"}, {"labels": "ADD"}, False),
]

#: kind, property, two ways of writing one value.
SAME: list[tuple[str, str, Any, Any]] = [
    ("Container", "memory", "64m", 64 << 20),
    ("Container", "cpus", "0.5", 0.5),
    ("Container", "stopTimeout", "1m", 60),
    ("Container", "ports", ["8080:80", "81:81"], ["81:81/tcp", "8080:80/tcp"]),
    ("Container", "capAdd", ["NET_ADMIN"], ["net_admin"]),
    ("Container", "env", {"A": "1"}, {"A": 1}),
    ("Container", "env", {"A": Secret("1")}, {"A": Secret("1")}),
    ("Container", "healthcheck", {"test": ["CMD", "x"]}, {"test": ["CMD", "x"], "interval": "30s"}),
    ("Container", "image", f"shop:1@sha256:{'1' * 64}", f"sha256:{'1' * 64}"),
    ("Image", "tags", ["a:1", "b:1"], ["b:1", "a:1"]),
]


def given(kind: str, name: str, value: Any) -> dict[str, Any]:
    base = dict(BASE[kind])
    if kind == "Image" and name in ("build", "copy"):
        del base["rootfs"]
    return base if value is None else {**base, name: value}


@pytest.fixture
def stub(bayplan: CommandLine, busybox: Path) -> Iterator[Stub]:
    tree(bayplan.cwd, busybox)
    with started(bayplan) as found:
        yield found


def test_every_property_has_a_case() -> None:
    from bayplan import kinds
    from bayplan.pulumi.names import camel

    declared = {(kind.name, camel(name)) for kind in kinds.load().values() for name in kind.properties}
    assert declared <= {(kind, name) for kind, name, *_ in CASES}


def test_changes_come_to_what_they_should(stub: Stub, bayplan: CommandLine) -> None:
    wrong = []
    for kind, name, before, after, details, replaces in CASES:
        told = stub.diff(kind, "it", given(kind, name, before), given(kind, name, after))
        found = {path: provider_pb2.PropertyDiff.Kind.Name(one.kind) for path, one in told.detailedDiff.items()}
        if (found, bool(told.replaces)) != (details, replaces):
            wrong.append(f"{kind}.{name} {before} -> {after}: {found}, replaces {list(told.replaces)}")
        back = stub.diff(kind, "it", given(kind, name, after), given(kind, name, after))
        if after is not UNKNOWN and back.changes != provider_pb2.DiffResponse.DIFF_NONE:
            wrong.append(f"{kind}.{name} {after}: differs from itself")
    assert wrong == []
    assert not bayplan.root.exists()


def test_two_ways_of_writing_one_value_are_no_change(stub: Stub) -> None:
    for kind, name, one, other in SAME:
        told = stub.diff(kind, "it", given(kind, name, one), given(kind, name, other))
        assert (name, dict(told.detailedDiff)) == (name, {})
        assert told.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_only_a_ground_under_one_name_goes_before_the_new_one_comes(stub: Stub) -> None:
    def first(kind: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
        return bool(stub.diff(kind, "it", before, after).deleteBeforeReplace)

    assert first("Network", {}, {"internal": True})
    assert not first("Network", {"name": "a"}, {"name": "b"})
    assert not first("Container", {"image": "a:1", "ports": ["80:80"]}, {"image": "a:2", "ports": ["80:80"]})


@pytest.mark.parametrize(
    ("inputs", "path", "says"),
    [
        ({"image": "shop:1", "memory": "lots"}, "memory", "memory"),
        ({"image": "shop:1", "healthcheck": {"test": "x", "startPeriod": "soon"}}, "healthcheck.startPeriod", "soon"),
        ({"image": "shop:1", "hostName": "web"}, "hostName", "hostName"),
        ({}, "", "image"),
    ],
)
def test_a_mistake_has_its_property(stub: Stub, inputs: dict[str, Any], path: str, says: str) -> None:
    told = stub.check("Container", "web", inputs)
    assert [one.property for one in told.failures] == [path]
    assert says in told.failures[0].reason


def test_what_is_not_known_yet_is_no_mistake(stub: Stub, bayplan: CommandLine) -> None:
    inputs = {"image": UNKNOWN, "memory": UNKNOWN, "env": {"A": UNKNOWN}, "ports": [UNKNOWN], "healthcheck": UNKNOWN}
    told = stub.check("Container", "web", inputs)
    assert list(told.failures) == []
    assert decode(told.inputs) == inputs
    id_, outputs = stub.create("Container", "web", inputs, preview=True)
    assert id_ == ""
    assert outputs["name"] == "shop-dev-web"
    assert outputs["containerId"] is UNKNOWN
    assert not bayplan.root.exists()


def test_the_life_of_an_image_and_a_container(stub: Stub, bayplan: CommandLine) -> None:
    _, box = stub.create("Image", "box", BASE["Image"])
    inputs = {
        "image": box["ref"],
        "command": ["/bin/busybox", "sleep", "1000"],
        "networkMode": "none",
        "stopSignal": "SIGKILL",
        "env": {"TOKEN": Secret("planted-77aa")},
    }
    id_, state = stub.create("Container", "web", inputs)
    assert state["env"] == inputs["env"]
    assert bayplan.json("container", "inspect", "shop-dev-web")["state"] == "running"

    again, _ = stub.create("Container", "web", inputs)
    assert again == id_, "what is there under the identity is adopted"

    larger = {**inputs, "memory": "64m"}
    state = stub.update("Container", "web", id_, inputs, larger, state)
    assert kernel_limit(bayplan, "shop-dev-web", "memory") == 64 << 20

    read = stub.read("Container", "web", id_, larger, state)
    assert read.id == id_
    assert decode(read.inputs) == larger

    bare = stub.read("Container", "web", "shop-dev/Container.web", {}, {})
    assert bare.id == id_
    assert "TOKEN" not in decode(bare.inputs).get("env", {})

    other, _ = stub.create("Container", "web", {**larger, "hostname": "other"})
    assert other != id_, "what differs is replaced"
    stub.delete("Container", "web", id_, larger)
    assert bayplan.json("container", "inspect", "shop-dev-web")["state"] == "running"
    stub.delete("Container", "web", other, larger)
    assert bayplan.json("container", "list", "--all")["containers"] == []
    stub.delete("Container", "web", other, larger)
    assert stub.read("Container", "web", other, larger, state).id == ""


def test_an_update_leaves_what_was_not_shown(stub: Stub, bayplan: CommandLine) -> None:
    _, box = stub.create("Image", "box", BASE["Image"])
    inputs = {
        "image": box["ref"],
        "command": ["/bin/busybox", "sleep", "1000"],
        "networkMode": "none",
        "stopSignal": "SIGKILL",
        "memory": "64m",
    }
    id_, state = stub.create("Container", "web", inputs)
    bayplan.run("container", "update", "--memory", "96m", "shop-dev-web")
    stub.update("Container", "web", id_, inputs, {**inputs, "pidsLimit": 50}, state)
    assert kernel_limit(bayplan, "shop-dev-web", "memory") == 96 << 20
    assert kernel_limit(bayplan, "shop-dev-web", "pids") == 50


def test_errors_are_codes_with_the_words_of_the_domain(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as none:
        stub.create("Container", "web", {"image": "nowhere:1", "pullPolicy": "never"})
    assert none.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "nowhere:1" in none.value.details()
    assert "Traceback" not in none.value.details()
    with pytest.raises(grpc.RpcError) as bad:
        stub.read("Container", "web", "nonsense", {}, {})
    assert bad.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def checkout(folder: Path, busybox: Path, *, umask: int = 0o022) -> Path:
    """A program's folder with a Dockerfile and its context."""
    before = os.umask(umask)
    try:
        (folder / "app").mkdir(parents=True)
        (folder / "app/busybox").write_bytes(busybox.read_bytes())
        (folder / "app/busybox").chmod(0o777 & ~umask)
        (folder / "app/served").write_text("one")
        (folder / "app/.dockerignore").write_text("notes\n")
        (folder / "app/Dockerfile").write_text('FROM scratch\nCOPY . /\nCMD ["/busybox", "sleep", "1000"]\n')
    finally:
        os.umask(before)
    return folder


def test_an_image_changes_with_the_files_that_it_is_built_from(stub: Stub, bayplan: CommandLine, busybox: Path) -> None:
    checkout(bayplan.cwd, busybox)
    inputs = {"build": {"context": "./app"}, "tags": ["shop:1"]}
    id_, state = stub.create("Image", "box", inputs)

    def details() -> dict[str, str]:
        told = stub.diff("Image", "box", inputs, inputs, state)
        return {path: provider_pb2.PropertyDiff.Kind.Name(one.kind) for path, one in told.detailedDiff.items()}

    assert details() == {}
    (bayplan.cwd / "app/notes").write_text("left out by .dockerignore")
    os.utime(bayplan.cwd / "app/served", (1, 1))
    assert details() == {}
    (bayplan.cwd / "app/served").write_text("two")
    assert details() == {"build.context": "UPDATE"}
    again = stub.update("Image", "box", id_, inputs, inputs, state)
    assert again["digest"] != state["digest"]
    state = again
    assert details() == {}


def test_another_checkout_is_no_change(bayplan: CommandLine, busybox: Path) -> None:
    """Elsewhere, under another umask, at another time: the same program."""
    inputs = {"build": {"context": "./app"}, "tags": ["shop:1"]}
    checkout(bayplan.cwd, busybox)
    with started(bayplan) as stub:
        _, state = stub.create("Image", "box", inputs)
    bayplan.cwd = checkout(bayplan.cwd.parent / "elsewhere", busybox, umask=0o002)
    with started(bayplan) as stub:
        told = stub.diff("Image", "box", inputs, inputs, state)
    assert state["contentDigest"]
    assert dict(told.detailedDiff) == {}
    assert told.changes == provider_pb2.DiffResponse.DIFF_NONE


def test_a_cancellation_ends_what_runs_and_nothing_that_comes_later(stub: Stub, bayplan: CommandLine) -> None:
    _, box = stub.create("Image", "box", BASE["Image"])
    slow = {
        "image": box["ref"],
        "command": ["/bin/busybox", "sleep", "1000"],
        "networkMode": "none",
        "stopSignal": "SIGKILL",
        "healthcheck": {"test": ["CMD", "/bin/busybox", "false"], "interval": "1s", "startPeriod": "60s"},
    }
    request = provider_pb2.CreateRequest(urn=stub.urn("Container", "web"), properties=encode(slow))
    call = stub.service.Create.future(request, timeout=60)
    deadline = time.monotonic() + 30
    while not bayplan.json("container", "list", "--all")["containers"]:
        assert time.monotonic() < deadline
    asked = time.monotonic()
    stub.call("Cancel", Empty())
    with pytest.raises(grpc.RpcError) as ended:
        call.result()
    assert time.monotonic() - asked < 5
    assert "Traceback" not in ended.value.details()
    del slow["healthcheck"]
    _, state = stub.create("Container", "web", slow)
    assert bayplan.json("container", "inspect", "shop-dev-web")["id"] == state["containerId"]
