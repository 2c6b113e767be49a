"""May this principal do that? What both faces of the registry ask before they do anything.

The answer comes from the policies alone (:mod:`.policy`): those of the user, in the account's file; those of the repository and
of the registry, as documents of the registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from bayplan.registry.access.accounts import Account, Accounts
from bayplan.registry.access.model import PUBLIC, Asked, Principal, PrincipalKind
from bayplan.registry.access.policy import Kind, Policy, Verdict, evaluate, parse
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.registry import Registry
from bayplan.registry.rules import FIRST_SCOPE, setting

REPOSITORY_POLICY = "policy"
REGISTRY_POLICY = "registry-policy"
_SCOPE = "REGISTRY_POLICY_SCOPE"


@lru_cache(maxsize=512)
def parsed(text: str, kind: Kind) -> Policy:
    """A policy that was checked when it was kept."""
    return parse(text, kind)


class Authorizer:
    """Decides for one registry. Any thread may ask."""

    def __init__(self, registry: Registry, accounts: Accounts) -> None:
        self._registry = registry
        self.accounts = accounts

    def require(self, principal: Principal, asked: Asked, *, also: Sequence[Policy] = ()) -> None:
        """Raises RegistryError ``denied``; ``unauthorized`` for a caller who has not said who he is.

        ``also``: identity policies that the principal has besides those in the account's file.
        """
        account = self.accounts.load()
        verdict = evaluate(
            asked,
            principal,
            owner=account.number,
            identity=[*self._own(account, principal), *also],
            resource=self._attached(account, asked),
        )
        if verdict is Verdict.ALLOWED:
            return
        if principal.kind is PrincipalKind.ANONYMOUS:
            raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="log in: see 'bayplan registry env'")
        why = (
            "with an explicit deny in a policy"
            if verdict is Verdict.DENIED
            else f"because no policy allows the {asked.action} action"
        )
        raise RegistryError(
            Fault.DENIED,
            f"User: {principal.arn} is not authorized to perform: {asked.action} on resource: {asked.resource} {why}",
        )

    def _own(self, account: Account, principal: Principal) -> list[Policy]:
        if principal.kind is not PrincipalKind.USER or principal.account != account.number:
            return []
        user = account.users.get(principal.name)
        return [parsed(text, Kind.IDENTITY) for text in user.policies.values()] if user else []

    def _attached(self, account: Account, asked: Asked) -> list[Policy]:
        found: list[Policy] = []
        text = self._registry.document("", REGISTRY_POLICY)
        if text is not None and (asked.action in FIRST_SCOPE or setting(self._registry, _SCOPE) == "V2"):
            found.append(parsed(text, Kind.REGISTRY))
        resource, lead = asked.resource, account.arn("")
        open_to_all = account.arn("", public=True)
        if resource.startswith((lead, open_to_all)):
            name = (
                resource.removeprefix(lead)
                if resource.startswith(lead)
                else PUBLIC + resource.removeprefix(open_to_all)
            )
            text = self._registry.repository_document(name, REPOSITORY_POLICY)
            if text is not None:
                found.append(parsed(text, Kind.REPOSITORY))
        return found
