"""Durations and sizes as Dockerfiles write them: Go's ``1m30s`` and Docker's ``64m``."""

from __future__ import annotations

import re

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?\Z", re.IGNORECASE)


def nanoseconds(text: str) -> int:
    """``1m30s`` -> 90_000_000_000 (Go's time.ParseDuration, without a sign). Raises ValueError."""
    if text == "0":
        return 0
    total = 0.0
    at = 0
    while at < len(text):
        match = _PART.match(text, at)
        if not match:
            break
        total += float(match.group(1)) * _UNITS[match.group(2)]
        at = match.end()
    if not text or at < len(text):
        raise ValueError(f"{text!r} is not a duration")
    return round(total)


def size_in_bytes(text: str) -> int:
    """``64m`` -> 67108864; units are powers of 1024 as in Docker. Raises ValueError."""
    match = _SIZE.match(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size")
    return int(float(match.group(1)) * 1024 ** " kmgtp".index(match.group(2).lower() or " "))
