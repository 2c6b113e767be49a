"""What is written down about containers, and where: the truth that no process holds.

Under the root, for ever: ``containers/<id>/`` with ``container.json`` (what it was told to be; its appearance is the
moment at which the container exists), ``status.json`` (how far its life has come), ``lock``, the log and the writable
layer; and ``containers/.names/<name>``, whose content is the id: a name is taken by linking the file, so two can
never have it.

Under ``run_dir``, until the next boot: ``live/<id>/``, the bundle of a container that runs, with its environment in
clear; tmpfs, mode 0700. ``live/.runtime`` is the OCI runtime's own state.

``status.json`` says what was *intended and last seen*; whether a process runs is asked from the kernel every time
(:mod:`.kernel`). A phase of ``starting`` or ``removing`` whose lock is free means that its process died: whoever sees
it finishes or undoes it. The lock is an ``flock`` held for one transition only, so it dies with its process.

Imported by the exit hook: standard library only, and little of it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from bayplan.errors import BayplanError
from bayplan.records import asdict, dataclass, field, replace
from bayplan.runtime.kernel import Process


class RootPlace(Protocol):
    """What is used of :class:`bayplan.oci.root.Root`."""

    @property
    def path(self) -> Path: ...
    @property
    def hash(self) -> str: ...
    @property
    def run_dir(self) -> Path: ...


class Phase(StrEnum):
    """How far a container's life has come, as intended; see the module's text for the two that need their lock."""

    CREATED = "created"
    STARTING = "starting"
    STARTED = "started"
    EXITED = "exited"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class Status:
    """``status.json``. Times are seconds since 1970, 0 for never; process numbers are void in another boot.

    ``run`` counts the launches, so that the exit hook of an earlier launch knows that it has been overtaken.
    ``stopped`` says that the user wanted it to end. ``restart_at`` is when the hook ``hook`` will start it again (0:
    it will not), ``delay`` the last pause in seconds, ``restarts`` how often its policy has started it.
    """

    phase: Phase = Phase.CREATED
    run: int = 0
    boot: str = ""
    init: Process | None = None
    monitor: Process | None = None
    hook: Process | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int | None = None
    oom: bool = False
    error: str = ""
    stopped: bool = False
    restarts: int = 0
    delay: float = 0.0
    restart_at: float = 0.0
    addresses: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[int, int, str, str], ...] = ()  # container, host, host_ip, protocol, as published

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Status:
        values = dict(data)
        values["phase"] = Phase(values["phase"])
        for name in ("init", "monitor", "hook"):
            values[name] = None if values[name] is None else Process(**values[name])
        values["ports"] = tuple((p[0], p[1], p[2], p[3]) for p in values["ports"])
        return cls(**values)


def read_json(path: Path) -> dict[str, Any] | None:
    """The document, or None when it is not there or was cut short by a loss of power."""
    try:
        loaded = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None


def write_json(path: Path, data: Mapping[str, Any], *, durable: bool = False) -> None:
    """Replace the document in one step; ``durable`` also survives a loss of power (fsync of file and directory)."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, json.dumps(data, separators=(",", ":")).encode())
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.replace(path)
    if durable:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@dataclass(frozen=True, slots=True)
class Files:
    """Every path of one container. ``directory`` is kept, ``live`` ends with the boot."""

    id: str
    directory: Path
    live: Path
    runtime_root: Path
    cgroup: str

    @classmethod
    def of(cls, root: RootPlace, id: str) -> Files:
        live = root.run_dir / "live"
        return cls(id, root.path / "containers" / id, live / id, live / ".runtime", f"/bayplan-{root.hash}/{id}")

    @property
    def definition(self) -> Path:
        return self.directory / "container.json"

    @property
    def status_file(self) -> Path:
        return self.directory / "status.json"

    @property
    def lock_file(self) -> Path:
        return self.directory / "lock"

    @property
    def log(self) -> Path:
        return self.directory / "ctr.log"

    @property
    def health(self) -> Path:
        return self.directory / "health.json"

    @property
    def rootfs(self) -> Path:
        return self.live / "rootfs"

    @property
    def config(self) -> Path:
        return self.live / "config.json"

    @property
    def exit_file(self) -> Path:
        """Written by the monitor: the exit code as text. A new one per launch."""
        return self.live / "exit"

    def status(self) -> Status:
        data = read_json(self.status_file)
        return Status() if data is None else Status.from_json(data)

    def write_status(self, status: Status) -> Status:
        write_json(self.status_file, status.to_json())
        return status

    def change_status(self, status: Status, **changes: Any) -> Status:
        return self.write_status(replace(status, **changes))

    def clear_drafts(self) -> None:
        """Remove drafts of documents whose writers died. Lock held."""
        for path in self.directory.glob(".*.json.*"):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, timeout: float = 30.0) -> Iterator[None]:
        """Hold the container for one transition.

        Raises BayplanError ``no-such-container`` when it is gone, ``container-busy`` after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        pause = 0.001
        while True:
            descriptor = self._try_lock()
            if descriptor is not None:
                break
            if time.monotonic() >= deadline:
                raise BayplanError("container-busy", f"another command is at work on the container {self.id[:12]}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        try:
            yield
        finally:
            os.close(descriptor)

    def _try_lock(self) -> int | None:
        """A descriptor that holds the lock, or None when somebody else does."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            raise gone(self.id) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The directory may have been removed, or moved away to be deleted, while we came.
            same = os.path.samestat(os.fstat(descriptor), self.lock_file.stat())
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise gone(self.id) from None
            raise
        if not same:
            os.close(descriptor)
            raise gone(self.id)
        return descriptor

    @property
    def free(self) -> bool:
        """Whether nobody is at work on it now (the lock could be had this instant)."""
        try:
            descriptor = self._try_lock()
        except BayplanError:
            return True
        if descriptor is None:
            return False
        os.close(descriptor)
        return True


def gone(id: str) -> BayplanError:
    return BayplanError(
        "no-such-container", f"there is no container {id[:12]}", hint="bayplan container list --all shows them"
    )
