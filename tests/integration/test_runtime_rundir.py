"""The root's folder under /run: it goes with the last of what needs it, whoever comes and goes meanwhile."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_world import World, eventually, world

from bayplan.oci.root import Root
from bayplan.runtime.rundir import clear_run, is_file_of, locked_file, make_run

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def w(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("rundir")) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    made = Root.at(tmp_path / "root").ensure()
    yield made
    shutil.rmtree(made.run_dir, ignore_errors=True)


def test_the_folder_goes_with_the_last_container_and_comes_with_the_next(w: World) -> None:
    for _ in range(2):
        w.run("one", network_mode="bridge")
        w.run("two")
        w.runtime.remove("one", force=True)
        assert w.root.run_dir.is_dir()
        w.runtime.remove("two", force=True)
        eventually(lambda: not w.root.run_dir.exists(), "nothing needs it")


def test_the_folder_stays_while_anything_in_it_is_in_use(root: Root) -> None:
    run = root.run_dir
    for name in ("live/x", "secret-1", "net/ns/x", "net/dns/x"):
        (run / name).mkdir(parents=True)
        (run / "net").mkdir(exist_ok=True)
        (run / "net/lock").touch()
        assert not clear_run(root), name
        assert (run / name).is_dir()
        shutil.rmtree(run)
        root.ensure()
    for name in (".live.lock", "agent.pid"):
        holder = os.open(run / name, os.O_RDWR | os.O_CREAT)
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert not clear_run(root), name
        os.close(holder)
    assert clear_run(root)
    assert not run.exists()
    assert clear_run(root), "what is not there is gone"


def test_a_lock_that_was_removed_under_its_waiter_is_taken_anew(root: Root) -> None:
    path = root.run_dir / "lock"
    first = locked_file(path, lambda: make_run(root))
    assert first is not None
    got: list[int | None] = []
    waiter = threading.Thread(target=lambda: got.append(locked_file(path, lambda: make_run(root))))
    waiter.start()
    time.sleep(0.5)  # it waits for the lock by then
    path.unlink()
    root.run_dir.rmdir()
    os.close(first)
    waiter.join(10)
    assert got[0] is not None
    assert is_file_of(got[0], path)
    assert locked_file(path, lambda: make_run(root), wait=False) is None
    os.close(got[0])


def test_containers_that_come_and_go_in_many_processes_do_not_miss_it(w: World) -> None:
    code = (
        "import sys; from bayplan.oci.root import Root; from bayplan.runtime.containers import Runtime\n"
        "from bayplan.runtime.spec import ContainerSpec\n"
        "runtime = Runtime(Root.at(sys.argv[1]))\n"
        "for turn in range(6):\n"
        "    mode = 'bridge' if turn % 2 else 'none'\n"
        "    name = sys.argv[3] + str(turn)\n"
        "    runtime.create(ContainerSpec(name=name, image=sys.argv[2], command=('sleep', '1000'), network_mode=mode))\n"
        "    runtime.start(name); runtime.remove(name, force=True)\n"
    )
    argv = [sys.executable, "-c", code, str(w.root.path), w.image]
    processes = [
        subprocess.Popen([*argv, f"p{number}-"], stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for number in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(said)
    w.runtime.recover()
    eventually(lambda: not w.left(), f"left: {w.left()}")
    eventually(lambda: clear_run(w.root), "nothing needs it")
