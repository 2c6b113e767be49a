"""Volumes: named directories that outlive containers.

``volumes/<name>/`` holds ``volume.json`` (labels, when made) and ``_data``. It is made beside and renamed into place,
so a name appears whole or not at all, and of two makers one wins. A volume that is empty takes what the image has at
the mount point with its first use, as Docker does; while that copy is under way the file ``filling`` marks it, so
that a copy whose process died is begun anew.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.records import dataclass, field
from bayplan.runtime.record import RootPlace, read_json, write_json

_FORM = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")


@dataclass(frozen=True, slots=True)
class Volume:
    """``anonymous`` volumes were made for one container and go with it. ``created`` is in seconds since 1970."""

    name: str
    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    anonymous: bool = False


class Volumes:
    """The volumes of one root."""

    def __init__(self, root: RootPlace) -> None:
        self._folder = root.path / "volumes"

    def create(
        self, name: str, labels: Mapping[str, str] | None = None, *, anonymous: bool = False, exist_ok: bool = False
    ) -> Volume:
        """Make an empty volume, durably. Raises BayplanError ``bad-volume-name``, ``volume-exists``."""

        import shutil

        if not _FORM.fullmatch(name):
            raise BayplanError(
                "bad-volume-name",
                f"{name!r} is no volume name",
                hint="letters, digits, '_', '.' and '-'; a letter or digit first",
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        draft = self._folder / f".new-{os.urandom(8).hex()}"
        draft.mkdir(mode=0o711)
        try:
            (draft / "_data").mkdir(mode=0o755)
            write_json(
                draft / "volume.json",
                {"name": name, "labels": dict(labels or {}), "created": time.time(), "anonymous": anonymous},
                durable=True,
            )
            try:
                draft.rename(self._folder / name)
            except OSError as error:
                found = self.get(name)
                if found is None:
                    raise
                if not exist_ok:
                    raise BayplanError("volume-exists", f"there is a volume {name} already") from error
                return found
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        made = self.get(name)
        assert made is not None
        return made

    def get(self, name: str) -> Volume | None:
        data = read_json(self._folder / name / "volume.json") if _FORM.fullmatch(name) else None
        if data is None:
            return None
        path = self._folder / name / "_data"
        return Volume(name, path, data["labels"], data["created"], data["anonymous"])

    def list(self, labels: Mapping[str, str] | None = None) -> builtins.list[Volume]:
        """Every volume that bears all of ``labels``, by name."""
        out = []
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.listdir(self._folder)):
                found = None if entry.startswith(".") else self.get(entry)
                if found is not None and all(found.labels.get(key) == value for key, value in (labels or {}).items()):
                    out.append(found)
        return out

    def relabel(self, name: str, labels: Mapping[str, str]) -> Volume:
        """Replace the labels. Raises BayplanError ``no-such-volume``."""
        path = self._folder / name / "volume.json"
        data = read_json(path)
        if data is None:
            raise unknown(name)
        write_json(path, {**data, "labels": dict(labels)}, durable=True)
        found = self.get(name)
        assert found is not None
        return found

    def remove(self, name: str, users: Mapping[str, Sequence[str]]) -> None:
        """Delete a volume and what is in it. ``users``: volume -> names of the containers that mount it.

        Raises BayplanError ``no-such-volume``, ``volume-in-use``.
        """

        import shutil

        if self.get(name) is None:
            raise unknown(name)
        if users.get(name):
            raise BayplanError(
                "volume-in-use",
                f"the volume {name} is used by {', '.join(sorted(users[name]))}",
                hint="remove these first",
            )
        aside = self._folder / f".old-{os.urandom(8).hex()}"
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def tidy(self, *, age: float = 60.0) -> None:
        """Delete what makers and removers that died left behind (recovery)."""

        import shutil

        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                if entry.name.startswith(".old-") or (
                    entry.name.startswith(".new-") and time.time() - entry.stat().st_mtime > age
                ):
                    shutil.rmtree(entry.path, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def fill(self, name: str, source: Path) -> None:
        """Copy ``source`` (a directory of the image) into the volume when that is empty."""

        import shutil

        data, mark = self._folder / name / "_data", self._folder / name / "filling"
        if any(os.scandir(data)) and not mark.exists():
            return
        with self._locked(name):
            if mark.exists():
                for entry in os.scandir(data):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        Path(entry.path).unlink()
            elif any(os.scandir(data)):
                return
            mark.touch()
            copy_tree(source, data)
            mark.unlink()


def unknown(name: str) -> BayplanError:
    return BayplanError("no-such-volume", f"there is no volume {name}", hint="bayplan volume list shows them")


def copy_tree(source: Path, target: Path) -> None:
    """Copy a directory's content and its own attributes: owners, modes, times, extended attributes, links, devices.

    ``target`` exists. Hard links inside the tree stay hard links; links are never followed.
    """

    import shutil

    seen: dict[tuple[int, int], Path] = {}

    def attributes(original: Path, copy: Path, info: os.stat_result) -> None:
        os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            copy.chmod(stat.S_IMODE(info.st_mode))
            for name in os.listxattr(original, follow_symlinks=False):
                if not name.startswith("trusted.overlay."):
                    os.setxattr(copy, name, os.getxattr(original, name, follow_symlinks=False), follow_symlinks=False)
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)

    def copy_into(original: Path, copy: Path) -> None:
        for entry in os.scandir(original):
            info = entry.stat(follow_symlinks=False)
            here, there = original / entry.name, copy / entry.name
            key = (info.st_dev, info.st_ino)
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                if key in seen:
                    os.link(seen[key], there, follow_symlinks=False)
                    continue
                seen[key] = there
            if stat.S_ISDIR(info.st_mode):
                there.mkdir()
                copy_into(here, there)
            elif stat.S_ISLNK(info.st_mode):
                there.symlink_to(os.readlink(here))
            elif stat.S_ISREG(info.st_mode):
                shutil.copyfile(here, there, follow_symlinks=False)
            elif stat.S_ISSOCK(info.st_mode):
                continue
            else:
                os.mknod(there, info.st_mode, info.st_rdev)
            attributes(here, there, info)

    copy_into(source, target)
    attributes(source, target, source.lstat())
