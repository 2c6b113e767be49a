"""What both faces of the registry ask before they do anything: may this principal do that to this repository?

The answer comes from the policies alone (:mod:`.policy`): those of the user, in the account's file; those of the repository and
of the registry, as documents of the registry. A server that is started with ``--anonymous pull`` or ``push`` lets everybody do
that much, whatever stands in policies.
"""

from __future__ import annotations

import json
from enum import StrEnum
from functools import lru_cache

from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.authorizer import REGISTRY_POLICY, REPOSITORY_POLICY, Authorizer, parsed
from bayplan.registry.access.model import PUBLIC, Asked, Context, Principal, PrincipalKind
from bayplan.registry.access.policy import Kind
from bayplan.registry.access.tokens import LIFE
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry

__all__ = ["REGISTRY_POLICY", "REPOSITORY_POLICY", "Anonymous", "Guard"]

PULL = frozenset(
    {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability", "ecr:ListImages"}
)
_EVERYBODYS = frozenset(one.partition(":")[2] for one in PULL)  # of public repositories
PUSH = PULL | frozenset(
    {
        "ecr:InitiateLayerUpload",
        "ecr:UploadLayerPart",
        "ecr:CompleteLayerUpload",
        "ecr:PutImage",
        "ecr:BatchDeleteImage",
        "ecr:CreateRepository",
        "ecr:BatchImportUpstreamImage",
        "ecr:DescribeRepositories",
    }
)


class Anonymous(StrEnum):
    """What a caller without credentials may do. With PUSH the first push makes the repository."""

    NONE = "none"
    PULL = "pull"
    PUSH = "push"

    @property
    def actions(self) -> frozenset[str]:
        return {Anonymous.PULL: PULL, Anonymous.PUSH: PUSH}.get(self, frozenset())


@lru_cache
def _allowing(what: Anonymous) -> str:
    """The policy that ``allow`` of a password file stands for."""
    statement = {"Effect": "Allow", "Action": sorted(what.actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class Guard:
    """The door of one server. ``named``: what a user with a password may do who is no user of the account; ``token_life``: how
    long, in seconds, the account's authorization tokens hold."""

    def __init__(
        self,
        registry: Registry,
        accounts: Accounts,
        anonymous: Anonymous = Anonymous.NONE,
        named: Anonymous = Anonymous.NONE,
        *,
        token_life: float = LIFE,
    ) -> None:
        self._registry = registry
        self.authorizer = Authorizer(registry, accounts)
        self.accounts = accounts
        self.anonymous = anonymous
        self.named = named
        self.token_life = token_life

    def makes_repositories(self, principal: Principal) -> bool:
        """Whether a push of ``principal`` makes the repository that it goes to."""
        if self.anonymous is Anonymous.PUSH:
            return True
        return self.named is Anonymous.PUSH and self._unnamed(principal)

    def _is_public(self, repository: str, action: str) -> bool:
        """Whether this is a repository of ECR Public, or would be one if it were there."""
        if action.startswith("ecr-public:"):
            return True
        try:
            return bool(self._registry.describe(repository).details.get("public"))
        except RegistryError as error:
            if error.fault is not Fault.NAME_UNKNOWN:
                raise
            return False

    def _unnamed(self, principal: Principal) -> bool:
        """Whether this is a user with a password whom the account does not know."""
        return (
            principal.kind is PrincipalKind.USER
            and not principal.key
            and principal.name not in self.accounts.load().users
        )

    def require(
        self, principal: Principal, action: str, repository: str | None, context: Context | None = None
    ) -> None:
        """Raises RegistryError ``denied``; ``unauthorized`` for a caller who has not said who he is."""
        if action in self.anonymous.actions:
            return
        account = self.accounts.load()
        resource = "*" if repository is None else account.arn(repository)
        if repository is not None and repository.startswith(PUBLIC) and self._is_public(repository, action):
            if action.partition(":")[2] in _EVERYBODYS:
                return
            action = "ecr-public:" + action.partition(":")[2]
            resource = account.arn(repository, public=True)
        also = []
        if self.named.actions and self._unnamed(principal):
            also = [parsed(_allowing(self.named), Kind.IDENTITY)]
        self.authorizer.require(principal, Asked(action, resource, context or {}), also=also)
