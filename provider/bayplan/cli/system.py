"""What this root takes on disk, byte for byte, and giving back what nothing refers to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.options import add_places, root_of

if TYPE_CHECKING:
    from bayplan.oci.root import Root

_WHAT = {
    "blobs": "layers, configurations and manifests as stored and pushed",
    "layers": "unpacked layers, the lower folders of containers",
    "store": "names of images, drafts, leases",
    "registry": "repositories and tags",
    "containers": "what containers wrote into their own layers",
    "logs": "what containers wrote to their streams",
    "records": "definitions of containers and networks",
    "volumes": "volumes",
    "build": "build cache, cache mounts",
    "state": "the state of stacks",
    "other": "whatever else lies under the root",
}


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    df = verbs.add_parser("df", help="what takes how much space", description="What takes how much space.")
    add_places(df)
    df.add_argument("-v", "--verbose", action="store_true", help="each container, volume and image, too")
    text = "remove what nothing refers to"
    prune = verbs.add_parser("prune", help=text, description=f"{text.capitalize()}. What belongs to a stack stays.")
    add_places(prune)
    prune.add_argument(
        "-a", "--all", action="store_true", help="also names of images that no container uses, and the build cache"
    )
    prune.add_argument("--volumes", action="store_true", help="also named volumes that no container mounts")
    prune.add_argument("-y", "--yes", "-f", "--force", action="store_true", dest="yes", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    return _df(arguments) if arguments.verb == "df" else _prune(arguments)


def _df(arguments: argparse.Namespace) -> int:
    from bayplan.cli.accounting import account

    root = root_of(arguments)
    found = account(root)
    parts: list[dict[str, Any]] = [
        {
            "name": name,
            "what": what,
            "bytes": found.bytes[name],
            "objects": found.objects[name],
            "reclaimable": found.free[name],
        }
        for name, what in _WHAT.items()
    ]
    if arguments.json:
        show.document(
            {
                "parts": parts,
                "root": str(root.path),
                "bytes": sum(found.bytes.values()),
                "reclaimable": sum(found.free.values()),
                "containers": list(found.containers),
                "volumes": list(found.volumes),
            }
        )
        return 0
    rows = [
        (p["name"], show.size(p["bytes"]), show.size(p["reclaimable"]), str(p["objects"]), p["what"]) for p in parts
    ]
    total = ("total", show.size(sum(found.bytes.values())), show.size(sum(found.free.values())), "", str(root.path))
    show.table(("PART", "SIZE", "RECLAIMABLE", "OBJECTS", "WHAT"), [*rows, total])
    if arguments.verbose:
        show.say("")
        show.table(
            ("CONTAINER", "STATE", "WRITTEN", "LOGS"),
            (
                (one["name"], one["state"], show.size(one["bytes"]), show.size(one["log_bytes"]))
                for one in found.containers
            ),
        )
        show.say("")
        show.table(
            ("VOLUME", "SIZE", "CONTAINERS"),
            ((one["name"], show.size(one["bytes"]), ", ".join(one["containers"])) for one in found.volumes),
        )
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from bayplan.cli.accounting import account

    root = root_of(arguments)
    if not root.path.is_dir():
        _tell(arguments, {name: [] for name in ("containers", "networks", "volumes", "images")}, 0)
        return 0
    parts = ["containers that do not run", "networks without containers", "content that nothing refers to"]
    parts += ["unused volumes with what is in them" if arguments.volumes else "volumes left by removed containers"]
    parts += ["names of images that no container uses, the build cache"] if arguments.all else []
    if not show.agreed(arguments, ", ".join(parts)):
        return 1
    before = sum(account(root).bytes.values())
    removed = _remove(root, everything=arguments.all, volumes=arguments.volumes)
    _tell(arguments, removed, max(0, before - sum(account(root).bytes.values())))
    return 0


def _remove(root: Root, *, everything: bool, volumes: bool) -> dict[str, list[str]]:
    from bayplan.cli import pruning
    from bayplan.errors import BayplanError
    from bayplan.oci.names import Names
    from bayplan.oci.reference import ImageName
    from bayplan.oci.store import Store
    from bayplan.runtime.containers import Runtime
    from bayplan.targets.embedded.garbage import collect

    runtime, store, names = Runtime(root), Store(root), Names(root)
    runtime.recover()
    gone: dict[str, list[str]] = {"containers": [], "networks": [], "volumes": [], "images": []}

    def removing(kind: str, name: str, work: Any) -> None:
        """What somebody began to use meanwhile, or removed, is left to them."""
        try:
            work()
        except BayplanError as error:
            if error.code not in pruning.MEANWHILE:
                raise
        else:
            gone[kind].append(name)

    for container in pruning.stopped(runtime):
        removing("containers", container.name, lambda id=container.id: runtime.remove(id))
    for network in pruning.unused_networks(runtime):
        removing("networks", network.name, lambda name=network.name: runtime.networks.remove(name))
    for volume in pruning.unused_volumes(runtime, named=volumes):
        users = runtime.definitions.volume_users()
        removing("volumes", volume.name, lambda name=volume.name, users=users: runtime.volumes.remove(name, users))
    if everything:
        from bayplan.build.cache import BuildCache
        from bayplan.build.mounting import CacheMounts

        for image in pruning.unused_names(names, runtime, store):
            names.remove(image.name)
            gone["images"].append(ImageName.parse(image.name).familiar())
        BuildCache(root.path / "build").prune(keep_seconds=0)
        CacheMounts(root.path / "build" / "mounts").prune(0)
    if (root.path / "registry" / "registry.db").exists():
        from bayplan.registry.registry import Registry

        Registry(root, store=store).expire()
    collect(root, store)
    return gone


def _tell(arguments: argparse.Namespace, removed: dict[str, list[str]], freed: int) -> None:
    if arguments.json:
        show.document({"removed": removed, "bytes": freed})
        return
    for kind, names in removed.items():
        for name in names:
            show.say(f"removed {kind.removesuffix('s')} {name}")
    show.say(f"freed {show.size(freed)}")
