"""Build steps in the OCI runtime: what they see, what is left in the upper folder, and that nothing else is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_world import World, busybox_tree, eventually, leftovers, world

from bayplan.build.port import Step, StepMount
from bayplan.errors import BayplanError
from bayplan.runtime.steps import OciStepRunner

pytestmark = pytest.mark.root


class Bench:
    """Runs steps over a busybox tree."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.lower = busybox_tree(folder / "lower")
        self.runner = OciStepRunner(world.root)
        self.count = 0

    def step(self, *argv: str, **more: Any) -> Step:
        self.count += 1
        for name in ("upper", "work"):
            (self.folder / f"{name}{self.count}").mkdir()
        values: dict[str, Any] = {"lower": (self.lower,), "env": {"PATH": "/bin"}, **more}
        return Step(
            argv=argv, upper=self.folder / f"upper{self.count}", work=self.folder / f"work{self.count}", **values
        )

    def run(self, *argv: str, **more: Any) -> tuple[int, str, list[str]]:
        """(exit code, output, paths in the upper folder)."""
        step = self.step(*argv, **more)
        output: list[bytes] = []
        code = self.runner.run(step, output.append)
        return (
            code,
            b"".join(output).decode(),
            sorted(str(each.relative_to(step.upper)) for each in step.upper.rglob("*")),
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("steps")
    with world(folder) as made:
        bench = Bench(made, folder)
        yield bench
        bench.runner.close()


def test_a_step_that_writes_nothing_leaves_an_empty_layer(bench: Bench) -> None:
    assert bench.run("sh", "-c", "echo out; echo err >&2; cat /etc/hosts > /dev/null") == (0, "out\nerr\n", [])


def test_a_step_leaves_what_it_wrote_and_its_exit_code(bench: Bench) -> None:
    code, _, paths = bench.run("sh", "-c", "mkdir -p /a/b; echo x > /a/b/c; rm /srv/data/seed; exit 3")
    assert code == 3
    assert paths == ["a", "a/b", "a/b/c", "srv", "srv/data", "srv/data/seed"]
    upper = bench.folder / f"upper{bench.count}"
    assert (upper / "srv/data/seed").stat().st_rdev == 0, "a whiteout is a device 0:0"


def test_directory_user_environment_and_hostname_are_the_steps(bench: Bench) -> None:
    code, output, paths = bench.run(
        "sh",
        "-c",
        "id -u; pwd; echo $X; busybox hostname",
        user="app",
        working_dir="/w",
        env={"PATH": "/bin", "X": "y z"},
    )
    assert (code, output) == (0, "1000\n/w\ny z\nbuildkitsandbox\n")
    assert paths == ["w"]


def test_mounts_are_there_and_what_is_written_to_a_bind_is_dropped(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/file").write_text("in\n")
    (tmp_path / "cache").mkdir()
    (tmp_path / "secret").write_text("hush")
    mounts = (
        StepMount("bind", "/ctx", tmp_path / "context"),
        StepMount("bind", "/ro", tmp_path / "context", read_only=True),
        StepMount("cache", "/var/cache", tmp_path / "cache"),
        StepMount("tmpfs", "/scratch", size=1 << 20),
        StepMount("secret", "/run/secrets/key", tmp_path / "secret", read_only=True),
    )
    script = (
        "cat /ctx/file /run/secrets/key; echo y > /ctx/new; echo z > /var/cache/kept; echo t > /scratch/t; touch /ro/x"
    )
    code, output, paths = bench.run("sh", "-c", script, mounts=mounts)
    assert output.startswith("in\nhush")
    assert code == 1, "the last one is read-only"
    assert not (tmp_path / "context/new").exists()
    assert (tmp_path / "cache/kept").read_text() == "z\n"
    assert paths == []


def test_networks_are_default_none_and_host(bench: Bench) -> None:
    _, output, _ = bench.run("ip", "-o", "link")
    assert "eth0" in output
    first = bench.run("ip", "-o", "addr")[1]
    assert bench.run("ip", "-o", "addr")[1].split("eth0")[1].split()[1] == first.split("eth0")[1].split()[1], (
        "one per build"
    )
    assert "eth0" not in bench.run("ip", "-o", "link", network="none")[1]
    _, seen, _ = bench.run("cat", "/proc/net/dev", network="host")
    assert {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]} <= set(
        seen.replace(":", " ").split()
    )


def test_a_step_that_cannot_start_is_an_error_and_not_an_exit_code(bench: Bench) -> None:
    with pytest.raises(BayplanError) as error:
        bench.run("/no/such")
    assert error.value.code == "step-failed"
    assert "/no/such" in error.value.message
    with pytest.raises(BayplanError) as error:
        bench.run("true", user="stranger")
    assert error.value.code == "unknown-user"


def test_a_background_process_ends_with_its_step(bench: Bench) -> None:
    begin = time.monotonic()
    assert bench.run("sh", "-c", "sleep 1000 & echo done")[:2] == (0, "done\n")
    assert time.monotonic() - begin < 5


def test_time_is_bounded(bench: Bench) -> None:
    with pytest.raises(BayplanError) as error:
        bench.run("sleep", "100", timeout=0.5)
    assert error.value.code == "step-timeout"


@pytest.mark.parametrize("script", ["sleep 100", "yes", "exec >&- 2>&-; sleep 100"], ids=["silent", "loud", "closed"])
def test_a_step_is_stopped_within_half_a_second(bench: Bench, script: str) -> None:
    cancel, stopped = threading.Event(), [0.0]

    def stop() -> None:
        stopped[0] = time.monotonic()
        cancel.set()

    timer = threading.Timer(1.0, stop)
    timer.start()
    with pytest.raises(BayplanError) as error:
        bench.run("sh", "-c", script, cancel=cancel)
    assert error.value.code == "cancelled"
    assert 0 < time.monotonic() - stopped[0] < 0.8, "0.5 s, and some for a machine with other work"
    live = bench.world.root.run_dir / "live"
    assert not list(live.glob("step-*"))
    with pytest.raises(BayplanError, match="stopped"):
        bench.run("true", cancel=cancel)


@pytest.mark.parametrize("script", ["yes", "exec >&- 2>&-; sleep 100"], ids=["loud", "closed"])
def test_time_is_bounded_whatever_a_step_does_with_its_streams(bench: Bench, script: str) -> None:
    with pytest.raises(BayplanError) as error:
        bench.run("sh", "-c", script, timeout=0.5)
    assert error.value.code == "step-timeout"


def test_steps_may_run_at_the_same_time(bench: Bench) -> None:
    steps = [bench.step("sh", "-c", f"sleep 0.2; echo {number} > /out") for number in range(3)]
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda s=step: codes.append(bench.runner.run(s, lambda _: None))) for step in steps
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0]
    assert [(step.upper / "out").read_text() for step in steps] == ["0\n", "1\n", "2\n"]


