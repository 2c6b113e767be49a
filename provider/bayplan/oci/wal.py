"""SQLite's write-ahead log, for files that several processes open for the first time at once.

The change to WAL is the one step that does not wait by itself while another process has the file: SQLite's own patience
(``timeout``) does not count for it. From then on the file stays as it is, and the question costs nothing.
"""

from __future__ import annotations

import sqlite3
import time

_PAUSE = 0.02  # seconds between two tries


def into_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Have ``connection``'s file written through a log that survives a power cut. Raises sqlite3.OperationalError when
    others had the file for ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
    connection.execute("PRAGMA synchronous=FULL")
