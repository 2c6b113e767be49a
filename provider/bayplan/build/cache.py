"""What earlier builds left: step key -> layer, build key -> image and what it read.

One small JSON file an entry, written whole and renamed into place: any number of builds read and write at once without a
lock, a lookup costs one open, a forecast leaves no trace, and an entry that a crash cut off is simply not there. Entries
hold digests only; an entry counts only while its blobs are in the store, so the garbage collector may take what it
wants. What the cache keeps alive is bounded by :meth:`BuildCache.prune`; the time of last use is the file's mtime.

``root/build/``: ``steps/ab/<key>``, ``images/ab/<key>``, ``last/<lineage>``, ``reads/<digest>``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bayplan.build.writing import write_whole
from bayplan.errors import BayplanError
from bayplan.oci.descriptor import Descriptor
from bayplan.oci.digest import Digest
from bayplan.oci.image import Layer
from bayplan.records import dataclass


@dataclass(frozen=True, slots=True)
class CachedStep:
    """What a step made. ``layer`` is None where it changed nothing (a WORKDIR that was there).

    ``out`` is the key under which the next step looks; it differs from the step's own where equal content was found
    another way (a COPY from a stage that was rebuilt with the same result). ``created`` is Unix seconds.
    """

    layer: Descriptor | None
    diff_id: str
    out: str
    created: int

    def made(self) -> Layer | None:
        """The layer, as images take it."""
        return Layer(self.layer, Digest.parse(self.diff_id)) if self.layer is not None else None


@dataclass(frozen=True, slots=True)
class StepReads:
    """What one step of a recorded build was: to say later what changed. ``reads`` names a stored list of files."""

    text: str
    key: str
    reads: str = ""


@dataclass(frozen=True, slots=True)
class CachedImage:
    """A finished build."""

    digest: Digest
    steps: tuple[StepReads, ...]


class BuildCache:
    """The cache under ``folder`` (``root/build``). Reading never creates anything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self, key: str) -> CachedStep | None:
        row = _read(self._path("steps", key))
        if row is None:
            return None
        try:
            layer = Descriptor.from_json(row["layer"]) if row["layer"] else None
            return CachedStep(layer, str(row["diff_id"]), str(row["out"]), int(row["created"]))
        except (KeyError, TypeError, ValueError, BayplanError):
            return None

    def put_step(self, key: str, step: CachedStep) -> None:
        layer = step.layer.to_json() if step.layer else None
        row = {"layer": layer, "diff_id": step.diff_id, "out": step.out, "created": step.created}
        self._write(self._path("steps", key), json.dumps(row).encode())

    def image(self, key: str) -> CachedImage | None:
        row = _read(self._path("images", key))
        if row is None:
            return None
        try:
            steps = tuple(StepReads(str(text), str(step), str(reads)) for text, step, reads in row["steps"])
            return CachedImage(Digest.parse(row["digest"]), steps)
        except (KeyError, TypeError, ValueError, BayplanError):
            return None

    def put_image(self, key: str, lineage: str, image: CachedImage) -> None:
        steps = [[step.text, step.key, step.reads] for step in image.steps]
        self._write(self._path("images", key), json.dumps({"digest": str(image.digest), "steps": steps}).encode())
        self._write(self.folder / "last" / lineage, json.dumps({"key": key}).encode())

    def last(self, lineage: str) -> str:
        """The key of the last build of this Dockerfile and target on this machine; for explanations alone."""
        row = _read(self.folder / "last" / lineage)
        return str(row.get("key", "")) if row else ""

    def reads(self, name: str) -> dict[str, str]:
        """The files that a step read: path -> short digest. Empty where it is not kept."""
        try:
            value = json.loads(zlib.decompress((self.folder / "reads" / name).read_bytes()))
        except (OSError, ValueError, zlib.error):
            return {}
        return {str(path): str(digest) for path, digest in value.items()} if isinstance(value, dict) else {}

    def has_reads(self, name: str) -> bool:
        return (self.folder / "reads" / name).exists()

    def put_reads(self, name: str, files: dict[str, str]) -> None:
        self._write(self.folder / "reads" / name, zlib.compress(json.dumps(files).encode(), 1))

    def used(self, key: str) -> None:
        """Note that a step's entry was of use, so that pruning takes it last."""
        with contextlib.suppress(OSError):
            os.utime(self._path("steps", key))

    # -- what it keeps ---------------------------------------------------------------------------------------------

    def references(self) -> Iterator[Digest]:
        """The digests that the cache wants kept, layers and images; for the store's garbage collection."""
        for path in self._entries("steps"):
            row = _read(path)
            if row and row.get("layer"):
                with contextlib.suppress(KeyError, TypeError, BayplanError):
                    yield Digest.parse(row["layer"]["digest"])
        for path in self._entries("images"):
            row = _read(path)
            if row:
                with contextlib.suppress(KeyError, TypeError, BayplanError):
                    yield Digest.parse(row["digest"])

    def prune(self, *, keep_bytes: int | None = None, keep_seconds: float | None = None) -> int:
        """Forget entries not used for ``keep_seconds``, then the longest unused beyond ``keep_bytes`` of layers.

        Returns how many entries were forgotten. The blobs themselves go with the next garbage collection.
        """
        now = time.time()
        forgotten = 0
        rows: list[tuple[float, int, Path]] = []
        for path in [*self._entries("steps"), *self._entries("images"), *self._files("reads"), *self._files("last")]:
            try:
                age = path.stat().st_mtime
            except FileNotFoundError:
                continue
            if keep_seconds is not None and now - age > keep_seconds:
                path.unlink(missing_ok=True)
                forgotten += 1
            elif path.parent.parent.name == "steps":
                rows.append((age, _layer_size(path), path))
        if keep_bytes is not None:
            left = sum(size for _, size, _ in rows)
            for _, size, path in sorted(rows):
                if left <= keep_bytes:
                    break
                path.unlink(missing_ok=True)
                left -= size
                forgotten += 1
        return forgotten

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / key

    def _entries(self, kind: str) -> Iterable[Path]:
        return (self.folder / kind).glob("??/[0-9a-f]*")

    def _files(self, kind: str) -> Iterable[Path]:
        return (self.folder / kind).glob("[0-9a-f]*")

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, data)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _layer_size(path: Path) -> int:
    row = _read(path)
    layer = row.get("layer") if row else None
    return int(layer.get("size", 0)) if isinstance(layer, dict) else 0
