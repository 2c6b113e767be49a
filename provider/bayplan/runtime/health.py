"""Health checks: one test run inside the container, what a result means, and waiting for health.

A result changes ``health.json``: status, how many counted failures stand in a row, the last results. The rules are
Docker's: failures in the start period do not count, ``retries`` counted failures in a row make it unhealthy, one
success makes it healthy. One thing is added: whoever waits for health looks more often than the interval at first,
and a failure counts once per interval at most, so that looking early can only find health sooner.

Who runs checks: ``apply`` while it waits, and the agent on schedule; a lock lets one of them at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.records import dataclass
from bayplan.runtime import transitions
from bayplan.runtime.codec import health_from
from bayplan.runtime.container import HealthReport, health_report
from bayplan.runtime.record import Files, Phase, Status, gone, read_json, write_json
from bayplan.runtime.spec import Health

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime

__all__ = ["HealthReport", "advance", "check", "next_check", "wait"]

_OUTPUT_BYTES = 4096  # of a check that are kept (Docker's number)
_KEPT = 5
_FIRST_PAUSE = 0.1  # seconds between the first checks of whoever waits; grows to the interval
_ROUNDING = 0.9  # a check that comes a little early still counts as one of its interval


@dataclass(frozen=True, slots=True)
class Result:
    """One run of the test. Times are seconds since 1970; ``exit_code`` is -1 when it timed out or could not run."""

    start: float
    end: float
    exit_code: int
    output: str


def advance(before: HealthReport, health: Health, result: Result, started_at: float) -> HealthReport:
    """The report after ``result``. Pure. ``started_at`` is when the container was started."""
    log = [
        *before.log,
        {"start": result.start, "end": result.end, "exit_code": result.exit_code, "output": result.output},
    ]
    if result.exit_code == 0:
        return HealthReport("healthy", 0, result.end, tuple(log[-_KEPT:]), result.start)
    starting = before.status in ("", "starting")
    in_start_period = starting and result.start - started_at < health.start_period
    since = result.start - max(started_at, before.counted_at)
    counts = not in_start_period and since >= health.interval * _ROUNDING
    failing = before.failing + 1 if counts else before.failing
    status = "unhealthy" if failing >= max(1, health.retries) else before.status or "starting"
    counted_at = result.start if counts else before.counted_at
    return HealthReport(status, failing, result.end, tuple(log[-_KEPT:]), counted_at)


def next_check(report: HealthReport, health: Health, started_at: float) -> float:
    """When the next check is due (seconds since 1970): an interval after the last, shorter ones in the start period.
    Pure."""
    last = max(report.checked_at, started_at)
    in_start_period = report.status in ("", "starting") and last - started_at < health.start_period
    return last + (health.start_interval if in_start_period else health.interval)


def health_of(files: Files) -> Health:
    """The container's health check. Raises BayplanError ``no-health``."""
    definition = read_json(files.definition)
    if definition is None:
        raise gone(files.id)
    health = health_from(definition["effective"]["health"])
    if health is None:
        raise BayplanError(
            "no-health",
            f"the container {definition['spec']['name']} has no health check",
            hint="declare healthcheck, or wait for it to be started only",
        )
    return health


def command(health: Health) -> tuple[str, ...]:
    """The test as a command. Raises BayplanError ``bad-health``."""
    kind, rest = health.test[0], health.test[1:]
    if kind == "CMD" and rest:
        return rest
    if kind == "CMD-SHELL" and len(rest) == 1:
        return ("/bin/sh", "-c", rest[0])
    raise BayplanError(
        "bad-health", f"a health check's test begins with CMD or CMD-SHELL, not {' '.join(health.test)!r}"
    )


@contextlib.contextmanager
def _alone(files: Files) -> Iterator[None]:
    """One check at a time for a container; an outer one ends within its timeout."""
    descriptor = os.open(files.directory / "health.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check(runtime: Runtime, files: Files) -> HealthReport:
    """Run the test once and record its result. Raises BayplanError ``no-health``, ``not-running``."""
    health = health_of(files)
    with _alone(files):
        status = files.status()
        if not transitions.running(status):
            raise BayplanError("not-running", f"the container {files.id[:12]} is not running")
        result = _run(runtime, files, health)
        now = files.status()
        if now.run != status.run or not transitions.running(now):
            raise BayplanError("not-running", f"the container {files.id[:12]} ended during its health check")
        report = advance(health_report(files, status), health, result, status.started_at)
        _write(files, status, report)
        return report


def _run(runtime: Runtime, files: Files, health: Health) -> Result:
    begin = time.time()
    with os.fdopen(os.memfd_create("health-check"), "w+b") as output:
        try:
            code = runtime.exec(
                files.id,
                command(health),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=max(0.001, health.timeout),
            )
            said = ""
        except BayplanError as error:
            if error.code == "not-running":
                raise
            code, said = -1, error.message
        output.seek(0)
        text = output.read(_OUTPUT_BYTES).decode("utf-8", "replace")
    return Result(begin, time.time(), code, (text + said).strip())


def _write(files: Files, status: Status, report: HealthReport) -> None:
    data: dict[str, Any] = {
        "run": status.run,
        "status": report.status,
        "failing": report.failing,
        "checked_at": report.checked_at,
        "log": [dict(entry) for entry in report.log],
        "counted_at": report.counted_at,
    }
    write_json(files.health, data)


def wait(runtime: Runtime, files: Files, *, timeout: float, cancel: Callable[[], bool] | None) -> None:
    """Check until it is healthy; see :meth:`.containers.Runtime.wait_healthy`. A container that is restarted is
    waited for."""
    health = health_of(files)
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        if cancel is not None and cancel():
            raise BayplanError("cancelled", "interrupted while waiting for a container to become healthy")
        try:
            report = check(runtime, files)
        except BayplanError as error:
            if error.code != "not-running":
                raise
            if not transitions.restart_pending(files.status()) and not _coming(files):
                raise runtime.exited_at_once(files) from None
            report = HealthReport("starting")
        if report.status == "healthy":
            return
        last = str(report.log[-1]["output"]) if report.log else ""
        name = (read_json(files.definition) or {}).get("spec", {}).get("name", files.id[:12])
        if report.status == "unhealthy":
            raise BayplanError(
                "unhealthy",
                f"the container {name} is unhealthy: {report.failing} checks failed in a row",
                hint=_said(last),
            )
        left = deadline - time.monotonic()
        if left <= 0:
            raise BayplanError(
                "health-timeout", f"the container {name} was not healthy within {timeout:g} seconds", hint=_said(last)
            )
        _sleep(min(pause, left), files, cancel)
        pause = min(pause * 1.6, max(_FIRST_PAUSE, health.interval))


def _said(output: str) -> str:
    return f"the last check said: {output}" if output else "the last check said nothing"


def _coming(files: Files) -> bool:
    """Whether a container that has just ended is still in the hands of its monitor, which may restart it."""
    status = files.status()
    if status.phase is Phase.STARTING:
        return True
    return status.phase is Phase.STARTED and status.monitor is not None and status.monitor.alive


def _sleep(seconds: float, files: Files, cancel: Callable[[], bool] | None) -> None:
    """Sleep, but wake up when the container ends or the user wants to stop."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        init = files.status().init
        step = min(left, 0.5)
        if init is not None and init.wait(step):
            time.sleep(min(left, 0.05))
            return
        if init is None:
            time.sleep(step)
        if cancel is not None and cancel():
            return
