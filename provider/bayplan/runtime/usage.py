"""What the runtime's part of a root takes on disk, and giving back what nobody uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import BayplanError
from bayplan.oci.store import tree_size
from bayplan.records import dataclass
from bayplan.runtime.container import State

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """``writable`` is what the container wrote into its own layer, ``logs`` its output; bytes."""

    id: str
    name: str
    state: State
    writable: int
    logs: int


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    """``users`` are the names of the containers that mount it."""

    name: str
    size: int
    users: tuple[str, ...]
    anonymous: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes by object. ``other`` is what belongs to none of them: debris, names, locks, network definitions."""

    containers: tuple[ContainerUsage, ...]
    volumes: tuple[VolumeUsage, ...]
    other: int

    @property
    def total(self) -> int:
        containers = sum(each.writable + each.logs for each in self.containers)
        return containers + sum(each.size for each in self.volumes) + self.other


@dataclass(frozen=True, slots=True)
class Pruned:
    """Names of what was removed, and the bytes that it took."""

    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    bytes: int = 0


def _size(path: Path) -> int:
    return tree_size(path) if path.exists() else 0


def measure(runtime: Runtime) -> Usage:
    """Every byte below ``containers``, ``volumes`` and ``networks``, by whose it is."""
    users = runtime.definitions.volume_users()
    containers = []
    for container in runtime.list():
        files = runtime.definitions.files(container.id)
        logs = sum(_size(path) for path in files.directory.glob("ctr.log*"))
        containers.append(
            ContainerUsage(container.id, container.name, container.state, _size(files.directory) - logs, logs)
        )
    volumes = [
        VolumeUsage(each.name, _size(each.path.parent), tuple(sorted(users.get(each.name, ()))), each.anonymous)
        for each in runtime.volumes.list()
    ]
    total = sum(_size(runtime.root.path / name) for name in ("containers", "volumes", "networks"))
    known = sum(each.writable + each.logs for each in containers) + sum(each.size for each in volumes)
    return Usage(tuple(containers), tuple(volumes), max(0, total - known))


def prune(runtime: Runtime, *, containers: bool, volumes: bool) -> Pruned:
    """Remove containers that were stopped or never started, and volumes without users: anonymous ones always, named
    ones with ``volumes``. What somebody begins to use meanwhile is left."""
    runtime.recover()
    before = measure(runtime)
    gone: list[str] = []
    if containers:
        for container in runtime.list():
            if container.state in (State.EXITED, State.CREATED) and _removed(runtime, container.id):
                gone.append(container.name)
    emptied: list[str] = []
    for volume in runtime.volumes.list():
        users = runtime.definitions.volume_users()
        if (volume.anonymous or volumes) and not users.get(volume.name):
            runtime.volumes.remove(volume.name, users)
            emptied.append(volume.name)
    return Pruned(tuple(gone), tuple(emptied), max(0, before.total - measure(runtime).total))


def _removed(runtime: Runtime, id: str) -> bool:
    """False when it was started, or removed by somebody else, in the meantime."""
    try:
        runtime.remove(id)
    except BayplanError as error:
        if error.code in ("container-running", "no-such-container", "container-busy"):
            return False
        raise
    return True
