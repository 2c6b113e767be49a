"""One root: the folder that holds everything a host keeps, and the hash that tells it from other roots.

Every name in the kernel carries :attr:`Root.hash`, so that two roots on one machine never meet. What must be gone after a
reboot, and what holds values that no disk may see, lies on tmpfs under :attr:`Root.run_dir`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bayplan.errors import BayplanError

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
        return hashlib.blake2b(os.path.realpath(self.path).encode(), digest_size=4).hexdigest()

    @cached_property
    def run_dir(self) -> Path:
        """``/run/bayplan/<hash>``, or below ``XDG_RUNTIME_DIR`` for an ordinary user."""
        if os.geteuid() == 0:
            return _RUN / self.hash
        return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}") / "bayplan" / self.hash

    def ensure(self) -> Root:
        """Make the folders: the root 0711 (containers' users pass through it), the run folder 0700. Idempotent.

        Raises BayplanError ``root-unusable``.
        """
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.run_dir.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.run_dir.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise BayplanError(
                "root-unusable",
                f"the root {self.path} cannot be used: {error.strerror}",
                hint="run as root, or give another folder with --root or BAYPLAN_ROOT",
            ) from error
        return self
