"""Make the world what the definitions say, or carry out a saved plan exactly.

Asks on a terminal; elsewhere it needs --yes. A saved plan needs neither: it was looked at when it was made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bayplan.cli.options import add_definition, add_execution, add_scope, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", type=Path, metavar="PLAN", help="a plan saved by 'bayplan plan --out'")
    add_definition(parser)
    add_scope(parser)
    add_execution(parser)


def run(arguments: argparse.Namespace) -> int:
    from bayplan.cli.execution import carry_out, carry_out_saved

    engine = make_engine(arguments)
    if arguments.plan is not None:
        return carry_out_saved(engine, arguments)
    definitions = engine.define(load_stack(arguments))
    engine.mend(definitions)
    return carry_out(
        engine,
        lambda: engine.plan(definitions, only=arguments.target, replace_=arguments.replace),
        arguments,
        verb="apply",
        out=sys.stdout,
    )
