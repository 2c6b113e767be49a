"""Entry point: finds the command, lets its module read the arguments, turns errors into messages and exit codes.

A mistake of the user ends in :meth:`BayplanError.render` on standard error (or a JSON document on standard output with
``--json``), never in a traceback. SIGINT and SIGTERM set the command's wish to stop; the engine ends or undoes what is in
flight and the process leaves with 130 or 143.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bayplan import __version__
from bayplan.cli.commands import COMMANDS
from bayplan.errors import BayplanError, UsageError, nearest


class Formatter(argparse.RawTextHelpFormatter):
    """argparse's own asks shutil for the width of the terminal, whose import costs more than all the parsing."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS", "")) or 80
        except ValueError:
            try:
                width = os.get_terminal_size().columns
            except OSError:
                width = 80
        super().__init__(prog, width=width - 2)


class Parser(argparse.ArgumentParser):
    """argparse that says a wrong command line the way every other error is said, with exit code 64."""

    def error(self, message: str) -> NoReturn:
        raise UsageError("usage", message, hint=f"see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        return _run(arguments)
    except BayplanError as error:
        _tell(error, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def command() -> int:
    """The whole process: :func:`main`, and a beginning and an end that look for no cycles."""
    gc.disable()
    code = main()
    gc.freeze()
    if len(sys._current_frames()) == 1:
        # Nobody else is at work: what is still to be done at an end is done, and no module is taken apart first.
        import atexit

        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[0] == "help":
            return _run([*arguments[1:], "--help"])
        sys.stdout.write(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        arguments = ["version"]
    # Global options may stand before the command, as users of docker and terraform write them.
    lead: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        lead.append(option)
        if "=" not in option and option in ("--root", "--state", "-f", "--file") and rest:
            lead.append(rest.pop(0))
    if not rest:
        raise UsageError("usage", "no command given", hint="see 'bayplan --help'")
    name = rest.pop(0)
    entry = COMMANDS.get(name)
    if entry is None:
        close = nearest(name, list(COMMANDS))
        hint = f"did you mean '{close}'?" if close else "see 'bayplan --help'"
        raise UsageError("unknown-command", f"there is no command '{name}'", hint=hint)
    module = importlib.import_module(f"bayplan.cli.{entry.module}")
    parser = Parser(prog=f"bayplan {name}", description=module.__doc__, formatter_class=Formatter)
    module.configure(parser)
    parsed = parser.parse_args([*_place_lead(lead, rest), *rest] if lead else rest)
    if entry.brief:
        # What it loads stays until it ends and holds no cycles: looking for them costs as much as a third of a plan.
        gc.disable()
    else:
        gc.enable()
    try:
        result: int = module.run(parsed)
    finally:
        gc.enable()
    if "bayplan.cli.interrupt" in sys.modules:
        from bayplan.cli.interrupt import leaving

        return leaving(result)
    return result


def _place_lead(lead: list[str], rest: list[str]) -> list[str]:
    """Options before the command go after the subcommand where there is one (``--root R container list``)."""
    if rest and not rest[0].startswith("-") and lead:
        first = rest.pop(0)
        return [first, *lead]
    return lead


def overview() -> str:
    """The text of ``bayplan --help``."""
    lines = [
        "bayplan: declarative infrastructure for containers",
        "",
        "usage: bayplan COMMAND [OPTIONS]     (bayplan COMMAND --help tells a command's options)",
    ]
    group = ""
    for name, entry in COMMANDS.items():
        if entry.group != group:
            group = entry.group
            lines += ["", f"{group}:"]
        lines.append(f"  {name:<12}{entry.help}")
    lines += [
        "",
        "everywhere: --root DIR (BAYPLAN_ROOT), --state DIR (BAYPLAN_STATE), --json",
        f"version {__version__}",
        "",
    ]
    return "\n".join(lines)


def _tell(error: BayplanError, as_json: bool) -> None:
    if as_json:
        import json

        found = getattr(error, "errors", (error,))
        sys.stdout.write(json.dumps({"errors": [one.as_dict() for one in found]}, indent=2) + "\n")
    sys.stderr.write(error.render() + "\n")


if __name__ == "__main__":
    sys.exit(command())
