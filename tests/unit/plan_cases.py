"""Planner cases as data: a YAML file becomes the planner's arguments.

    about: one sentence
    secrets: {token: the value}              # for ${secret.token}
    desired:                                 # what the files say; line N of bayplan.yaml is the resource's own
      Container.web: {$line: 20, image: "web@sha256:1", env: {A: "1"}, $depends_on: {Container.db: healthy}}
    recorded:                                # what the last apply wrote down
      Container.web: {image: "web@sha256:1", env: {A: "1"}}
    observed:                                # what is there: as recorded, but for what is said here
      Container.web: {state: exited, exit_code: 1}
      Container.old: gone
      Container.two: [{$role: current}, {$role: next}]
    world: {forecasts: {}, remotes: {}, problems: {}, warnings: []}
    options: {targets: [], replace: [], destroy: false, prune: true}
    expect: |                                # the short notation, or
    error: |                                 # the rendered errors
    long: |                                  # the long notation, where it matters
    operations: {1: {detail: {...}}}         # fields of operations (as saved), where they matter

Every property is brought to its kind's canonical form first, and a digest may be short (``web@sha256:1``). ``${unreadable}``
is a secret that an object has and cannot show. ``$`` keys are about the resource rather than a property:
``$place``, ``$line``, ``$lines`` (of properties), ``$depends_on``, ``$lifecycle``, ``$name``; of a record ``$values: false``
(lost), ``$outputs``, ``$imported``; of an object ``$role``, ``$uid``, ``$name``, ``$defaults``, ``$outputs``, ``$healthy``,
``$labels`` (false: none; or the properties that they record), ``$without`` (fields that cannot be read).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bayplan.errors import Where
from bayplan.kinds.canonical import normalise
from bayplan.kinds.model import load
from bayplan.plan.model import (
    Condition,
    Desired,
    Forecast,
    Lifecycle,
    Observed,
    Plan,
    Recorded,
    Redacted,
    Ref,
    Role,
    SecretRef,
    Template,
    World,
)
from bayplan.plan.planner import plan

HOME = "embedded:/root"
STACK = "shop"

_SHORT = re.compile(r"sha256:([0-9a-f]{1,63})\b")
_EXPRESSION = re.compile(r"\$\{([^}]+)\}")


def expression(value: Any) -> Any:
    """``${Image.web.ref}`` and ``${secret.token}`` anywhere in ``value`` become expressions."""
    if isinstance(value, dict):
        return {key: expression(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expression(item) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    parts = [part for index, text in enumerate(_EXPRESSION.split(value)) if (part := _part(index, text)) != ""]
    return parts[0] if len(parts) == 1 else Template(tuple(parts))


def _part(index: int, text: str) -> Any:
    if index % 2 == 0:
        return text
    if text == "unreadable":
        return Redacted("")
    if text.startswith("secret."):
        return SecretRef(text.removeprefix("secret."))
    address, _, attribute = text.rpartition(".")
    return Ref(address, attribute)


@dataclass
class Digests:
    """Keyed digests of a place, secrets resolved inside: what the engine hands to the planner."""

    secrets: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, place: str) -> Callable[[Any], str]:
        def digest(value: Any) -> str:
            text = json.dumps(self.clear(value), sort_keys=True)
            return hashlib.blake2b(text.encode(), key=place.encode()[:64], digest_size=8).hexdigest()

        return digest

    def clear(self, value: Any) -> Any:
        if isinstance(value, SecretRef):
            return self.secrets[value.name]
        if isinstance(value, Template):
            return "".join(self.clear(part) for part in value.parts)
        if isinstance(value, Mapping):
            return {key: self.clear(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clear(item) for item in value]
        assert value is None or isinstance(value, (str, int, float, bool)), value
        return value


@dataclass
class Case:
    """The planner's arguments and what is expected of it."""

    desired: dict[str, Desired]
    recorded: dict[str, Recorded]
    world: World
    digests: Digests
    options: dict[str, Any]
    document: dict[str, Any]

    def plan(self, **more: Any) -> Plan:
        return plan(
            STACK,
            more.pop("desired", self.desired),
            more.pop("recorded", self.recorded),
            more.pop("world", self.world),
            digester=self.digests,
            kinds=load(),
            **{**self.options, **more},
        )


def read(document: dict[str, Any]) -> Case:
    """The case that a YAML document describes."""
    document = _with_digests(document)
    digests = Digests(document.get("secrets", {}))
    desired = {address: _desired(address, body or {}) for address, body in document.get("desired", {}).items()}
    applied = {address: expression(body or {}) for address, body in document.get("recorded", {}).items()}
    recorded = {address: _recorded(address, body, digests) for address, body in applied.items()}
    seen = document.get("observed", {})
    objects: dict[str, tuple[Observed, ...]] = {}
    for address in dict.fromkeys((*applied, *seen)):
        given = seen.get(address, {})
        if given == "gone":
            continue
        each = given if isinstance(given, list) else [given]
        objects[address] = tuple(
            _observed(address, expression(one or {}), applied.get(address, {}), index, digests)
            for index, one in enumerate(each)
        )
    told = document.get("world", {})
    world = World(
        objects=objects,
        forecasts={address: _forecast(one) for address, one in told.get("forecasts", {}).items()},
        remotes=told.get("remotes", {}),
        problems={address: tuple(texts) for address, texts in told.get("problems", {}).items()},
        warnings=tuple(told.get("warnings", ())),
        looked_at=sum(map(len, objects.values())),
        calls=1,
    )
    return Case(desired, recorded, world, digests, document.get("options", {}), document)


