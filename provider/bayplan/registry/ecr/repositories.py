"""Repositories: made, described, changed, tagged, deleted; and the policy of each."""

from __future__ import annotations

import json
from typing import Any

from bayplan.registry.access.guard import REPOSITORY_POLICY
from bayplan.registry.access.policy import LONGEST, Kind, PolicyError, parse
from bayplan.registry.ecr.errors import EcrError, no_repository
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import MOST_RESOURCE_TAGS, Repository, TagMutability
from bayplan.registry.storage.vaults import under_kms
from bayplan.registry.works import scan_rule, scanned_on_push

_EXCLUDING = (TagMutability.IMMUTABLE_WITH_EXCLUSION, TagMutability.MUTABLE_WITH_EXCLUSION)
_FILTERS = "imageTagMutabilityExclusionFilters"


def described(call: Call, one: Repository) -> Body:
    """A repository in the API's words."""
    host = call.origin.partition("://")[2]
    found: Body = {
        "repositoryArn": call.account.arn(one.name),
        "registryId": call.account.number,
        "repositoryName": one.name,
        "repositoryUri": f"{host}/{one.name}",
        "createdAt": one.created,
        "imageTagMutability": one.mutability.value,
        "imageScanningConfiguration": one.details.get("imageScanningConfiguration", {"scanOnPush": False}),
        "encryptionConfiguration": one.details.get("encryptionConfiguration", {"encryptionType": "AES256"}),
    }
    if _FILTERS in one.details:
        found[_FILTERS] = one.details[_FILTERS]
    return found


def checked_tags(given: list[dict[str, str]] | None) -> dict[str, str]:
    """Resource tags as a map. Raises EcrError ``InvalidTagParameterException``."""
    tags = {one.get("Key", ""): one.get("Value", "") for one in given or ()}
    if len(tags) != len(given or ()):
        raise EcrError("InvalidTagParameterException", "Invalid parameter at 'tags': a key stands twice")
    for key in tags:
        if not key or key.lower().startswith("aws:"):
            raise EcrError("InvalidTagParameterException", f"Invalid parameter at 'tags': {key!r} is no key for a tag")
        if len(key) > 128 or len(tags[key]) > 256:
            raise EcrError(
                "InvalidTagParameterException",
                "Invalid parameter at 'tags': keys have up to 128 characters, values up to 256",
            )
    return tags


def bounded_tags(given: list[dict[str, str]] | None) -> dict[str, str]:
    """Resource tags as a map, no more than a repository may have. Raises EcrError."""
    return _bounded(checked_tags(given))


def _bounded(tags: dict[str, str]) -> dict[str, str]:
    if len(tags) > MOST_RESOURCE_TAGS:
        raise EcrError("TooManyTagsException", f"a repository has at most {MOST_RESOURCE_TAGS} tags")
    return tags


def mutability_of(call: Call) -> tuple[TagMutability, list[Body] | None]:
    """What the call says of tags: the rule, and what is excluded from it. Raises EcrError."""
    rule = TagMutability(call.get("imageTagMutability", "MUTABLE"))
    filters = call.get(_FILTERS)
    if (rule in _EXCLUDING) != bool(filters):
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at '{_FILTERS}' failed to satisfy constraint: "
            f"'filters go with {_EXCLUDING[0].value} and {_EXCLUDING[1].value}, and only with them'",
        )
    for one in filters or ():
        if one["filter"].count("*") > 2:
            raise EcrError(
                "InvalidParameterException",
                f"Invalid parameter at '{_FILTERS}' failed to satisfy constraint: 'a filter has at most two wildcards'",
            )
    return rule, filters


