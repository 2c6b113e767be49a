"""What bayplan remembers of a stack.

The world carries identity, so that this is a cache and a history: 'rebuild' makes it again from what runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from bayplan.cli.options import add_definition, load_stack, make_engine
from bayplan.errors import BayplanError, nearest


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in (
        ("list", "the recorded resources"),
        ("show", "one recorded resource"),
        ("history", "the runs, or the operations of one"),
        ("mv", "give a resource another address"),
        ("rm", "let go of a resource without touching it"),
        ("rebuild", "make the state again from the world"),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        if name in ("show", "rm"):
            verb.add_argument("address")
        if name == "mv":
            verb.add_argument("address")
            verb.add_argument("to")
        if name == "history":
            verb.add_argument("run", nargs="?", type=int)
        add_definition(verb)
        verb.add_argument("--lock-timeout", type=float, default=60.0, metavar="SECONDS", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    engine = make_engine(arguments)
    stack = load_stack(arguments)
    state = engine.state(stack.name)
    if arguments.verb in ("mv", "rm", "rebuild"):
        from bayplan.engine import move, rebuild, release

        definitions = engine.define(stack)
        if arguments.verb == "mv":
            move(engine, definitions, arguments.address, arguments.to)
            told = f"{arguments.address} is now {arguments.to}"
        elif arguments.verb == "rm":
            release(engine, definitions, arguments.address)
            told = f"{arguments.address} is no longer ours; it was not touched"
        else:
            count = rebuild(engine, definitions)
            told = f"{stack.name}: {count} resources found and written down"
        _print(arguments, {"state": told}, told + "\n")
        return 0
    rows = {row.address: row for row in state.recorded().values()}
    document: list[dict[str, Any]]
    if arguments.verb == "list":
        document = [{"address": row.address, "id": row.id, "place": row.place} for row in rows.values()]
        text = "".join(f"{row.address:<32} {row.id}\n" for row in sorted(rows.values(), key=lambda row: row.address))
        _print(arguments, {"resources": document}, text)
    elif arguments.verb == "show":
        row = rows.get(arguments.address)
        if row is None:
            close = nearest(arguments.address, list(rows))
            hint = f"did you mean '{close}'?" if close else "'bayplan state list' lists them"
            raise BayplanError("not-recorded", f"the state knows no {arguments.address}", hint=hint)
        from bayplan.cli.render import print_json

        print_json(
            {
                "address": row.address,
                "kind": row.kind,
                "id": row.id,
                "uid": row.uid,
                "place": row.place,
                "properties": dict(row.values),
                "outputs": dict(row.outputs),
                "depends_on": list(row.depends_on),
                "imported": row.imported,
            }
        )
    elif arguments.run is not None:
        steps = state.steps(arguments.run)
        document = [
            {
                "number": one.number,
                "address": one.address,
                "action": one.action,
                "phase": one.phase.value,
                "cause": one.cause,
                "error": one.error,
            }
            for one in steps
        ]
        text = "".join(
            f"[{one.number}] {one.address:<28} {one.action:<9} {one.phase.value:<10} {one.error or one.cause}\n"
            for one in steps
        )
        _print(arguments, {"operations": document}, text)
    else:
        runs = state.runs()
        document = [
            {
                "run": one.run,
                "verb": one.verb,
                "began": _stamp(one.began),
                "ended": _stamp(one.ended),
                "outcome": one.outcome or "running or interrupted",
                "who": one.who,
                "operations": one.steps,
                "plan": one.plan,
            }
            for one in runs
        ]
        text = "".join(
            f"{one.run:>5}  {_stamp(one.began)}  {one.verb:<8} {one.outcome or '-':<12}"
            f" {one.steps:>4} operations  {one.who}\n"
            for one in runs
        )
        _print(arguments, {"runs": document}, text)
    return 0


def _stamp(seconds: float | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _print(arguments: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    if arguments.json:
        from bayplan.cli.render import print_json

        print_json(document)
    else:
        sys.stdout.write(text)
