"""``container stats``: what running containers use, from two looks at their control groups."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.options import runtime_of
from bayplan.errors import BayplanError, UsageError

if TYPE_CHECKING:
    from bayplan.runtime.cgroup import Stats
    from bayplan.runtime.containers import Runtime

_FIRST = 0.25  # seconds between the two looks that the first line stands on


def stats(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    if not 0.1 <= arguments.interval <= 3600:
        raise UsageError("usage", "--interval wants 0.1 to 3600 seconds")
    if arguments.json and not arguments.no_stream:
        arguments.no_stream = True  # one document
    before = _look(runtime, arguments.containers)
    pause = _FIRST
    while True:
        time.sleep(pause)
        now = _look(runtime, list(before) if arguments.containers else [], lenient=True)
        rows = [_entry(runtime, id, before.get(id), one) for id, one in now.items()]
        if arguments.json:
            show.document({"stats": rows})
        else:
            if sys.stdout.isatty() and not arguments.no_stream:
                sys.stdout.write("\x1b[H\x1b[J")
            show.table(("ID", "NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "NET IN/OUT", "DISK IN/OUT"), map(_row, rows))
            sys.stdout.flush()
        if arguments.no_stream or (arguments.containers and not now):
            return 0
        before, pause = now, arguments.interval


def _look(runtime: Runtime, references: list[str], *, lenient: bool = False) -> dict[str, Stats]:
    """id -> use now. With names, one that does not run is an error, unless ``lenient``."""
    found: dict[str, Stats] = {}
    ids = [runtime.inspect(one).id for one in references] if references and not lenient else references
    for id in ids or ([] if references else [one.id for one in runtime.list() if one.running]):
        try:
            found[id] = runtime.stats(id)
        except BayplanError as error:
            if error.code not in ("not-running", "no-such-container") or (references and not lenient):
                raise
    return found


def _entry(runtime: Runtime, id: str, before: Stats | None, now: Stats) -> dict[str, Any]:
    found = runtime.get(id)
    passed = now.time - before.time if before is not None else 0.0
    used = now.cpu - before.cpu if before is not None else 0.0
    return {
        "id": id,
        "name": found.name if found is not None else "",
        "cpu_percent": round(100 * used / passed, 2) if passed > 0 else 0.0,
        "cpu_seconds": round(now.cpu, 6),
        "memory": now.memory,
        "memory_limit": now.memory_limit,
        "pids": now.pids,
        "pids_limit": now.pids_limit,
        "received_bytes": now.received_bytes,
        "sent_bytes": now.sent_bytes,
        "read_bytes": now.read_bytes,
        "written_bytes": now.written_bytes,
    }


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["id"][:12],
        one["name"],
        f"{one['cpu_percent']:.2f}%",
        show.binary_size(one["memory"]),
        "-" if one["memory_limit"] is None else show.binary_size(one["memory_limit"]),
        str(one["pids"]),
        f"{show.size(one['received_bytes'])} / {show.size(one['sent_bytes'])}",
        f"{show.size(one['read_bytes'])} / {show.size(one['written_bytes'])}",
    )
