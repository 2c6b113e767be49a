"""The agent: one small optional process per root, for what needs a keeper.

It starts containers after a boot, runs health checks on schedule, restarts the unhealthy where that is declared,
rotates logs, and finishes what killed monitors and commands left. It holds no truth: it reads the same files as every
command, makes the same transitions, and may be killed at any time; nothing but these duties stops. Its lock is a
flocked file with its process number, so a second agent of a root sees the first.

Checks run on threads, because each waits for a process in a container; a slow one holds up no other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.runtime import health, logs, transitions
from bayplan.runtime.container import Container, State
from bayplan.runtime.containers import Runtime
from bayplan.runtime.kernel import Process, boot_id
from bayplan.runtime.record import Phase
from bayplan.runtime.restarting import at_boot
from bayplan.runtime.rundir import locked_file

_TICK = 1.0  # seconds between looks at the root
_RECOVER_EVERY = 30.0
_ROTATE_EVERY = 10.0
_CHECKERS = 8
_LOCK_WAIT = 0.5  # seconds: who clears an unused run folder holds the agent's lock for an instant

#: Told what the agent does, a line each.
Report = Callable[[str], None]


def _lock_path(root: Root) -> Path:
    return root.run_dir / "agent.pid"


def agent_running(root: Root) -> int | None:
    """The process number of the root's agent, or None."""
    try:
        descriptor = os.open(_lock_path(root), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(descriptor, 32, 0).decode("ascii").strip()
        # Who clears an unused run folder holds the file for an instant, too.
        return int(text) if text.isdigit() and Process.of(int(text)) is not None else None
    finally:
        os.close(descriptor)
    return None


@contextlib.contextmanager
def _only_one(root: Root) -> Iterator[None]:
    deadline = time.monotonic() + _LOCK_WAIT
    while (descriptor := locked_file(_lock_path(root), root.ensure, wait=False)) is None:
        if time.monotonic() >= deadline:
            raise BayplanError(
                "agent-running", f"the root {root.path} has an agent already (process {agent_running(root)})"
            )
        time.sleep(0.01)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Agent:
    """The duties over one root. ``stop`` ends :meth:`run` at the next chance; containers are not touched by that."""

    def __init__(self, root: Root, report: Report) -> None:
        self._runtime = Runtime(root)
        self._root = root
        self._report = report
        self._stopped = threading.Event()
        self._checks: dict[str, Future[None]] = {}
        self._recovered_at = 0.0
        self._rotated_at = 0.0

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        """Until :meth:`stop`. Raises BayplanError ``agent-running``."""
        with _only_one(self._root):
            self._boot()
            with ThreadPoolExecutor(_CHECKERS, thread_name_prefix="bayplan-check") as pool:
                while not self._stopped.is_set():
                    self._tick(pool)
                    self._stopped.wait(_TICK)

    def _tick(self, pool: ThreadPoolExecutor) -> None:
        now = time.monotonic()
        containers = self._runtime.list()
        if now - self._recovered_at >= _RECOVER_EVERY or any(map(self._unwatched, containers)):
            self._recovered_at = now
            with self._telling("recovery"):
                for line in self._runtime.recover().lines:
                    self._report(line)
        self._schedule(pool, containers)
        if now - self._rotated_at >= _ROTATE_EVERY:
            self._rotated_at = now
            self._rotate(containers)

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """A duty that fails is told and tried again; it must not end the others."""
        try:
            yield
        except BayplanError as error:
            self._report(f"{what}: {error.message}")
        except OSError as error:
            self._report(f"{what}: {error}")

    def _boot(self) -> None:
        """Start what is to be started after a reboot: whatever last ran in another boot and whose policy says so."""
        with self._telling("recovery"):
            due = []
            for container in self._runtime.list():
                status = container.status
                if status.boot in ("", boot_id()):
                    continue
                ran = status.phase in (Phase.STARTED, Phase.STARTING) or status.restart_at > 0
                if at_boot(container.spec.restart, stopped=status.stopped, ran=ran):
                    due.append(container)
            for line in self._runtime.recover().lines:
                self._report(line)
            for container in due:
                with self._telling(f"container {container.name}"):
                    self._runtime.start(container.id)
                    self._report(f"container {container.name}: started after the boot")

    def _unwatched(self, container: Container) -> bool:
        """Whether a container ended, or is to be restarted, and nobody is at it: its monitor or its hook was killed."""
        status = container.status
        if status.phase is Phase.STARTED and status.boot == boot_id():
            dead = status.init is None or not status.init.alive
            return dead and not (status.monitor is not None and status.monitor.alive)
        return transitions.restart_pending(status) and not transitions.hook_alive(status)

    def _schedule(self, pool: ThreadPoolExecutor, containers: list[Container]) -> None:
        now = time.time()
        for id, future in list(self._checks.items()):
            if future.done():
                future.result()
                del self._checks[id]
        for container in containers:
            declared = container.effective.health
            if declared is None or container.state is not State.RUNNING or container.id in self._checks:
                continue
            if health.next_check(container.health, declared, container.status.started_at) <= now:
                self._checks[container.id] = pool.submit(self._check, container)

    def _check(self, container: Container) -> None:
        with self._telling(f"container {container.name}"):
            try:
                report = self._runtime.check_health(container.id)
            except BayplanError as error:
                if error.code in ("not-running", "no-such-container"):
                    return
                raise
            if report.status != container.health.status:
                self._report(f"container {container.name}: {report.status}")
            declared = container.effective.health
            if report.status == "unhealthy" and declared is not None and declared.on_unhealthy == "restart":
                self._restart(container)

    def _restart(self, container: Container) -> None:
        """Restart an unhealthy container, unless somebody stopped or replaced it while it was checked."""
        now = self._runtime.get(container.id)
        if now is None or now.status.run != container.status.run or now.status.stopped or not now.running:
            return
        self._report(f"container {container.name}: unhealthy; restarted")
        self._runtime.restart(container.id)

    def _rotate(self, containers: list[Container]) -> None:
        for container in containers:
            files = self._runtime.definitions.files(container.id)
            with self._telling(f"container {container.name}"):
                try:
                    if files.log.stat().st_size < logs.MAX_BYTES:
                        continue
                except FileNotFoundError:
                    continue
                with files.locked(timeout=1.0):
                    logs.rotate(files)


def run(root: Root, report: Report) -> None:
    """Be the agent of ``root`` until SIGTERM or SIGINT. Raises BayplanError ``agent-running``."""
    agent = Agent(root, report)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    agent.run()
