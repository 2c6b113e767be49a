"""Containers of this machine, by hand.

What a stack made is seen and can be worked on here as well; the next plan of the stack says what was changed.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from bayplan.cli.verbs import add_verbs

#: verb -> (help, the module that has ``add_VERB(parser)`` and ``VERB(arguments) -> int``)
VERBS: dict[str, tuple[str, str]] = {
    "run": ("make a container from an image and start it", "container_run"),
    "create": ("make a container without starting it", "container_run"),
    "list": ("the containers that run, or all", "container_show"),
    "inspect": ("everything about one container", "container_show"),
    "logs": ("what a container wrote", "container_show"),
    "stats": ("what running containers use", "container_stats"),
    "exec": ("run a command in a running container", "container_run"),
    "attach": ("connect to the streams of a running container", "container_run"),
    "start": ("start containers", "container_run"),
    "stop": ("ask containers to end, and kill what does not", "container_change"),
    "restart": ("stop and start containers", "container_change"),
    "pause": ("freeze containers", "container_change"),
    "unpause": ("let frozen containers go on", "container_change"),
    "kill": ("send a signal to containers", "container_change"),
    "wait": ("wait until containers have ended; prints their exit codes", "container_change"),
    "rm": ("remove containers", "container_change"),
    "rename": ("give a container another name", "container_change"),
    "update": ("change limits and restart policy of containers", "container_change"),
    "prune": ("remove containers that do not run and belong to no stack", "container_change"),
}
ALIASES = {"list": ("ls", "ps"), "rm": ("remove",)}


def configure(parser: argparse.ArgumentParser) -> None:
    add_verbs(parser, {name: text for name, (text, _) in VERBS.items()}, ALIASES, _arguments)


def _arguments(verb: str) -> Callable[[argparse.ArgumentParser], None]:
    from bayplan.cli.container_arguments import ADD

    return ADD[verb]


def function_name(verb: str) -> str:
    """The function that carries a verb out; those that Python has other uses for bear an underscore."""
    return f"{verb}_" if verb in ("exec", "import", "list") else verb


def run(arguments: argparse.Namespace) -> int:
    module = importlib.import_module(f"bayplan.cli.{VERBS[arguments.verb][1]}")
    result: int = getattr(module, function_name(arguments.verb))(arguments)
    return result
