"""Rules of the pull-through cache by the ECR API; :mod:`bayplan.registry.upstream` carries them out.

Logins to upstreams are those of the user who serves (``docker login``): AWS Secrets Manager does not stand behind this registry.
"""

from __future__ import annotations

import json
import re

from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.upstream import PREFIX, rule_of

_MOST_RULES = 50
_URL = re.compile(r"(?:https?://)?(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?)/?")
_KNOWN = {
    "public.ecr.aws": "ecr-public",
    "quay.io": "quay",
    "registry.k8s.io": "k8s",
    "registry-1.docker.io": "docker-hub",
    "docker.io": "docker-hub",
    "ghcr.io": "github-container-registry",
    "registry.gitlab.com": "gitlab-container-registry",
    "cgr.dev": "chainguard",
}
_NO_SECRETS = (
    "this registry has no AWS Secrets Manager behind it: it uses the logins of the user who serves (docker login)"
)


def _kind(host: str) -> str | None:
    if re.fullmatch(r"[0-9]{12}\.dkr[.-]ecr\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|on\.aws)", host):
        return "ecr"
    return "azure-container-registry" if host.endswith(".azurecr.io") else _KNOWN.get(host)


def _kept(call: Call) -> Body:
    call.own_registry()
    text = call.registry.document("", PREFIX + str(call.get("ecrRepositoryPrefix")))
    if text is None:
        raise EcrError(
            "PullThroughCacheRuleNotFoundException",
            f"Pull through cache rule not found for repository prefix '{call.get('ecrRepositoryPrefix')}' in registry "
            f"'{call.account.number}'",
        )
    found: Body = json.loads(text)
    return found


def _refuse_secrets(call: Call) -> None:
    if call.get("credentialArn") is not None:
        raise EcrError("SecretNotFoundException", _NO_SECRETS)


@operation("CreatePullThroughCacheRule", by_repository=False)
def create_pull_through_cache_rule(call: Call) -> Body:
    """Any registry can be an upstream, not only those that AWS knows."""
    call.own_registry()
    prefix, url = str(call.get("ecrRepositoryPrefix")), str(call.get("upstreamRegistryUrl"))
    match = _URL.fullmatch(url)
    if match is None:
        raise EcrError("UnsupportedUpstreamRegistryException", f"{url[:200]!r} is no address of a registry")
    kind = _kind(match["host"])
    if call.get("upstreamRegistry", kind) != kind:
        raise EcrError(
            "InvalidParameterException", f"Invalid parameter at 'upstreamRegistry': {match['host']} is none of that"
        )
    _refuse_secrets(call)
    if len(call.registry.documents("", PREFIX)) >= _MOST_RULES:
        raise EcrError("LimitExceededException", f"a registry has at most {_MOST_RULES} pull through cache rules")
    rule = {
        "ecrRepositoryPrefix": prefix,
        "upstreamRegistryUrl": url,
        "createdAt": call.now,
        "registryId": call.account.number,
        "upstreamRepositoryPrefix": call.get("upstreamRepositoryPrefix", "ROOT"),
    }
    if kind is not None:
        rule["upstreamRegistry"] = kind
    if not call.registry.add_document("", PREFIX + prefix, json.dumps(rule)):
        raise EcrError(
            "PullThroughCacheRuleAlreadyExistsException",
            f"A pull through cache rule already exists for repository prefix '{prefix}' in registry '{call.account.number}'",
        )
    return rule


@operation("UpdatePullThroughCacheRule", by_repository=False)
def update_pull_through_cache_rule(call: Call) -> Body:
    """Of a rule only its credentials could be changed, and those are not kept here."""
    _kept(call)
    _refuse_secrets(call)
    raise EcrError("ValidationException", "a rule has nothing but credentials that can be changed; " + _NO_SECRETS)


@operation("DeletePullThroughCacheRule", by_repository=False)
def delete_pull_through_cache_rule(call: Call) -> Body:
    rule = _kept(call)
    call.registry.set_document("", PREFIX + rule["ecrRepositoryPrefix"], None)
    return {name: value for name, value in rule.items() if name != "upstreamRegistry"}


@operation("DescribePullThroughCacheRules", by_repository=False)
def describe_pull_through_cache_rules(call: Call) -> Body:
    call.own_registry()
    wanted = call.get("ecrRepositoryPrefixes")
    found = [json.loads(text) for _, text in call.registry.documents("", PREFIX)]
    missing = set(wanted or ()) - {one["ecrRepositoryPrefix"] for one in found}
    if missing:
        raise EcrError(
            "PullThroughCacheRuleNotFoundException",
            f"Pull through cache rule not found for repository prefix '{min(missing)}' in registry '{call.account.number}'",
        )
    page, more = call.page([one for one in found if wanted is None or one["ecrRepositoryPrefix"] in wanted])
    return {"pullThroughCacheRules": page, **more}


@operation("ValidatePullThroughCacheRule", by_repository=False)
def validate_pull_through_cache_rule(call: Call) -> Body:
    rule = _kept(call)
    failure = call.works.upstream.validate(rule_of(rule))
    told = ("ecrRepositoryPrefix", "registryId", "upstreamRegistryUrl", "upstreamRepositoryPrefix")
    return {
        **{name: rule[name] for name in told},
        "isValid": not failure,
        **({"failure": failure} if failure else {}),
    }
