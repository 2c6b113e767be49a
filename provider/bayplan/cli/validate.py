"""Check the definitions and tell every mistake at once. Nothing is read but the files."""

from __future__ import annotations

import argparse
import sys

from bayplan.cli.options import add_definition, load_stack, root_folder


def configure(parser: argparse.ArgumentParser) -> None:
    add_definition(parser)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.engine import define

    stack = load_stack(arguments)
    define(stack, root_folder(arguments))
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"stack": stack.name, "resources": sorted(stack.resources), "valid": True})
    else:
        count = len(stack.resources)
        sys.stdout.write(f"{stack.name}: {count} resource{'' if count == 1 else 's'}, no mistakes\n")
    return 0
