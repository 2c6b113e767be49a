"""Print the outputs of the last apply: all of them, or the value of one."""

from __future__ import annotations

import argparse
import sys

from bayplan.cli.options import add_definition, load_stack, make_engine
from bayplan.errors import BayplanError, nearest


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one output, printed bare")
    add_definition(parser)


def run(arguments: argparse.Namespace) -> int:
    stack = load_stack(arguments)
    outputs = make_engine(arguments).state(stack.name).outputs()
    if arguments.name is not None:
        if arguments.name not in outputs:
            close = nearest(arguments.name, list(outputs))
            raise BayplanError(
                "unknown-output",
                f"the stack {stack.name} has no output '{arguments.name}'",
                hint=f"did you mean '{close}'?" if close else "apply first, or look at 'bayplan output'",
            )
        value = outputs[arguments.name]
        if arguments.json or not isinstance(value, str):
            from bayplan.cli.render import print_json

            print_json(value)
        else:
            sys.stdout.write(f"{value}\n")
        return 0
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json({"outputs": outputs})
    else:
        sys.stdout.writelines(f"{name} = {value}\n" for name, value in outputs.items())
    return 0
