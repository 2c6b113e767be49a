"""What the account sets for the registry: its settings, whose pulls are not recorded, and signing.

Signing on push is done by AWS Signer, which nothing here stands in for: no configuration of it is taken.
"""

from __future__ import annotations

import json

from bayplan.registry import rules
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.images import required_image
from bayplan.registry.ecr.operations import Body, Call, operation

_MOST_EXCLUSIONS = 100


def _setting(call: Call) -> str:
    name = str(call.get("name"))
    if name not in rules.SETTINGS:
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at 'name' failed to satisfy constraint: 'Member must satisfy enum value set: "
            f"[{', '.join(rules.SETTINGS)}]'",
        )
    return name


@operation("GetAccountSetting", by_repository=False)
def get_account_setting(call: Call) -> Body:
    name = _setting(call)
    return {"name": name, "value": rules.setting(call.registry, name)}


@operation("PutAccountSetting", by_repository=False)
def put_account_setting(call: Call) -> Body:
    name, value = _setting(call), str(call.get("value"))
    if value not in rules.SETTINGS[name]:
        raise EcrError(
            "InvalidParameterException",
            f"Invalid parameter at 'value' failed to satisfy constraint: '{name} is {' or '.join(rules.SETTINGS[name])}'",
        )
    call.registry.set_document("", rules.SETTING + name, value)
    return {"name": name, "value": value}


@operation("RegisterPullTimeUpdateExclusion", by_repository=False)
def register_exclusion(call: Call) -> Body:
    arn = str(call.get("principalArn"))
    if len(call.registry.documents("", rules.EXCLUSION)) >= _MOST_EXCLUSIONS:
        raise EcrError("LimitExceededException", f"a registry has at most {_MOST_EXCLUSIONS} exclusions")
    if not call.registry.add_document("", rules.EXCLUSION + arn, json.dumps({"createdAt": call.now})):
        raise EcrError("ExclusionAlreadyExistsException", f"there is an exclusion for '{arn}' already")
    return {"principalArn": arn, "createdAt": call.now}


@operation("DeregisterPullTimeUpdateExclusion", by_repository=False)
def deregister_exclusion(call: Call) -> Body:
    arn = str(call.get("principalArn"))
    if call.registry.set_document("", rules.EXCLUSION + arn, None) is None:
        raise EcrError("ExclusionNotFoundException", f"there is no exclusion for '{arn}'")
    return {"principalArn": arn}


@operation("ListPullTimeUpdateExclusions", by_repository=False)
def list_exclusions(call: Call) -> Body:
    arns = [name.removeprefix(rules.EXCLUSION) for name, _ in call.registry.documents("", rules.EXCLUSION)]
    page, more = call.page(arns)
    return {"pullTimeUpdateExclusions": page, **more}


# -- signing -------------------------------------------------------------------------------------------------------


def _no_signing(call: Call) -> EcrError:
    return EcrError(
        "SigningConfigurationNotFoundException",
        f"Signing configuration does not exist in the registry with id '{call.account.number}'",
    )


@operation("GetSigningConfiguration", by_repository=False)
def get_signing_configuration(call: Call) -> Body:
    raise _no_signing(call)


@operation("DeleteSigningConfiguration", by_repository=False)
def delete_signing_configuration(call: Call) -> Body:
    raise _no_signing(call)


@operation("PutSigningConfiguration", by_repository=False)
def put_signing_configuration(call: Call) -> Body:  # noqa: ARG001  (the shape of an operation)
    raise EcrError(
        "ValidationException",
        "this registry has no AWS Signer behind it: sign with cosign or notation, whose signatures it stores",
    )


@operation("DescribeImageSigningStatus")
def describe_image_signing_status(call: Call) -> Body:
    """Nothing signs here, so that an image that is there has no statuses."""
    one = call.repository()
    row = required_image(call, one, call.get("imageId"))
    return {
        "registryId": call.account.number,
        "repositoryName": one.name,
        "imageId": {**call.get("imageId"), "imageDigest": str(row.digest)},
        "signingStatuses": [],
    }
