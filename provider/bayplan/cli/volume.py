"""Volumes of this root, by hand: folders with a name, which outlive containers."""

from __future__ import annotations

import argparse
import secrets
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.container_options import pairs
from bayplan.cli.options import add_places, runtime_of
from bayplan.errors import BayplanError, nearest

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime
    from bayplan.runtime.volumes import Volume


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("list", "the volumes"),
        ("create", "make an empty volume"),
        ("inspect", "everything about one volume, with its size and users"),
        ("rm", "remove volumes that no container mounts, with what is in them"),
        ("prune", "remove volumes that were made for one container and have none; with --all, named ones too"),
    ):
        aliases = {"list": ("ls",), "rm": ("remove",)}.get(name, ())
        verb = verbs.add_parser(name, help=text, description=text, aliases=aliases, allow_abbrev=False)
        verb.set_defaults(verb=name)
        add_places(verb)
        if name == "create":
            verb.add_argument("name", nargs="?", metavar="NAME", help="default: a random one")
            verb.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label (repeatable)")
        elif name == "inspect":
            verb.add_argument("volume", metavar="VOLUME")
        elif name == "rm":
            verb.add_argument("volumes", nargs="+", metavar="VOLUME")
        elif name == "prune":
            verb.add_argument("-a", "--all", action="store_true", help="named volumes, too")
            verb.add_argument("-y", "--yes", "--force", action="store_true", dest="yes", help="do not ask")
        elif name == "list":
            verb.add_argument("-q", "--quiet", action="store_true", help="names only")


def run(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    result: int = globals()[f"_{arguments.verb}"](arguments, runtime)
    return result


def entry(one: Volume, users: list[str]) -> dict[str, Any]:
    """A volume in a list (``schemas/output/volumes.schema.json``)."""
    return {
        "name": one.name,
        "path": str(one.path),
        "anonymous": one.anonymous,
        "containers": sorted(users),
        "created": show.stamp(one.created),
        "labels": dict(one.labels),
    }


def _list(arguments: argparse.Namespace, runtime: Runtime) -> int:
    users = runtime.definitions.volume_users()
    found = runtime.volumes.list()
    if arguments.json:
        show.document({"volumes": [entry(one, users.get(one.name, [])) for one in found]})
    elif arguments.quiet:
        for one in found:
            show.say(one.name)
    else:
        rows = (
            (
                one.name[:12] if one.anonymous else one.name,
                "anonymous" if one.anonymous else "named",
                ", ".join(sorted(users.get(one.name, ()))),
                show.ago(one.created),
            )
            for one in found
        )
        show.table(("NAME", "KIND", "CONTAINERS", "CREATED"), rows)
    return 0


def _create(arguments: argparse.Namespace, runtime: Runtime) -> int:
    runtime.root.ensure()
    made = runtime.volumes.create(arguments.name or secrets.token_hex(16), pairs(arguments.label, "--label"))
    if arguments.json:
        show.document(entry(made, []))
    else:
        show.say(made.name)
    return 0


def _inspect(arguments: argparse.Namespace, runtime: Runtime) -> int:
    from bayplan.oci.store import tree_size

    found = runtime.volumes.get(arguments.volume)
    if found is None:
        close = nearest(arguments.volume, [one.name for one in runtime.volumes.list()])
        hint = f"did you mean {close}?" if close else "'bayplan volume list' shows them"
        raise BayplanError("no-such-volume", f"there is no volume {arguments.volume}", hint=hint)
    users = runtime.definitions.volume_users().get(found.name, [])
    show.document({**entry(found, users), "size": tree_size(found.path)})
    return 0


def _rm(arguments: argparse.Namespace, runtime: Runtime) -> int:
    return show.each(arguments, "volumes", arguments.volumes, lambda name: _gone(runtime, name))


def _prune(arguments: argparse.Namespace, runtime: Runtime) -> int:
    from bayplan.cli.pruning import unused_volumes

    found = unused_volumes(runtime, named=arguments.all)
    if found and not show.agreed(arguments, f"{len(found)} volumes with what is in them"):
        return 1
    return show.each(arguments, "volumes", [one.name for one in found], lambda name: _gone(runtime, name))


def _gone(runtime: Runtime, name: str) -> dict[str, Any]:
    runtime.volumes.remove(name, runtime.definitions.volume_users())
    return {"name": name}
