"""One root: the folder that holds everything a host keeps, and the hash that tells it from other roots.

Every name in the kernel carries :attr:`Root.hash`, so that two roots on one machine never meet. What must be gone after a
reboot, and what holds values that no disk may see, lies on tmpfs under :attr:`Root.run_dir`.
"""

from __future__ import annotations

import contextlib
import os
import stat
from _blake2 import blake2b  # hashlib has the same one, and loads OpenSSL first
from functools import cached_property
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.records import dataclass

_MACHINE = Path("/var/lib/bayplan")
_RUN = Path("/run/bayplan")


@dataclass(frozen=True)
class Root:
    """``path`` is absolute; two paths to one folder are one root (the hash is taken of the real path)."""

    path: Path

    @classmethod
    def at(cls, path: Path | str) -> Root:
        """The root at ``path``, made absolute; nothing is created."""
        return cls(Path(os.path.realpath(path)))

    @classmethod
    def default(cls) -> Root:
        """``BAYPLAN_ROOT``, /var/lib/bayplan, or the XDG data folder of an ordinary user."""
        given = os.environ.get("BAYPLAN_ROOT")
        if given:
            return cls.at(given)
        if os.geteuid() == 0:
            return cls.at(_MACHINE)
        return cls.at(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "bayplan")

    @cached_property
    def hash(self) -> str:
        """Eight hexadecimal digits of the real path (BLAKE2b)."""
        return blake2b(os.path.realpath(self.path).encode(), digest_size=4).hexdigest()

    @cached_property
    def run_dir(self) -> Path:
        """``/run/bayplan/<hash>``, or below ``XDG_RUNTIME_DIR`` for an ordinary user."""
        if os.geteuid() == 0:
            return _RUN / self.hash
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}") / "bayplan" / self.hash

    def ensure(self) -> Root:
        """Make the folders: the root 0711 (containers' users pass through it), the run folder 0700, whatever the umask.

        Idempotent; what is there already is left as it is, but for a run folder that is open to others: that is refused.
        Raises BayplanError ``root-unusable``.
        """
        try:
            _make(self.path, 0o711)
            _make(self.run_dir.parent, 0o711)
            info = _present(self.run_dir, 0o700)
        except OSError as error:
            raise BayplanError(
                "root-unusable",
                f"the root {self.path} cannot be used: {error.strerror}",
                hint="run as root, or give another folder with --root or BAYPLAN_ROOT",
            ) from error
        if not stat.S_ISDIR(info.st_mode) or info.st_mode & 0o077 or info.st_uid != os.geteuid():
            # Bundles with secrets lie here; a folder that somebody else prepared must not get them.
            raise BayplanError(
                "root-unusable", f"{self.run_dir} is not private to this user", hint="remove it, or make it 0700"
            )
        return self


def _make(folder: Path, mode: int) -> None:
    """A folder of exactly this mode, unless it is there."""
    try:
        folder.mkdir(mode=mode, parents=True)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(mode)


def _present(folder: Path, mode: int) -> os.stat_result:
    """A folder made as :func:`_make` does, and what it is; somebody may be clearing it, unused as it is, meanwhile."""
    while True:
        _make(folder, mode)
        with contextlib.suppress(FileNotFoundError):
            return folder.lstat()
