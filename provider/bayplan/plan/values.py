"""Values with holes: finding the references in them, filling in what is known, and showing them without secrets.

The planner never evaluates a secret. A value with a :class:`SecretRef` in it is compared by its keyed digest and shown as
:class:`Redacted`; a value that another operation of the same plan will make is an :class:`Unknown`. Both may stand at any
leaf, so that a plan can say which entry of a map changes and still not what a secret one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from bayplan.plan.model import Digester, Redacted, Ref, SecretRef, Template, Unknown, Value

#: Types that hold no expression; tested by identity of the type, which is what keeps a no-op plan cheap.
SCALARS: Final = frozenset({str, int, float, bool, type(None)})

#: ``Unknown.hint`` of an output that a resource which stays as it is does not report: unknown, but not changing.
STAYS: Final = "stays"


class _Missing:
    """Says *not there* where None is a value."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def references(value: Value) -> Iterator[Ref]:
    """Every :class:`Ref` in ``value``, in order."""
    kind = type(value)
    if kind in SCALARS or kind is SecretRef:
        return
    if kind is Ref:
        yield value
    elif kind is Template:
        for part in value.parts:
            if type(part) is Ref:
                yield part
    elif isinstance(value, Mapping):
        for item in value.values():
            if type(item) not in SCALARS:
                yield from references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if type(item) not in SCALARS:
                yield from references(item)


def fill(value: Value, output: Callable[[Ref], Value]) -> Value:
    """``value`` with each Ref replaced by ``output(ref)``; a Template with an unknown part becomes Unknown as a whole."""
    kind = type(value)
    if kind in SCALARS or kind is SecretRef:
        return value
    if kind is Ref:
        return output(value)
    if kind is Template:
        return _join(value, output)
    if isinstance(value, Mapping):
        return {key: fill(item, output) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill(item, output) for item in value]
    return value


def _join(template: Template, output: Callable[[Ref], Value]) -> Value:
    parts: list[str | SecretRef] = []
    for part in template.parts:
        if type(part) is Ref:
            found = output(part)
            if isinstance(found, Unknown):
                return Unknown(found.address, found.attribute, found.hint or str(template))
            if isinstance(found, SecretRef):
                parts.append(found)
                continue
            parts.append(text(found))
        else:
            parts.append(part)  # type: ignore[arg-type]  # a Ref was handled above
    if all(type(part) is str for part in parts):
        return "".join(map(str, parts))
    joined: list[str | SecretRef] = []
    for one in parts:
        if joined and isinstance(one, str) and isinstance(joined[-1], str):
            joined[-1] += one
        else:
            joined.append(one)
    return Template(tuple(joined))


def text(value: Value) -> str:
    """A value inside a string, written as YAML would: ``true`` rather than ``True``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def unknowns(value: Value) -> Iterator[Unknown]:
    """Every :class:`Unknown` in ``value``."""
    if isinstance(value, Unknown):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from unknowns(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from unknowns(item)


def is_secret(value: Value) -> bool:
    """Whether ``value`` is a leaf that holds a secret (observed: a Redacted one)."""
    kind = type(value)
    if kind is SecretRef or kind is Redacted:
        return True
    return kind is Template and any(type(part) is SecretRef for part in value.parts)


def holds_secret(value: Value) -> bool:
    """Whether a secret stands anywhere in ``value``."""
    if isinstance(value, Mapping):
        return any(map(holds_secret, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_secret, value))
    return is_secret(value)


def redacted(value: Value, digest: Digester) -> Value:
    """``value`` with every leaf hidden; empty and unknown ones say nothing and stay."""
    if value is None or isinstance(value, (Redacted, Unknown)):
        return value
    if isinstance(value, Mapping):
        return {key: redacted(item, digest) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(item, digest) for item in value]
    return Redacted(digest(value))


def shown(value: Value, digest: Digester) -> Value:
    """A declared value as a plan may show it: secrets as Redacted."""
    if is_secret(value):
        return value if isinstance(value, Redacted) else Redacted(digest(value))
    if isinstance(value, Mapping):
        return {key: shown(item, digest) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item, digest) for item in value]
    return value


def shown_beside(value: Value, declared: Value, recorded: Value, digest: Digester, *, open_: bool) -> Value:
    """An observed value as a plan may show it, beside what is declared now and what was recorded in clear.

    A place may hand back in clear what was given as a secret. A leaf is shown only if the files say it in clear, or the
    record kept it in clear (records leave secrets out, or None in their place); ``open_`` says that what neither knows of
    may be shown too. What is declared or was recorded as a secret never is.
    """
    if value is None or isinstance(value, (Redacted, Unknown)):
        return value
    if isinstance(value, Mapping):
        declared_map = declared if isinstance(declared, Mapping) else {}
        recorded_map = recorded if isinstance(recorded, Mapping) else {}
        hidden = is_secret(declared)
        return {
            key: redacted(item, digest)
            if hidden
            else shown_beside(item, declared_map.get(key, MISSING), recorded_map.get(key, MISSING), digest, open_=open_)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        clear = open_ or declared is not MISSING or recorded is not MISSING
        if not clear or holds_secret(declared) or holds_hidden(recorded):
            return redacted(value, digest)
        return list(value)
    if is_secret(declared) or recorded is None or is_secret(recorded):
        return Redacted(digest(value))
    if declared is not MISSING or recorded is not MISSING or open_:
        return value
    return Redacted(digest(value))


def holds_hidden(recorded: Value) -> bool:
    """Whether a record left something out (None where a secret stood)."""
    if recorded is MISSING:
        return False
    if isinstance(recorded, Mapping):
        return any(map(holds_hidden, recorded.values()))
    if isinstance(recorded, (list, tuple)):
        return any(map(holds_hidden, recorded))
    return recorded is None or isinstance(recorded, Redacted)
