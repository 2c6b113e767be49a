"""Who asks, and for what: the words that both faces of the registry and its policies share.

Nothing is decided here. A face finds out who calls (:mod:`.sigv4`, :mod:`.credentials`), says what the call asks for, and lets the
:class:`~bayplan.registry.access.authorizer.Authorizer` decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from bayplan.records import dataclass, field

#: What names of public repositories begin with (Amazon ECR Public's registry alias).
PUBLIC = "public/"

#: The context of a request: values by lower-case key (``aws:sourceip``).
Context = Mapping[str, Sequence[str]]


class PrincipalKind(StrEnum):
    ROOT = "root"
    USER = "user"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """``account`` has twelve digits, ``arn`` is the IAM name, ``key`` the access key that proved it (never its secret), empty
    where a password did. ``scopes``: what a bearer token was given for, as (repository, action); None is all that policies
    allow. A token is nobody of its own: it stands for whom it was given to."""

    kind: PrincipalKind
    account: str = ""
    arn: str = ""
    name: str = ""
    key: str = ""
    scopes: frozenset[tuple[str, str]] | None = None


ANONYMOUS = Principal(PrincipalKind.ANONYMOUS)


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that a principal wants to do. ``action`` is ``ecr:PutImage`` and the like, ``resource`` an ARN or ``*``."""

    action: str
    resource: str
    context: Context = field(default_factory=dict)
