"""The live folder: where bundles stand in clear, only in memory, only for their user, only until the next boot.

``run_dir/live`` must be a tmpfs (a bundle holds secret environment values). On most machines ``/run`` is one already;
where it is not, a small tmpfs is mounted on ``live`` itself with the first container and unmounted after the last,
under a lock, so that nothing of it remains.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bayplan.runtime.kernel import MS_NODEV, MS_NOSUID, mount, mounts_below, on_tmpfs, unmount
from bayplan.runtime.record import Files, RootPlace
from bayplan.runtime.rundir import locked_file, make_run

_RUNTIME = ".runtime"


@contextlib.contextmanager
def _locked(root: RootPlace) -> Iterator[Path]:
    run = root.run_dir
    descriptor = locked_file(run / ".live.lock", lambda: make_run(root))
    assert descriptor is not None, "it was waited for"
    try:
        yield run / "live"
    finally:
        os.close(descriptor)


def open_live(root: RootPlace, files: Files) -> None:
    """Make the container's live folder (and its tmpfs, when there is none yet). Idempotent."""
    with _locked(root) as live:
        live.mkdir(exist_ok=True, mode=0o700)
        if not on_tmpfs(live):
            # Swap is the one way to a disk that is left; noswap (kernel 6.3) closes it where it is known.
            try:
                mount(f"bayplan-{root.hash}", live, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=256m,noswap")
            except OSError:
                mount(f"bayplan-{root.hash}", live, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=256m")
        (live / _RUNTIME).mkdir(exist_ok=True, mode=0o700)
        files.live.mkdir(exist_ok=True, mode=0o700)


def close_live(root: RootPlace, files: Files) -> None:
    """Remove the container's live folder with every mount in it; with the last one the tmpfs too. Idempotent."""

    import shutil

    if files.live.exists():
        unmount(files.rootfs)
        if files.rootfs.exists() and os.path.ismount(files.rootfs):
            for point in mounts_below(files.live):
                unmount(point)
        shutil.rmtree(files.live, ignore_errors=True)
    if files.live.parent.exists():
        drop_live(root)


def drop_live(root: RootPlace) -> bool:
    """Unmount and remove ``live`` when no container is in it; True when it is gone."""

    import shutil

    with _locked(root) as live:
        if not live.exists():
            return True
        runtime = live / _RUNTIME
        if any(entry.name != _RUNTIME for entry in os.scandir(live)):
            return False
        if runtime.exists() and any(os.scandir(runtime)):
            return False
        shutil.rmtree(runtime, ignore_errors=True)
        if os.path.ismount(live):
            unmount(live)
        live.rmdir()
        return True
