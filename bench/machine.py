"""What a reader of the figures has to know of the machine they are from; nothing that names it."""

from __future__ import annotations

import mmap
import os
import platform
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path


def lines() -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield f"{time.strftime('%Y-%m-%d', time.gmtime())}; {os.cpu_count()} cores ({_processor()}), {memory:.0f} GB of memory"
    python = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    yield f"Linux {platform.release()}, {_distribution()}; {python}"
    yield f"load average at the start {os.getloadavg()[0]:.1f}"


def resident(size: int) -> None:
    """Touch ``size`` bytes of memory and give them back, so that whoever fills as much next gets pages that are there.

    A virtual machine's host takes pages away that are free for some seconds, and each one's return costs ten times what filling it
    does; charged to whom it happens to, that would be most of what a push costs.
    """
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE):
        pass


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return "unknown distribution"
