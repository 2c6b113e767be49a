"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside ``path`` and rename over it. Readers see the old content or the new one.

    Not synced to disk: whoever reads these files checks them and can do without. Raises OSError.
    """
    handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        beside.rename(path)
    except BaseException:
        beside.unlink()
        raise
