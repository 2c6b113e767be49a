"""Files and locks of the network core: who writes what, where, and how durably.

- ``run_dir/net/state.json``: the :class:`~.model.State`, under the root's lock ``run_dir/net/lock``. Atomic renames on
  tmpfs; no fsync, for after a power cut the kernel's side is gone too.
- ``root/networks/NAME.json``: definitions, fsynced with their directory before they count.
- ``RUN/subnets.json`` and ``RUN/ports.json``'s locks beside every root's run_dir: what is shared by all roots of the
  machine (:func:`machine_lock`).

Locks are flock on files: they die with their process, and go with the folder of an unused root
(:mod:`bayplan.runtime.rundir`). Waiting for one is bounded, and the error names nobody because a holder that lives ends
within milliseconds. Order: a root's lock first, then a machine's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bayplan.errors import BayplanError
from bayplan.runtime.rundir import locked_file, make_run

from .model import Network, RootDir, State

_WAIT = 60.0  # seconds
_TRIES = 100
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,126}\Z")
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,126}\Z")
_RESERVED = frozenset({"host", "none", "default", "container"})


def check_network_name(name: str) -> None:
    """Docker's rule for names; raises ``bad-network-name``."""
    if name in _RESERVED:
        raise BayplanError("bad-network-name", f"{name!r} is not a name for a network: it has a meaning of its own")
    if not _NAME.match(name):
        raise BayplanError(
            "bad-network-name",
            f"{name!r} is not a name for a network",
            hint="letters, digits, '_', '.' and '-', first a letter or digit, at most 127 characters",
        )


def check_container_id(container_id: str) -> None:
    """An id becomes a file name and a word in a DNS file: it has to look like one. Raises ``bad-container-id``."""
    if not _ID.match(container_id):
        raise BayplanError("bad-container-id", f"{container_id!r} is not the id of a container")


@contextlib.contextmanager
def locked(path: Path, make: Callable[[], object]) -> Iterator[None]:
    """Hold ``path`` (made when missing, in the folders that ``make()`` makes) exclusively; raises ``network-lock`` when it
    stays taken for a minute."""
    deadline, pause = time.monotonic() + _WAIT, 0.0005
    while (descriptor := locked_file(path, make, wait=False)) is None:
        if time.monotonic() > deadline:
            raise BayplanError(
                "network-lock",
                f"another process has held {path} for {_WAIT:.0f} s",
                hint=f"`fuser {path}` names it",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    try:
        yield
    finally:
        os.close(descriptor)


def machine_lock(root: RootDir, what: str) -> contextlib.AbstractContextManager[None]:
    """The lock ``what`` that all roots of this machine share (``/run/bayplan/WHAT.lock``)."""
    return locked(
        root.run_dir.parent / f"{what}.lock", lambda: root.run_dir.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    )


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace ``path`` by ``text`` in one step; with ``durable`` it also survives a power cut."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        with fresh.open("w") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Records:
    """The files of one root."""

    def __init__(self, root: RootDir) -> None:
        self.root = root
        self.run = root.run_dir / "net"
        self.namespaces = self.run / "ns"
        self.names = self.run / "dns"
        self.definitions = root.path / "networks"
        self._state = self.run / "state.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[State]:
        """The root's lock, with the state as it stands under it."""
        with locked(self.run / "lock", self._make_folders):
            yield self.load()

    def _make_folders(self) -> None:
        if self.namespaces.is_dir():
            return
        for _ in range(_TRIES):
            make_run(self.root)
            with contextlib.suppress(FileNotFoundError):  # somebody cleared the unused folder in this instant
                for folder in (self.run, self.names, self.namespaces):
                    folder.mkdir(mode=0o700, exist_ok=True)
                return

    def load(self) -> State:
        """The state without the lock: for those who only look (a rename makes it whole at any time)."""
        try:
            text = self._state.read_text()
        except FileNotFoundError:
            return State()
        return State.from_json(json.loads(text))

    def save(self, state: State) -> None:
        write_atomically(self._state, json.dumps(state.to_json()))

    def forget(self) -> None:
        """Nothing of this root is in the kernel any more: nothing needs to be told about it."""
        self._state.unlink(missing_ok=True)

    def namespace(self, container_id: str) -> Path:
        return self.namespaces / container_id

    # -- definitions ---------------------------------------------------------------------------------------------

    def definition(self, name: str) -> Network | None:
        try:
            return Network.from_json(json.loads((self.definitions / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def define(self, network: Network) -> None:
        self.definitions.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(network.to_json(), indent=1)
        write_atomically(self.definitions / f"{network.name}.json", text, durable=True)

    def undefine(self, name: str) -> None:
        (self.definitions / f"{name}.json").unlink(missing_ok=True)
        sync_folder(self.definitions)

    def all_definitions(self) -> list[Network]:
        """Every defined network, by name."""
        if not self.definitions.is_dir():
            return []
        files = sorted(self.definitions.glob("[!.]*.json"))
        return [found for found in (self.definition(file.name.removesuffix(".json")) for file in files) if found]
