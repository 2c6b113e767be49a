"""How executions look: live lines on a terminal, plain lines in pipes, one JSON document with ``--json``.

A sink gets events in order, one at a time; nothing is decided here.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from bayplan.execute.events import Event, Finished, Output, Progress, Report, Result, Started
from bayplan.plan.model import Operation, Plan, Value


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


class PlainSink:
    """Plain lines: one when an operation starts, one when it ends, build output indented below it."""

    def __init__(self, stream: TextIO, width: int = 0) -> None:
        self.stream = stream
        self.width = width

    def __call__(self, event: Event) -> None:
        operation = event.operation
        head = f"[{operation.number}] {operation.address:<{self.width}} {operation.action.value}"
        if isinstance(event, Started):
            self.stream.write(f"{head}: started\n")
        elif isinstance(event, Progress):
            self.stream.write(f"{head}: {event.text}\n")
        elif isinstance(event, Output):
            for line in event.data.decode("utf-8", "replace").splitlines():
                self.stream.write(f"    {line}\n")
        elif isinstance(event, Finished):
            self.stream.write(f"{head}: {told(event)}\n")
        self.stream.flush()


class LiveSink:
    """A terminal: finished operations scroll by, those at work stand below with their time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(stderr=False, highlight=False)
        self.running: dict[int, tuple[Operation, float, str]] = {}
        self.live = Live(console=self.console, refresh_per_second=8, transient=True, get_renderable=self._table)

    def __enter__(self) -> LiveSink:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __call__(self, event: Event) -> None:
        operation = event.operation
        if isinstance(event, Started):
            self.running[operation.number] = (operation, time.monotonic(), "")
        elif isinstance(event, Progress):
            known = self.running.get(operation.number)
            if known:
                self.running[operation.number] = (known[0], known[1], event.text)
        elif isinstance(event, Output):
            text = event.data.decode("utf-8", "replace").strip().splitlines()
            known = self.running.get(operation.number)
            if text and known:
                self.running[operation.number] = (known[0], known[1], text[-1])
        elif isinstance(event, Finished):
            self.running.pop(operation.number, None)
            mark = "[green]ok[/]" if event.result is Result.OK else f"[red]{event.result.value}[/]"
            line = f"{mark:<15} [{operation.number}] {operation.address} {operation.action.value}".replace(
                "[" + str(operation.number) + "]", f"\\[{operation.number}]"
            )
            self.console.print(line, "" if event.result is Result.OK else f"\n        {told(event)}", sep="")

    def _table(self) -> Any:
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        for operation, began, text in list(self.running.values()):
            table.add_row(
                f"[cyan]{now - began:5.1f}s[/]",
                f"\\[{operation.number}]",
                operation.address,
                operation.action.value,
                text,
            )
        return table


def told(event: Finished) -> str:
    """The end of an operation in words."""
    if event.result is Result.OK:
        detail = f" ({event.detail})" if event.detail else ""
        return f"done in {event.seconds:.1f}s{detail}"
    if event.error is not None:
        hint = f" ({event.error.hint})" if event.error.hint else ""
        return f"{event.result.value}: {event.error.message}{hint}"
    return f"{event.result.value}: {event.detail}"


def summary(plan: Plan, report: Report) -> str:
    """The last line of an apply."""
    parts = [f"{report.count(Result.OK)} of {len(plan.operations)} operations done"]
    for result in (Result.FAILED, Result.STALE, Result.UNKNOWN, Result.SKIPPED, Result.CANCELLED):
        count = report.count(result)
        if count:
            parts.append(f"{count} {result.value}")
    return f"{plan.stack}: " + ", ".join(parts)


def report_as_output(plan: Plan, report: Report, outputs: Mapping[str, Value], digest: str) -> dict[str, Any]:
    """The ``--json`` form of an apply (``schemas/output/apply.schema.json``)."""
    return {
        "operations": [
            {
                "number": one.operation.number,
                "address": one.operation.address,
                "action": one.operation.action.value,
                "cause": one.operation.cause,
                "result": one.result.value,
                "seconds": round(one.seconds, 3),
                **({"detail": one.detail} if one.detail else {}),
                **({"error": one.error.as_dict()} if one.error else {}),
            }
            for one in report.finished
        ],
        "stack": plan.stack,
        "plan": digest,
        "ok": report.ok,
        "outputs": dict(outputs),
    }


def print_json(document: Any) -> None:
    """One document on standard output."""
    json.dump(document, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
