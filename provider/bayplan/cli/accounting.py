"""Every byte under a root, once, by whose it is.

One walk over the root counts what ``du`` counts (blocks of files and folders, hard links once, no other file system),
and each byte falls into exactly one part, so that the sum of the parts is the size of the root. What of it could be given
back is asked from those who know: the store's reachability, containers that do not run, volumes that nobody mounts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bayplan.records import dataclass

if TYPE_CHECKING:
    from bayplan.oci.root import Root

PARTS = (
    "blobs", "layers", "store", "registry", "containers", "logs", "records", "volumes", "build", "state", "other",
)  # fmt: skip
_TOP = {"registry": "registry", "networks": "records", "volumes": "volumes", "build": "build", "state": "state"}
_STORE = {"blobs": "blobs", "layers": "layers"}


@dataclass(frozen=True, slots=True)
class Account:
    """Bytes, objects and reclaimable bytes by part; containers and volumes one by one (as their JSON)."""

    bytes: Mapping[str, int]
    objects: Mapping[str, int]
    free: Mapping[str, int]
    containers: Sequence[Mapping[str, Any]]
    volumes: Sequence[Mapping[str, Any]]


def part_of(path: Sequence[str]) -> str:
    """The part that a path below the root belongs to. Pure."""
    if not path:
        return "other"
    if path[0] == "oci":
        return _STORE.get(path[1], "store") if len(path) > 1 else "store"
    if path[0] == "containers":
        if len(path) < 3 or path[1].startswith("."):
            return "records"
        if path[2].startswith("ctr.log"):
            return "logs"
        return "containers" if path[2] in ("upper", "work", "points") else "records"
    return _TOP.get(path[0], "other")


def walk(top: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every file and folder below ``top`` (itself included) with its bytes on disk; each inode once."""
    info = os.lstat(top)
    device = info.st_dev
    seen: set[int] = set()
    yield (), info.st_blocks * 512
    stack: list[tuple[str, ...]] = [()]
    while stack:
        folder = stack.pop()
        try:
            entries = list(os.scandir(os.path.join(top, *folder)))  # noqa: PTH118  (a hot loop)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed while we walk
        for entry in entries:
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if info.st_dev != device:
                continue
            if info.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if info.st_ino in seen:
                    continue
                seen.add(info.st_ino)
            path = (*folder, entry.name)
            yield path, info.st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                stack.append(path)


def account(root: Root) -> Account:
    """Count. Without any effect, but for what reading a database leaves beside it."""
    sizes = dict.fromkeys(PARTS, 0)
    containers: dict[str, dict[str, int]] = {}
    volumes: dict[str, int] = {}
    if root.path.is_dir():
        for path, size in walk(str(root.path)):
            part = part_of(path)
            sizes[part] += size
            if part in ("containers", "logs"):
                mine = containers.setdefault(path[1], {"containers": 0, "logs": 0})
                mine[part] += size
            elif part == "volumes" and len(path) > 1:
                volumes[path[1]] = volumes.get(path[1], 0) + size
    return _judged(root, sizes, containers, volumes)


def _judged(
    root: Root, sizes: dict[str, int], containers: Mapping[str, Mapping[str, int]], volumes: Mapping[str, int]
) -> Account:
    from bayplan.cli.pruning import stopped, unused_volumes
    from bayplan.oci.store import Store
    from bayplan.runtime.containers import Runtime
    from bayplan.targets.embedded.garbage import usage

    objects, free = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    if not root.path.is_dir():
        return Account(sizes, objects, free, (), ())
    runtime = Runtime(root)
    if (root.path / "oci").is_dir():
        store = usage(root, Store(root))
        objects["blobs"], objects["layers"] = store.blobs, store.layers
        free["blobs"], free["layers"] = (
            min(store.free_bytes, sizes["blobs"]),
            min(store.free_layer_bytes, sizes["layers"]),
        )
    rows = []
    idle = {one.id for one in stopped(runtime)}
    for one in runtime.list():
        mine = containers.get(one.id, {"containers": 0, "logs": 0})
        rows.append(
            {
                "id": one.id,
                "name": one.name,
                "state": one.state.value,
                "bytes": mine["containers"],
                "log_bytes": mine["logs"],
            }
        )
        objects["containers"] += 1
        objects["logs"] += bool(mine["logs"])
        if one.id in idle:
            free["containers"] += mine["containers"]
            free["logs"] += mine["logs"]
    users = runtime.definitions.volume_users()
    unused = {one.name for one in unused_volumes(runtime, named=True)}
    kept = [
        {
            "name": one.name,
            "bytes": volumes.get(one.name, 0),
            "containers": sorted(users.get(one.name, ())),
            "anonymous": one.anonymous,
        }
        for one in runtime.volumes.list()
    ]
    objects["volumes"] = len(kept)
    free["volumes"] = sum(volumes.get(name, 0) for name in unused)
    free["build"] = sizes["build"]
    if (root.path / "registry" / "registry.db").exists():
        from bayplan.registry.registry import Registry

        objects["registry"] = len(Registry(root).catalog())
    return Account(sizes, objects, free, tuple(rows), tuple(kept))