def encryption_of(call: Call) -> dict[str, Any]:
    """What a repository's details say of its encryption, and the vault that it asks for. Raises EcrError."""
    encryption = call.get("encryptionConfiguration")
    if encryption is None:
        return {}
    if encryption["encryptionType"] == "AES256":
        if "kmsKey" in encryption:
            raise EcrError(
                "InvalidParameterException",
                "Invalid parameter at 'encryptionConfiguration.kmsKey': AES256 takes no key",
            )
        return {"encryptionConfiguration": encryption}
    if encryption["encryptionType"] == "KMS_DSSE":
        raise EcrError("KmsException", "this registry encrypts in one layer: the encryption type is AES256 or KMS")
    vault = under_kms(call.registry, encryption.get("kmsKey"))
    if vault is None:
        raise EcrError(
            "KmsException", "this registry has no AWS KMS behind it: storage: {encryption: {kms: ...}} of --config"
        )
    return {"encryptionConfiguration": encryption, "vault": vault}


@operation("CreateRepository")
def create_repository(call: Call) -> Body:
    call.own_registry()
    rule, filters = mutability_of(call)
    details: dict[str, Any] = {}
    if filters:
        details[_FILTERS] = filters
    details |= encryption_of(call)
    if call.get("imageScanningConfiguration") is not None:
        details["imageScanningConfiguration"] = {
            "scanOnPush": bool(call.get("imageScanningConfiguration").get("scanOnPush"))
        }
    name = str(call.get("repositoryName"))
    try:
        made = call.registry.create_repository(
            name, mutability=rule, tags=bounded_tags(call.get("tags")), details=details
        )
    except RegistryError as error:
        if error.fault is not Fault.NAME_EXISTS:
            raise
        raise EcrError(
            "RepositoryAlreadyExistsException",
            f"The repository with name '{name}' already exists in the registry with id '{call.account.number}'",
        ) from None
    return {"repository": described(call, made)}


@operation("DescribeRepositories", by_repository=False)
def describe_repositories(call: Call) -> Body:
    call.own_registry()
    names = call.get("repositoryNames")
    if names is not None:
        if call.get("nextToken") is not None or call.get("maxResults") is not None:
            raise EcrError("InvalidParameterException", "repositoryNames goes with neither nextToken nor maxResults")
        return {"repositories": [described(call, call.repository(name)) for name in names]}
    found, more = call.page([one for one in call.registry.list() if not one.details.get("public")])
    return {"repositories": [described(call, one) for one in found], **more}


@operation("DeleteRepository")
def delete_repository(call: Call) -> Body:
    one = call.repository()
    try:
        call.registry.delete_repository(one.name, force=bool(call.get("force")))
    except RegistryError as error:
        if error.fault is not Fault.NOT_EMPTY:
            raise
        raise EcrError(
            "RepositoryNotEmptyException",
            f"The repository with name '{one.name}' in registry with id '{call.account.number}' cannot be deleted because "
            "it still contains images",
        ) from None
    return {"repository": described(call, one)}


@operation("PutImageTagMutability")
def put_image_tag_mutability(call: Call) -> Body:
    one = call.repository()
    rule, filters = mutability_of(call)
    details = {name: value for name, value in one.details.items() if name != _FILTERS}
    if filters:
        details[_FILTERS] = filters
    call.registry.update_repository(one.name, mutability=rule, details=details)
    found: Body = {"registryId": call.account.number, "repositoryName": one.name, "imageTagMutability": rule.value}
    return {**found, **({_FILTERS: filters} if filters else {})}


@operation("PutImageScanningConfiguration")
def put_image_scanning_configuration(call: Call) -> Body:
    one = call.repository()
    wanted = {"scanOnPush": bool(call.get("imageScanningConfiguration").get("scanOnPush", False))}
    call.registry.update_repository(one.name, details={**one.details, "imageScanningConfiguration": wanted})
    return {"registryId": call.account.number, "repositoryName": one.name, "imageScanningConfiguration": wanted}


