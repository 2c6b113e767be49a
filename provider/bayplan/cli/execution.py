"""Plan, ask, carry out, tell: what ``apply`` and ``destroy`` share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TextIO

from bayplan.cli.colours import colour
from bayplan.cli.interrupt import interruptible
from bayplan.cli.render import LiveSink, PlainSink, print_json, report_as_output, summary
from bayplan.engine import Applied, Engine, Planned
from bayplan.errors import BayplanError, UsageError
from bayplan.execute.events import Sink
from bayplan.plan import notation


def carry_out(
    engine: Engine, make: Callable[[], Planned], arguments: argparse.Namespace, *, verb: str, out: TextIO
) -> int:
    """The whole of one apply or destroy; returns the exit code."""
    ask = not arguments.yes
    if ask and not sys.stdin.isatty():
        raise UsageError(
            "needs-yes", f"{verb} asks before it changes anything, and there is no terminal here", hint="pass --yes"
        )
    shown: list[str] = []

    def planned() -> Planned:
        found = make()
        refuse(found)
        if not arguments.json:
            text = colour(notation.short(found.plan)) + "\n"
            if text not in shown:
                shown.append(text)
                out.write(text)
                out.flush()
        return found

    with interruptible() as cancel, ExitStack() as screen:
        if ask:
            plan = planned()
            if not plan.plan.empty and not agreed(verb):
                out.write("nothing was changed\n")
                return 1
            sink = _sink(screen, arguments, plan, out)
            applied = engine.apply(plan, verb=verb, sink=sink, cancel=cancel)
        else:
            sink = _sink(screen, arguments, None, out)
            plan, applied = engine.plan_and_apply(planned, verb=verb, sink=sink, cancel=cancel)
    return tell(plan, applied, arguments, out, verb, cancel.number)


def carry_out_saved(engine: Engine, arguments: argparse.Namespace) -> int:
    """``apply FILE``: exactly the saved plan; an operation whose object changed since fails alone."""
    from bayplan.cli.saved import load

    planned = load(engine, arguments)
    with interruptible() as cancel, ExitStack() as screen:
        sink = _sink(screen, arguments, planned, sys.stdout)
        applied = engine.apply(planned, verb="apply", sink=sink, cancel=cancel)
    return tell(planned, applied, arguments, sys.stdout, "apply", cancel.number)


def refuse(planned: Planned) -> None:
    """A plan with known troubles is not begun: it tells all of them."""
    if planned.plan.problems:
        raise BayplanError(
            "cannot-apply",
            "; ".join(planned.plan.problems),
            hint="nothing was changed; 'bayplan plan' shows the whole plan",
        )


def agreed(verb: str) -> bool:
    sys.stdout.write(f"{verb} this? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def tell(planned: Planned, applied: Applied, arguments: argparse.Namespace, out: TextIO, verb: str, number: int) -> int:
    """The last lines, and the exit code: 128 and the ``number`` of the signal where one stopped it."""
    report = applied.report
    if arguments.json:
        print_json(report_as_output(planned.plan, report, applied.outputs, planned.digest))
    else:
        if report.finished:
            out.write(summary(planned.plan, report) + "\n")
        if applied.swept:
            out.write(applied.swept + "\n")
        if verb == "apply" and report.ok and applied.outputs:
            out.writelines(f"{name} = {value}\n" for name, value in applied.outputs.items())
    if report.cancelled:
        return 128 + number
    return 0 if report.ok else 1


def _sink(screen: ExitStack, arguments: argparse.Namespace, planned: Planned | None, out: TextIO) -> Sink:
    if arguments.json:
        return lambda _event: None
    if out.isatty():
        return screen.enter_context(LiveSink())
    width = max((len(one.address) for one in planned.plan.operations), default=0) if planned else 0
    return PlainSink(out, width)
