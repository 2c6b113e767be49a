"""Who did what in this root's registry: the audit trail, the newest record first.

A record has the shape of AWS CloudTrail's; with --json each is one line, for jq and its like.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

from bayplan.cli import show
from bayplan.cli.options import root_of
from bayplan.errors import BayplanError, UsageError


def configure_audit(verb: argparse.ArgumentParser) -> None:
    when = "a duration back (2h), or a time (2026-11-27T12:00:00Z)"
    verb.add_argument("--since", metavar="WHEN", help=when)
    verb.add_argument("--until", metavar="WHEN", help=when)
    verb.add_argument("--event", metavar="NAME", help="an operation of the ECR API: PutImage, BatchGetImage ...")
    verb.add_argument("--user", metavar="NAME", help="a user's name or ARN, or root")
    verb.add_argument("--repository", metavar="REPOSITORY")
    verb.add_argument("--errors", action="store_true", help="only calls that were refused or failed")
    verb.add_argument("--changes", action="store_true", help="only calls that change something")
    verb.add_argument("-n", "--limit", type=int, default=50, metavar="COUNT", help="default 50; 0: all")


def audit(arguments: argparse.Namespace) -> int:
    from bayplan.registry.audit.search import Wanted, search
    from bayplan.registry.server import TRAIL

    if arguments.limit < 0:
        raise UsageError("usage", f"--limit wants a number from 0 on, not {arguments.limit}")
    wanted = Wanted(
        since=_moment("--since", arguments.since),
        until=_moment("--until", arguments.until),
        event=arguments.event,
        user=arguments.user,
        repository=arguments.repository,
        errors=arguments.errors,
        changes=arguments.changes,
    )
    found = itertools.islice(search(root_of(arguments).path / TRAIL, wanted), arguments.limit or None)
    if arguments.json:
        for record in found:
            show.say(json.dumps(record, separators=(",", ":")))
    else:
        show.table(("TIME", "USER", "EVENT", "REPOSITORY", "FROM", "ERROR"), map(_row, found))
    return 0


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    identity = record["userIdentity"]
    who = identity.get("userName") or identity.get("invokedBy") or str(identity.get("type", "")).lower()
    if identity.get("accountId") == "ANONYMOUS_PRINCIPAL":
        who = "anonymous"
    repositories = [one["ARN"].partition(":repository/")[2] for one in record.get("resources", ())]
    return (
        record["eventTime"],
        who,
        record["eventName"],
        " ".join(repositories),
        record.get("sourceIPAddress", ""),
        record.get("errorCode", ""),
    )


def _moment(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    import calendar

    from bayplan.kinds.values import parse_duration

    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        pass
    try:
        return time.time() - parse_duration(text)
    except BayplanError:
        raise UsageError("usage", f"{option} wants a duration or a time, not '{text}'") from None
