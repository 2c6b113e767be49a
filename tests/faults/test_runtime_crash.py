"""kill -9 of whoever creates, starts, stops, removes or hands over a container, at every kind of instant.

The promise under attack: whatever the moment, `recover` and the next call leave no container half made, no mount, namespace,
process, control group, address or name of one that is not there, and nothing for a person to do.

The instants are not left to chance: each effect that the process makes (a file written, renamed or removed, a mount, a
signal, a program started) is counted through the interpreter's audit hooks, and the process kills itself before one of
them. The default run takes some instants of each transition, the soak run every one. Random kills from outside come on
top: they hit the programs that are started, too.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from runtime_world import World, eventually, leftovers, world

from bayplan.errors import BayplanError
from bayplan.runtime import kernel, live, rootfs
from bayplan.runtime.container import State
from bayplan.runtime.spec import Mount, Port, RestartPolicy

pytestmark = pytest.mark.root

_EFFECTS = {
    "os.rename",
    "os.link",
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.symlink",
    "shutil.rmtree",
    "subprocess.Popen",
    "socket.connect",
    "socket.sendto",
    "socket.bind",
    "fcntl.flock",
    "signal.pthread_kill",
}


@pytest.fixture
def w(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as made:
        yield made


class Chances:
    """Counts the effects of this process and kills it before number ``fatal`` (never, when that is -1)."""

    def __init__(self, fatal: int) -> None:
        self.fatal = fatal
        self.seen = 0

    def __call__(self) -> None:
        if self.seen == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1

    def watch(self) -> None:
        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event in _EFFECTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
                self()

        sys.addaudithook(hook)
        for module in (kernel, live, rootfs):
            for name in ("mount", "unmount"):
                if hasattr(module, name):
                    setattr(module, name, self._around(getattr(module, name)))
        kernel.Process.send = self._around(kernel.Process.send)  # type: ignore[method-assign]

    def _around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            self()
            done = work(*arguments, **more)
            self()
            return done

        return run


def in_a_process(work: Callable[[], object], *, fatal: int = -1, kill_after: float | None = None) -> int:
    """Run ``work`` in a child that dies at effect number ``fatal``, or after ``kill_after`` seconds.

    Returns the number of its effects when it came to its end, else -1. A refusal by bayplan counts as an end.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        chances = Chances(fatal)
        try:
            chances.watch()
            try:
                work()
            except BayplanError as error:
                print(error, file=sys.stderr)
            os.write(write, str(chances.seen).encode())
            os._exit(0)
        finally:
            os._exit(9)
    os.close(write)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as answer:
        text = answer.read()
    assert status in (0, signal.SIGKILL), f"the call itself failed: {status}"
    return int(text) if text and status == 0 else -1


def instants(count: int, wanted: int, soak: bool) -> list[int]:
    """Some of ``count`` instants, spread evenly with a fixed seed; all of them in a soak run."""
    if soak or count <= wanted:
        return list(range(count))
    chosen = random.Random(count)
    return sorted({0, count - 1, *(chosen.randrange(count) for _ in range(wanted))})


