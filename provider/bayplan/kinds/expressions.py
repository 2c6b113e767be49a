"""What may stand where a value is expected: references, secrets, and strings that hold them.

A stack file is read into plain JSON values with these at the leaves. They are never evaluated by string handling later
on: the planner sees which resource a value waits for, the executor fills it in at the last moment, and a secret's value
exists only in the memory of the process that uses it.
"""

from __future__ import annotations

from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class Ref:
    """A reference to an output of another resource: ``${Image.shop.ref}`` is ``Ref("Image.shop", "ref")``."""

    address: str
    attribute: str

    def __str__(self) -> str:
        return f"${{{self.address}.{self.attribute}}}"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret's name: ``${secret.token}``. The value is fetched when it is used and never stored in a plan."""

    name: str

    def __str__(self) -> str:
        return f"${{secret.{self.name}}}"


@dataclass(frozen=True, slots=True)
class Template:
    """A string with references in it, in order: ``"${Repository.shop.uri}:1"`` is ``(Ref(...), ":1")``."""

    parts: tuple[str | Ref | SecretRef, ...]

    def __str__(self) -> str:
        return "".join(str(part) for part in self.parts)
