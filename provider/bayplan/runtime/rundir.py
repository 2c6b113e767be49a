"""The root's folder under ``/run/bayplan``, and its end.

What a root has under ``/run`` are bundles, the OCI runtime's state, the network's record and a few lock files. When the last
container, build step, network attachment and agent has gone, the folder goes too, so that nothing remains of a root that
was used once. Two rules make that safe beside any number of other processes:

* a lock file is removed only by who holds it, and whoever has just locked one looks whether it is still the file of that
  name (:func:`locked_file`), else begins again;
* folders go by rmdir(2), which refuses where anybody has put something meanwhile; the network's own folder is first
  renamed, under its lock, so that nobody finds it half empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from bayplan.runtime.record import RootPlace

_TRIES = 1000  # somebody would have to clear the folder as often, each time in the same instant


def make_run(root: RootPlace) -> Path:
    """The folder, made where it is missing, with the modes that :meth:`bayplan.oci.root.Root.ensure` gives."""
    root.run_dir.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    root.run_dir.mkdir(mode=0o700, exist_ok=True)
    return root.run_dir


def locked_file(path: Path, make: Callable[[], object], *, wait: bool = True) -> int | None:
    """A descriptor that holds ``path`` exclusively; None where somebody else does and ``wait`` is False. ``make()`` makes the
    folder it lies in."""
    for attempt in range(_TRIES):
        make()
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the folder went in this instant
            if attempt == _TRIES - 1:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        if is_file_of(descriptor, path):
            return descriptor
        os.close(descriptor)  # removed by who held it before us
    return None


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def clear_run(root: RootPlace) -> bool:
    """Remove the folder when nothing of the root is in use any more; True when it is gone. Never waits for anybody."""
    run = root.run_dir
    if not run.is_dir():
        return True
    if (run / "live").exists() or (run / "net" / "state.json").exists():  # the usual case, before any lock
        return False
    with contextlib.ExitStack() as held:
        for name in (".live.lock", "agent.pid"):
            descriptor = locked_file(run / name, lambda: make_run(root), wait=False)
            if descriptor is None:
                return False
            held.callback(os.close, descriptor)
        if not (run / "live").exists() and _retire_network(run / "net"):
            (run / "agent.log").unlink(missing_ok=True)
            _unlink_both(run)
    try:
        run.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # in use: a secret of a build, a lock that was taken meanwhile
        return False
    return True


def _unlink_both(run: Path) -> None:
    for name in ("agent.pid", ".live.lock"):
        (run / name).unlink(missing_ok=True)


def _retire_network(net: Path) -> bool:
    """Remove the network's folder when it says nothing; True when there is none any more."""

    import shutil

    try:
        lock = os.open(net / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return not net.exists()
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        busy = (net / "state.json").exists() or any((net / "ns").iterdir()) or any((net / "dns").iterdir())
        if busy or not is_file_of(lock, net / "lock"):
            return False
        aside = net.with_name(f".net-{os.urandom(4).hex()}")
        net.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    except FileNotFoundError:
        return False
    finally:
        os.close(lock)
    return True