def _with_digests(value: Any) -> Any:
    """Short digests filled up with zeros."""
    if isinstance(value, dict):
        return {key: _with_digests(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_digests(item) for item in value]
    return _SHORT.sub(lambda found: f"sha256:{found[1]:0<64}", value) if isinstance(value, str) else value


def _split(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    own = {key: value for key, value in body.items() if key.startswith("$")}
    return own, {key: value for key, value in body.items() if not key.startswith("$")}


def _kind(address: str) -> str:
    return address.partition(".")[0]


def _named(address: str) -> str:
    return f"{STACK}-{address.partition('.')[2]}"


def _full(address: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The properties as the engine hands them over: canonical, with the derived name."""
    if _kind(address) in ("Container", "Network", "Volume"):
        properties = {"name": _named(address), **properties}
    return dict(normalise(_kind(address), properties))


def _desired(address: str, body: dict[str, Any]) -> Desired:
    own, given = _split(expression(body))
    line = own.get("$line", 1)
    properties = _full(address, given)
    lines = own.get("$lines", {})
    return Desired(
        address=address,
        kind=_kind(address),
        name=str(properties.get("repository_name" if _kind(address) == "Repository" else "name", "")),
        place=own.get("$place", HOME),
        properties=properties,
        depends_on={other: Condition(word) for other, word in own.get("$depends_on", {}).items()},
        lifecycle=Lifecycle(
            own.get("$lifecycle", {}).get("prevent_destroy", False),
            frozenset(own.get("$lifecycle", {}).get("ignore_changes", ())),
        ),
        positions={
            "": Where("bayplan.yaml", line, 3),
            **{name: Where("bayplan.yaml", lines.get(name, line), 5) for name in given},
            **({"lifecycle": Where("bayplan.yaml", lines["lifecycle"], 5)} if "lifecycle" in lines else {}),
        },
    )


def _digested(address: str, body: Mapping[str, Any], digests: Digests) -> dict[str, str]:
    own, given = _split(body)
    digest = digests(own.get("$place", HOME))
    return {name: digest(value) for name, value in _full(address, given).items()}


def _recorded(address: str, body: dict[str, Any], digests: Digests) -> Recorded:
    own, given = _split(body)
    return Recorded(
        address=address,
        kind=_kind(address),
        place=own.get("$place", HOME),
        uid=f"u-{address}",
        id=f"i-{address}",
        fields=_digested(address, body, digests),
        values={} if own.get("$values") is False else _without_secrets(_full(address, given)),
        outputs=own.get("$outputs", {}),
        depends_on=tuple(own.get("$depends_on", ())),
        imported=own.get("$imported", False),
    )


def _without_secrets(value: Any) -> Any:
    if isinstance(value, (SecretRef, Template)):
        return None
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


def _observed(address: str, body: dict[str, Any], applied: dict[str, Any], index: int, digests: Digests) -> Observed:
    own, given = _split({**applied, **body})
    place = own.get("$place", HOME)
    without = set(own.get("$without", ()))
    known = load()[_kind(address)].properties
    fields = {
        **_full(address, {name: value for name, value in given.items() if name in known}),
        **{name: value for name, value in given.items() if name not in known},
    }
    if _kind(address) == "Container":
        fields.setdefault("state", "running")
        fields.pop("desired_state", None)
    fields = {name: _seen(value, digests, place) for name, value in fields.items() if name not in without}
    labels = own.get("$labels", applied)
    role = Role(own.get("$role", "current"))
    name = own.get("$name", fields.get("name", ""))
    return Observed(
        address=address,
        kind=_kind(address),
        place=place,
        uid=own.get("$uid", f"u-{address}" if index == 0 else f"u-{address}-{index}"),
        id=own.get("$uid", f"i-{address}" if index == 0 else f"i-{address}-{index}"),
        fields=fields,
        hash=f"hash-{index}",
        role=role,
        defaults=own.get("$defaults", {}),
        recorded=_digested(address, labels, digests) if labels else {},
        outputs=own.get("$outputs", {}),
        name=name,
        healthy=own.get("$healthy"),
    )


def _seen(value: Any, digests: Digests, place: str) -> Any:
    """A secret as a place shows it: by its digest."""
    if isinstance(value, (SecretRef, Template)):
        return Redacted(digests(place)(value))
    if isinstance(value, dict):
        return {key: _seen(item, digests, place) for key, item in value.items()}
    if isinstance(value, list):
        return [_seen(item, digests, place) for item in value]
    return value


def _forecast(body: Mapping[str, Any]) -> Forecast:
    where = body.get("where")
    return Forecast(
        key=body.get("key", ""),
        outputs=body.get("outputs"),
        cause=body.get("cause", ""),
        where=Where(where[0], where[1]) if where else None,
        note=body.get("note", ""),
        problem=body.get("problem", ""),
        pushes=body.get("pushes", {}),
    )
