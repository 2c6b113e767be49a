"""Packages whose names are loaded when they are asked for.

A package's face is one place, and whoever imports one name of it should not pay for the modules of all the others: commands
start in the time that their imports take (PEP 562).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def names(package: str, rooms: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of ``package``; ``rooms`` says in which of its modules each name stands."""

    def find(name: str) -> object:
        if name not in rooms:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{rooms[name]}"), name)

    return find
