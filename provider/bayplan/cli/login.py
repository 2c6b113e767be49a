"""Keep credentials of a registry where docker keeps them: its configuration, or the helper that it names.

The password is asked for on a terminal, or read from standard input. It is tried before it is kept.
"""

from __future__ import annotations

import argparse
import sys

from bayplan.cli import show
from bayplan.cli.options import add_places
from bayplan.errors import BayplanError, UsageError

_LIMIT = 64 << 10


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "registry", nargs="?", default="docker.io", metavar="REGISTRY", help="HOST[:PORT] (default docker.io)"
    )
    parser.add_argument("-u", "--username", "--user", metavar="USER", help="who logs in")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("-p", "--password", metavar="PASSWORD", help=argparse.SUPPRESS)
    parser.add_argument("--insecure", action="store_true", help="speak plain HTTP, or any certificate, with it")
    add_places(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.password is not None:
        raise UsageError(
            "password-in-arguments",
            "a password in the arguments can be read by every process of the machine",
            hint="give it by standard input: ... | bayplan login -u USER --password-stdin REGISTRY; and change this one",
        )
    registry = registry_name(arguments.registry)
    username, password = _asked(arguments, registry)
    from bayplan.registry.client import RegistryClient

    with RegistryClient(insecure=(registry,) if arguments.insecure else (), attempts=2, timeout=20.0) as client:
        kept = client.login(registry, username, password)
    if arguments.json:
        show.document({"registry": registry, "username": username, "kept_in": kept})
    else:
        show.say(f"logged in to {registry} as {username}; kept in {kept}")
    return 0


def registry_name(text: str) -> str:
    """``HOST[:PORT]``; a URL as docker takes it loses what is around. Raises BayplanError ``bad-registry``."""
    import re

    name = re.sub(r"^https?://", "", text).partition("/")[0]
    if name in ("index.docker.io", "registry-1.docker.io"):
        name = "docker.io"
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]{1,5})?", name):
        raise BayplanError(
            "bad-registry", f"'{text[:200]}' is not the name of a registry", hint="write HOST or HOST:PORT"
        )
    return name


def _asked(arguments: argparse.Namespace, registry: str) -> tuple[str, str]:
    if arguments.password_stdin:
        if not arguments.username:
            raise UsageError("usage", "--password-stdin needs --username")
        password = sys.stdin.read(_LIMIT).rstrip("\r\n")
        if not password:
            raise UsageError("usage", "there is no password on standard input")
        return arguments.username, password
    if not sys.stdin.isatty():
        raise UsageError("usage", "there is no terminal to ask for the password", hint="pass --password-stdin")
    import getpass

    username = arguments.username or input(f"user name for {registry}: ").strip()
    return username, getpass.getpass("password: ")
