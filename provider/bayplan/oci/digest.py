"""Digests: the names of content (OCI image specification 1.1, *Descriptor*, section *Digests*).

A :class:`Digest` is a ``str``, so that it can stand wherever text stands, but one that was parsed: nothing that came from
outside becomes a path before it has passed here.
"""

from __future__ import annotations

import re
from typing import Protocol

from bayplan.errors import BayplanError

try:
    from _sha2 import sha256 as _sha256  # hashlib has the same function, and loads OpenSSL (2 ms) for a quicker one
except ImportError:  # before Python 3.12
    from _sha256 import sha256 as _sha256

_LITTLE = 1 << 16  # bytes from which the quicker one is worth its loading: documents have fewer, blobs more
_LENGTHS = {"sha256": 64, "sha512": 128}
_GRAMMAR = re.compile(r"(sha256|sha512):([0-9a-f]+)", re.ASCII)


class Hash(Protocol):
    """What :func:`hashlib.new` gives."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class Digest(str):
    """``sha256:<64 hex>`` or ``sha512:<128 hex>``, checked."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Raises BayplanError ``invalid-digest``."""
        if isinstance(text, cls):
            return text
        found = _GRAMMAR.fullmatch(text)
        if found is None or len(found[2]) != _LENGTHS[found[1]]:
            raise BayplanError(
                "invalid-digest", f"'{text[:80]}' is not a digest", hint="a digest is sha256: and 64 hexadecimal digits"
            )
        return cls(text)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``."""
        if algorithm == "sha256" and len(data) < _LITTLE:
            return cls(f"sha256:{_sha256(data).hexdigest()}")
        return cls(f"{algorithm}:{new_hash(algorithm, data).hexdigest()}")

    @property
    def algorithm(self) -> str:
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.partition(":")[2]


def new_hash(algorithm: str, data: bytes = b"") -> Hash:
    """A running hash. Raises BayplanError ``invalid-digest`` for an algorithm that is not supported."""
    if algorithm not in _LENGTHS:
        raise BayplanError(
            "invalid-digest", f"the digest algorithm '{algorithm}' is not supported", hint="use sha256 or sha512"
        )
    import hashlib

    return hashlib.new(algorithm, data, usedforsecurity=True)
