"""The account of this root's registry: the environment for AWS's tools, users, access keys.

A secret is printed once, when its key is made, and by 'env', which is what a shell evaluates.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from bayplan.cli import show
from bayplan.cli.options import add_places, root_of
from bayplan.errors import BayplanError
from bayplan.registry.access.accounts import ROOT_USER, Accounts


def configure_access(verb: argparse.ArgumentParser, what: str) -> None:
    """``user add NAME``, ``key rm ID`` and the like."""
    acts = verb.add_subparsers(dest="act", required=True, metavar="add|list|rm")
    for act in ("add", "list", "rm"):
        one = acts.add_parser(act, allow_abbrev=False)
        add_places(one)
        if what == "user" and act != "list":
            one.add_argument("name", metavar="NAME")
        if what == "user" and act == "add":
            one.add_argument(
                "--policy",
                action="append",
                default=[],
                metavar="FILE",
                help="an IAM policy document that says what the user may do (repeatable)",
            )
        if what == "key" and act == "add":
            one.add_argument("--user", default=ROOT_USER, metavar="NAME", help="whose key (default root)")
        if what == "key" and act == "rm":
            one.add_argument("id", metavar="ID")


def _accounts(arguments: argparse.Namespace) -> Accounts:
    return Accounts(root_of(arguments).ensure())


def env(arguments: argparse.Namespace) -> int:
    """The variables of the server that was last started on this root."""
    from bayplan.registry.server import SERVER_FILE

    root = root_of(arguments)
    try:
        served = json.loads((root.path / SERVER_FILE).read_text())
        address, tls = served["address"], served.get("tls")
    except (FileNotFoundError, ValueError, KeyError):
        raise BayplanError(
            "not-served", f"no server of the registry of {root.path} runs", hint="bayplan registry serve &"
        ) from None
    account = Accounts(root).load()
    key = account.root_key
    values = {
        "AWS_ACCESS_KEY_ID": key.id,
        "AWS_SECRET_ACCESS_KEY": key.secret,
        "AWS_REGION": account.region,
        "AWS_DEFAULT_REGION": account.region,
        "AWS_ENDPOINT_URL_ECR": f"{'https' if tls else 'http'}://{address}",
        "AWS_ENDPOINT_URL_ECR_PUBLIC": f"{'https' if tls else 'http'}://{address}",
    }
    if tls and tls != "given":
        values["AWS_CA_BUNDLE"] = tls  # a certificate of the registry's own, which nobody else vouches for
    if arguments.json:
        show.document({"account": account.number, "environment": values})
    else:
        for name, value in values.items():
            show.say(f"export {name}={shlex.quote(value)}")
    return 0


def user(arguments: argparse.Namespace) -> int:
    accounts = _accounts(arguments)
    if arguments.act == "add":
        made = accounts.add_user(arguments.name, {Path(file).stem: _policy(Path(file)) for file in arguments.policy})
        return _told(arguments, {"name": made.name, "policies": sorted(made.policies)}, made.name)
    if arguments.act == "rm":
        accounts.remove_user(arguments.name)
        return _told(arguments, {"name": arguments.name}, arguments.name)
    account = accounts.load()
    rows: list[dict[str, Any]] = [
        {
            "name": one.name,
            "created": show.stamp(one.created),
            "policies": sorted(one.policies),
            "keys": sorted(key.id for key in account.keys.values() if key.user == one.name),
        }
        for one in account.users.values()
    ]
    if arguments.json:
        show.document({"users": rows})
    else:
        show.table(
            ("NAME", "POLICIES", "KEYS"), ((r["name"], ", ".join(r["policies"]), ", ".join(r["keys"])) for r in rows)
        )
    return 0


def _policy(file: Path) -> str:
    """An identity policy, checked. Raises BayplanError ``bad-policy``."""
    from bayplan.registry.access.policy import Kind, PolicyError, parse

    try:
        text = file.read_text(encoding="utf-8")
        parse(text, Kind.IDENTITY)
    except (OSError, UnicodeDecodeError, PolicyError) as error:
        raise BayplanError(
            "bad-policy", f"{file}: {error}", hint="an IAM policy document with Effect, Action, Resource"
        ) from None
    return text


def key(arguments: argparse.Namespace) -> int:
    accounts = _accounts(arguments)
    if arguments.act == "add":
        made = accounts.add_key(arguments.user)
        document = {"id": made.id, "secret": made.secret, "user": made.user}
        return _told(arguments, document, f"{made.id} {made.secret}")
    if arguments.act == "rm":
        accounts.remove_key(arguments.id)
        return _told(arguments, {"id": arguments.id}, arguments.id)
    rows = [
        {"id": one.id, "user": one.user, "created": show.stamp(one.created)} for one in accounts.load().keys.values()
    ]
    if arguments.json:
        show.document({"keys": rows})
    else:
        show.table(("ID", "USER", "CREATED"), ((str(r["id"]), str(r["user"]), str(r["created"])) for r in rows))
    return 0


def _told(arguments: argparse.Namespace, document: dict[str, Any], line: str) -> int:
    if arguments.json:
        show.document(document)
    else:
        show.say(line)
    return 0
