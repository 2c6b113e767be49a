"""Names of containers: one owner each, taken in one step.

``containers/.names/<name>`` is a small file that holds the owner's id. It is made whole under another name and then
linked, and link(2) fails when the name is there: of two that want it one gets it. A claim counts only while its owner
exists and bears the name, so a claim whose process died is taken over by the next that wants it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.runtime.record import Files, Phase, RootPlace, read_json

_DRAFT_AGE = 60.0  # seconds after which the draft of a claim is surely nobody's
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

    def claim(self, name: str, id: str) -> None:
        """Take ``name`` for ``id``. Raises BayplanError ``name-taken`` naming the holder."""
        check_name(name)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._folder / f".{secrets.token_hex(8)}"
        draft.write_text(id, encoding="ascii")
        try:
            for _ in range(3):
                try:
                    os.link(draft, self._folder / name)
                    return
                except FileExistsError:
                    holder = self.owner(name)
                    if holder == id:
                        return
                    if holder and not self._void(name, holder):
                        break
                    self._drop(name, holder)
        finally:
            draft.unlink()
        holder = self.owner(name) or "?"
        raise BayplanError(
            "name-taken",
            f"the name {name} belongs to the container {holder[:12]}",
            hint=f"remove it (bayplan container rm {name}) or choose another name",
        )

    def owner(self, name: str) -> str:
        """The id that claimed ``name``, or ``""``."""
        try:
            return (self._folder / name).read_text(encoding="ascii")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def give(self, name: str, id: str) -> None:
        """Make ``name`` belong to ``id``, whoever has it, in one step (both containers are locked by the caller)."""
        draft = self._folder / f".{secrets.token_hex(8)}"
        draft.write_text(id, encoding="ascii")
        draft.replace(self._folder / name)

    def release(self, name: str, id: str) -> None:
        """Give ``name`` back if ``id`` has it."""
        if self.owner(name) == id:
            self._drop(name, id)

    def _drop(self, name: str, holder: str) -> None:
        """Unlink the claim, but not one that somebody else has made in the meantime."""
        aside = self._folder / f".{secrets.token_hex(8)}"
        try:
            (self._folder / name).rename(aside)
        except FileNotFoundError:
            return
        if aside.read_text(encoding="ascii") != holder:
            with contextlib.suppress(FileExistsError):  # a third one has it now; the claim that we moved away has lost
                os.link(aside, self._folder / name)
        aside.unlink()

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
        out = {}
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return {}
        for entry in entries:
            if not entry.name.startswith("."):
                owner = self.owner(entry.name)
                if owner:
                    out[entry.name] = owner
        return out

    def tidy(self) -> None:
        """Drop void claims and drafts of processes that died (recovery)."""
        for name, holder in self.all().items():
            if self._void(name, holder):
                self._drop(name, holder)
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self._folder):
                if entry.name.startswith(".") and time.time() - entry.stat().st_mtime > _DRAFT_AGE:
                    Path(entry.path).unlink()

    @property
    def folder(self) -> Path:
        return self._folder
