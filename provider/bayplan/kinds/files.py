"""Where the schemas lie: ``bayplan/_schemas`` in a wheel, ``schemas/`` beside ``provider/`` in the source tree."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from bayplan.errors import BayplanError

_SUFFIX = ".schema.json"


@cache
def schema_folder() -> Path:
    """The folder that holds the schemas. Raises BayplanError ``broken-installation`` where there is none."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_schemas", package.parent.parent / "schemas"):
        if (folder / f"meta{_SUFFIX}").is_file():
            return folder
    raise BayplanError("broken-installation", f"the schemas are missing beside {package}", hint="install bayplan again")


def schema_names() -> list[str]:
    """``container``, ``stack``, ``output/plan`` ...: everything :func:`schema_text` can give."""
    folder = schema_folder()
    return sorted(str(file.relative_to(folder)).removesuffix(_SUFFIX) for file in folder.rglob(f"*{_SUFFIX}"))


def schema_text(name: str) -> str:
    """The text of one schema file. Raises BayplanError ``unknown-schema``."""
    if name not in schema_names():
        raise BayplanError("unknown-schema", f"there is no schema '{name}'", hint="'bayplan schema' lists them")
    return (schema_folder() / f"{name}{_SUFFIX}").read_text(encoding="utf-8")


@cache
def read_schema(file: str) -> dict[str, Any]:
    """One schema file as data, read once."""
    found: dict[str, Any] = json.loads((schema_folder() / file).read_text(encoding="utf-8"))
    return found
