"""What a reader of the figures has to know of the machine they are from; nothing that names it."""

from __future__ import annotations

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
