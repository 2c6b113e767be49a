"""Putting right what dead processes left: one walk over the root, cheap when there is nothing.

Every start of ``apply``, of ``destroy`` and of the agent calls it, and so may anybody. What it finds and what it does:

* a folder without definition whose lock is free: a creation that died; removed;
* phase ``removing``, lock free: the removal is finished;
* phase ``starting``, lock free: adopted if the container runs, else taken away again;
* a container that ended without its hook (monitor killed, power lost): settled; restarted where its policy says so;
* a restart that is due whose hook was killed: a new hook;
* an unfinished hand-over: finished;
* addresses, ports, mounts, control groups, volumes of containers that are no more: removed.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.runtime import cgroup, handover, steps, transitions
from bayplan.runtime.kernel import boot_id
from bayplan.runtime.live import close_live, drop_live
from bayplan.runtime.record import Files, Phase, Status
from bayplan.runtime.rundir import clear_run

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and put right, a line each, in words for people."""

    lines: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lines)


def recover(runtime: Runtime) -> Recovered:
    """See the module's text. Containers that somebody is at work on are left to them."""
    lines = [f"container {id[:12]}: half made; removed" for id in runtime.definitions.clear_debris()]
    for files, definition in list(runtime.definitions.all()):
        name = definition["spec"]["name"]
        if not _amiss(files) or not files.free:
            continue
        lines.extend(f"container {name}: {what}" for what in _mend(runtime, files))
    lines.extend(_strangers(runtime))
    runtime.volumes.tidy()
    clear_run(runtime.root)
    return Recovered(tuple(lines))


def _amiss(files: Files) -> bool:
    """Whether there is something to mend; asked without the lock, so it may be wrong for a moment."""
    status = files.status()
    if handover.pending(files) or status.phase in (Phase.STARTING, Phase.REMOVING):
        return True
    if status.phase is Phase.STARTED:
        return not transitions.running(status) and not _watched(status)
    return transitions.restart_pending(status) and not transitions.hook_alive(status)


def _watched(status: Status) -> bool:
    return status.boot == boot_id() and status.monitor is not None and status.monitor.alive


def _mend(runtime: Runtime, files: Files) -> list[str]:
    lines = []
    if handover.pending(files):
        handover.finish(runtime, files)
        lines.append("an interrupted hand-over was finished")
    try:
        with files.locked(timeout=1.0):
            before = files.status()
            after = runtime.mended(files)
            if before.phase is Phase.STARTING:
                adopted = after.phase is Phase.STARTED
                lines.append("an interrupted start was " + ("finished" if adopted else "undone"))
            elif before.phase is Phase.STARTED and after.phase is Phase.EXITED:
                lines.append("it had ended unseen")
            if transitions.restart_pending(after) and not transitions.hook_alive(after):
                transitions.spawn_hook(runtime.root, files.id, after.run)
                lines.append("its restart was resumed")
    except BayplanError as error:
        if error.code == "no-such-container":
            return [*lines, "an interrupted removal was finished"]
        if error.code != "container-busy":  # somebody came before us and is at it
            raise
    return lines


def _strangers(runtime: Runtime) -> list[str]:
    """Remove what stands in the kernel or on disk for containers that are no more.

    Each is looked for first and its container after it: a container's folder is made before anything else of it and
    removed last, so what is seen without one belongs to nobody.
    """
    lines = []
    files_of = runtime.definitions.files

    def orphan(id: str) -> bool:
        files = files_of(id)
        return not files.directory.exists() and not (id.startswith(steps.PREFIX) and steps.held(files))

    live, parent = runtime.root.run_dir / "live", f"/bayplan-{runtime.root.hash}"
    folders = {entry.name for place in (live, live / ".runtime") if place.exists() for entry in place.iterdir()}
    for id in sorted((folders | set(cgroup.children(parent))) - {".runtime"}):
        if orphan(id):
            files = files_of(id)
            transitions.kill_helpers(id)
            cgroup.destroy(files.cgroup)
            shutil.rmtree(files.runtime_root / id, ignore_errors=True)
            close_live(runtime.root, files)
            lines.append(f"{_what(id)}: processes, groups or mounts were left behind; removed")
    cgroup.drop_parent(f"{parent}/any")
    if live.exists():
        drop_live(runtime.root)
    for volume in runtime.volumes.list():
        if volume.anonymous and not files_of(volume.name.rpartition("-")[0]).directory.exists():
            runtime.volumes.remove(volume.name, runtime.definitions.volume_users())
            lines.append(f"volume {volume.name[:12]}: its container is no more; removed")
    with runtime.definitions.comparing():
        attached = [files.id for files, _ in runtime.definitions.all() if _has_network(files)]
        done = runtime.networks.reconcile(attached)
    lines.extend(f"container {id[:12]}: its network was left behind; removed" for id in done.detached)
    lines.extend(f"network: {what}" for what in done.repaired)
    return lines


def _what(id: str) -> str:
    return "a build step" if id.startswith(steps.PREFIX) else f"container {id[:12]}"


def _has_network(files: Files) -> bool:
    """Whether the container should be attached: it runs, is being started, or will be started again."""
    status = files.status()
    return status.phase in (Phase.STARTED, Phase.STARTING) or transitions.restart_pending(status)
