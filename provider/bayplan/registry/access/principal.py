"""Who asks: the root of an account, one of its users, or nobody in particular."""

from __future__ import annotations

from enum import StrEnum

from bayplan.records import dataclass


class PrincipalKind(StrEnum):
    ROOT = "root"
    USER = "user"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """``account`` has twelve digits, ``arn`` is the IAM name, ``key`` the access key that proved it (never its secret)."""

    kind: PrincipalKind
    account: str = ""
    arn: str = ""
    name: str = ""
    key: str = ""


ANONYMOUS = Principal(PrincipalKind.ANONYMOUS)
