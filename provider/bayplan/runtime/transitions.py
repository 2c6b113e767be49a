"""How a container's life moves on once its bundle stands: launch, settle, release, undo.

The commands and the exit hook share this room; each function says whether the container's lock must be held. The
order of the steps is what makes them safe against a kill -9 at any instant:

* **launch**: ``starting`` is written before anything exists in the kernel, ``started`` after the container runs.
  Whoever finds ``starting`` with a free lock adopts the container if it got as far as running, else takes everything
  away.
* **settle**: when the init process is dead, the exit code is written down once; a second settling finds it done.
* **release**: every step may be repeated, and none needs an earlier one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError
from bayplan.runtime import cgroup, conmon
from bayplan.runtime.kernel import Process, boot_id, processes_with, until
from bayplan.runtime.live import close_live
from bayplan.runtime.ociruntime import CLEAN_ENV, OciRuntime
from bayplan.runtime.record import Files, Phase, RootPlace, Status, read_json
from bayplan.runtime.restarting import Decision, decide
from bayplan.runtime.rundir import clear_run
from bayplan.runtime.spec import RestartPolicy

#: Exit code of a container whose end nobody saw (power loss, a killed monitor); Docker's choice too.
UNKNOWN_EXIT = 255
_EXIT_FILE_WAIT = 10.0  # seconds that a monitor may need to drain the output after the end
_HOOK = Path(__file__).with_name("exit_hook.py")
_AT_WORK = ("conmon", "crun", "runc", "nsenter")


def hook_argv(root: RootPlace, id: str, run: int) -> list[str]:
    """The command that a monitor becomes when launch number ``run`` of the container has ended."""
    python = os.path.realpath(sys.executable)
    return [python, "-I", "-S", str(_HOOK), str(root.path), root.hash, str(root.run_dir), id, str(run)]


def launch(
    root: RootPlace,
    files: Files,
    runtime: OciRuntime,
    definition: Mapping[str, Any],
    status: Status,
    *,
    at_work: Callable[[], None] | None = None,
) -> Status:
    """Run the bundle that stands in ``files.live``. Lock held; ``status`` is in phase ``starting``, its ``run``
    counted up. ``at_work`` is called when the monitor works on it.

    Raises BayplanError ``start-failed``; what is left is the caller's to release.
    """
    spec = definition["spec"]
    cgroup.make(files.cgroup)
    launched = conmon.launch(
        files,
        runtime,
        spec["name"],
        hook_argv(root, files.id, status.run),
        terminal=spec["tty"],
        stdin=spec["open_stdin"],
        at_work=at_work,
    )
    return files.change_status(status, init=launched.init, monitor=launched.monitor)


def go(files: Files, runtime: OciRuntime, status: Status) -> Status:
    """Let the created container run. Lock held. Raises BayplanError ``start-failed``."""
    try:
        runtime.call("start", files.id)
    except BayplanError as error:
        raise BayplanError("start-failed", f"the container cannot be started: {error.message}") from error
    return files.change_status(
        status,
        phase=Phase.STARTED,
        started_at=time.time(),
        finished_at=0.0,
        exit_code=None,
        oom=False,
        error="",
        restart_at=0.0,
        hook=None,
    )


def running(status: Status) -> bool:
    """Whether the init process of the last launch lives."""
    return status.init is not None and status.boot == boot_id() and status.init.alive


def restart_pending(status: Status) -> bool:
    """Whether a restart is due, now or later, that its hook will make or should have made."""
    return status.phase is Phase.EXITED and status.restart_at > 0 and status.boot == boot_id()


def hook_alive(status: Status) -> bool:
    return status.hook is not None and status.boot == boot_id() and status.hook.alive


def await_exit_code(files: Files, status: Status) -> int | None:
    """The exit code of a container whose init is dead: as soon as the monitor has written it, None if it never will."""
    monitor = status.monitor

    def known() -> bool:
        return conmon.exit_code(files) is not None or monitor is None or not monitor.alive

    if status.boot == boot_id():
        until(known, _EXIT_FILE_WAIT)
    return conmon.exit_code(files)


def settle(files: Files, status: Status) -> Status:
    """Write down the end of a container that has ended. Lock held; no effect on one that runs or has been settled."""
    if status.phase is not Phase.STARTED or running(status):
        return status
    code = await_exit_code(files, status)
    finished = files.exit_file.stat().st_mtime if code is not None else time.time()
    return files.change_status(
        status,
        phase=Phase.EXITED,
        finished_at=finished,
        exit_code=UNKNOWN_EXIT if code is None else code,
        oom=(files.live / "oom").exists() or cgroup.oom_killed(files.cgroup),
        error="" if code is not None else "nobody saw how it ended: its monitor was killed or the machine went down",
    )


def judge(definition: Mapping[str, Any], status: Status) -> Decision:
    """Whether a settled container is to be started again."""
    spec = definition["spec"]
    return decide(
        RestartPolicy(spec["restart"]),
        spec["restart_retries"],
        exit_code=UNKNOWN_EXIT if status.exit_code is None else status.exit_code,
        stopped=status.stopped,
        restarts=status.restarts,
        delay=status.delay,
        ran_for=max(0.0, status.finished_at - status.started_at) if status.started_at else 0.0,
    )


def end_monitor(status: Status) -> None:
    """End the monitor of a container whose end is written down: it has nothing left to do but to become a hook."""
    if status.monitor is not None and status.boot == boot_id():
        status.monitor.send(signal.SIGKILL)


def release(root: RootPlace, files: Files, runtime: OciRuntime) -> None:
    """Give back all that a launch took in the kernel: processes, groups, addresses, ports, mounts. Lock held;
    idempotent."""
    from bayplan.runtime.net import Networks

    cgroup.destroy(files.cgroup)
    cgroup.drop_parent(files.cgroup)
    Networks(root).detach(files.id)
    forget(runtime, files.id)
    close_live(root, files)
    clear_run(root)


def finish(root: RootPlace, files: Files, runtime: OciRuntime, status: Status) -> Status:
    """Release a settled container that is not to be started again, and write that down. Lock held; idempotent."""
    release(root, files, runtime)
    return files.change_status(status, restart_at=0.0, hook=None, init=None, monitor=None, addresses={}, ports=())


def conclude(root: RootPlace, files: Files, runtime: OciRuntime, status: Status) -> Status:
    """What the exit hook does, when a command comes to an ended container before it. Lock held.

    A restart that is due is left to a hook of its own, which finds it pending and waits for its time.
    """
    status = settle(files, status)
    end_monitor(status)
    definition = read_json(files.definition)
    if status.phase is not Phase.EXITED or definition is None:
        return status
    decision = judge(definition, status) if status.boot == boot_id() else Decision(False)
    if not decision.again:
        return finish(root, files, runtime, status)
    status = files.change_status(
        status, restarts=decision.restarts, delay=decision.delay, restart_at=time.time() + decision.delay, hook=None
    )
    spawn_hook(root, files.id, status.run)
    return status


def forget(runtime: OciRuntime, id: str) -> None:
    """Remove what the runtime wrote down about a container whose processes and groups are gone.

    That is all that its ``delete`` would do, without the process and its waiting; and it works for what it half made,
    too.
    """

    import shutil

    shutil.rmtree(runtime.state / id, ignore_errors=True)


def undo_start(root: RootPlace, files: Files, runtime: OciRuntime, status: Status) -> Status:
    """Deal with a start whose process died. Lock held.

    A container that got as far as running is adopted; else everything is taken away and it is what it was before.
    """
    if status.phase is not Phase.STARTING:
        return status
    if status.boot == boot_id() and running(status) and runtime.status(files.id) in ("running", "paused"):
        return files.change_status(
            status,
            phase=Phase.STARTED,
            started_at=time.time(),
            finished_at=0.0,
            exit_code=None,
            restart_at=0.0,
            hook=None,
        )
    kill_helpers(files.id)
    release(root, files, runtime)
    ran = status.finished_at > 0
    return files.change_status(
        status, phase=Phase.EXITED if ran else Phase.CREATED, init=None, monitor=None, addresses={}, ports=()
    )


def kill_helpers(id: str) -> None:
    """Kill monitors, runtime commands and exit hooks that still work on a container whose starter died: who holds its lock
    does what they would have done."""
    for _ in range(20):
        hooks = processes_with(id, str(_HOOK), program=(Path(os.path.realpath(sys.executable)).name,))
        found = [*processes_with(id, program=_AT_WORK), *(hook for hook in hooks if hook.pid != os.getpid())]
        if not found:
            return
        for process in found:
            process.send(signal.SIGKILL)
        for process in found:
            process.wait(0.2)


def spawn_hook(root: RootPlace, id: str, run: int) -> None:
    """Do what the monitor would have done, when it was killed: run the exit hook in a process of its own."""
    subprocess.Popen(
        hook_argv(root, id, run),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env=CLEAN_ENV,
    )


def own_process() -> Process:
    process = Process.of(os.getpid())
    assert process is not None, "this process is alive"
    return process
