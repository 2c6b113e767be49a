"""Adopt a container, image, repository, network or volume that exists under an address of the stack.

The resource must stand in the definitions; the next plan compares the two field by field.
"""

from __future__ import annotations

import argparse
import sys

from bayplan.cli.options import add_definition, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", help="the resource, as declared: Container.web")
    parser.add_argument("name", help="the object's name on its host or in its registry, or its id")
    add_definition(parser)
    parser.add_argument("--lock-timeout", type=float, default=60.0, metavar="SECONDS", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.engine import import_object

    engine = make_engine(arguments)
    row = import_object(engine, engine.define(load_stack(arguments)), arguments.address, arguments.name)
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"imported": {"address": row.address, "kind": row.kind, "id": row.id}})
    else:
        sys.stdout.write(f"{row.address} is now {row.id}; 'bayplan plan' compares it with the definition\n")
    return 0
