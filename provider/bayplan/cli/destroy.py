"""Remove what the stack made, and only that, in the reverse order of its dependencies."""

from __future__ import annotations

import argparse
import sys

from bayplan.cli.options import add_definition, add_execution, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    add_definition(parser)
    parser.add_argument(
        "--target", action="append", default=[], metavar="ADDRESS", help="only this resource (repeatable)"
    )
    add_execution(parser)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.cli.execution import carry_out

    engine = make_engine(arguments)
    definitions = engine.define(load_stack(arguments))
    engine.mend(definitions)
    return carry_out(
        engine,
        lambda: engine.plan(definitions, only=arguments.target, destroy=True),
        arguments,
        verb="destroy",
        out=sys.stdout,
    )
