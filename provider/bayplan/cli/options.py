"""Options that several commands share, and what they mean: where the root and the state lie, which files, which values."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.errors import UsageError

if TYPE_CHECKING:
    from bayplan.engine import Engine
    from bayplan.oci.root import Root
    from bayplan.runtime.containers import Runtime
    from bayplan.stack import Stack


def root_folder(arguments: argparse.Namespace) -> Path:
    """``--root``, ``BAYPLAN_ROOT``, /var/lib/bayplan, or the XDG data folder of an ordinary user."""
    given = arguments.root or os.environ.get("BAYPLAN_ROOT")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/bayplan")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "bayplan"


def state_folder(arguments: argparse.Namespace) -> Path:
    """``--state``, ``BAYPLAN_STATE``, /var/lib/bayplan/state, or the XDG state folder of an ordinary user."""
    given = arguments.state or os.environ.get("BAYPLAN_STATE")
    if given:
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/bayplan/state")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "bayplan"


def root_of(arguments: argparse.Namespace) -> Root:
    """The root that the options name."""
    from bayplan.oci.root import Root

    return Root.at(root_folder(arguments))


def runtime_of(arguments: argparse.Namespace) -> Runtime:
    """The runtime of that root."""
    from bayplan.runtime.containers import Runtime

    return Runtime(root_of(arguments))


def add_places(parser: argparse.ArgumentParser) -> None:
    """``--root``, ``--state`` and ``--json``."""
    parser.add_argument("--root", metavar="DIR", help="what this host keeps (BAYPLAN_ROOT; default /var/lib/bayplan)")
    parser.add_argument("--state", metavar="DIR", help="the state of stacks (BAYPLAN_STATE)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def add_definition(parser: argparse.ArgumentParser) -> None:
    """``-f``, ``--var``, ``--var-file`` and the places."""
    parser.add_argument(
        "-f",
        "--file",
        action="append",
        default=[],
        metavar="FILE",
        help="a stack file (default bayplan.yaml; repeatable)",
    )
    parser.add_argument(
        "--var", action="append", default=[], metavar="NAME=VALUE", help="a variable's value (repeatable)"
    )
    parser.add_argument(
        "--var-file", action="append", default=[], metavar="FILE", help="a YAML or JSON file of variables (repeatable)"
    )
    add_places(parser)


def add_scope(parser: argparse.ArgumentParser) -> None:
    """``--target``, ``--replace`` and what an execution takes."""
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="only this resource and what it needs (repeatable)",
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="replace this resource in any case (repeatable)",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """``--yes``, ``--parallelism`` and ``--lock-timeout``."""
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--parallelism", type=int, default=8, metavar="N", help="operations at once (default 8)")
    parser.add_argument(
        "--lock-timeout", type=float, default=60.0, metavar="SECONDS", help="how long to wait for a lock (default 60)"
    )


def load_stack(arguments: argparse.Namespace) -> Stack:
    """The stack that ``-f``, ``--var`` and ``--var-file`` describe."""
    from bayplan.stack import load

    variables: dict[str, str] = {}
    for item in arguments.var:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError("usage", f"--var wants NAME=VALUE, not '{item}'")
        variables[name] = value
    return load(
        [Path(file) for file in arguments.file],
        variables=variables,
        variable_files=[Path(file) for file in arguments.var_file],
        environ=os.environ,
    )


def make_engine(arguments: argparse.Namespace) -> Engine:
    """The engine for these places."""
    from bayplan.engine import Engine, Settings

    parallelism = getattr(arguments, "parallelism", 8)
    if not 1 <= parallelism <= 256:
        raise UsageError("usage", f"--parallelism wants a number from 1 to 256, not {parallelism}")
    return Engine(
        Settings(
            root=root_folder(arguments),
            state=state_folder(arguments),
            parallelism=parallelism,
            lock_timeout=getattr(arguments, "lock_timeout", 60.0),
        )
    )
