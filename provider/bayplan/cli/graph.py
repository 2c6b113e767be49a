"""Draw the resources and what depends on what: DOT text, or an SVG picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bayplan.cli.options import add_definition, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    add_definition(parser)
    parser.add_argument("--svg", action="store_true", help="an SVG picture instead of DOT")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write to a file (its ending .svg chooses the picture)"
    )


def run(arguments: argparse.Namespace) -> int:
    from bayplan.plan import graph

    engine = make_engine(arguments)
    stack = load_stack(arguments)
    drawn = graph.of_stack(stack.name, engine.linked(engine.define(stack)))
    picture = arguments.svg or (arguments.out is not None and arguments.out.suffix == ".svg")
    text = graph.svg(drawn) if picture else graph.dot(drawn)
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"edges": [{"from": one, "to": other} for one, other in drawn.edges], "stack": stack.name})
    elif arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0
