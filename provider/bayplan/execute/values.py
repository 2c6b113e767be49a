"""Filling in expressions at the last moment: outputs of finished operations and secrets become plain values.

Secrets are fetched here, live in memory for the one operation that needs them, and every text that leaves the executor
passes :class:`Redactor`, so that a value which a failing program prints does not reach a log or an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayplan.errors import BayplanError
from bayplan.plan.model import Redacted, Ref, SecretRef, Template, Unknown, Value

#: Fetches a secret by name; raises BayplanError where it is not to be had.
SecretSource = Callable[[str], str]

_MASK = "***"


def resolve(value: Value, outputs: Mapping[str, Mapping[str, Value]], secrets: SecretSource) -> Value:
    """``value`` with each expression replaced. Raises BayplanError ``unresolved`` naming the output that is missing."""
    if isinstance(value, str):
        return value
    if isinstance(value, Ref):
        try:
            return outputs[value.address][value.attribute]
        except KeyError:
            raise BayplanError(
                "unresolved",
                f"{value} has no value: {value.address} did not give '{value.attribute}'",
                hint="look at the operation of that resource, then apply again",
            ) from None
    if isinstance(value, SecretRef):
        return secrets(value.name)
    if isinstance(value, Template):
        return "".join(
            part if isinstance(part, str) else _text(resolve(part, outputs, secrets)) for part in value.parts
        )
    if isinstance(value, Mapping):
        return {key: resolve(item, outputs, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(item, outputs, secrets) for item in value]
    if isinstance(value, (Unknown, Redacted)):
        raise BayplanError("unresolved", f"a plan's shown value ({value}) was used as an input")
    return value


def holds_secret(value: Value) -> bool:
    """Whether a secret stands anywhere in ``value``."""
    if isinstance(value, SecretRef):
        return True
    if isinstance(value, Template):
        return any(isinstance(part, SecretRef) for part in value.parts)
    if isinstance(value, Mapping):
        return any(holds_secret(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(holds_secret(item) for item in value)
    return False


def without_secrets(value: Value, resolved: Value) -> Value:
    """``resolved`` with each place where ``value`` holds a secret replaced by None: what may be written down."""
    if isinstance(value, (SecretRef, Template)):
        return None if holds_secret(value) else resolved
    if isinstance(value, Mapping) and isinstance(resolved, Mapping):
        return {key: without_secrets(value.get(key), item) for key, item in resolved.items()}
    if isinstance(value, (list, tuple)) and isinstance(resolved, (list, tuple)) and len(value) == len(resolved):
        return [without_secrets(one, other) for one, other in zip(value, resolved, strict=True)]
    return None if holds_secret(value) else resolved


class Redactor:
    """Replaces the values of secrets that were used in any text. Values shorter than four characters are left."""

    def __init__(self) -> None:
        self._values: dict[str, None] = {}

    def watch(self, source: SecretSource) -> SecretSource:
        """``source``, with each value it hands out remembered for :meth:`clean`."""

        def fetch(name: str) -> str:
            value = source(name)
            for line in {value, value.strip(), *value.splitlines()}:
                if len(line) >= 4:
                    self._values[line] = None
            return value

        return fetch

    def clean(self, text: str) -> str:
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, _MASK)
        return text

    def clean_bytes(self, data: bytes) -> bytes:
        for value in sorted(self._values, key=len, reverse=True):
            data = data.replace(value.encode(), _MASK.encode())
        return data


def _text(value: Any) -> str:
    """A value inside a string, written as YAML would: ``true`` rather than ``True``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