def test_many_layers_and_odd_paths_can_be_mounted(bench: Bench, tmp_path: Path) -> None:
    layers = []
    for number in range(100):
        layer = tmp_path / f"a:long,name\\of a layer {number:090d}"
        layer.mkdir()
        (layer / f"f{number}").touch()
        layers.append(layer)
    code, output, _ = bench.run("sh", "-c", "ls / | grep -c ^f", lower=(*layers, bench.lower))
    assert (code, output) == (0, "100\n")


def test_nothing_is_left_of_steps(bench: Bench) -> None:
    bench.runner.close()
    eventually(lambda: not leftovers(bench.world.root), f"left: {leftovers(bench.world.root)}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_nothing_after_recovery(bench: Bench, number: int) -> None:
    step = bench.step("sleep", "1000")
    code = (
        "import sys, pathlib; from bayplan.oci.root import Root; from bayplan.runtime.steps import OciStepRunner;"
        "from bayplan.build.port import Step\n"
        "root, lower, upper, work = map(pathlib.Path, sys.argv[1:])\n"
        "with OciStepRunner(Root.at(root)) as r: r.run(Step(['sleep', '1000'], [lower], upper, work), lambda _: None)"
    )
    argv = [sys.executable, "-c", code, str(bench.world.root.path), str(bench.lower), str(step.upper), str(step.work)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    live = bench.world.root.run_dir / "live"
    eventually(lambda: live.exists() and any((each / "pidfile").exists() for each in live.glob("step-*")), "it runs")
    assert bench.world.runtime.recover().lines == (), "a build that runs is left alone"
    process.send_signal(number)
    process.wait(timeout=20)
    if number == signal.SIGKILL:
        assert bench.world.runtime.recover().lines
    eventually(lambda: not leftovers(bench.world.root), f"left: {leftovers(bench.world.root)}")
