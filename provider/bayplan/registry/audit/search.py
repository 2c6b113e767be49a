"""Looks for records in the trail, the newest first, as CloudTrail's LookupEvents does."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bayplan.records import dataclass
from bayplan.registry.audit.trail import files

_PIECE = 1 << 20  # bytes of a file that are read at once, from its end


@dataclass(frozen=True, slots=True)
class Wanted:
    """What records are looked for; None is any. ``since`` and ``until`` in Unix seconds; ``user`` is a name or an ARN."""

    since: float | None = None
    until: float | None = None
    event: str | None = None
    user: str | None = None
    repository: str | None = None
    errors: bool = False
    changes: bool = False

    def fits(self, record: dict[str, Any]) -> bool:
        identity = record.get("userIdentity", {})
        names = (identity.get("userName"), identity.get("arn"), identity.get("type", "").lower())
        repositories = [one["ARN"].partition(":repository/")[2] for one in record.get("resources", ())]
        when = moment(record)
        return (
            (self.since is None or when >= self.since)
            and (self.until is None or when <= self.until)
            and self.event in (None, record.get("eventName"))
            and (self.user is None or self.user in names)
            and (self.repository is None or self.repository in repositories)
            and (not self.errors or "errorCode" in record)
            and (not self.changes or not record.get("readOnly"))
        )


def moment(record: dict[str, Any]) -> float:
    """When a record's event was, in Unix seconds."""
    return float(calendar.timegm(time.strptime(record["eventTime"], "%Y-%m-%dT%H:%M:%SZ")))


def search(folder: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The records that fit, newest first. A line that was cut by a crash is passed over."""
    for path in reversed(files(folder)):
        try:
            lines = _backwards(path)
            for line in lines:
                try:
                    record = json.loads(line)
                    if not isinstance(record, dict) or "eventTime" not in record:
                        continue
                    if wanted.since is not None and moment(record) < wanted.since - 1:
                        return  # all others are older still
                    fits = wanted.fits(record)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
                if fits:
                    yield record
        except FileNotFoundError:
            continue  # grew too old meanwhile


def _backwards(path: Path) -> Iterator[bytes]:
    """A file's lines from its end."""
    with path.open("rb") as file:
        at = file.seek(0, 2)
        rest = b""
        while at > 0:
            size = min(_PIECE, at)
            at -= size
            file.seek(at)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest
