"""Canonical forms: the laws that plans stand on."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kinds_oracle import LAW, good, mostly_good, read

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds.expressions import Ref, SecretRef, Template

_CALM = settings(LAW, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", kinds.KIND_NAMES)
def test_normalising_twice_is_normalising_once(kind: str) -> None:
    @_CALM
    @given(good(read(f"{kind.lower()}.schema.json")))
    def idempotent(properties: dict[str, Any]) -> None:
        once = kinds.normalise(kind, properties)
        assert kinds.normalise(kind, once) == once
        assert once.keys() == properties.keys()

    idempotent()


@pytest.mark.parametrize("kind", kinds.KIND_NAMES)
def test_a_canonical_value_is_valid_and_survives_json(kind: str) -> None:
    @_CALM
    @given(good(read(f"{kind.lower()}.schema.json")))
    def holds(properties: dict[str, Any]) -> None:
        once = kinds.normalise(kind, properties)
        assert [one for one in kinds.validate(kind, once) if one.path] == []
        assert kinds.normalise(kind, json.loads(json.dumps(once))) == once

    holds()


@_CALM
@given(mostly_good(read("container.schema.json")).filter(lambda value: isinstance(value, dict)))
def test_what_validation_refuses_is_left_or_refused_in_words(properties: dict[str, Any]) -> None:
    with contextlib.suppress(BayplanError):  # anything else is a traceback to a user
        kinds.normalise("Container", properties)


@_CALM
@given(st.permutations(["8080:80", "127.0.0.1:1:2", "53:53/udp", "443"]))
def test_order_means_nothing_where_the_schema_says_so(ports: list[str]) -> None:
    written = ["443/tcp", "53:53/udp", "8080:80/tcp", "127.0.0.1:1:2/tcp"]
    assert kinds.equal("Container", "ports", ports, written)
    assert not kinds.equal("Container", "ports", ports, written[:3])
    assert kinds.equal("Container", "command", ports, ["443"]) is False
    assert kinds.equal("Container", "command", ports, sorted(ports)) is (ports == sorted(ports))


@pytest.mark.parametrize(
    ("kind", "name", "a", "b"),
    [
        ("Container", "memory", "1g", 1 << 30),
        ("Container", "stop_timeout", "1m", 60),
        ("Container", "cpus", "0.50", 0.5),
        ("Container", "env", {"DEBUG": True, "N": 1}, {"N": "1", "DEBUG": "true"}),
        ("Container", "ports", ["0.0.0.0:8080:80"], ["8080:80/tcp"]),
        ("Container", "volumes", ["conf/./x:/etc/conf/"], ["./conf/x:/etc/conf:rw"]),
        ("Container", "stop_signal", 15, "term"),
        ("Container", "cap_add", ["net_admin", "CAP_CHOWN"], ["CHOWN", "NET_ADMIN", "NET_ADMIN"]),
        ("Container", "env_file", "./a", ["a"]),
        ("Container", "networks", [{"name": "a"}], ["a"]),
        ("Container", "healthcheck", {"test": "true"}, {"test": ["CMD-SHELL", "true"], "interval": 30, "retries": 3}),
        ("Container", "user", 0, "0"),
        ("Image", "tags", ["a", "b"], ["b", "a"]),
        ("Image", "build", {"context": "./app", "no_cache": False}, {"context": "app", "args": {}}),
        ("Repository", "tags", {"n": 1}, {"n": "1"}),
    ],
)
def test_two_ways_of_writing_one_thing_are_equal(kind: str, name: str, a: Any, b: Any) -> None:
    assert kinds.equal(kind, name, a, b)


def test_true_is_not_one() -> None:
    assert not kinds.equal("Container", "init", True, 1)


def test_expressions_are_left_alone_wherever_they_stand() -> None:
    reference, secret = Ref("Image.shop", "ref"), SecretRef("token")
    template = Template((Ref("Volume.data", "name"), ":/data"))
    properties = {
        "image": reference,
        "memory": Ref("Container.other", "name"),
        "env": {"TOKEN": secret, "N": 1},
        "volumes": [template, "./a:/b"],
        "networks": [Ref("Network.n", "name"), {"name": Ref("Network.n", "name"), "aliases": ["x"]}],
        "healthcheck": {"test": ["CMD", template]},
    }
    once = kinds.normalise("Container", properties)
    assert once["image"] is reference
    assert once["env"] == {"TOKEN": secret, "N": "1"}
    assert set(once["volumes"]) == {template, "./a:/b"}
    assert once["networks"] == properties["networks"]
    assert once["healthcheck"]["test"] == ["CMD", template]
    assert kinds.normalise("Container", once) == once


def test_what_an_expression_became_is_refused_by_name() -> None:
    with pytest.raises(BayplanError) as caught:
        kinds.normalise("Container", {"volumes": ["a:/b:zz"]})
    assert caught.value.code == "bad-value"
    assert caught.value.message == "volumes of Container: 'a:/b:zz' is not a mount"
    with pytest.raises(BayplanError, match="memory of Container"):
        kinds.normalise("Container", {"memory": ["64m"]})


def test_defaults_are_filled_into_nested_maps_and_nowhere_else() -> None:
    once = kinds.normalise("Container", {"healthcheck": {"test": ["CMD", "true"], "interval": "5s"}})
    assert once == {
        "healthcheck": {
            "test": ["CMD", "true"],
            "interval": 5.0,
            "timeout": 30.0,
            "start_period": 0.0,
            "start_interval": 5.0,
            "retries": 3,
            "on_unhealthy": "none",
        }
    }


def test_relative_paths_are_taken_from_the_folder_of_the_file() -> None:
    container = {
        "image": "x",
        "env_file": ["a.env", "/etc/b.env"],
        "volumes": [
            "./conf:/etc/conf:ro",
            "data:/data",
            "/srv:/srv",
            Template(("./x/", Ref("Volume.v", "name"), ":/x")),
        ],
    }
    assert kinds.anchored("Container", container, "/stack") == {
        "image": "x",
        "env_file": ["/stack/a.env", "/etc/b.env"],
        "volumes": [
            "/stack/conf:/etc/conf:ro",
            "data:/data",
            "/srv:/srv",
            Template(("/stack/x/", Ref("Volume.v", "name"), ":/x")),
        ],
    }
    image = {"build": {"context": "../app", "dockerfile": "Dockerfile.prod"}}
    assert kinds.anchored("Image", image, "/stack") == {
        "build": {"context": "/app", "dockerfile": "/stack/Dockerfile.prod"}
    }
    assert kinds.anchored_section("secrets", {"t": {"file": "./t"}, "u": {"env": "U"}}, "/stack") == {
        "t": {"file": "/stack/t"},
        "u": {"env": "U"},
    }
    assert kinds.anchored_section("include", "db.yaml", "/stack") == "/stack/db.yaml"


def test_defaults_of_properties_are_in_canonical_form() -> None:
    properties = kinds.load()["Container"].properties
    assert properties["stop_timeout"].default == 10.0
    assert properties["restart"].default == "no"
    assert properties["memory"].default is None
    assert properties["read_only"].default is False
