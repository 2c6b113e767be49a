"""Unpacked layers: each once a root, by diff ID, ready to be the lower folders of an overlay.

``root/oci/layers/<diff ID in hex>/fs`` is complete or not there: it is unpacked beside and renamed. What a dead process left
half unpacked is cleared by the next collection (its folder is locked as long as its maker lives).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from pathlib import Path

from bayplan.oci.image import Image, Layer
from bayplan.oci.layer import unpack
from bayplan.oci.store import Store


class Unpacked:
    """The unpacked layers of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._beside = store.folder / "unpacking"

    def path(self, layer: Layer) -> Path:
        """Where the layer lies or would lie."""
        return self._store.layers / layer.diff_id.hex / "fs"

    def lower(self, image: Image) -> list[Path]:
        """The folders of all layers, topmost first (as overlayfs's ``lowerdir``), unpacking what is not there yet.

        Raises BayplanError ``no-blob``, ``bad-archive``, ``digest-mismatch``.
        """
        return [self.one(layer) for layer in reversed(image.layers)]

    def one(self, layer: Layer) -> Path:
        """The folder of one layer."""
        target = self._store.layers / layer.diff_id.hex
        with contextlib.suppress(FileNotFoundError):
            os.utime(target)
            return target / "fs"
        self._store.ensure()
        self._beside.mkdir(mode=0o700, exist_ok=True)
        draft = self._beside / f"{layer.diff_id.hex[:16]}-{secrets.token_hex(6)}"
        draft.mkdir(mode=0o711)
        held = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            (draft / "fs").mkdir(mode=0o755)
            with self._store.open(layer.descriptor.digest) as stream:
                unpack(stream, draft / "fs", expected=layer.diff_id)
            try:
                draft.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                shutil.rmtree(draft, ignore_errors=True)  # somebody else was quicker
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            os.close(held)
        return target / "fs"

    def sweep(self) -> None:
        """Clear what dead processes left half unpacked."""
        with contextlib.suppress(FileNotFoundError):
            for entry in list(os.scandir(self._beside)):
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(entry.path, ignore_errors=True)
                    except BlockingIOError:
                        continue
                    finally:
                        os.close(descriptor)
