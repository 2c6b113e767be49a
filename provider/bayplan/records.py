"""Data classes that are quick to define, and quick to make.

Every command defines a hundred of them before it does anything, and makes objects of a third. ``dataclasses`` compiles six
functions for each, and its own import (with ``inspect``, ``ast``, ``dis``) takes longer than that of anything else here; both
together come to a third of a start. Here a definition compiles nothing: the constructor is compiled when many objects
of a class are made, and the other methods are shared. And where ``dataclasses`` freezes by a detour in the constructor, this one
fills the slots directly, so that ten thousand resources, each in three views, cost a plan no more than they have to.

What a class promises is the same: compared, shown, hashed and ordered by its fields, frozen where it says so. ``field``,
``fields``, ``replace`` and ``asdict`` of this module stand for those of ``dataclasses``, which take these classes too. The
type checker sees ``dataclasses`` itself. Field options other than ``default``, ``default_factory``, ``compare`` and ``repr`` are
refused.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["asdict", "dataclass", "field", "fields", "replace"]


class _Missing:
    def __repr__(self) -> str:
        return "<missing>"


_MISSING: Any = _Missing()
#: So many objects of a class are made before its constructor is compiled, which costs as much as making thirty by hand.
_BY_HAND = 16


class _Field:
    """One field: its name, and what it is when the constructor is not told."""

    __slots__ = ("compare", "default", "default_factory", "name", "repr", "type")

    def __init__(self, default: Any, default_factory: Any, compare: bool, repr: bool) -> None:
        self.name = self.type = ""
        self.default, self.default_factory, self.compare, self.repr = default, default_factory, compare, repr


if TYPE_CHECKING:
    from dataclasses import asdict, dataclass, field, fields, replace
else:

    def field(*, default=_MISSING, default_factory=_MISSING, compare=True, repr=True):
        """As ``dataclasses.field``."""
        return _Field(default, default_factory, compare, repr)

    def fields(of):
        """The fields of a class or object of this module, in their order; each has a ``name``."""
        return of.__record_fields__

    def replace(one, /, **changes):
        """As ``dataclasses.replace``."""
        for known in one.__record_fields__:
            if known.name not in changes:
                changes[known.name] = getattr(one, known.name)
        return one.__class__(**changes)

    def asdict(one):
        """As ``dataclasses.asdict``, but what is no record and no list, tuple or map is not copied."""
        return _plain(one)

    def dataclass(cls=None, /, *, frozen=False, slots=False, order=False):
        """As ``dataclasses.dataclass``, with these three options."""
        if cls is not None:
            return _define(cls, frozen, slots, order)
        return lambda cls: _define(cls, frozen, slots, order)


def _define(cls: Any, frozen: bool, slots: bool, order: bool) -> Any:
    own = _own_fields(cls)
    known = {one.name: one for base in reversed(cls.__mro__[1:]) for one in base.__dict__.get("__record_fields__", ())}
    known.update((one.name, one) for one in own)
    body = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
    for one in own:
        body.pop(one.name, None)
        if not slots and one.default is not _MISSING:
            body[one.name] = one.default
    if slots:
        inherited = {name for base in cls.__mro__[1:] for name in base.__dict__.get("__slots__", ())}
        body["__slots__"] = tuple(one.name for one in own if one.name not in inherited)
    for name, shared in {**_SHARED, **(_FROZEN if frozen else {}), **(_ORDERED if order else {})}.items():
        body.setdefault(name, shared)
    if not frozen:
        body.setdefault("__hash__", None)
    compared = [one.name for one in known.values() if one.compare]
    body["__compared__"] = attrgetter(*(compared or ["__class__"]))
    body["__record_fields__"] = tuple(known.values())
    body["__dataclass_fields__"] = _STANDARD
    body["__match_args__"] = tuple(known)
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    if "__init__" not in body:
        made.__init__ = _late(made, frozen, slots)
    return made


def _own_fields(cls: Any) -> list[_Field]:
    own = []
    for name, kind in cls.__annotations__.items():
        if str(kind).startswith("ClassVar"):
            continue
        given = cls.__dict__.get(name, _MISSING)
        one = given if isinstance(given, _Field) else _Field(given, _MISSING, True, True)
        if isinstance(one.default, list | dict | set):
            raise TypeError(f"a {type(one.default).__name__} is no default of {name}: all objects would share it")
        one.name, one.type = name, kind
        own.append(one)
    return own


def _late(made: Any, frozen: bool, slots: bool) -> Any:
    """The constructor of the first objects: it reads the fields each time, and has the real one compiled when there are many."""
    found = made.__record_fields__
    left = _BY_HAND
    put = object.__setattr__

    def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807
        nonlocal left
        left -= 1
        if left < 0 or len(values) > len(found):
            made.__init__ = constructor = _constructor(made, frozen, slots)
            constructor(self, *values, **named)
            return
        for one, value in zip(found, values, strict=False):
            put(self, one.name, value)
        told = 0
        for one in found[len(values) :]:
            if one.name in named:
                told += 1
                put(self, one.name, named[one.name])
            elif one.default is not _MISSING:
                put(self, one.name, one.default)
            elif one.default_factory is not _MISSING:
                put(self, one.name, one.default_factory())
            else:
                told = -1
                break
        if told != len(named):
            _constructor(made, frozen, slots)(self, *values, **named)  # which says what is missing or too much
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    return __init__


def _constructor(made: Any, frozen: bool, slots: bool) -> Any:
    """``__init__``: one parameter a field, each put into its slot by the slot itself, past ``__setattr__``."""
    around: dict[str, Any] = {"_missing": _MISSING, "_put": object.__setattr__}
    parameters, lines = ["self"], []
    for one in made.__record_fields__:
        name = value = one.name
        if one.default is not _MISSING:
            around[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        elif one.default_factory is not _MISSING:
            around[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        if not frozen:
            lines.append(f" self.{name} = {value}")
        elif slots:
            around[f"_set_{name}"] = getattr(made, name).__set__
            lines.append(f" _set_{name}(self, {value})")
        else:
            lines.append(f" _put(self, {name!r}, {value})")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), around)  # noqa: S102  (names only)
    around["__init__"].__qualname__ = f"{made.__qualname__}.__init__"
    return around["__init__"]


def _plain(one: Any) -> Any:
    if hasattr(one, "__record_fields__"):
        return {known.name: _plain(getattr(one, known.name)) for known in one.__record_fields__}
    if isinstance(one, list | tuple):
        return type(one)(_plain(each) for each in one)
    if isinstance(one, dict):
        return {key: _plain(value) for key, value in one.items()}
    return one


class _Standard:
    """What ``dataclasses`` looks for on a class, made when it looks."""

    def __get__(self, one: Any, cls: Any) -> Any:
        import dataclasses

        body: dict[str, Any] = {"__annotations__": {}}
        for known in cls.__record_fields__:
            body["__annotations__"][known.name] = known.type
            options = {"default": known.default, "default_factory": known.default_factory}
            given = {name: value for name, value in options.items() if value is not _MISSING}
            body[known.name] = dataclasses.field(**given, compare=known.compare, repr=known.repr)
        shadow: Any = dataclasses.dataclass(init=False, repr=False, eq=False)(type(cls.__name__, (), body))
        return shadow.__dataclass_fields__


_STANDARD = _Standard()


def _refuse(self: Any, name: str, value: Any = None) -> None:
    from dataclasses import FrozenInstanceError

    del self, value
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in self.__record_fields__ if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = self.__compared__
    return compared(self) == compared(other)


def _hash(self: Any) -> int:
    return hash(self.__compared__(self))


def _before(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = self.__compared__
    return compared(self) < compared(other)


def _not_after(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = self.__compared__
    return compared(self) <= compared(other)


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in self.__record_fields__]


def _restore(self: Any, state: list[Any]) -> None:
    for one, value in zip(self.__record_fields__, state, strict=True):
        object.__setattr__(self, one.name, value)


_SHARED = {"__repr__": _repr, "__eq__": _eq}
_FROZEN = {
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__hash__": _hash,
    "__getstate__": _state,
    "__setstate__": _restore,
}
#: Python turns the two others round.
_ORDERED = {"__lt__": _before, "__le__": _not_after}
