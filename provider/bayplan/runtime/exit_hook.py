"""What a monitor becomes when its container has ended: writes down the end, and starts it again where its policy says
so.

Run as ``python -I -S exit_hook.py ROOT HASH RUN_DIR ID RUN`` by conmon's ``--exit-command``: no daemon is needed for
a container to be restarted. It is exec'ed by the monitor, so there is one process per ended container, which ends
with the restart (whose monitor is new) or with the release. While it waits, its process stands in ``status.json``;
``stop``, ``rm`` and ``start`` end it there. Standard library only, and only the few modules it needs: it must start
fast and work without site-packages.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bayplan.errors import BayplanError
from bayplan.records import dataclass, replace
from bayplan.runtime import cgroup, transitions
from bayplan.runtime.ociruntime import OciRuntime, runtime_for
from bayplan.runtime.record import Files, Phase, Status, read_json

_LOCK_TIMEOUT = 300.0  # a stop or a start may hold it for as long as its own timeouts
_FAILED_START = 127  # the exit code that counts for a restart that could not be made


@dataclass(frozen=True, slots=True)
class Place:
    """The root, as the monitor was told."""

    path: Path
    hash: str
    run_dir: Path


@dataclass(frozen=True, slots=True)
class Due:
    """A restart that is due at ``when`` (seconds since 1970), as long as the last launch is still number ``run``."""

    when: float
    run: int


def end(root: Place, files: Files, run: int) -> Due | None:
    """Settle launch number ``run``; returns the restart that is due, or None when there is nothing more to do."""
    with files.locked(_LOCK_TIMEOUT):
        status = files.status()
        definition = read_json(files.definition)
        if status.run != run or definition is None:
            return None
        if transitions.restart_pending(status) and not transitions.hook_alive(status):
            files.change_status(status, hook=transitions.own_process())  # an earlier hook was killed while it waited
            return Due(status.restart_at, run)
        if status.phase not in (Phase.STARTING, Phase.STARTED):
            return None
        if status.phase is Phase.STARTING:  # its starter died between the start and writing it down
            status = replace(status, phase=Phase.STARTED, started_at=status.started_at or time.time())
        status = transitions.settle(files, status)
        if status.phase is not Phase.EXITED:
            return None
        return _next(root, files, runtime_for(root), definition, status)


def _next(root: Place, files: Files, runtime: OciRuntime, definition: Mapping[str, Any], status: Status) -> Due | None:
    """Write down what follows from an end: a restart that is due, or the release of everything."""
    decision = transitions.judge(definition, status)
    if not decision.again:
        transitions.finish(root, files, runtime, status)
        return None
    when = time.time() + decision.delay
    files.change_status(
        status, restarts=decision.restarts, delay=decision.delay, restart_at=when, hook=transitions.own_process()
    )
    return Due(when, status.run)


def again(root: Place, files: Files, run: int) -> Due | None:
    """Start it again, unless somebody decided otherwise while we waited; returns the next try when it failed."""
    with files.locked(_LOCK_TIMEOUT):
        status = files.status()
        definition = read_json(files.definition)
        if definition is None or status.run != run or not transitions.restart_pending(status):
            return None
        runtime = runtime_for(root)
        starting = files.change_status(status, phase=Phase.STARTING, run=run + 1, init=None, monitor=None)
        try:
            cgroup.destroy(files.cgroup)
            transitions.forget(runtime, files.id)
            launched = transitions.launch(root, files, runtime, definition, starting)
            transitions.go(files, runtime, launched)
        except BayplanError as error:
            # A restart that could not be made counts as an end at once.
            now = time.time()
            failed = replace(
                starting,
                phase=Phase.EXITED,
                exit_code=_FAILED_START,
                error=error.message,
                started_at=now,
                finished_at=now,
            )
            return _next(root, files, runtime, definition, failed)
    return None


def main(argv: list[str]) -> int:
    path, name, run_dir, id, run = argv
    root = Place(Path(path), name, Path(run_dir))
    files = Files.of(root, id)
    try:
        due = end(root, files, int(run))
        while due is not None:
            time.sleep(max(0.0, due.when - time.time()))
            due = again(root, files, due.run)
    except BayplanError as error:
        if error.code != "no-such-container":  # removed while we came: nothing to do
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
