"""What data classes promise, whoever makes them: the same as ``dataclasses`` with ``frozen`` and ``slots``."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import field

import pytest

from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Port:
    host: int
    container: int = 80
    labels: dict[str, str] = field(default_factory=dict)
    seen: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Checked:
    port: int

    def __post_init__(self) -> None:
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.port} is no port")


@dataclass(frozen=True, slots=True)
class Named(Checked):
    name: str = "web"


@dataclass(frozen=True, slots=True)
class Nothing:
    pass


def test_parameters_defaults_and_factories() -> None:
    one, other = Port(8080), Port(host=8080, container=80)
    assert one == other
    assert one.labels == {}
    assert one.labels is not other.labels
    with pytest.raises(TypeError, match="host"):
        Port()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="speed"):
        Port(1, speed=2)  # type: ignore[call-arg]


def test_fields_are_set_once_and_no_others() -> None:
    one = Port(8080)
    with pytest.raises(dataclasses.FrozenInstanceError, match="host"):
        one.host = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError, match="host"):
        del one.host
    with pytest.raises(AttributeError):
        one.speed = 1  # type: ignore[attr-defined]
    assert not hasattr(one, "__dict__")


def test_equality_and_hash_go_by_the_fields_that_are_compared() -> None:
    assert Port(1, seen=1.0) == Port(1, seen=2.0)
    assert Port(1) != Port(2)
    assert Port(1) != (1, 80, {}, 0.0)
    assert Checked(1) != Named(1)
    assert hash(Checked(1)) == hash(Checked(1))
    assert Nothing() == Nothing()
    assert len({Nothing(), Nothing()}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Port(1))


def test_the_tools_of_dataclasses_work_on_them() -> None:
    one = Port(8080, labels={"a": "b"})
    assert dataclasses.replace(one, host=1) == Port(1, labels={"a": "b"})
    assert dataclasses.asdict(one) == {"host": 8080, "container": 80, "labels": {"a": "b"}, "seen": 0.0}
    assert repr(Checked(1)) == "Checked(port=1)"
    match Checked(1):
        case Checked(port):
            assert port == 1
    for made in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert made == one
        assert made.labels == {"a": "b"}


def test_fields_are_inherited_and_checks_run() -> None:
    assert repr(Named(80)) == "Named(port=80, name='web')"
    with pytest.raises(ValueError, match="no port"):
        Named(0)


def test_other_wishes_are_refused() -> None:
    with pytest.raises(TypeError, match="dataclasses"):
        dataclass(frozen=False, slots=True)
