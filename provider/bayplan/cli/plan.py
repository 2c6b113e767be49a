"""Show exactly what an apply would do. Reads only; nothing changes anywhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bayplan.cli.options import add_definition, add_scope, load_stack, make_engine


def configure(parser: argparse.ArgumentParser) -> None:
    add_definition(parser)
    add_scope(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="save the plan; 'bayplan apply FILE' carries out exactly it"
    )
    parser.add_argument("--detailed-exitcode", action="store_true", help="exit with 2 when there is something to do")
    parser.add_argument("--destroy", action="store_true", help="plan the removal of the whole stack")
    parser.add_argument("-v", "--verbose", action="store_true", help="list the changed fields below each operation")


def run(arguments: argparse.Namespace) -> int:
    from bayplan import kinds
    from bayplan.plan import notation

    engine = make_engine(arguments)
    planned = engine.plan(
        engine.define(load_stack(arguments)),
        only=arguments.target,
        replace_=arguments.replace,
        destroy=arguments.destroy,
    )
    plan = planned.plan
    if arguments.out:
        from bayplan.cli.saved import save

        save(planned, arguments.out)
    if arguments.json:
        from bayplan.cli.render import print_json
        from bayplan.plan import codec

        print_json(codec.as_output(plan))
    else:
        from bayplan.cli.colours import colour

        sys.stdout.write(
            colour(notation.long(plan, kinds.load()) if arguments.verbose else notation.short(plan)) + "\n"
        )
    if plan.problems:
        return 1
    return 2 if arguments.detailed_exitcode and not plan.empty else 0
