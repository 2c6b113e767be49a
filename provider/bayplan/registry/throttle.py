"""How fast one address may go: token buckets, for requests and for wrong passwords.

A bucket holds ``burst`` tokens and gets ``rate`` new ones a second; each request takes one. Where there are too many addresses, the
one that took a token longest ago is forgotten, so that nobody fills the memory by having many addresses.
"""

from __future__ import annotations

from collections import OrderedDict

_MOST = 20_000


class Throttle:
    """``rate`` in tokens a second; ``burst`` tokens at once. For one thread (the event loop)."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address: (tokens, when)

    def wait(self, address: str, now: float) -> float:
        """Seconds until ``address`` has a token; 0 where it has one, which is left there."""
        return max(0.0, (1.0 - self._tokens(address, now)) / self._rate)

    def take(self, address: str, now: float) -> float:
        """Take a token of ``address``: 0 where there was one, else the seconds until there is."""
        tokens = self._tokens(address, now)
        if tokens < 1.0:
            return (1.0 - tokens) / self._rate
        self._buckets[address] = (tokens - 1.0, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return 0.0

    def _tokens(self, address: str, now: float) -> float:
        kept = self._buckets.get(address)
        if kept is None:
            return self._burst
        return min(self._burst, kept[0] + max(0.0, now - kept[1]) * self._rate)
