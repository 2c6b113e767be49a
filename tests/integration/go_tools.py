"""Go programs that tests drive, built from their pinned modules when a test first asks (``tools/go/build``)."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 1800  # cosign takes minutes on a slow machine


@cache
def go_tool(name: str) -> Path:
    """The binary of the module ``tools/go/NAME``."""
    command = [str(_ROOT / "tools/go/build"), name]
    built = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert built.returncode == 0, built.stderr
    (binary,) = (one for one in Path(built.stdout.strip()).iterdir() if one.is_file())
    return binary
