"""What each verb of ``container`` takes. Apart from the verbs themselves, so that reading a command line imports no core."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--detach", action="store_true", help="print the id and return; it runs on")
    parser.add_argument("--rm", action="store_true", help="remove it when it has ended")
    _making(parser)


def create(parser: argparse.ArgumentParser) -> None:
    _making(parser)


def _making(parser: argparse.ArgumentParser) -> None:
    from bayplan.cli.container_options import add_run_options

    add_run_options(parser)


def list_(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
    parser.add_argument("-q", "--quiet", action="store_true", help="ids only")
    parser.add_argument("--no-trunc", action="store_true", help="whole ids")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME[=VALUE]", help="only those with this label (repeatable)"
    )


def inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or its beginning")


def logs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or its beginning")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it has ended")
    parser.add_argument("-n", "--tail", metavar="N", default="all", help="the last lines only")
    parser.add_argument("-t", "--timestamps", action="store_true", help="when each line was written")
    parser.add_argument("--since", metavar="WHEN", help="a duration back (10m), or seconds since 1970")


def stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="default: all that run")
    parser.add_argument("--no-stream", action="store_true", help="once only")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between two looks (default 1)")


def exec_(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--interactive", action="store_true", help="pass our standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="a variable more")
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="who runs it")
    parser.add_argument("-w", "--workdir", metavar="DIR", help="the working directory")
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or its beginning")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")


def attach(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-stdin", action="store_true", help="do not pass our standard input on")
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or its beginning")


def start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--attach", action="store_true", help="stay with its streams, pass signals on")
    parser.add_argument("-i", "--interactive", action="store_true", help="with --attach: pass our standard input on")
    _many(parser)


def stop(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--time", "--timeout", metavar="SECONDS", dest="time", help="before it is killed (default: its own)"
    )
    _many(parser)


def kill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-s", "--signal", default="SIGKILL", metavar="SIGNAL", help="default SIGKILL")
    _many(parser)


def rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f", "--force", action="store_true", help="running ones too; no error for one that is not there"
    )
    parser.add_argument(
        "-v", "--volumes", action="store_true", help="accepted; volumes made for it alone always go with it"
    )
    _many(parser)


def rename(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("container", metavar="CONTAINER", help="a name, an id or its beginning")
    parser.add_argument("name", metavar="NAME", help="the new name")


def update(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--memory", metavar="SIZE", help="the most memory; 0 without limit")
    parser.add_argument("--cpus", metavar="NUMBER", help="the most processors; 0 without limit")
    parser.add_argument("--pids-limit", metavar="NUMBER", help="the most processes; 0 without limit")
    parser.add_argument("--restart", metavar="POLICY", help="no, always, on-failure[:N], unless-stopped")
    _many(parser)


def prune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", "--force", action="store_true", dest="yes", help="do not ask")


def _many(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("containers", nargs="+", metavar="CONTAINER", help="names, ids or beginnings of ids")


ADD: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "run": run,
    "create": create,
    "list": list_,
    "inspect": inspect,
    "logs": logs,
    "stats": stats,
    "exec": exec_,
    "attach": attach,
    "start": start,
    "stop": stop,
    "restart": stop,
    "pause": _many,
    "unpause": _many,
    "kill": kill,
    "wait": _many,
    "rm": rm,
    "rename": rename,
    "update": update,
    "prune": prune,
}
