"""What belongs to the registry as a whole: its policy, and the token that logs in to it."""

from __future__ import annotations

import base64

from bayplan.registry.access import tokens
from bayplan.registry.access.guard import REGISTRY_POLICY
from bayplan.registry.access.policy import Kind, PolicyError, parse
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.ecr.repositories import pretty


@operation("GetAuthorizationToken", by_repository=False)
def get_authorization_token(call: Call) -> Body:
    ids = call.get("registryIds") or [call.account.number]
    if any(one != call.account.number for one in ids):
        raise EcrError("InvalidParameterException", f"this registry has the id '{call.account.number}' and no other")
    password, until = tokens.issue(call.account, call.principal.key, call.now, call.token_life)
    token = base64.b64encode(f"{tokens.USERNAME}:{password}".encode()).decode("ascii")
    return {"authorizationData": [{"authorizationToken": token, "expiresAt": until, "proxyEndpoint": call.origin}]}


def _policy(call: Call, text: str | None) -> Body:
    if text is None:
        raise EcrError(
            "RegistryPolicyNotFoundException",
            f"Registry policy does not exist in the registry with id '{call.account.number}'",
        )
    return {"registryId": call.account.number, "policyText": text}


@operation("PutRegistryPolicy", by_repository=False)
def put_registry_policy(call: Call) -> Body:
    text = str(call.get("policyText"))
    try:
        parse(text, Kind.REGISTRY)
    except PolicyError as error:
        raise EcrError("ValidationException", f"Invalid registry policy provided: {error}") from None
    call.registry.set_document("", REGISTRY_POLICY, pretty(text))
    return _policy(call, pretty(text))


@operation("GetRegistryPolicy", by_repository=False)
def get_registry_policy(call: Call) -> Body:
    return _policy(call, call.registry.document("", REGISTRY_POLICY))


@operation("DeleteRegistryPolicy", by_repository=False)
def delete_registry_policy(call: Call) -> Body:
    return _policy(call, call.registry.set_document("", REGISTRY_POLICY, None))
