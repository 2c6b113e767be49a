"""Check and Diff: what a program says, against the schemas and against what it said before. No engine, no network.

Both sides of a Diff are inputs, in canonical form, so that two ways of writing one thing are no change; what somebody did
to the object outside shows in a refresh. A value that is not known yet counts as changed: an image whose content changes
has a reference that only its build will know, and the container made from it is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.kinds.check import NAME
from bayplan.kinds.expressions import Ref, SecretRef
from bayplan.kinds.values import pattern
from bayplan.plan.diff import image_digest
from bayplan.pulumi.names import ADDRESS, inward, outward_path, property_path
from bayplan.pulumi.values import UNKNOWN, Secret, plain, unknown_paths
from bayplan.records import dataclass

Path = tuple[str | int, ...]

#: A network and a volume have one name to give: a new one cannot stand beside the old one under it.
GROUND = frozenset(("Network", "Volume"))
_LATER = Ref("Pulumi.later", "value")


@dataclass(frozen=True, slots=True)
class Sealed:
    """The inputs of a resource as the engine takes them. ``secrets`` are the values of the SecretRefs in ``properties``."""

    kind: str
    properties: Mapping[str, Any]
    secrets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """One mistake: the property's path as Pulumi writes it (``""``: the resource) and what is wrong."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One property that differs. ``change`` is ``add``, ``delete`` or ``update``; ``input``: the program says so."""

    path: str
    change: str
    replaces: bool
    input: bool = True


def seal(kind: str, inputs: Mapping[str, Any]) -> Sealed:
    """Secrets become references, so that whoever works with the properties never holds one in clear."""
    secrets: dict[str, str] = {}
    properties = {
        name: _sealed(value, name, secrets, open_=True)
        for name, value in inward(kind, inputs).items()
        if name != ADDRESS and value is not None
    }
    return Sealed(kind, properties, secrets)


def _sealed(value: Any, path: str, secrets: dict[str, str], *, open_: bool) -> Any:
    if isinstance(value, Secret):
        return _sealed(value.value, path, secrets, open_=False)
    if value is UNKNOWN:
        return _LATER
    if isinstance(value, dict):
        return {key: _sealed(one, f"{path}.{key}", secrets, open_=open_) for key, one in value.items()}
    if isinstance(value, list):
        return [_sealed(one, f"{path}[{index}]", secrets, open_=open_) for index, one in enumerate(value)]
    if open_ or value is None:
        return value
    secrets[path] = _text(value)
    return SecretRef(path)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def check(kind: str, name: str, inputs: Mapping[str, Any]) -> list[Failure]:
    """All that is wrong with the inputs of one resource."""
    found: list[Failure] = []
    if inputs.get(ADDRESS) is not UNKNOWN and not pattern(NAME).match(name):
        found.append(
            Failure(
                ADDRESS if ADDRESS in inputs else "",
                f"'{name}' is no name of a resource: names have letters, digits, - and _, and at most 63 characters "
                f"(the input {ADDRESS} gives another one than Pulumi's)",
            )
        )
    problems = kinds.validate(kind, seal(kind, inputs).properties)
    later = set(unknown_paths(inward(kind, inputs))) if problems else set()
    for problem in problems:
        if any(problem.path[: len(path)] == path for path in later):
            continue
        hint = f" ({problem.hint})" if problem.hint else ""
        found.append(Failure(outward_path(kind, problem.path), f"{problem.message}{hint}"))
    return found


def compare(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Every property that differs, in the order of their names. Raises BayplanError where a value has no canonical form."""
    if before == after and next(unknown_paths(after), None) is None:
        return []  # as nearly always
    old, new = _canonical(kind, before), _canonical(kind, after)
    known = kinds.load()[kind].properties
    found: list[Difference] = []
    for name in sorted({*old, *new}):
        mark = known.get(name)
        replaces = name == ADDRESS or (mark is not None and mark.replaces)
        compared = name == ADDRESS or (mark is not None and (mark.replaces or mark.live))
        whole = mark is not None and mark.unordered
        there = _differences((name,), old.get(name), new.get(name), whole=whole)
        # What only tells how to go about it is no change of the object, but the state should know it.
        found.extend(
            Difference(
                outward_path(kind, path) if name != ADDRESS else property_path(path), change, compared and replaces
            )
            for path, change in there
        )
    return found


def changed(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The schemas' names of the properties that differ."""
    old, new = _canonical(kind, before), _canonical(kind, after)
    return {name for name in {*old, *new} if list(_differences((name,), old.get(name), new.get(name), whole=True))}


def _canonical(kind: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    properties = {name: plain(one) for name, one in inward(kind, inputs).items() if one is not None}
    try:
        found = kinds.normalise(kind, properties)
    except BayplanError:
        return properties  # an older state may hold what is refused today; it differs, then
    if kind == "Container" and (digest := image_digest(found.get("image"))):
        found["image"] = digest  # under whatever name, an image is what its digest says
    return found


def _differences(path: Path, old: Any, new: Any, *, whole: bool) -> Iterator[tuple[Path, str]]:
    if old is None and new is None:
        return
    if old is None or new is None:
        yield path, "add" if old is None else "delete"
    elif new is UNKNOWN or old is UNKNOWN:
        yield path, "update"
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences((*path, key), old.get(key), new.get(key), whole=False)
    elif isinstance(old, list) and isinstance(new, list) and not whole:
        for index in range(max(len(old), len(new))):
            one = old[index] if index < len(old) else None
            other = new[index] if index < len(new) else None
            yield from _differences((*path, index), one, other, whole=False)
    elif old != new or isinstance(old, bool) is not isinstance(new, bool):
        yield path, "update"
