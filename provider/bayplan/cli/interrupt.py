"""SIGINT and SIGTERM: the first is a wish, after which in-flight operations end or are undone; the second is final."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bayplan.execute.walk import Cancel


@contextmanager
def interruptible() -> Iterator[Cancel]:
    """A :class:`Cancel` that the signals of the terminal set. A second signal leaves at once; the journal knows the rest."""
    cancel = Cancel()

    def stop(number: int, _: FrameType | None) -> None:
        if cancel.is_set:
            os.write(2, b"stopped at once; the next apply goes on from what stands\n")
            os._exit(128 + number)
        cancel.set()
        sys.stderr.write("stopping: what is in flight ends or is undone (again to leave at once)\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
