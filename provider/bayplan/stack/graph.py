"""What waits for what: every reference leads to something, and no way leads back to where it began.

Resources that need nothing take no part, so the cost is that of the edges, not of the stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bayplan.errors import BayplanError, nearest
from bayplan.stack.evaluate import Instances, Use
from bayplan.stack.model import Resource
from bayplan.stack.shapes import shapes
from bayplan.stack.words import did_you_mean, listed, quoted


def check_uses(
    uses: Sequence[Use],
    resources: Mapping[str, Resource],
    instances: Instances,
    errors: list[BayplanError],
) -> None:
    """Each reference names a resource that stands, and an attribute that its kind gives out."""
    for use in uses:
        ref = use.ref
        if ref.address in resources:
            outputs = shapes()[resources[ref.address].kind].outputs
            if ref.attribute in outputs:
                continue
            code, message = "unknown-attribute", f"{ref.address} gives out no {quoted(ref.attribute)}"
            hint = did_you_mean(ref.attribute, outputs, f"it gives out {listed(outputs, 'and')}")
        elif instances.get(ref.address, ()) is None:
            continue  # it stands, with mistakes of its own
        else:
            code, (message, hint) = "unknown-resource", missing(ref.address, resources, instances)
        errors.append(use.source.error_within(code, message, use.path, use.text, use.offset, hint=hint))


def missing(address: str, resources: Mapping[str, Resource], instances: Instances) -> tuple[str, str]:
    """Message and hint for an address that names no resource."""
    base, bracket, _ = address.partition("[")
    keys = instances.get(base, ())
    if keys and not bracket:
        message = f"{address} is made once for each of {listed(keys, 'and')}"
        return message, f"write {base}[{keys[0]}], or {base}[*] for all of them"
    if bracket and base in instances and keys is None:
        return f"{base} has no for_each, so there is only one", f"write {base}"
    if bracket and keys:
        key = address[len(base) + 1 : -1]
        return f"{base} is not made for {key}", did_you_mean(key, keys, f"there are {listed(keys, 'and')}")
    if "." not in base:
        return f"there is no resource {quoted(address)}", "write its address: Kind.name"
    names = [*resources, *(name for name in instances if name not in resources)]
    kind, _, name = base.partition(".")
    if kind not in shapes():
        return f"there is no resource {address}", did_you_mean(address, names, f"there is no kind {kind}")
    of_kind = [one.partition(".")[2] for one in names if one.startswith(f"{kind}.")]
    if (near := nearest(name, of_kind)) is not None:
        hint = f"did you mean {kind}.{near}?"
    elif (address_near := nearest(base, names, cutoff=0.9)) is not None:
        hint = f"did you mean {address_near}?"  # short names: Container.bd for Container.db
    else:
        namesakes = [one for one in names if one.partition(".")[2] == name]
        hint = f"did you mean {namesakes[0]}?" if namesakes else f"declare {base} under `resources`"
    return f"there is no resource {address}", hint


def check_cycles(resources: Mapping[str, Resource], errors: list[BayplanError]) -> None:
    """No resource waits for itself, by whatever way. Each cycle is told once, with the place of every step."""
    needs: dict[str, list[str]] = {}
    for address, resource in resources.items():
        if resource.references or resource.depends_on:
            found = dict.fromkeys(ref.address for ref in resource.references)
            found.update(dict.fromkeys(resource.depends_on))
            needs[address] = [one for one in found if one in resources]
    done: set[str] = set()
    for start in needs:
        if start not in done:
            _walk(start, needs, done, resources, errors)


def _walk(
    start: str,
    needs: Mapping[str, list[str]],
    done: set[str],
    resources: Mapping[str, Resource],
    errors: list[BayplanError],
) -> None:
    """Depth first from ``start``, without recursion: chains can be as long as the stack."""
    way: list[str] = [start]
    on_way = {start}
    left = [iter(needs[start])]
    while left:
        following = next(left[-1], None)
        if following is None:
            left.pop()
            ended = way.pop()
            on_way.discard(ended)
            done.add(ended)
        elif following in on_way:
            errors.append(_cycle(way[way.index(following) :], resources))
        elif following not in done and following in needs:
            way.append(following)
            on_way.add(following)
            left.append(iter(needs[following]))


def _cycle(addresses: list[str], resources: Mapping[str, Resource]) -> BayplanError:
    first = addresses[0]
    path = ("resources", resources[first].key)
    if len(addresses) == 1:
        message = f"{first} needs itself"
        place, source = _edge(resources[first], first), resources[first].source
        return source.error("dependency-cycle", message, place or path, key=not place)
    steps = []
    for address, following in zip(addresses, [*addresses[1:], first], strict=True):
        resource = resources[address]
        where = resource.source.where(_edge(resource, following))
        steps.append(f"{address} needs {following} ({where})")
    message = "resources wait for one another: " + ", ".join(steps)
    hint = "remove one of these references, or take a name that both know from a variable"
    return resources[first].source.error("dependency-cycle", message, _edge(resources[first], addresses[1]), hint=hint)


def _edge(resource: Resource, needed: str) -> tuple[str | int, ...]:
    """The path of the place where ``resource`` says that it needs ``needed``."""
    base = ("resources", resource.key)
    for name, value in resource.properties.items():
        found = _find(value, needed, (*base, name))
        if found is not None:
            return found
    return (*base, "depends_on", needed)


def _find(value: object, needed: str, path: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    from bayplan.stack.evaluate import references

    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            found = _find(one, needed, (*path, key))
            if found is not None:
                return found
        return None
    return path if any(ref.address == needed for ref in references(value)) else None
