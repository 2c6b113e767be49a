"""Which image of an index is meant by ``linux/arm64``."""

from __future__ import annotations

import json
from typing import Any

from bayplan.oci.descriptor import Platform

_IMPLIED = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def choose(index: bytes, platform: Platform) -> str | None:
    """The digest of the entry of an index for ``platform``, or None.

    A variant that is not named is the architecture's usual one; an entry without a variant serves any, and one that
    names another is taken only when none fits better and no variant was asked for.
    """
    wanted = platform.variant or _IMPLIED.get(platform.architecture, "")
    best: tuple[int, str] | None = None
    for entry in json.loads(index).get("manifests") or ():
        about: dict[str, Any] = entry.get("platform") or {}
        if about.get("os") != platform.os or about.get("architecture") != platform.architecture:
            continue
        own = str(about.get("variant") or "")
        rank = 0 if own == wanted else 1 if not own else 2 if not platform.variant else None
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, str(entry.get("digest")))
    return best[1] if best else None