@operation("BatchGetRepositoryScanningConfiguration", by_repository=False)
def batch_get_repository_scanning_configuration(call: Call) -> Body:
    found, failures = [], []
    for name in call.get("repositoryNames"):
        try:
            one = call.repository(name)
        except EcrError:
            failures.append(
                {
                    "repositoryName": name,
                    "failureCode": "REPOSITORY_NOT_FOUND",
                    "failureReason": "there is no such repository",
                }
            )
            continue
        rule = scan_rule(call.registry, one.name)
        on_push = scanned_on_push(call.registry, one)
        found.append(
            {
                "repositoryArn": call.account.arn(name),
                "repositoryName": name,
                "scanOnPush": on_push,
                "scanFrequency": "SCAN_ON_PUSH" if on_push else "MANUAL",
                "appliedScanFilters": rule[1] if rule else [],
            }
        )
    return {"scanningConfigurations": found, "failures": failures}


# -- resource tags -------------------------------------------------------------------------------------------------


def _by_arn(call: Call) -> Repository:
    arn = str(call.get("resourceArn"))
    lead = call.account.arn("")
    if not arn.startswith(lead):
        name = arn.rpartition(":repository/")[2]
        if ":repository/" not in arn:
            raise EcrError(
                "InvalidParameterException", f"Invalid parameter at 'resourceArn': {arn[:200]!r} is no repository's ARN"
            )
        raise no_repository(name, arn.split(":")[4] if arn.count(":") > 4 else call.account.number)
    return call.repository(arn.removeprefix(lead))


def tag(call: Call, one: Repository) -> Body:
    call.registry.update_repository(one.name, tags=_bounded({**one.tags, **checked_tags(call.get("tags"))}))
    return {}


def untag(call: Call, one: Repository) -> Body:
    gone = set(call.get("tagKeys"))
    call.registry.update_repository(one.name, tags={key: value for key, value in one.tags.items() if key not in gone})
    return {}


def listed_tags(call: Call, one: Repository) -> Body:  # noqa: ARG001  (one of the three)
    return {"tags": [{"Key": key, "Value": value} for key, value in sorted(one.tags.items())]}


operation("TagResource", by_repository=False)(lambda call: tag(call, _by_arn(call)))
operation("UntagResource", by_repository=False)(lambda call: untag(call, _by_arn(call)))
operation("ListTagsForResource", by_repository=False)(lambda call: listed_tags(call, _by_arn(call)))


# -- policies ------------------------------------------------------------------------------------------------------


@operation("SetRepositoryPolicy")
def set_repository_policy(call: Call) -> Body:
    one = call.repository()
    text = str(call.get("policyText"))
    if len(text) > LONGEST:
        raise EcrError(
            "InvalidParameterException", f"Invalid parameter at 'PolicyText': it has more than {LONGEST} characters"
        )
    try:
        parse(text, Kind.REPOSITORY)
    except PolicyError as error:
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at 'PolicyText' failed to satisfy constraint: 'Invalid repository policy provided': {error}",
        ) from None
    call.registry.set_document(one.uid, REPOSITORY_POLICY, pretty(text))
    return _policy(call, one, pretty(text))


def pretty(text: str) -> str:
    """A JSON text as ECR gives it back: indented by two."""
    return json.dumps(json.loads(text), indent=2)


def _policy(call: Call, one: Repository, text: str | None) -> Body:
    if text is None:
        raise EcrError(
            "RepositoryPolicyNotFoundException",
            f"Repository policy does not exist for the repository with name '{one.name}' in the registry with id "
            f"'{call.account.number}'",
        )
    return {"registryId": call.account.number, "repositoryName": one.name, "policyText": text}


@operation("GetRepositoryPolicy")
def get_repository_policy(call: Call) -> Body:
    one = call.repository()
    return _policy(call, one, call.registry.document(one.uid, REPOSITORY_POLICY))


@operation("DeleteRepositoryPolicy")
def delete_repository_policy(call: Call) -> Body:
    one = call.repository()
    return _policy(call, one, call.registry.set_document(one.uid, REPOSITORY_POLICY, None))
