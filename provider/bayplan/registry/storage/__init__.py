"""Where a repository's bytes lie when it is not the root's own store: sealed under a key, in a bucket, or both.

All of it is a :class:`~bayplan.oci.store.Store` to its users: leases, touching and collection are the store's own.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Protocol, cast


class Distant(Protocol):
    """A blob that has to be fetched or opened before it can be read."""

    def prepare(self, start: int) -> None:
        """Have the bytes from ``start`` on at hand. Raises BayplanError ``storage-unreachable``, ``blob-damaged``."""


def prepared(file: BinaryIO, start: int) -> BinaryIO:
    """``file``, with its first bytes from ``start`` on at hand: that it cannot be read is known before an answer has begun."""
    if not isinstance(file, io.BufferedReader):
        try:
            cast("Distant", file).prepare(start)
        except BaseException:
            file.close()
            raise
    return file
