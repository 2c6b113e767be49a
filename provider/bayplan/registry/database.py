"""The registry's rows: one SQLite file that any number of threads and processes read and write at once.

WAL with synchronous=FULL: a commit that returned survives a power cut. Since that costs an fsync, writers of one process
that meet at the door share one: whoever gets the lock first carries out what the others queued, each in a savepoint of
its own, and commits once (:meth:`Database.write`). Foreign keys are on, so that a tag without its manifest cannot be
written by any bug above.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar, cast

from bayplan.errors import BayplanError
from bayplan.oci.wal import into_wal

_VERSION = 2
_BUSY_SECONDS = 30.0
_BATCH = 256
_SCHEMA = """
CREATE TABLE repository(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, uid TEXT NOT NULL UNIQUE, created REAL NOT NULL,
  mutability TEXT NOT NULL);
CREATE TABLE resource_tag(
  repository INTEGER NOT NULL REFERENCES repository(id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY(repository, key)) WITHOUT ROWID;
CREATE TABLE label(
  repository INTEGER NOT NULL REFERENCES repository(id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY(repository, key)) WITHOUT ROWID;
CREATE INDEX label_value ON label(key, value);
CREATE TABLE blob(
  repository INTEGER NOT NULL REFERENCES repository(id) ON DELETE CASCADE, digest TEXT NOT NULL, size INTEGER NOT NULL,
  seen REAL NOT NULL, PRIMARY KEY(repository, digest)) WITHOUT ROWID;
CREATE INDEX blob_digest ON blob(digest);
CREATE TABLE manifest(
  repository INTEGER NOT NULL REFERENCES repository(id) ON DELETE CASCADE, digest TEXT NOT NULL,
  media_type TEXT NOT NULL, size INTEGER NOT NULL, pushed REAL NOT NULL, artifact_type TEXT NOT NULL,
  subject TEXT, annotations TEXT NOT NULL, PRIMARY KEY(repository, digest)) WITHOUT ROWID;
CREATE INDEX manifest_subject ON manifest(repository, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifest_digest ON manifest(digest);
CREATE TABLE child(
  repository INTEGER NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL, kind TEXT NOT NULL,
  PRIMARY KEY(repository, manifest, digest, kind),
  FOREIGN KEY(repository, manifest) REFERENCES manifest(repository, digest) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX child_digest ON child(repository, digest);
CREATE TABLE tag(
  repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, pushed REAL NOT NULL,
  PRIMARY KEY(repository, name),
  FOREIGN KEY(repository, digest) REFERENCES manifest(repository, digest) ON DELETE CASCADE) WITHOUT ROWID;
CREATE INDEX tag_digest ON tag(repository, digest);
"""

#: What the ECR API keeps besides: ``details`` of a repository and documents by owner (a repository's uid; empty: the registry).
_STEPS = {
    2: """
ALTER TABLE repository ADD COLUMN details TEXT NOT NULL DEFAULT '{}';
CREATE TABLE document(
  owner TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, changed REAL NOT NULL,
  PRIMARY KEY(owner, name)) WITHOUT ROWID;
ALTER TABLE manifest ADD COLUMN pulled REAL;
ALTER TABLE manifest ADD COLUMN config_type TEXT NOT NULL DEFAULT '';
""",
}

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Turn(Generic[T]):
    """One queued write and what became of it."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Database:
    """The file at ``path``, made when it is first needed. Any thread may call; each has a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._door = threading.Lock()
        self._queue: deque[_Turn[object]] = deque()
        self._watch: sqlite3.Connection | None = None

    def changes(self) -> int:
        """A number that is another one after each commit of anybody, in whatever process. For one thread at a time.

        It costs some microseconds (PRAGMA data_version, of a connection that writes nothing itself).
        """
        if self._watch is None:
            self._watch = self._connect()
            with self._guard:
                self._open.append(self._watch)
        (number,) = self._watch.execute("PRAGMA data_version").fetchone()
        return int(number)

    def read(self, work: Work[T]) -> T:
        """Run ``work`` on one snapshot: what it reads in several steps belongs together."""
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("COMMIT")

    def write(self, work: Work[T]) -> T:
        """Run ``work`` in a transaction that is durable when this returns; what it raises undoes it alone.

        ``work`` may run in another thread than the caller's and must not call the database again.
        """
        turn: _Turn[object] = _Turn(cast("Work[object]", work))
        self._queue.append(turn)
        with self._door:
            while not turn.done:
                self._carry_out()
        if turn.error is not None:
            raise turn.error
        return cast("T", turn.result)

    def close(self) -> None:
        """Close the connections of all threads; no call may be under way."""
        with self._guard:
            connections, self._open = self._open, []
            self._local = threading.local()
            self._watch = None
        for connection in connections:
            connection.close()

    def _carry_out(self) -> None:
        turns: list[_Turn[object]] = []
        while self._queue and len(turns) < _BATCH:
            turns.append(self._queue.popleft())
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                for turn in turns:
                    _in_savepoint(connection, turn)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except BaseException as error:
            for turn in turns:
                turn.error = turn.error or _as_error(error, self.path)
            if not isinstance(error, Exception):
                raise
        finally:
            for turn in turns:
                turn.done = True

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            self._local.connection = connection
            with self._guard:
                self._open.append(connection)
        return cast("sqlite3.Connection", connection)

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            _settle(connection)
        except sqlite3.Error as error:
            raise _as_error(error, self.path) from None
        return connection


def _settle(connection: sqlite3.Connection) -> None:
    into_wal(connection, _BUSY_SECONDS)
    connection.execute("PRAGMA foreign_keys=ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _VERSION:
        return
    if version > _VERSION:
        raise BayplanError(
            "registry-newer", "the registry was written by a newer bayplan", hint="upgrade bayplan on this machine"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        for step in range(found + 1, _VERSION + 1):
            for statement in _STEPS.get(step, _SCHEMA).split(";\n"):
                if statement.strip():
                    connection.execute(statement)
        connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _in_savepoint(connection: sqlite3.Connection, turn: _Turn[object]) -> None:
    connection.execute("SAVEPOINT turn")
    try:
        turn.result = turn.work(connection)
    except sqlite3.OperationalError:
        raise  # a full disk or a broken file is everybody's; the whole batch is undone
    except BaseException as error:  # noqa: BLE001  (told to the caller whose turn it is)
        connection.execute("ROLLBACK TO turn")
        turn.error = error
    connection.execute("RELEASE turn")


def _as_error(error: BaseException, path: Path) -> BaseException:
    if isinstance(error, sqlite3.Error):
        return BayplanError("registry-database", f"{path} cannot be used: {error}")
    if not isinstance(error, Exception):  # an interrupt of the thread that carried out, not of those it did it for
        return BayplanError("registry-database", "the write was interrupted before it was durable")
    return error
