"""Unpacked layers: each once a root, by diff ID, ready to be the lower folders of an overlay.

``root/oci/layers/<diff ID in hex>/fs`` is complete or not there: it is unpacked beside and renamed. Whoever needs a layer
first unpacks it, and the others wait for that one (a lock that ends with its holder's life) instead of doing the same work.
What a dead process left half unpacked is cleared by the next collection.

Unpacked files are not synced one by one: that would cost more than unpacking them. A layer that was unpacked in this boot
bears the boot's id (``boot`` beside ``fs``), and one that bears another's is unpacked anew, since the power may have failed
before all of it was on disk. :meth:`Unpacked.settle` syncs the file system once and takes the marks away; a collection does
that.

A layer that is used bears a tick of the store's clock, like a blob, and is found and touched under the lock that removing
takes: under a lease, what :meth:`Unpacked.one` gave stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from bayplan.oci.image import Image, Layer
from bayplan.oci.lease import locked_file
from bayplan.oci.store import Store, sync_file_system


class Unpacked:
    """The unpacked layers of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def path(self, layer: Layer) -> Path:
        """Where the layer lies or would lie."""
        return self._store.layers / layer.diff_id.hex / "fs"

    def lower(self, image: Image) -> list[Path]:
        """The folders of all layers, topmost first (as overlayfs's ``lowerdir``), unpacking what is not there yet.

        Hold a lease unless something refers to the image. Raises BayplanError ``no-blob``, ``bad-archive``,
        ``digest-mismatch``, ``disk-full``.
        """
        # One layer may stand twice in an image; overlayfs refuses a folder twice, and the topmost says all.
        return list(dict.fromkeys(self.one(layer) for layer in reversed(image.layers)))

    def one(self, layer: Layer) -> Path:
        """The folder of one layer; see :meth:`lower`."""
        path = self.path(layer)
        self._store.ensure()
        if not self._touch(path.parent):
            with self._alone(layer):
                if not self._touch(path.parent):
                    self._unpack(layer, path.parent)
        return path

    def adopt(self, layer: Layer, folder: Path) -> Path:
        """Make ``folder`` (on the root's file system) the unpacked form of ``layer``, which it must be already.

        It is moved, or removed where the layer was unpacked before. For the upper folder that a layer was packed from.
        """

        import shutil

        path = self.path(layer)
        self._store.ensure()
        with self._alone(layer):
            if self._touch(path.parent):
                shutil.rmtree(folder)
            else:
                with self._draft(layer) as draft:
                    folder.rename(draft / "fs")
                    self._show(draft, path.parent)
        return path

    def sweep(self) -> None:
        """Clear what dead processes left half unpacked, and half written; a collection does it too."""
        from bayplan.oci.collect import empty_trash, sweep

        self._store.ensure()
        sweep(self._store)
        empty_trash(self._store)

    def settle(self) -> None:
        """Make durable what was unpacked in this boot, so that it outlives it. Costs one sync of the file system."""
        marks = [mark for mark in self._store.layers.glob("*/boot") if _trusted(mark)]
        if marks:
            sync_file_system(self._store.layers)
            for mark in marks:
                mark.unlink(missing_ok=True)

    # -- one layer -------------------------------------------------------------------------------------------------

    def _touch(self, folder: Path) -> bool:
        """Whether the layer is there; then it stays as long as a lease that lives now."""
        try:
            with self._store.leases.touching() as tick:
                os.utime(folder, ns=(tick, tick))
        except FileNotFoundError:
            return False
        if _trusted(folder / "boot"):
            return True
        with self._store.leases.removing(), contextlib.suppress(FileNotFoundError):
            if not _trusted(folder / "boot"):
                folder.rename(self._store.trash / f"{folder.name}.{os.urandom(4).hex()}")
        return False

    def _unpack(self, layer: Layer, target: Path) -> None:
        from bayplan.oci.layer import unpack

        with self._draft(layer) as draft, self._store.open(layer.descriptor.digest) as stream:
            (draft / "fs").mkdir(mode=0o755)
            unpack(stream, draft / "fs", expected=layer.diff_id)
            self._show(draft, target)

    def _show(self, draft: Path, target: Path) -> None:
        """From draft to layer, with a tick that is not older than any lease."""
        (draft / "boot").write_text(_boot())
        with self._store.leases.touching() as tick:
            os.utime(draft, ns=(tick, tick))
            draft.rename(target)

    @contextlib.contextmanager
    def _alone(self, layer: Layer) -> Iterator[None]:
        """One maker a layer; the others wait, as long as that one lives."""
        path = self._store.unpacking / f"{layer.diff_id.hex}.lock"
        descriptor = locked_file(path)
        try:
            yield
        finally:
            # Removed while locked: who waits for it sees that, and takes a new one.
            path.unlink(missing_ok=True)
            os.close(descriptor)

    @contextlib.contextmanager
    def _draft(self, layer: Layer) -> Iterator[Path]:
        """A folder to unpack in; if it still lies there at the end, it goes."""

        import shutil

        while True:
            draft = self._store.unpacking / f"{layer.diff_id.hex[:16]}-{os.urandom(6).hex()}"
            draft.mkdir(mode=0o711)
            held = None
            with contextlib.suppress(FileNotFoundError):
                held = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(held, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(held), draft.stat()):
                    break
            if held is not None:  # swept in the instant before it was locked
                os.close(held)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(held)


@functools.cache
def _boot() -> str:
    """This boot's id (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _trusted(mark: Path) -> bool:
    """Whether a layer with this mark is whole on disk, or still in this boot's memory."""
    try:
        return mark.read_text() == _boot()
    except FileNotFoundError:
        return True
