"""State and locks: what survives, who holds what, what a newer or broken file answers."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.plan.model import Action, Operation, Recorded
from bayplan.state import Lock, Phase, State
from bayplan.state.store import Ended

ROW = Recorded(
    address="Container.web",
    kind="Container",
    place="embedded:/r",
    uid="u1",
    id="c1",
    fields={"image": "d1"},
    values={"image": "web@sha256:00"},
    outputs={"name": "shop-web"},
    depends_on=("Image.web",),
)
OPERATION = Operation(1, "Container.web", "Container", "embedded:/r", Action.CREATE, "not there yet")


def test_what_is_written_is_read_by_another_process_of_the_same_folder(tmp_path: Path) -> None:
    state = State(tmp_path, "shop")
    state.write([ROW])
    assert State(tmp_path, "shop").recorded() == {("embedded:/r", "Container.web"): ROW}


def test_an_absent_state_is_empty_and_is_not_created_by_reading(tmp_path: Path) -> None:
    state = State(tmp_path / "none", "shop")
    assert (state.recorded(), state.runs(), state.pending(), state.outputs()) == ({}, [], [], {})
    assert not (tmp_path / "none").exists()


def test_a_begin_without_an_end_is_pending_until_the_next_run(tmp_path: Path) -> None:
    state = State(tmp_path, "shop")
    run = state.start_run("apply", "p", "me")
    state.turn(run, [], [OPERATION])
    state.close()
    again = State(tmp_path, "shop")
    assert [(step.address, step.phase) for step in again.pending()] == [("Container.web", Phase.BEGIN)]
    second = again.start_run("apply", "p", "me")
    assert again.pending() == []
    assert again.steps(run)[0].phase is Phase.RECOVERED
    assert [(row.run, row.outcome) for row in again.runs()] == [(second, ""), (run, "interrupted")]


def test_an_end_and_what_it_makes_of_the_resource_are_one_step(tmp_path: Path) -> None:
    state = State(tmp_path, "shop")
    run = state.start_run("apply", "p", "me")
    (step,) = state.turn(run, [], [OPERATION])
    state.turn(run, [Ended(step, Phase.OK, recorded=ROW)], [])
    assert state.recorded() == {("embedded:/r", "Container.web"): ROW}
    (step,) = state.turn(run, [], [OPERATION])
    state.turn(run, [Ended(step, Phase.OK, forget=("embedded:/r", "Container.web"))], [])
    assert state.recorded() == {}


def test_the_state_file_is_for_its_owner_only(tmp_path: Path) -> None:
    state = State(tmp_path / "s", "shop")
    state.write([ROW])
    assert state.path.stat().st_mode & 0o777 == 0o600
    assert state.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    state = State(tmp_path, "shop")
    state.write([ROW])
    state.close()
    with sqlite3.connect(state.path) as db:
        db.execute("UPDATE meta SET value='99' WHERE key='version'")
    with pytest.raises(BayplanError, match="state-too-new"):
        State(tmp_path, "shop").recorded()


def test_a_file_that_is_no_state_is_refused_and_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "shop.db").write_bytes(b"this is no database, whatever its name says" * 30)
    with pytest.raises(BayplanError, match="state rebuild"):
        State(tmp_path, "shop").recorded()


def test_a_lock_is_shared_by_the_calls_of_one_process(tmp_path: Path) -> None:
    with Lock(tmp_path / "l", "stack shop", timeout=0), Lock(tmp_path / "l", "stack shop", timeout=0):
        pass
    with Lock(tmp_path / "l", "stack shop", timeout=0):
        pass


HOLD = """
import sys, time
from pathlib import Path
from bayplan.state import Lock
with Lock(Path(sys.argv[1]), "stack shop", timeout=0):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "l")], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BayplanError, match=f"locked by process {holder.pid} since"),
            Lock(tmp_path / "l", "stack shop", timeout=0.1),
        ):
            pass
    finally:
        holder.kill()
        holder.wait(10)
    with Lock(tmp_path / "l", "stack shop", timeout=5):
        pass
