"""The port through which a build runs a step; the runtime fulfils it.

A build knows layers and instructions, not namespaces: it hands over the directories of the layers below, gets an upper
directory back that holds what the step changed (overlayfs form: whiteouts are character devices 0:0, opaque directories
carry ``trusted.overlay.opaque=y``), and makes the layer from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bayplan.records import dataclass, field


@dataclass(frozen=True, slots=True)
class StepMount:
    """A mount of one RUN (``--mount``): ``bind``, ``cache``, ``tmpfs`` or ``secret``; sources are host paths."""

    type: str
    target: str
    source: Path | None = None
    read_only: bool = False
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One RUN. ``lower`` is topmost layer first; ``upper`` and ``work`` are empty directories on one file system."""

    argv: Sequence[str]
    lower: Sequence[Path]
    upper: Path
    work: Path
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str = "/"
    user: str = "0"
    network: str = "default"  # default, none or host
    mounts: Sequence[StepMount] = ()
    hostname: str = "buildkitsandbox"
    timeout: float | None = None
    #: Set by another thread: kill the step and raise BayplanError ``cancelled``. Runners look at it twice a second at least.
    cancel: threading.Event | None = None


class StepRunner(Protocol):
    """Runs steps in the same OCI runtime as containers."""

    def run(self, step: Step, output: Callable[[bytes], None]) -> int:
        """Run ``step`` to its end; its output (both streams) goes to ``output``; returns the exit code.

        Nothing of it is left but ``upper``: no mount, namespace, address or rule, also when it is interrupted.
        Raises BayplanError where the step cannot be started at all.
        """
        ...

    def close(self) -> None:
        """Give back what the runner keeps between steps (one network namespace per build)."""
        ...
