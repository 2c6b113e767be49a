"""The network of a build's steps: one namespace a build, which must not outlive the building process.

A container's attachment ends by ``detach``; a build that is killed cannot call it. So its record names the process that
holds it, by pid and start time (a pid alone may be somebody else's by now), and ``reconcile`` frees it when that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class StepNetwork:
    """``netns``: the path of the namespace; ``resolv_conf``: the text for the steps. Close it once (or use ``with``)."""

    def __init__(self, netns: Path, resolv_conf: str, free: Callable[[], None]) -> None:
        self.netns = netns
        self.resolv_conf = resolv_conf
        self._free: Callable[[], None] | None = free

    def __enter__(self) -> StepNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the namespace; a second call does nothing."""
        if self._free is not None:
            self._free()
            self._free = None


def this_process() -> str:
    return f"{os.getpid()}:{_start_time(os.getpid())}"


def holder_lives(holder: str) -> bool:
    """Is the process ``PID:STARTTIME`` still there?"""
    pid, _, started = holder.partition(":")
    return started != "" and _start_time(int(pid)) == started


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, in clock ticks since the boot; ``""`` when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
