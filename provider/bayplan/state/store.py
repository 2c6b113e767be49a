"""The state of one stack in one SQLite file (WAL, synchronous=FULL), and its write-ahead journal.

The rules of the journal (DESIGN 4.4): a *begin* is durable before its effect starts, an *end* is durable before a
dependant starts. The executor hands over whole batches (:meth:`State.turn`): the ends of what has just finished and the
begins of what starts next are one transaction, hence one fsync however many operations run side by side.

A row of ``resources`` belongs to (place, address), so that one state folder can serve several roots.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from bayplan.errors import BayplanError
from bayplan.plan.model import Operation, Recorded, Value
from bayplan.plan.written import Written, written
from bayplan.state.rows import Rows

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS resources(
  place TEXT NOT NULL, address TEXT NOT NULL, kind TEXT NOT NULL, uid TEXT NOT NULL, id TEXT NOT NULL,
  fields TEXT NOT NULL, known TEXT NOT NULL, outputs TEXT NOT NULL, depends_on TEXT NOT NULL,
  imported INTEGER NOT NULL DEFAULT 0, updated REAL NOT NULL,
  PRIMARY KEY(place, address)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs(
  run INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, plan TEXT NOT NULL, who TEXT NOT NULL,
  began REAL NOT NULL, ended REAL, outcome TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS steps(
  step INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL, number INTEGER NOT NULL, place TEXT NOT NULL,
  address TEXT NOT NULL, action TEXT NOT NULL, cause TEXT NOT NULL, phase TEXT NOT NULL,
  began REAL NOT NULL, ended REAL, error TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS steps_open ON steps(phase) WHERE phase = 'begin';
CREATE TABLE IF NOT EXISTS outputs(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Phase(StrEnum):
    """How far a journalled operation got. ``BEGIN`` without an end is what recovery looks at."""

    BEGIN = "begin"
    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"  # the effect may have happened: observed, never blindly retried
    CANCELLED = "cancelled"
    RECOVERED = "recovered"  # begun by a run that died; a later run looked at the world and went on from there


class StepRow(NamedTuple):
    """One journalled operation, as ``state history`` shows it. Times are Unix seconds."""

    step: int
    run: int
    number: int
    place: str
    address: str
    action: str
    cause: str
    phase: Phase
    began: float
    ended: float | None
    error: str


class RunRow(NamedTuple):
    """One apply or destroy: when, by whom, of which plan, how it ended (``""`` while it runs or if it died)."""

    run: int
    verb: str
    plan: str
    who: str
    began: float
    ended: float | None
    outcome: str
    steps: int


class Ended(NamedTuple):
    """The end of a journalled step and what it makes of the recorded resource (None: leave; ``forget``: drop)."""

    step: int
    phase: Phase
    recorded: Recorded | None = None
    forget: tuple[str, str] | None = None  # (place, address)
    error: str = ""


class State:
    """The state of stack ``stack`` in ``folder``. One writer at a time (the stack's lock); any number of readers."""

    def __init__(self, folder: Path, stack: str) -> None:
        self.path = folder / f"{stack}.db"
        self.stack = stack
        self._db: sqlite3.Connection | None = None

    # -- connection ------------------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            try:
                db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("PRAGMA synchronous=FULL")
                db.executescript(_SCHEMA)
                found = db.execute("SELECT value FROM meta WHERE key='version'").fetchone()
                if found is None:
                    db.execute("INSERT OR IGNORE INTO meta VALUES('version', ?)", (str(_VERSION),))
            except sqlite3.DatabaseError as error:
                raise BayplanError(
                    "state-unreadable",
                    f"the state file {self.path} cannot be read: {error}",
                    hint="move it away and run 'bayplan state rebuild': what runs carries its identity in its labels",
                ) from error
            if found is not None and int(found[0]) > _VERSION:
                raise BayplanError(
                    "state-too-new",
                    f"the state file {self.path} was written by a newer bayplan (version {found[0]})",
                    hint="upgrade bayplan on this machine",
                )
            self._db = db
        return self._db

    def close(self) -> None:
        """Close the file; the object opens it again when it is used again."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def __del__(self) -> None:
        # SQLite takes its -wal and -shm files away when it is closed in so many words, not when it is let go of: a command
        # that only reads must not leave them.
        self.close()

    # -- reading ---------------------------------------------------------------------------------------------------

    def recorded(self) -> Rows:
        """All recorded resources by (place, address). An absent file is an empty state and is not created."""
        if not self.exists:
            return Rows({}, dict)
        rows = self._connect().execute("SELECT place, address, uid, fields, imported FROM resources")
        return Rows(
            {(place, address): (uid, fields, imported) for place, address, uid, fields, imported in rows}, self._whole
        )

    def _whole(self) -> dict[tuple[str, str], Recorded]:
        """The rows as they are, their maps still as they were written."""
        closed = self._db is None
        rows = self._connect().execute(
            "SELECT place, address, kind, uid, id, fields, known, outputs, depends_on, imported FROM resources"
        )
        texts: dict[str, str] = {}
        one_text = texts.setdefault  # thousands of rows share a place and a kind
        whole = {
            (place, address): Recorded(
                address,
                one_text(kind, kind),
                one_text(place, place),
                uid,
                id_,
                written(fields),
                written(known),
                written(outputs),
                () if depends_on == "[]" else tuple(json.loads(depends_on)),
                bool(imported),
            )
            for place, address, kind, uid, id_, fields, known, outputs, depends_on, imported in rows
        }
        if closed:
            self.close()
        return whole

    def outputs(self) -> dict[str, Value]:
        """The stack's outputs as the last apply left them (secret ones are masked by whoever wrote them)."""
        if not self.exists:
            return {}
        return {name: json.loads(value) for name, value in self._connect().execute("SELECT name, value FROM outputs")}

    def pending(self) -> list[StepRow]:
        """Operations that a run began and never ended: the work of recovery."""
        if not self.exists:
            return []
        return self._steps("WHERE phase IN ('begin', 'unknown') ORDER BY step", ())

    def interrupted(self) -> bool:
        """Whether the newest run died, or left an operation of which nobody knows how it ended."""
        if not self.exists:
            return False
        db = self._connect()
        newest = db.execute("SELECT outcome FROM runs ORDER BY run DESC LIMIT 1").fetchone()
        if newest is not None and not newest[0]:
            return True
        return bool(db.execute("SELECT 1 FROM steps WHERE phase IN ('begin', 'unknown') LIMIT 1").fetchone())

    def steps(self, run: int) -> list[StepRow]:
        """The journal of one run."""
        return self._steps("WHERE run = ? ORDER BY step", (run,)) if self.exists else []

    def latest_run(self) -> int:
        """The number of the newest run; 0 where there was none."""
        if not self.exists:
            return 0
        (found,) = self._connect().execute("SELECT max(run) FROM runs").fetchone()
        return found or 0

    def runs(self, limit: int = 50) -> list[RunRow]:
        """The latest runs, newest first."""
        if not self.exists:
            return []
        rows = self._connect().execute(
            "SELECT run, verb, plan, who, began, ended, outcome,"
            " (SELECT count(*) FROM steps WHERE steps.run = runs.run) FROM runs ORDER BY run DESC LIMIT ?",
            (limit,),
        )
        return [RunRow(*row) for row in rows]

    def _steps(self, clause: str, arguments: Sequence[Any]) -> list[StepRow]:
        query = "SELECT step, run, number, place, address, action, cause, phase, began, ended, error FROM steps "
        rows = self._connect().execute(query + clause, arguments)
        return [
            StepRow(step, run, number, place, address, action, cause, Phase(phase), began, ended, error)
            for step, run, number, place, address, action, cause, phase, began, ended, error in rows
        ]

    # -- writing ---------------------------------------------------------------------------------------------------

    def start_run(self, verb: str, plan: str, who: str) -> int:
        """Open a run; steps that a dead run left open become *recovered*: the plan has looked at the world since."""
        db = self._connect()
        now = time.time()
        with _transaction(db):
            db.execute("UPDATE steps SET phase='recovered', ended=? WHERE phase IN ('begin', 'unknown')", (now,))
            db.execute("UPDATE runs SET ended=?, outcome='interrupted' WHERE outcome=''", (now,))
            run = db.execute(
                "INSERT INTO runs(verb, plan, who, began) VALUES(?, ?, ?, ?)", (verb, plan, who, now)
            ).lastrowid
        assert run is not None
        return run

    def turn(self, run: int, ended: Sequence[Ended], begun: Sequence[Operation]) -> list[int]:
        """One durable turn of the journal: ``ended`` and ``begun`` together. Returns the step ids of ``begun``."""
        if not ended and not begun:
            return []
        db = self._connect()
        now = time.time()
        ids: list[int] = []
        with _transaction(db):
            for end in ended:
                db.execute(
                    "UPDATE steps SET phase=?, ended=?, error=? WHERE step=?",
                    (end.phase.value, now, end.error, end.step),
                )
                if end.recorded is not None:
                    _write(db, end.recorded, now)
                if end.forget is not None:
                    db.execute("DELETE FROM resources WHERE place=? AND address=?", end.forget)
            for operation in begun:
                step = db.execute(
                    "INSERT INTO steps(run, number, place, address, action, cause, phase, began)"
                    " VALUES(?, ?, ?, ?, ?, ?, 'begin', ?)",
                    (
                        run,
                        operation.number,
                        operation.place,
                        operation.address,
                        operation.action.value,
                        operation.cause,
                        now,
                    ),
                ).lastrowid
                assert step is not None
                ids.append(step)
        return ids

    def end_run(self, run: int, outcome: str, outputs: Mapping[str, Value] | None) -> None:
        """Close a run; ``outputs`` replace the stack's outputs where given."""
        db = self._connect()
        with _transaction(db):
            db.execute("UPDATE runs SET ended=?, outcome=? WHERE run=?", (time.time(), outcome, run))
            if outputs is not None:
                db.execute("DELETE FROM outputs")
                db.executemany(
                    "INSERT INTO outputs VALUES(?, ?)", [(name, _dump(value)) for name, value in outputs.items()]
                )

    def write(self, recorded: Iterable[Recorded] = (), forget: Iterable[tuple[str, str]] = ()) -> None:
        """Write and drop recorded resources outside a run: adoption, ``state mv``, ``state rm``, rebuild."""
        rows = list(recorded)
        gone = list(forget)
        if not rows and not gone:
            return
        db = self._connect()
        now = time.time()
        with _transaction(db):
            db.executemany("DELETE FROM resources WHERE place=? AND address=?", gone)
            for row in rows:
                _write(db, row, now)


def _write(db: sqlite3.Connection, row: Recorded, now: float) -> None:
    db.execute(
        "INSERT OR REPLACE INTO resources VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.place,
            row.address,
            row.kind,
            row.uid,
            row.id,
            _dump(row.fields),
            _dump(row.values),
            _dump(row.outputs),
            _dump(row.depends_on),
            int(row.imported),
            now,
        ),
    )


_encoded = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode  # json.dumps makes one each time


def _dump(value: Value) -> str:
    if isinstance(value, Written):
        return value.text
    return _encoded(value)


class _transaction:  # noqa: N801  (reads as a statement: with _transaction(db))
    """``BEGIN IMMEDIATE`` ... ``COMMIT``, or ``ROLLBACK`` on an error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.db.execute("COMMIT" if kind is None else "ROLLBACK")
