"""The host's own image names: which manifest a tag means here, and whose it is.

One small SQLite database a root (WAL, synchronous=FULL): a name is set in one durable step, by any number of processes.
Names are kept canonical (``docker.io/library/shop:1.0``). Labels carry identity; they are whatever the writer says.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.wal import into_wal
from bayplan.records import dataclass, field

_SCHEMA = """
CREATE TABLE IF NOT EXISTS names(
  name TEXT PRIMARY KEY, digest TEXT NOT NULL, labels TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
"""


_BUSY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class NamedImage:
    """A name and what it means. ``created`` is when the name was given last, in Unix seconds."""

    name: str
    digest: Digest
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0


class Names:
    """The names of a root. Safe from any number of threads and processes."""

    def __init__(self, root: Root) -> None:
        self._path = root.path / "oci" / "index.db"
        self._root = root
        self._local = threading.local()

    def get(self, name: str) -> NamedImage | None:
        """What ``name`` (in any form; ``latest`` is filled in) means here."""
        if not self._path.exists():
            return None
        rows = self._db().execute(
            "SELECT name, digest, labels, created FROM names WHERE name=?", (ImageName.parse(name).canonical(),)
        )
        return next(map(_named, rows), None)

    def list(self, labels: Mapping[str, str] | None = None) -> list[NamedImage]:
        """All names in order; with ``labels``, those that carry all of them."""
        if not self._path.exists():
            return []
        rows = self._db().execute("SELECT name, digest, labels, created FROM names ORDER BY name")
        found = map(_named, rows)
        if not labels:
            return list(found)
        return [one for one in found if labels.items() <= one.labels.items()]

    def set(self, name: str, digest: Digest, labels: Mapping[str, str] | None = None) -> None:
        """Let ``name`` mean ``digest`` from now on; durable when it returns."""
        with self._changing() as db:
            db.execute(
                "INSERT OR REPLACE INTO names VALUES(?, ?, ?, ?)",
                (ImageName.parse(name).canonical(), str(digest), json.dumps(dict(labels or {})), time.time()),
            )

    def replace(self, remove: Mapping[str, Digest], add: Mapping[str, Digest], labels: Mapping[str, str]) -> None:
        """Several names in one step: ``remove`` those that still mean what is said, set ``add`` with ``labels``."""
        with self._changing() as db:
            for name, digest in remove.items():
                db.execute(
                    "DELETE FROM names WHERE name=? AND digest=?", (ImageName.parse(name).canonical(), str(digest))
                )
            for name, digest in add.items():
                db.execute(
                    "INSERT OR REPLACE INTO names VALUES(?, ?, ?, ?)",
                    (ImageName.parse(name).canonical(), str(digest), json.dumps(dict(labels)), time.time()),
                )

    def remove(self, name: str) -> bool:
        """False when there was no such name."""
        if not self._path.exists():
            return False
        with self._changing() as db:
            return db.execute("DELETE FROM names WHERE name=?", (ImageName.parse(name).canonical(),)).rowcount > 0

    def references(self) -> Iterator[Digest]:
        """What keeps content alive: for :meth:`bayplan.oci.store.Store.collect`."""
        for one in self.list():
            yield one.digest

    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None or self._local.process != os.getpid():  # SQLite's connections do not survive a fork
            if not self._path.exists():  # a look makes nothing
                self._root.ensure()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
            into_wal(db, _BUSY_SECONDS)
            db.executescript(_SCHEMA)
            self._local.db, self._local.process = db, os.getpid()
        return db

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        db = self._db()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def _named(row: tuple[str, str, str, float]) -> NamedImage:
    return NamedImage(row[0], Digest.parse(row[1]), json.loads(row[2]), row[3])
