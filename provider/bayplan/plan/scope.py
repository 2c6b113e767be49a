"""What a plan is about: the edges between resources, and which of them ``--target`` lets in.

A target takes along what it depends on, whether or not that needs anything, and nothing else: nothing outside is looked at,
pruned or warned about. In a destroy it is the other way round: what depends on a target has to go before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bayplan.errors import BayplanError, nearest
from bayplan.plan.model import Desired, Observed, Recorded
from bayplan.plan.values import SCALARS, references


def link(
    desired: Mapping[str, Desired], elsewhere: Iterable[str], errors: list[BayplanError]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Edges and holes: address -> desired addresses it depends on; address -> properties with references in them.

    Resources without any have no entry. A reference to what is neither declared nor in ``elsewhere`` (resources that exist
    and that nobody is going to prune) is added to ``errors``.
    """
    edges: dict[str, tuple[str, ...]] = {}
    holes: dict[str, tuple[str, ...]] = {}
    existing: frozenset[str] | None = None
    for address, one in desired.items():
        found: dict[str, None] = dict.fromkeys(one.depends_on) if one.depends_on else {}
        open_: list[str] = []
        for name, value in one.properties.items():
            if type(value) in SCALARS or (type(value) is dict and SCALARS.issuperset(map(type, value.values()))):
                continue
            refs = [ref.address for ref in references(value)]
            if refs:
                open_.append(name)
                found.update(dict.fromkeys(refs))
        if open_:
            holes[address] = tuple(open_)
        if not found:
            continue
        for other in [other for other in found if other not in desired]:
            if existing is None:
                existing = frozenset(elsewhere)
            del found[other]
            if other not in existing:
                errors.append(_unknown(other, [*desired, *existing], f"{address} refers to", one))
        if address in found:
            errors.append(
                BayplanError("cycle", f"{address} refers to itself", where=one.where, hint="name another resource")
            )
            del found[address]
        if found:
            edges[address] = tuple(found)
    return edges, holes


def _unknown(address: str, candidates: Sequence[str], what: str, one: Desired | None = None) -> BayplanError:
    close = nearest(address, candidates)
    return BayplanError(
        "unknown-address",
        f"{what} {address}, which this stack does not declare",
        where=one.where if one else None,
        hint=f"did you mean {close}?" if close else "",
    )


def matching(pattern: str, addresses: Iterable[str]) -> list[str]:
    """The addresses that ``pattern`` names: itself, or all instances of a ``for_each``."""
    prefix = f"{pattern}["
    return [address for address in addresses if address == pattern or address.startswith(prefix)]


def chosen(
    patterns: Sequence[str], option: str, candidates: Mapping[str, object], errors: list[BayplanError]
) -> dict[str, None]:
    """The addresses that a repeatable option names, in order; what it misses is added to ``errors``."""
    found: dict[str, None] = {}
    for pattern in patterns:
        hits = [pattern] if pattern in candidates else matching(pattern, candidates)
        if not hits:
            errors.append(_unknown(pattern, list(candidates), f"{option} names"))
        found.update(dict.fromkeys(hits))
    return found


def with_dependencies(start: Iterable[str], edges: Mapping[str, Sequence[str]]) -> set[str]:
    """``start`` and everything it depends on, directly or not."""
    found = set(start)
    todo = list(found)
    while todo:
        for earlier in edges.get(todo.pop(), ()):
            if earlier not in found:
                found.add(earlier)
                todo.append(earlier)
    return found


def removal_edges(
    objects: Mapping[str, tuple[Observed, ...]],
    recorded: Mapping[str, Recorded],
    edges: Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """Address -> what has to outlive it, for everything that exists.

    By the record where there is one, else by what is declared; a container tells besides by the networks and volumes that
    it is seen on.
    """
    by_name: dict[tuple[str, str, str], str] = {}
    for address, found in objects.items():
        for one in found:
            if one.kind in ("Network", "Volume"):
                by_name[one.place, one.kind, one.name or str(one.fields.get("name", ""))] = address
    result: dict[str, tuple[str, ...]] = {}
    for address, found in objects.items():
        row = recorded.get(address)
        known = dict.fromkeys(row.depends_on if row is not None and row.depends_on else edges.get(address, ()))
        for one in found:
            if one.kind == "Container":
                known.update(dict.fromkeys(_grounds(one, by_name)))
        if known:
            result[address] = tuple(known)
    return result


def _grounds(one: Observed, by_name: Mapping[tuple[str, str, str], str]) -> list[str]:
    """The Networks and Volumes that a container is seen to use."""
    found = []
    for field, kind in (("networks", "Network"), ("volumes", "Volume")):
        values = one.fields.get(field)
        for entry in values if isinstance(values, (list, tuple)) else ():
            if isinstance(entry, Mapping):
                entry = entry.get("name")
            if isinstance(entry, str):
                address = by_name.get((one.place, kind, entry.partition(":")[0]))
                if address is not None:
                    found.append(address)
    return found
