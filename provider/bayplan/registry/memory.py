"""The memory that bodies come in through, used again: what is in the processor's reach already costs half of what is fresh."""

from __future__ import annotations

import threading

from bayplan.registry.exchange import PIECE

_FEED = 256 << 10  # bytes
_SPARES = 8  # pieces that are kept for the next body
_spare: list[bytearray] = []
_local = threading.local()


def feed() -> memoryview:
    """Where heads are received to: one buffer for all connections of a loop, since the parser keeps nothing of it."""
    found: memoryview | None = getattr(_local, "feed", None)
    if found is None:
        found = _local.feed = memoryview(bytearray(_FEED))
    return found


def piece(left: int) -> memoryview:
    """Room for the next piece of a body of which ``left`` bytes are to come."""
    if left <= _FEED:
        return memoryview(bytearray(left))
    try:
        memory = _spare.pop()
    except IndexError:
        memory = bytearray(PIECE)
    return memoryview(memory)[:left]


def take_back(used: memoryview) -> None:
    """A piece whose bytes were written away."""
    memory = used.obj
    if isinstance(memory, bytearray) and len(memory) == PIECE and len(_spare) < _SPARES:
        _spare.append(memory)
