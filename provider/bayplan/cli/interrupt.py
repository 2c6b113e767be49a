"""SIGINT and SIGTERM: the first is a wish, after which in-flight operations end or are undone; the second is final."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bayplan.errors import BayplanError
from bayplan.execute.port import TRANSFER
from bayplan.execute.walk import Cancel


def leaving(code: int) -> int:
    """``code``, the last of a command. Where a transfer was left behind the process ends here and now: its threads may wait
    for a silent registry, and Python would wait for them."""
    if any(thread.name == TRANSFER for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@contextmanager
def interruptible() -> Iterator[Cancel]:
    """A :class:`Cancel` that the signals of the terminal set. A second signal leaves at once; the journal knows the rest."""
    cancel = Cancel()

    def stop(number: int, _: FrameType | None) -> None:
        if cancel.is_set:
            os.write(2, b"stopped at once; the next apply goes on from what stands\n")
            os._exit(128 + number)
        cancel.set(number)
        sys.stderr.write("stopping: what is in flight ends or is undone (again to leave at once)\n")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    except BayplanError as error:
        if error.code == "cancelled":
            error.exit_code = 128 + cancel.number
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
