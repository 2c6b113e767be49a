"""What keeps containers up: restart policies without a daemon, health checks, the agent."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from runtime_world import World, eventually, world

from bayplan.errors import BayplanError
from bayplan.runtime import logs
from bayplan.runtime.agent import Agent, agent_running
from bayplan.runtime.container import State
from bayplan.runtime.spec import Health, RestartPolicy

pytestmark = pytest.mark.root


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


def runs(w: World, name: str) -> int:
    return w.output(name).count("run\n")


def test_always_restarts_with_growing_pauses_and_no_pile_of_processes(w: World) -> None:
    w.run("loop", "sh", "-c", "echo run; exit 1", restart=RestartPolicy.ALWAYS)
    eventually(lambda: runs(w, "loop") >= 4, "it is started again and again", 15)
    times = [line.timestamp for line in w.runtime.logs("loop")][:4]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] >= 0.1
    assert pauses[2] >= 0.4, "the pause doubles"
    eventually(lambda: w.runtime.inspect("loop").state is State.RESTARTING, "it waits for its next start")
    processes = [line for line in w.left() if line.startswith("process") and w.runtime.inspect("loop").id in line]
    assert len(processes) <= 2, processes
    w.runtime.stop("loop")
    stopped = runs(w, "loop")
    assert w.runtime.inspect("loop").state is State.EXITED
    time.sleep(1.2)
    assert runs(w, "loop") == stopped, "a stopped container stays stopped"


def test_on_failure_counts_and_gives_up(w: World) -> None:
    w.run("tries", "sh", "-c", "echo run; exit 2", restart=RestartPolicy.ON_FAILURE, restart_retries=2)
    eventually(
        lambda: runs(w, "tries") == 3 and w.runtime.inspect("tries").state is State.EXITED, "one start and two more"
    )
    seen = w.runtime.inspect("tries").status
    assert (seen.exit_code, seen.restarts) == (2, 2)
    w.run("content", "sh", "-c", "echo run; exit 0", restart=RestartPolicy.ON_FAILURE)
    eventually(lambda: w.runtime.inspect("content").state is State.EXITED, "it ended well")
    time.sleep(0.4)
    assert runs(w, "content") == 1


def test_a_restarted_container_keeps_its_address_and_port(w: World) -> None:
    w.run("net-loop", "sh", "-c", "echo run; sleep 0.3; exit 1", restart=RestartPolicy.ALWAYS, network_mode="bridge")
    before = w.runtime.inspect("net-loop").status.addresses
    assert before
    eventually(lambda: runs(w, "net-loop") >= 2, "it was restarted")
    assert w.runtime.inspect("net-loop").status.addresses == before
    w.runtime.remove("net-loop", force=True)


def test_a_killed_hook_does_not_lose_the_restart(w: World) -> None:
    w.run("hooked", "sh", "-c", "echo run; exit 1", restart=RestartPolicy.ALWAYS)
    eventually(lambda: runs(w, "hooked") >= 3, "the pauses have grown")
    eventually(lambda: w.runtime.inspect("hooked").state is State.RESTARTING, "it waits")
    hook = w.runtime.inspect("hooked").status.hook
    assert hook is not None
    hook.send(signal.SIGKILL)
    hook.wait(5)
    count = runs(w, "hooked")
    time.sleep(1.0)
    assert runs(w, "hooked") == count, "nobody is there to restart it"
    assert w.runtime.recover().lines
    eventually(lambda: runs(w, "hooked") > count, "recovery resumed it")
    w.runtime.remove("hooked", force=True)


def test_health_follows_the_test_inside(w: World) -> None:
    health = Health(("CMD-SHELL", "test -f /tmp/ok || { echo missing; exit 1; }"), interval=0.2, retries=2, timeout=5)
    w.run("well", health=health)
    assert w.runtime.inspect("well").health.status == "starting"
    time.sleep(0.25)
    first = w.runtime.check_health("well")
    assert (first.status, first.failing, first.log[-1]["output"]) == ("starting", 1, "missing")
    time.sleep(0.25)
    assert w.runtime.check_health("well").status == "unhealthy"
    w.inside("well", "touch", "/tmp/ok")
    assert w.runtime.check_health("well").status == "healthy"
    assert w.runtime.inspect("well").health.failing == 0
    w.runtime.restart("well")
    assert w.runtime.inspect("well").health.status == "starting", "a new start begins anew"


def test_waiting_for_health_ends_as_soon_as_there_is_some(w: World) -> None:
    health = Health(("CMD", "test", "-f", "/tmp/ok"), interval=30, retries=3, start_period=30)
    w.run("slow", "sh", "-c", "sleep 0.6; touch /tmp/ok; sleep 1000", health=health)
    begin = time.monotonic()
    w.runtime.wait_healthy("slow", timeout=20)
    assert time.monotonic() - begin < 5, "not only after an interval"


def test_waiting_for_health_tells_what_is_wrong(w: World) -> None:
    bad = Health(("CMD-SHELL", "echo no database; exit 1"), interval=0.2, retries=2)
    w.run("sick", health=bad)
    with pytest.raises(BayplanError) as error:
        w.runtime.wait_healthy("sick", timeout=20)
    assert error.value.code == "unhealthy"
    assert "no database" in error.value.hint
    w.run("gone", "sh", "-c", "sleep 0.3; echo bye; exit 9", health=Health(("CMD", "false"), interval=30))
    with pytest.raises(BayplanError) as error:
        w.runtime.wait_healthy("gone", timeout=20)
    assert error.value.code == "exited-at-once"
    assert "code 9" in error.value.message
    w.run("never", health=Health(("CMD", "false"), interval=30))
    with pytest.raises(BayplanError) as error:
        w.runtime.wait_healthy("never", timeout=0.5)
    assert error.value.code == "health-timeout"
    with pytest.raises(BayplanError) as error:
        w.runtime.wait_healthy("never", timeout=20, cancel=lambda: True)
    assert error.value.code == "cancelled"
    w.run("hangs", health=Health(("CMD", "sleep", "100"), interval=0.1, timeout=0.2, retries=1))
    time.sleep(0.15)
    assert w.runtime.check_health("hangs").status == "unhealthy"
    assert "did not end within" in w.runtime.inspect("hangs").health.log[-1]["output"]


def agent(w: World) -> subprocess.Popen[bytes]:
    code = "import sys; from bayplan.oci.root import Root; from bayplan.runtime.agent import run\n"
    code += "run(Root.at(sys.argv[1]), print)"
    process = subprocess.Popen([sys.executable, "-u", "-c", code, str(w.root.path)], stdout=subprocess.PIPE)
    eventually(lambda: agent_running(w.root) == process.pid, "the agent is up")
    return process


def test_the_agent_checks_health_and_restarts_the_unhealthy(w: World) -> None:
    health = Health(("CMD-SHELL", "test ! -f /tmp/broken"), interval=0.3, retries=1, on_unhealthy="restart")
    w.run("kept", "sh", "-c", "rm -f /tmp/broken; echo run; sleep 1000", health=health)
    process = agent(w)
    try:
        with pytest.raises(BayplanError) as error:
            Agent(w.root, print).run()
        assert error.value.code == "agent-running"
        eventually(lambda: w.runtime.inspect("kept").health.status == "healthy", "it is watched")
        w.inside("kept", "touch", "/tmp/broken")
        eventually(lambda: runs(w, "kept") == 2, "it was restarted", 15)
        process.kill()
        process.wait()
        assert agent_running(w.root) is None
        assert w.runtime.inspect("kept").running, "a killed agent takes nothing with it"
    finally:
        process.kill()
        process.communicate()


def test_the_agent_notices_an_end_that_a_killed_monitor_missed(w: World) -> None:
    w.run("unseen", "sh", "-c", "echo run; sleep 1", restart=RestartPolicy.ALWAYS)
    process = agent(w)
    try:
        monitor = w.runtime.inspect("unseen").status.monitor
        assert monitor is not None
        monitor.send(signal.SIGKILL)
        eventually(lambda: runs(w, "unseen") >= 2, "it is restarted all the same", 15)
    finally:
        process.terminate()
        assert process.wait(timeout=15) == 0
        process.communicate()


def test_after_a_reboot_the_agent_starts_what_its_policy_says(w: World) -> None:
    policies = {
        "always": RestartPolicy.ALWAYS,
        "always-stopped": RestartPolicy.ALWAYS,
        "unless": RestartPolicy.UNLESS_STOPPED,
        "unless-stopped": RestartPolicy.UNLESS_STOPPED,
        "no": RestartPolicy.NO,
    }
    before = {}
    for name, policy in policies.items():
        w.run(name, restart=policy)
        before[name] = w.runtime.definitions.files(w.runtime.inspect(name).id).status()
        if name.endswith("-stopped"):
            w.runtime.stop(name)
    for name in policies:
        files = w.runtime.definitions.files(w.runtime.inspect(name).id)
        stopped = files.status()
        w.runtime.kill(name) if not name.endswith("-stopped") else None
        files.change_status(stopped if name.endswith("-stopped") else before[name], boot="another-boot")
    process = agent(w)
    try:
        eventually(
            lambda: w.runtime.inspect("always-stopped").running and w.runtime.inspect("unless").running, "started", 15
        )
        time.sleep(0.3)
        running = {name for name in policies if w.runtime.inspect(name).running}
        assert running == {"always", "always-stopped", "unless"}
    finally:
        process.terminate()
        process.communicate()


def test_rotation_loses_no_line(w: World) -> None:
    w.run("lines", "sh", "-c", "i=0; while test $i -lt 400; do echo $i; i=$((i+1)); sleep 0.002; done; sleep 1000")
    files = w.runtime.definitions.files(w.runtime.inspect("lines").id)
    followed = w.runtime.logs("lines", follow=True)
    got = [int(next(followed).text) for _ in range(20)]
    for _ in range(2):
        with files.locked():
            assert logs.rotate(files, max_bytes=10)
        eventually(
            lambda: files.log.exists() and files.log.stat().st_size > 100, "the monitor went over to the new file"
        )
    while len(got) < 400:
        got.append(int(next(followed).text))
    assert got == list(range(400))
    eventually(lambda: len(w.output("lines").split()) == 400, "and they are all there")
    assert [int(text) for text in w.output("lines").split()] == list(range(400))
