"""One command, measured as a whole: the process that a user starts, and all of its children that it waits for.

What a daemon does on a command's behalf is in its wall time alone, so wall times are what peers are compared by.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

#: Seconds that one measured command may take.
LIMIT = 1800.0


@dataclass(frozen=True, slots=True)
class Sample:
    """``wall`` and ``cpu`` (user and system) in seconds, ``memory`` the peak resident set in bytes."""

    wall: float
    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class Command:
    """What is run: ``variables`` are added to the environment, ``folder`` is where it runs."""

    argv: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


#: What is compared, by name: the command of each round (the number of a warm one is negative).
Cases = Mapping[str, Callable[[int], Command]]


class FailedError(Exception):
    """A command that is measured, or prepares for it, did not do its work."""


def run(command: Command, *, limit: float = LIMIT) -> Sample:
    """Run to its end, output thrown away. Raises FailedError with what it said where it fails."""
    with TemporaryFile() as told:
        began = time.perf_counter()
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            cwd=command.folder,
            env={**os.environ, **command.variables},
        )
        status, usage = _wait(process, began + limit)
        wall = time.perf_counter() - began
        if status != 0:
            told.seek(0)
            said = told.read()[-4000:].decode("utf-8", "replace")
            raise FailedError(f"{' '.join(command.argv)} left with {status}:\n{said}")
    return Sample(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[int, os.struct_rusage]:  # type: ignore[name-defined]
    """Exit status and usage. The process is asked for by a descriptor, so that waiting for it costs it nothing."""
    import select

    descriptor = os.pidfd_open(process.pid)
    try:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.perf_counter()))[0]:
            process.kill()
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        os.close(descriptor)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage


def output(argv: Sequence[str], *, variables: Mapping[str, str] | None = None, limit: float = 120.0) -> str:
    """What a command of the preparation says. Raises FailedError."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={**os.environ, **(variables or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"{' '.join(argv)}: {error}") from error
    if done.returncode:
        raise FailedError(f"{' '.join(argv)} left with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def always(command: Command) -> Callable[[int], Command]:
    """A case that is the same in every round."""
    return lambda _: command


def interleaved(cases: Cases, rounds: int, *, warm: int = 1) -> dict[str, list[Sample]]:
    """``rounds`` samples of each case, one of each in turn. Each case makes its command from the number of the round.

    ``warm`` rounds before are not counted: they fill what everybody has full in daily use (byte code, the page cache).
    """
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for number in range(-warm, rounds):
        for name, make in cases.items():
            sample = run(make(number))
            if number >= 0:
                samples[name].append(sample)
    return samples


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each figure by itself."""
    return Sample(
        statistics.median(one.wall for one in samples),
        statistics.median(one.cpu for one in samples),
        int(statistics.median(one.memory for one in samples)),
    )
