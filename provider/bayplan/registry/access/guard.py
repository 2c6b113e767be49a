"""What both faces of the registry ask before they do anything: may this principal do that to this repository?

The answer comes from the policies alone (:mod:`.policy`): those of the user, in the account's file; those of the repository and
of the registry, as documents of the registry. A server that is started with ``--anonymous pull`` or ``push`` lets everybody do
that much, whatever stands in policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.policy import Asked, Kind, Policy, Verdict, evaluate, parse
from bayplan.registry.access.principal import Principal, PrincipalKind
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry

REPOSITORY_POLICY = "policy"
REGISTRY_POLICY = "registry-policy"
PULL = frozenset(
    {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability", "ecr:ListImages"}
)
PUSH = PULL | frozenset(
    {
        "ecr:InitiateLayerUpload",
        "ecr:UploadLayerPart",
        "ecr:CompleteLayerUpload",
        "ecr:PutImage",
        "ecr:BatchDeleteImage",
        "ecr:CreateRepository",
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


@lru_cache(maxsize=512)
def _parsed(text: str, kind: Kind) -> Policy:
    return parse(text, kind)


class Guard:
    """The door of one server."""

    def __init__(self, registry: Registry, accounts: Accounts, anonymous: Anonymous = Anonymous.NONE) -> None:
        self._registry = registry
        self.accounts = accounts
        self.anonymous = anonymous

    def require(
        self, principal: Principal, action: str, repository: str | None, context: dict[str, Sequence[str]] | None = None
    ) -> None:
        """Raises RegistryError ``denied``; ``unauthorized`` for a caller who has not said who he is."""
        if action in self.anonymous.actions:
            return
        account = self.accounts.load()
        resource = "*" if repository is None else account.arn(repository)
        asked = Asked(action, resource, context or {})
        attached = self._attached(repository)
        identity: list[Policy] = []
        if principal.kind is PrincipalKind.USER and principal.account == account.number:
            user = account.users.get(principal.name)
            identity = [_parsed(text, Kind.IDENTITY) for text in user.policies.values()] if user else []
        verdict = evaluate(asked, principal, owner=account.number, identity=identity, resource=attached)
        if verdict is Verdict.ALLOWED:
            return
        if principal.kind is PrincipalKind.ANONYMOUS:
            raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="log in: see 'bayplan registry env'")
        why = (
            "with an explicit deny in a policy"
            if verdict is Verdict.DENIED
            else f"because no policy allows the {action} action"
        )
        raise RegistryError(
            Fault.DENIED, f"User: {principal.arn} is not authorized to perform: {action} on resource: {resource} {why}"
        )

    def _attached(self, repository: str | None) -> list[Policy]:
        found: list[Policy] = []
        text = self._registry.document("", REGISTRY_POLICY)
        if text is not None:
            found.append(_parsed(text, Kind.REGISTRY))
        if repository is not None:
            text = self._registry.repository_document(repository, REPOSITORY_POLICY)
            if text is not None:
                found.append(_parsed(text, Kind.REPOSITORY))
        return found
