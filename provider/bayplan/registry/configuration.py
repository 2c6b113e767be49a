"""How a registry is served: :class:`Settings`. Who serves makes them, from flags and files of its own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from bayplan.records import dataclass, field
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.audit.trail import Keeping
from bayplan.registry.connection import Limits
from bayplan.registry.replication import Destination
from bayplan.registry.storage.vaults import Placing


class Challenge(StrEnum):
    """How a client is asked for credentials."""

    BASIC = "basic"
    BEARER = "bearer"


class Readers(StrEnum):
    """Who may read the metrics."""

    NONE = "none"
    LOOPBACK = "loopback"
    ALL = "all"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Tls:
    """``certificate`` None: one of our own, for ``names`` too. ``key`` None: it stands in the certificate's file."""

    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Htpasswd:
    """``allow``: what a name may do that is no user of the account."""

    file: Path
    allow: Anonymous = Anonymous.NONE


@dataclass(frozen=True, slots=True)
class Rates:
    """What one address may do. ``per_second`` None: as much as it likes; ``burst`` is in requests."""

    per_second: float | None = None
    burst: int = 0
    wrong_passwords: int = 30  # a minute


@dataclass(frozen=True, slots=True)
class Logging:
    """``file`` None is standard error."""

    format: LogFormat = LogFormat.TEXT
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve. Times in seconds; ``grace``: what requests under way get at the end; ``account`` and ``region``: what the
    registry's account is to be called from now on; ``token_life``, ``bearer_life``: how long tokens hold; ``vulnerabilities``: the
    database of scans."""

    listen: str = "127.0.0.1:5000"
    anonymous: Anonymous = Anonymous.NONE
    account: str | None = None
    region: str | None = None
    sparse: bool = False
    challenge: Challenge = Challenge.BASIC
    tls: Tls | None = None
    htpasswd: Htpasswd | None = None
    token_life: float = 12 * 3600.0
    bearer_life: float = 300.0
    limits: Limits = field(default_factory=Limits)
    rates: Rates = field(default_factory=Rates)
    uploads: int = 1000
    logging: Logging = field(default_factory=Logging)
    metrics: Readers = Readers.LOOPBACK
    audit: Keeping | None = field(default_factory=Keeping)
    placing: Placing = field(default_factory=Placing)
    vulnerabilities: Path | None = None
    destinations: tuple[Destination, ...] = ()
    threads: int = 16
    grace: float = 30.0
