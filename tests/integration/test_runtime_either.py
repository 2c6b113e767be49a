"""One container's life and one build step, under crun and under runc: whichever a machine has, the same holds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_world import World, busybox_tree, eventually, world

from bayplan.build.port import Step
from bayplan.errors import BayplanError
from bayplan.runtime import cgroup
from bayplan.runtime.container import State
from bayplan.runtime.steps import OciStepRunner

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["crun", "runc"])
def w(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAYPLAN_OCI_RUNTIME", request.param)
        with world(tmp_path_factory.mktemp(request.param)) as made:
            assert made.runtime.oci_runtime.name == request.param
            yield made


def test_a_life_under_either_runtime(w: World) -> None:
    w.run("life", "sh", "-c", "echo up; exec sleep 1000", network_mode="bridge")
    eventually(lambda: w.output("life") == "up\n", "its output is kept")
    w.runtime.pause("life")
    assert w.runtime.inspect("life").state is State.PAUSED
    w.runtime.unpause("life")
    assert w.runtime.inspect("life").state is State.RUNNING
    w.runtime.pause("life")
    w.runtime.kill("life")
    assert w.runtime.inspect("life").status.exit_code == 137, "one that is paused can be killed"
    w.runtime.start("life")
    w.runtime.pause("life")
    w.runtime.stop("life", timeout=5)
    assert w.runtime.inspect("life").state is State.EXITED
    w.runtime.remove("life")
    eventually(lambda: not w.left(), f"left: {w.left()}")


def test_exec_under_either_runtime(w: World) -> None:
    w.run("inside")
    assert w.inside("inside", "sh", "-c", "echo $FROM_IMAGE; id -u; exit 3", user="app") == (3, "yes\n1000\n")
    assert w.runtime.exec("inside", ["cat"], stdin=subprocess.DEVNULL) == 0
    with pytest.raises(BayplanError) as error:
        w.inside("inside", "/no/such")
    assert error.value.code == "exec-failed"
    with pytest.raises(BayplanError) as error:
        w.inside("inside", "sleep", "100", timeout=0.5)
    assert error.value.code == "exec-timeout"
    w.runtime.remove("inside", force=True)


def test_limits_under_either_runtime(w: World) -> None:
    w.run("limited", memory=32 << 20, pids_limit=20)
    seen = w.runtime.stats("limited")
    assert (seen.memory_limit, seen.pids_limit) == (32 << 20, 20)
    w.runtime.update("limited", memory=48 << 20, cpus=0.5, pids_limit=30)
    seen = w.runtime.stats("limited")
    assert (seen.memory_limit, seen.pids_limit) == (48 << 20, 30)
    group = f"/bayplan-{w.root.hash}/{w.runtime.inspect('limited').id}"
    both = [cgroup.folder(group, "cpu") / name for name in ("cpu.max", "cpu.cfs_quota_us")]
    quota = next(path for path in both if path.exists())
    assert quota.read_text().split()[0] == "50000"
    w.runtime.update("limited", memory=None, cpus=None, pids_limit=None)
    seen = w.runtime.stats("limited")
    assert (seen.memory_limit, seen.pids_limit) == (None, None)
    assert quota.read_text().split()[0] in ("max", "-1")
    w.runtime.remove("limited", force=True)


def test_running_out_of_memory_under_either_runtime(w: World) -> None:
    w.run("hungry", "sh", "-c", "x=$(yes | head -c 200000000); echo done", memory=16 << 20)
    w.runtime.wait("hungry", timeout=20)
    eventually(lambda: w.runtime.inspect("hungry").status.oom, "the kernel killed it")
    w.runtime.remove("hungry", force=True)


def test_a_program_that_is_missing_under_either_runtime(w: World) -> None:
    with pytest.raises(BayplanError) as error:
        w.run("missing", "/no/such")
    assert error.value.code == "start-failed"
    assert "/no/such" in error.value.message
    w.runtime.remove("missing")


def test_a_step_under_either_runtime(w: World, tmp_path: Path) -> None:
    lower = busybox_tree(tmp_path / "lower")
    output: list[bytes] = []
    with OciStepRunner(w.root) as runner:
        for number, (script, code) in enumerate((("echo said; echo x > /x", 0), ("exit 7", 7))):
            upper, work = tmp_path / f"upper{number}", tmp_path / f"work{number}"
            upper.mkdir()
            work.mkdir()
            step = Step(["sh", "-c", script], [lower], upper, work, env={"PATH": "/bin"})
            assert runner.run(step, output.append) == code
    assert (tmp_path / "upper0/x").read_text() == "x\n"
    assert b"".join(output) == b"said\n"
    eventually(lambda: not w.left(), f"left: {w.left()}")
