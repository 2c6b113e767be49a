"""Networks of this root, by hand. Containers on a network of their own find each other by name; the default one has none."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bayplan.cli import show
from bayplan.cli.container_options import pairs
from bayplan.cli.options import add_places, runtime_of

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime
    from bayplan.runtime.net import Network


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("list", "the networks"),
        ("create", "define a network; its bridge stands only while a container uses it"),
        ("inspect", "everything about one network, with its containers"),
        ("rm", "remove networks that no container is on"),
        ("prune", "remove networks that no container names and no stack owns"),
    ):
        aliases = {"list": ("ls",), "rm": ("remove",)}.get(name, ())
        verb = verbs.add_parser(name, help=text, description=text, aliases=aliases, allow_abbrev=False)
        verb.set_defaults(verb=name)
        add_places(verb)
        if name == "create":
            verb.add_argument("name", metavar="NAME")
            verb.add_argument("--internal", action="store_true", help="no way to the outside")
            verb.add_argument("--subnet", metavar="CIDR", help="its addresses (default: a free range is chosen)")
            verb.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="a label (repeatable)")
        elif name == "inspect":
            verb.add_argument("network", metavar="NETWORK")
        elif name == "rm":
            verb.add_argument("networks", nargs="+", metavar="NETWORK")
        elif name == "prune":
            verb.add_argument("-y", "--yes", "--force", action="store_true", dest="yes", help="do not ask")
        elif name == "list":
            verb.add_argument("-q", "--quiet", action="store_true", help="names only")


def run(arguments: argparse.Namespace) -> int:
    runtime = runtime_of(arguments)
    result: int = globals()[f"_{arguments.verb}"](arguments, runtime)
    return result


def entry(one: Network) -> dict[str, Any]:
    """A network in a list (``schemas/output/networks.schema.json``)."""
    return {
        "id": one.id,
        "name": one.name,
        "subnet": str(one.subnet),
        "gateway": str(one.gateway),
        "internal": one.internal,
        "names": one.has_names,
        "bridge": one.bridge,
        "created": show.stamp(one.created),
        "labels": dict(one.labels),
    }


def _list(arguments: argparse.Namespace, runtime: Runtime) -> int:
    found = runtime.networks.list()
    if arguments.json:
        show.document({"networks": [entry(one) for one in found]})
    elif arguments.quiet:
        for one in found:
            show.say(one.name)
    else:
        users = _users(runtime)
        rows = (
            (
                one.name,
                str(one.subnet),
                "internal" if one.internal else "",
                str(len(users.get(one.name, ()))),
                show.ago(one.created),
            )
            for one in found
        )
        show.table(("NAME", "SUBNET", "KIND", "CONTAINERS", "CREATED"), rows)
    return 0


def _users(runtime: Runtime) -> dict[str, list[dict[str, str]]]:
    """network -> the containers that are on it now, or will be when they start."""
    users: dict[str, list[dict[str, str]]] = {}
    for one in runtime.list():
        if one.spec.network_mode != "bridge":
            continue
        for name in [each.network for each in one.spec.networks] or ["bridge"]:
            address = one.status.addresses.get(name, "") if one.running else ""
            users.setdefault(name, []).append({"id": one.id, "name": one.name, "address": address})
    return users


def _create(arguments: argparse.Namespace, runtime: Runtime) -> int:
    runtime.root.ensure()
    labels = pairs(arguments.label, "--label")
    made = runtime.networks.create(arguments.name, labels=labels, internal=arguments.internal, subnet=arguments.subnet)
    if arguments.json:
        show.document(entry(made))
    else:
        show.say(made.name)
    return 0


def _inspect(arguments: argparse.Namespace, runtime: Runtime) -> int:
    found = runtime.networks.get(arguments.network)
    if found is None:
        raise unknown(arguments.network, [one.name for one in runtime.networks.list()])
    show.document({**entry(found), "containers": _users(runtime).get(found.name, [])})
    return 0


def unknown(name: str, there: list[str]) -> Exception:
    """The error for a network that is not there."""
    from bayplan.errors import BayplanError, nearest

    close = nearest(name, there)
    hint = f"did you mean {close}?" if close else "'bayplan network list' shows them"
    return BayplanError("unknown-network", f"there is no network {name}", hint=hint)


def _rm(arguments: argparse.Namespace, runtime: Runtime) -> int:
    return show.each(arguments, "networks", arguments.networks, lambda name: _gone(runtime, name))


def _prune(arguments: argparse.Namespace, runtime: Runtime) -> int:
    from bayplan.cli.pruning import unused_networks

    found = unused_networks(runtime)
    if found and not show.agreed(arguments, f"{len(found)} networks"):
        return 1
    return show.each(arguments, "networks", [one.name for one in found], lambda name: _gone(runtime, name))


def _gone(runtime: Runtime, name: str) -> dict[str, Any]:
    runtime.networks.remove(name)
    return {"name": name}
