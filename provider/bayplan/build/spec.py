"""What a build is asked for and what it answers: the public values of this core, all frozen.

The words are Docker's (context, target, build arguments). A build's *key* is the digest of everything that determines its
content: the instructions after substitution, the content of the files they read, the base images, arguments where they
are declared. Two machines with the same inputs compute the same key, whatever their paths, clocks and umasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from bayplan.errors import Where
from bayplan.oci.digest import Digest
from bayplan.records import dataclass, field


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One build. ``dockerfile`` is taken from ``context`` where it is relative (default: ``Dockerfile``).

    ``platform`` is ``os/architecture[/variant]``, ``""`` this machine's. With ``source_date_epoch`` (Unix seconds; the
    build argument SOURCE_DATE_EPOCH means the same) equal inputs give equal digests on any machine. ``secrets`` are
    handed to ``RUN --mount=type=secret`` by id: a file, or bytes that live on tmpfs only while the step runs.
    ``step_timeout`` (seconds) bounds each RUN.
    """

    context: Path
    dockerfile: Path | None = None
    target: str = ""
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    source_date_epoch: int | None = None
    no_cache: bool = False
    secrets: Mapping[str, Path | bytes] = field(default_factory=dict)
    step_timeout: float | None = None

    @property
    def epoch(self) -> int | None:
        """The epoch in force: the field, else the build argument. Raises ValueError for an argument that is no number."""
        if self.source_date_epoch is not None:
            return self.source_date_epoch
        given = self.args.get("SOURCE_DATE_EPOCH", "")
        return int(given) if given else None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One instruction of a finished build. ``layer`` is False where it changed only the image's configuration."""

    text: str
    where: Where
    key: str
    cached: bool
    layer: bool
    stage: str = ""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """``digest`` is the image's manifest in the store; ``key`` what the next plan compares with."""

    digest: Digest
    key: str
    steps: tuple[StepRecord, ...]
    cached_steps: int

    @property
    def previous(self) -> Mapping[str, Any]:
        """What to keep for the next :meth:`Builder.forecast`, as JSON values."""
        return {"key": self.key, "digest": str(self.digest)}


@dataclass(frozen=True, slots=True)
class StepForecast:
    """One instruction as the next build will meet it. ``cached`` is True also where it costs nothing by nature.

    ``reads`` counts the files of the context that the step reads.
    """

    text: str
    where: Where
    cached: bool
    reads: int = 0
    layer: bool = True
    stage: str = ""


@dataclass(frozen=True, slots=True)
class BuildForecast:
    """What a build would do, found without any effect.

    ``digest`` is given where the very image is in the store already. ``changed_step`` is the first instruction that
    differs from the build before (or has never run), ``changed_path`` the first file that made it differ, in the form
    that messages show; ``reason`` says how (``changed``, ``is new``, ``is gone``); ``others`` counts further files.
    """

    key: str
    steps: tuple[StepForecast, ...]
    digest: Digest | None = None
    changed_step: StepForecast | None = None
    changed_path: str = ""
    reason: str = ""
    others: int = 0

    @property
    def runs(self) -> int:
        """How many steps that make a layer will run."""
        return sum(not step.cached for step in self.steps if step.layer)

    @property
    def cause(self) -> str:
        """One line for a plan: ``COPY . . (app/Dockerfile:5) reads app/server.js, which changed; 2 of 7 steps run ...``."""
        total = sum(step.layer for step in self.steps)
        counted = f"{self.runs} of {total} steps run again"
        step = self.changed_step
        if step is None:
            return counted if self.runs else "every step is cached"
        place = f"{_short(step.text)} ({step.where.file}:{step.where.line})"
        if self.changed_path:
            more = f" and {self.others} more" if self.others else ""
            return f"{place} reads {self.changed_path}{more}, which {self.reason}; {counted}"
        return f"{place} {self.reason or 'changed'}; {counted}"


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


class BuildEventKind(StrEnum):
    STEP = "step"  # a step begins
    CACHED = "cached"  # a step was taken from the cache
    OUTPUT = "output"  # bytes that a RUN wrote
    DONE = "done"  # a step ended well


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """What happens while a build runs; ``number`` counts from 1 to ``total`` over the steps that make layers."""

    kind: BuildEventKind
    text: str
    where: Where
    number: int
    total: int
    stage: str = ""
    data: bytes = b""
    seconds: float = 0.0