def every_instant(
    work: Callable[[], object], before: Callable[[], object], after: Callable[[], object], soak: bool
) -> int:
    """Prepare, run ``work`` to its death at an instant, check; for each instant. Returns how many there were."""
    before()
    count = in_a_process(work)
    assert count > 10, "the effects are seen"
    after()
    for fatal in instants(count, 14, soak):
        before()
        in_a_process(work, fatal=fatal)
        after()
    return count


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.soak)], ids=["some", "all"])
def soak(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def clear(w: World) -> None:
    for container in w.runtime.list():
        w.runtime.remove(container.id, force=True)
    w.runtime.recover()
    eventually(lambda: not leftovers(w.root), f"left: {leftovers(w.root)}")


def test_a_killed_create_leaves_nothing_or_a_whole_container(w: World, soak: bool) -> None:
    image = w.make_image(volumes=("/srv/data",))
    spec = w.spec(
        "one", image=image, env={"T": "x"}, secret_env=frozenset({"T"}), mounts=(Mount("volume", "/v", "vol"),)
    )

    def after() -> None:
        w.runtime.recover()
        found = w.runtime.list()
        assert [container.state for container in found] in ([], [State.CREATED])
        if not found:
            w.runtime.create(spec)
        w.runtime.start("one")
        assert w.runtime.inspect("one").running
        clear(w)
        assert [volume.name for volume in w.runtime.volumes.list()] == ["vol"], "no anonymous volume is left"

    every_instant(lambda: w.runtime.create(spec), lambda: None, after, soak)


def test_a_killed_start_is_finished_or_undone(w: World, soak: bool) -> None:
    def before() -> None:
        w.create(
            "one", network_mode="bridge", ports=(Port(80, 48080),), mounts=(Mount("volume", "/srv/data", "seeded"),)
        )

    def after() -> None:
        w.runtime.recover()
        assert w.runtime.inspect("one").state in (State.CREATED, State.RUNNING)
        if w.runtime.inspect("one").state is State.CREATED:
            assert not leftovers(w.root, of_containers=False)
        w.runtime.start("one")
        assert w.inside("one", "cat", "/srv/data/seed") == (0, "from the image\n")
        assert w.runtime.inspect("one").status.ports[0][1] == 48080
        clear(w)

    every_instant(lambda: w.runtime.start("one"), before, after, soak)


def test_a_killed_start_needs_no_recovery_before_the_next_start_or_removal(w: World) -> None:
    for fatal, call in (
        (25, w.runtime.start),
        (45, lambda name: w.runtime.remove(name, force=True)),
        (60, w.runtime.start),
    ):
        w.create("one", network_mode="bridge")
        in_a_process(lambda: w.runtime.start("one"), fatal=fatal)
        call("one")
        assert (w.runtime.get("one") is None) == (call is not w.runtime.start) or w.runtime.inspect("one").running
        clear(w)


def test_a_killed_stop_leaves_it_running_or_stopped(w: World, soak: bool) -> None:
    def after() -> None:
        w.runtime.recover()
        eventually(lambda: w.runtime.inspect("one").state in (State.RUNNING, State.EXITED), "one or the other")
        w.runtime.stop("one")
        assert w.runtime.inspect("one").state is State.EXITED
        clear(w)

    every_instant(
        lambda: w.runtime.stop("one"),
        lambda: w.run("one", network_mode="bridge", restart=RestartPolicy.ALWAYS),
        after,
        soak,
    )


def test_a_killed_removal_is_finished_or_not_begun(w: World, soak: bool) -> None:
    image = w.make_image(volumes=("/srv/data",))

    def after() -> None:
        w.runtime.recover()
        if w.runtime.get("one") is not None:
            assert w.runtime.inspect("one").running, "not begun"
            w.runtime.remove("one", force=True)
        eventually(lambda: not leftovers(w.root), f"left: {leftovers(w.root)}")
        assert w.runtime.volumes.list() == []

    every_instant(
        lambda: w.runtime.remove("one", force=True),
        lambda: w.run("one", image=image, network_mode="bridge"),
        after,
        soak,
    )


def test_a_killed_hand_over_is_finished_or_undone(w: World, soak: bool) -> None:
    port = Port(80, 48081)

    def before() -> None:
        old = w.run("svc", network_mode="bridge", ports=(port,))
        new = w.runtime.create(w.spec("svc-next", network_mode="bridge", ports=(port,)), succeeds=old)
        w.runtime.start(new)

    def after() -> None:
        w.runtime.recover()
        found = {container.name: container for container in w.runtime.list()}
        assert len(found) == 2
        assert set(found) in ({"svc", "svc-next"}, {"svc", "svc-aside"})
        other = next(container for name, container in found.items() if name != "svc")
        assert [p[1] for p in found["svc"].status.ports] == [48081], "who has the name has the port"
        assert not other.status.ports
        if "svc-next" in found:
            w.runtime.hand_over("svc", "svc-next", "svc-aside")
        clear(w)

    every_instant(lambda: w.runtime.hand_over("svc", "svc-next", "svc-aside"), before, after, soak)


def test_random_kills_of_a_whole_life_leave_nothing(w: World, soak: bool) -> None:
    chosen = random.Random(7)
    spec = w.spec("one", network_mode="bridge", ports=(Port(80, 48082),), restart=RestartPolicy.ALWAYS)

    def life() -> None:
        w.runtime.create(spec)
        w.runtime.start("one")
        w.runtime.restart("one")
        w.runtime.stop("one")
        w.runtime.remove("one")

    for _ in range(200 if soak else 20):
        in_a_process(life, kill_after=chosen.uniform(0.0, 0.5))
        w.runtime.recover()
        states = [container.state for container in w.runtime.list()]
        assert states in ([], [State.CREATED], [State.RUNNING], [State.EXITED]), states
        if w.runtime.get("one") is None:
            w.runtime.create(spec)
        w.runtime.start("one")
        assert w.runtime.inspect("one").running
        clear(w)
