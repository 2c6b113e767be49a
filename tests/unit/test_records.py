"""What data classes promise, whoever makes them: the same as ``dataclasses`` with ``frozen`` and ``slots``."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest

from bayplan.records import dataclass, field, fields, replace


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
    assert replace(one, host=1) == Port(1, labels={"a": "b"})
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


def test_the_first_objects_are_made_as_all_that_follow() -> None:
    @dataclass(frozen=True, slots=True)
    class Pair:
        left: int
        right: int = 2
        more: list[int] = field(default_factory=list)

    for number in range(40):
        assert Pair(number) == Pair(left=number, right=2) == Pair(number, more=[])
        for wrong in (lambda: Pair(), lambda: Pair(1, left=2), lambda: Pair(1, 2, [], 4), lambda: Pair(1, middle=3)):
            with pytest.raises(TypeError, match=r"Pair\.__init__\(\)"):
                wrong()
    assert inspect.signature(Pair).parameters.keys() == {"left", "right", "more"}


@dataclass(slots=True)
class Counter:
    count: int = 0
    seen: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Open:
    path: str
    kept: str = "no"


@dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int = 0


def test_what_changes_is_compared_and_not_hashed() -> None:
    one = Counter()
    one.count += 1
    one.seen.append(3)
    assert one == Counter(1, [3])
    assert Counter().seen == []
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(AttributeError):
        one.other = 1  # type: ignore[attr-defined]


def test_frozen_without_slots_has_room_for_what_is_cached() -> None:
    one = Open("/a")
    one.__dict__["known"] = 1
    assert one == Open("/a", "no")
    assert Open.kept == "no"
    with pytest.raises(dataclasses.FrozenInstanceError, match="path"):
        one.path = "/b"  # type: ignore[misc]


def test_order_goes_by_the_fields() -> None:
    assert sorted([Version(2), Version(1, 2), Version(1)]) == [Version(1), Version(1, 2), Version(2)]
    assert Version(2) > Version(1)
    assert Version(1) >= Version(1)
    with pytest.raises(TypeError):
        _ = Version(1) < Open("/a")  # type: ignore[operator]


def test_a_default_that_all_objects_would_share_is_refused() -> None:
    with pytest.raises(TypeError, match="share"):

        @dataclass(frozen=True, slots=True)
        class Wrong:
            names: list[str] = []  # noqa: RUF012


def test_defining_one_loads_nothing_of_dataclasses() -> None:
    code = "import sys, bayplan.records; assert 'dataclasses' not in sys.modules and 'inspect' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("of", [Port, Checked, Named, Nothing, Counter, Open, Version])
def test_dataclasses_sees_the_same_fields(of: Any) -> None:
    assert dataclasses.is_dataclass(of)
    assert [one.name for one in dataclasses.fields(of)] == [one.name for one in fields(of)]
