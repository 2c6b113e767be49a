"""The containers of a root as a set: how one enters it, how it is found, how it leaves.

A container enters when its ``container.json`` appears (one rename); before, its folder is debris of a creation under
way. It leaves when its folder is renamed into ``.trash``. Between the making of a folder and the taking of its lock
lies an instant in which the folder looks abandoned: creators hold ``.creating`` shared for that instant, and whoever
clears debris holds it exclusively.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from typing import Any

from bayplan.errors import BayplanError, nearest
from bayplan.runtime.names import ContainerNames
from bayplan.runtime.record import Files, RootPlace, gone, read_json, write_json

_ID_BYTES = 32


class Definitions:
    """The container folders of one root."""

    def __init__(self, root: RootPlace) -> None:
        self.root = root
        self.folder = root.path / "containers"
        self.names = ContainerNames(root)

    def files(self, id: str) -> Files:
        return Files.of(self.root, id)

    def ids(self) -> list[str]:
        """Every folder that may be a container, whole or not."""
        try:
            return sorted(name for name in os.listdir(self.folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def all(self) -> Iterator[tuple[Files, dict[str, Any]]]:
        """Every container with its definition."""
        for id in self.ids():
            files = self.files(id)
            definition = read_json(files.definition)
            if definition is not None:
                yield files, definition

    def find(self, reference: str) -> Files:
        """The container that is meant by a name, an id, or the beginning of exactly one id.

        Raises BayplanError ``no-such-container``, ``ambiguous-container``.
        """
        owner = (
            self.names.owner(reference) if reference and "/" not in reference and not reference.startswith(".") else ""
        )
        if owner:
            files = self.files(owner)
            definition = read_json(files.definition)
            if definition is not None and definition["spec"]["name"] == reference:
                return files
        found = [id for id in self.ids() if reference and id.startswith(reference)]
        found = [id for id in found if self.files(id).definition.exists()]
        if len(found) == 1:
            return self.files(found[0])
        if found:
            raise BayplanError("ambiguous-container", f"{reference} is the beginning of {len(found)} container ids")
        near = nearest(reference, list(self.names.all()))
        error = gone(reference)
        if near:
            error.hint = f"did you mean {near}?"
        raise error

    @contextlib.contextmanager
    def _gate(self, name: str, operation: int) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)

    def attaching(self) -> contextlib.AbstractContextManager[None]:
        """Held while a start takes addresses: whoever compares attachments with containers waits for it."""
        return self._gate(".attaching", fcntl.LOCK_SH)

    def comparing(self) -> contextlib.AbstractContextManager[None]:
        """Held while attachments are compared with containers: no start takes addresses meanwhile."""
        return self._gate(".attaching", fcntl.LOCK_EX)

    @contextlib.contextmanager
    def entering(self) -> Iterator[Files]:
        """A new folder, locked by us until the block ends; it is removed again when the block raises."""
        files = self.files(os.urandom(_ID_BYTES).hex())
        with self._gate(".creating", fcntl.LOCK_SH):
            files.directory.mkdir(mode=0o711)
            descriptor = os.open(files.lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield files
        except BaseException:
            import shutil

            shutil.rmtree(files.directory, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)

    def write(self, files: Files, definition: Mapping[str, Any]) -> None:
        """Replace the definition, durably. Lock held."""
        write_json(files.definition, definition, durable=True)

    def discard(self, files: Files) -> None:
        """Take the folder out of the set and delete it. Lock held."""

        import shutil

        trash = self.folder / ".trash"
        trash.mkdir(exist_ok=True, mode=0o700)
        aside = trash / f"{files.id}-{os.urandom(4).hex()}"
        with contextlib.suppress(FileNotFoundError):
            files.directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def clear_debris(self) -> list[str]:
        """Remove folders of creations that died, and the trash. Returns the ids."""

        import shutil

        cleared = []
        for id in self.ids():
            files = self.files(id)
            if files.definition.exists():
                continue
            with self._gate(".creating", fcntl.LOCK_EX):
                abandoned = files.free
            # Whoever holds the lock now has held it since before we looked: it cannot become abandoned and whole at once.
            if abandoned and not files.definition.exists():
                self.discard(files)
                cleared.append(id)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder / ".trash"):
                shutil.rmtree(entry.path, ignore_errors=True)
        self.names.tidy()
        return cleared

    def references(self) -> set[str]:
        """The digests of the images that containers were made from."""
        return {definition["spec"]["image"] for _, definition in self.all()}

    def volume_users(self) -> dict[str, list[str]]:
        """volume -> names of the containers that mount it."""
        users: dict[str, list[str]] = {}
        for _, definition in self.all():
            spec = definition["spec"]
            used = {mount["source"] for mount in spec["mounts"] if mount["type"] == "volume"}
            for volume in used | set(definition["anonymous"].values()):
                users.setdefault(volume, []).append(spec["name"])
        return users
