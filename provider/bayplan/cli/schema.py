"""Print the schema of a kind, of stack files (for editors), or of an output document."""

from __future__ import annotations

import argparse
import sys

from bayplan.errors import BayplanError, nearest


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="container, image, ..., stack, output/plan, ...; without: the list")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> int:
    from bayplan.kinds.files import schema_names, schema_text

    names = schema_names()
    if arguments.name is None:
        if arguments.json:
            from bayplan.cli.render import print_json

            print_json({"schemas": names})
        else:
            sys.stdout.writelines(f"{name}\n" for name in names)
        return 0
    name = arguments.name.lower()
    if name not in names:
        close = nearest(name, names)
        hint = f"did you mean '{close}'?" if close else "'bayplan schema' lists them"
        raise BayplanError("unknown-schema", f"there is no schema '{arguments.name}'", hint=hint)
    sys.stdout.write(schema_text(name))
    return 0
