"""Say what changed outside since the last apply. Exits with 2 when something did."""

from __future__ import annotations

import argparse
import sys

from bayplan.cli.options import add_definition, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    add_definition(parser)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.engine import drift

    engine = make_engine(arguments)
    definitions = engine.define(load_stack(arguments))
    found = drift(engine.plan(definitions))
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"drift": [one.as_dict() for one in found], "stack": definitions.stack})
    elif not found:
        sys.stdout.write(f"{definitions.stack}: nothing changed outside\n")
    else:
        sys.stdout.write(f"{definitions.stack}: {len(found)} changed outside\n")
        width = max(len(one.address) for one in found)
        for one in found:
            sys.stdout.write(f"  {one.address:<{width}}  {one.what}\n")
    return 2 if found else 0
