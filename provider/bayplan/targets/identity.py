"""Who is who: the labels that every object bears (DESIGN section 5), and the key that its digests are made with.

``fields`` holds one digest per declared property. They are keyed with a key of the place, kept for its owner alone, so that
who reads labels learns nothing of the values, and two places never have equal digests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from bayplan.plan.model import Role, Value
from bayplan.plan.written import written

PREFIX = "bayplan.dev/"
STACK = PREFIX + "stack"
ADDRESS = PREFIX + "address"
UID = PREFIX + "uid"
OP = PREFIX + "op"
FIELDS = PREFIX + "fields"
ROLE = PREFIX + "role"


def labels(stack: str, address: str, uid: str, fields: Mapping[str, str], op: str = "") -> dict[str, str]:
    """The identity labels of an object."""
    return {
        STACK: stack,
        ADDRESS: address,
        UID: uid,
        OP: op or uid,
        FIELDS: json.dumps(dict(sorted(fields.items())), separators=(",", ":")),
    }


def aside(found: Mapping[str, str]) -> dict[str, str]:
    """The labels of an object whose successor is made beside it: from here on it is the one that goes."""
    return {**found, ROLE: Role.ASIDE.value}


def role(found: Mapping[str, str]) -> Role:
    """What an object without a life of its own is for its address."""
    return Role.ASIDE if found.get(ROLE) == Role.ASIDE.value else Role.CURRENT


def own(found: Mapping[str, str]) -> dict[str, str]:
    """The labels that are somebody's own: those of identity left out."""
    return {name: value for name, value in found.items() if not name.startswith(PREFIX)}


def recorded(found: Mapping[str, str]) -> Mapping[str, str]:
    """The digests in the label ``fields``; none where it lacks or is not ours."""
    return written(found.get(FIELDS, "{}"))


_encoded = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class PlaceKey:
    """The key of a place, in a file (0600) that is made at its first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: bytes | None = None

    def digest(self, value: Value) -> str:
        """The keyed digest of a JSON value, in 32 hexadecimal digits."""
        data = _encoded(value).encode()
        return hashlib.blake2b(data, key=self._get(), digest_size=16).hexdigest()

    def _get(self) -> bytes:
        if self._key is None:
            self._key = self._read() or self._make()
        return self._key

    def _read(self) -> bytes | None:
        try:
            found = self._path.read_bytes()
        except FileNotFoundError:
            return None
        return found if len(found) == 32 else None

    def _make(self) -> bytes:
        """A new key. A plan on a root that does not exist makes none: its digests compare with nothing yet."""
        import secrets

        key = secrets.token_bytes(32)
        if not self._path.parent.is_dir():
            return key
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, key)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, self._path)
        except FileExistsError:
            key = self._read() or key
        finally:
            draft.unlink()
        return key


def object_hash(*parts: Value) -> str:
    """The precondition of operations on an object: identity and everything that is compared."""
    return hashlib.blake2b(_ENCODER.encode(parts).encode(), digest_size=12).hexdigest()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)
