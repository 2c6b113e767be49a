"""Frozen data classes that are quick to define, and quick to make.

Every command defines a hundred of them before it does anything. ``dataclasses`` compiles six functions for each, which comes
to a third of the whole start; here one is compiled, the constructor, and the others are shared. And where ``dataclasses``
freezes by a detour in the constructor, this one fills the slots directly, so that ten thousand resources, each in three
views, cost a plan no more than they have to.

What a class promises is the same: frozen, slots, compared and hashed by its fields, and ``fields``, ``replace`` and
``asdict`` of ``dataclasses`` work. The type checker sees ``dataclasses.dataclass`` itself. Classes with more wishes than
``frozen`` and ``slots`` use that.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool, slots: bool):
        """``@dataclass(frozen=True, slots=True)``, which is the only way to call it."""
        if not frozen or not slots:
            raise TypeError("other data classes come from dataclasses")
        return _define


def _define(cls: Any) -> Any:
    for name, shared in _SHARED.items():
        if name not in cls.__dict__:
            setattr(cls, name, shared)
    made: Any = dataclasses.dataclass(slots=True, init=False, repr=False, eq=False)(cls)
    found = dataclasses.fields(made)
    made.__init__ = _constructor(made, found)
    names = [one.name for one in found if one.compare]
    made.__compared__ = attrgetter(*(names or ["__class__"]))
    return made


def _constructor(made: Any, found: tuple[dataclasses.Field[Any], ...]) -> Any:
    """``__init__``: one parameter a field, each put into its slot by the slot itself, past ``__setattr__``."""
    around: dict[str, Any] = {"_missing": dataclasses.MISSING}
    parameters, lines = ["self"], []
    for one in found:
        name, value = one.name, one.name
        if not one.init:
            raise TypeError(f"{name} of {made.__qualname__} is more than a field of the constructor")
        around[f"_set_{name}"] = getattr(made, name).__set__
        if one.default is not dataclasses.MISSING:
            around[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        elif one.default_factory is not dataclasses.MISSING:
            around[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        else:
            parameters.append(name)
        lines.append(f" _set_{name}(self, {value})")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), around)  # noqa: S102  (names only)
    around["__init__"].__qualname__ = f"{made.__qualname__}.__init__"
    return around["__init__"]


def _refuse(self: Any, name: str, value: Any = None) -> None:
    del self, value
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in dataclasses.fields(self) if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = self.__compared__
    return compared(self) == compared(other)


def _hash(self: Any) -> int:
    return hash(self.__compared__(self))


def _state(self: Any) -> list[Any]:
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for one, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)


_SHARED = {
    "__setattr__": _refuse,
    "__delattr__": _refuse,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__getstate__": _state,
    "__setstate__": _restore,
}
