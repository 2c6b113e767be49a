"""Where a run puts its files, and how it starts bayplan: the command as its console script does, with this interpreter."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Command

_SCRIPT = "import sys; from bayplan.cli.main import command; sys.exit(command())"


@dataclass(frozen=True, slots=True)
class Site:
    """``folder`` is one benchmark's own; ``run`` is the whole run's, for what all of them may have warm."""

    run: Path
    folder: Path

    def room(self, name: str) -> Site:
        """A folder for one benchmark."""
        folder = self.run / name
        folder.mkdir()
        return Site(self.run, folder)

    def python(self, *argv: str, **variables: str) -> Command:
        """This interpreter, with its byte code and bayplan's parse cache in the folder."""
        ours = {
            "PYTHONPYCACHEPREFIX": str(self.run / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
            "XDG_CACHE_HOME": str(self.run / "cache"),
            "BAYPLAN_HOST_KEY": str(self.folder / "host.key"),
        }
        return Command([sys.executable, *argv], {**ours, **variables})

    def bayplan(self, *argv: str, **variables: str) -> Command:
        return self.python("-c", _SCRIPT, *argv, **variables)


@contextmanager
def site() -> Iterator[Site]:
    """A folder on the disk that /var/tmp is on (never tmpfs: what is durable has to cost what it costs)."""
    base = os.environ.get("BAYPLAN_BENCH", "/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix="bpbench-", dir=base))  # short: podman takes a runroot of 50 characters
    try:
        yield Site(folder, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
