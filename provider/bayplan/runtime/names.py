"""Names of containers: one owner each, taken in one step.

``containers/.names/<name>`` is a small file that holds the owner's id, put there whole (written beside, then
renamed). Whoever changes it holds ``containers/.naming`` for that moment. A claim counts only while its owner exists
and bears the name, so a claim whose process died is taken over by the next that wants it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator

from bayplan.errors import BayplanError
from bayplan.runtime.record import Files, Phase, RootPlace, read_json

_FORM = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


def check_name(name: str) -> None:
    """Raises BayplanError ``bad-container-name``. The form is Docker's."""
    if not _FORM.fullmatch(name):
        raise BayplanError(
            "bad-container-name",
            f"{name!r} is no container name",
            hint="letters, digits, '_', '.' and '-'; a letter or digit first; at most 128 characters",
        )


class ContainerNames:
    """The names of one root."""

    def __init__(self, root: RootPlace) -> None:
        self._root = root
        self._folder = root.path / "containers" / ".names"

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._folder.parent / ".naming", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _put(self, name: str, id: str) -> None:
        draft = self._folder / ".draft"
        draft.write_text(id, encoding="ascii")
        draft.replace(self._folder / name)

    def claim(self, name: str, id: str) -> None:
        """Take ``name`` for ``id``. Raises BayplanError ``name-taken`` naming the holder."""
        check_name(name)
        with self._changing():
            holder = self.owner(name)
            if holder == id:
                return
            if holder and not self._void(name, holder):
                raise BayplanError(
                    "name-taken",
                    f"the name {name} belongs to the container {holder[:12]}",
                    hint=f"remove it (bayplan container rm {name}) or choose another name",
                )
            self._put(name, id)

    def give(self, name: str, id: str) -> None:
        """Make ``name`` belong to ``id``, whoever has it (both containers are locked by the caller)."""
        with self._changing():
            self._put(name, id)

    def release(self, name: str, id: str) -> None:
        """Give ``name`` back if ``id`` has it."""
        if not name:
            return
        with self._changing():
            if self.owner(name) == id:
                (self._folder / name).unlink()

    def owner(self, name: str) -> str:
        """The id that claimed ``name``, or ``""``."""
        try:
            return (self._folder / name).read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _void(self, name: str, holder: str) -> bool:
        """Whether the claim's owner is gone, died while it was being made, or bears another name."""
        files = Files.of(self._root, holder)
        definition = read_json(files.definition)
        if definition is None:
            return files.free
        if files.status().phase is Phase.REMOVING:
            return files.free
        return definition["spec"]["name"] != name and files.free

    def all(self) -> dict[str, str]:
        """name -> id of every claim."""
        try:
            names = [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return {}
        claims = ((name, self.owner(name)) for name in names)
        return {name: owner for name, owner in claims if owner}

    def tidy(self) -> None:
        """Drop void claims, and what a process that died in the middle left (recovery)."""
        if not self._folder.exists():
            return
        with self._changing():
            for name, holder in self.all().items():
                if self._void(name, holder):
                    (self._folder / name).unlink()
            (self._folder / ".draft").unlink(missing_ok=True)
