"""Forget the credentials of a registry in docker's configuration (and in the helper that it names)."""

from __future__ import annotations

import argparse

from bayplan.cli import show
from bayplan.cli.login import registry_name
from bayplan.cli.options import add_places


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "registry", nargs="?", default="docker.io", metavar="REGISTRY", help="HOST[:PORT] (default docker.io)"
    )
    add_places(parser)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.registry.credentials import Keychain

    registry = registry_name(arguments.registry)
    known = Keychain().logout(registry)
    if arguments.json:
        show.document({"registry": registry, "removed": known})
    else:
        show.say(f"logged out of {registry}" if known else f"there was no login to {registry}")
    return 0
