"""The options that a case of ``tests/cases/stack`` gives in its first line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


def options(first: str) -> dict[str, Any]:
    """``# --var a=b --var-file values.yaml BAYPLAN_VAR_c=d`` as the keywords of ``load``; other first lines give none."""
    found: dict[str, Any] = {"variables": {}, "variable_files": [], "environ": {}}
    if not first.startswith(("# --", "# BAYPLAN_")):
        return found
    words = iter(shlex.split(first.removeprefix("#")))
    for word in words:
        if word == "--var-file":
            found["variable_files"].append(Path(next(words)))
            continue
        name, _, value = (next(words) if word == "--var" else word).partition("=")
        found["variables" if word == "--var" else "environ"][name] = value
    return found
