"""Progress of pulls and pushes: a bar on a terminal, a line a blob elsewhere, both on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bayplan.cli import show

if TYPE_CHECKING:
    from bayplan.registry.transfer import Progress, Transfer


@contextlib.contextmanager
def showing(*, quiet: bool = False) -> Iterator[Progress | None]:
    """What to hand to the client as ``progress``; None where nothing is to be shown."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bars() as progress:
            yield progress
    else:
        yield _plain


def _plain(transfer: Transfer) -> None:
    if transfer.step.value != "moving":
        show.warn(f"{show.short(transfer.digest)} {transfer.step.value} {show.size(transfer.size)}")


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    guard = threading.Lock()
    tasks: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:

        def told(transfer: Transfer) -> None:
            with guard:
                if transfer.digest not in tasks:
                    tasks[transfer.digest] = bars.add_task(show.short(transfer.digest), total=transfer.size)
                bars.update(tasks[transfer.digest], completed=transfer.done)

        yield told
