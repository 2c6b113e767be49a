"""What an execution tells its face: plain data, one stream, in order. Faces render it; nobody reaches back."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from bayplan.errors import BayplanError
from bayplan.plan.model import Operation
from bayplan.records import dataclass


class Result(StrEnum):
    """How an operation ended."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"
    STALE = "stale"
    SKIPPED = "skipped"  # something it depends on did not end well
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Started:
    operation: Operation


@dataclass(frozen=True, slots=True)
class Progress:
    operation: Operation
    text: str


@dataclass(frozen=True, slots=True)
class Output:
    """Raw output of a build step; secrets that were used are already masked."""

    operation: Operation
    data: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """``seconds`` is the wall time of the effect; ``detail`` one line on what came of it."""

    operation: Operation
    result: Result
    seconds: float
    detail: str = ""
    error: BayplanError | None = None


Event = Started | Progress | Output | Finished
Sink = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole execution: one :class:`Finished` an operation, in the plan's order."""

    finished: tuple[Finished, ...]
    cancelled: bool = False

    @property
    def ok(self) -> bool:
        return not self.cancelled and all(one.result is Result.OK for one in self.finished)

    def count(self, result: Result) -> int:
        return sum(one.result is result for one in self.finished)
