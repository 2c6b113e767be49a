"""Repository creation templates by the ECR API; :mod:`bayplan.registry.templates` applies them."""

from __future__ import annotations

import json
from typing import Any

from bayplan.registry import retention
from bayplan.registry.access.policy import Kind, PolicyError, parse
from bayplan.registry.ecr.errors import EcrError
from bayplan.registry.ecr.operations import Body, Call, operation
from bayplan.registry.ecr.repositories import checked_tags, mutability_of
from bayplan.registry.templates import PREFIX

_SETTABLE = (
    "description",
    "encryptionConfiguration",
    "resourceTags",
    "imageTagMutability",
    "imageTagMutabilityExclusionFilters",
    "repositoryPolicy",
    "lifecyclePolicy",
    "appliedFor",
    "customRoleArn",
)
_EMPTY: tuple[Any, ...] = ("", [], None)


def _answer(call: Call, template: Body) -> Body:
    return {"registryId": call.account.number, "repositoryCreationTemplate": template}


def _kept(call: Call) -> Body:
    text = call.registry.document("", PREFIX + str(call.get("prefix")))
    if text is None:
        raise EcrError(
            "TemplateNotFoundException",
            f"The repository creation template with prefix '{call.get('prefix')}' does not exist in the registry with id "
            f"'{call.account.number}'",
        )
    found: Body = json.loads(text)
    return found


def _checked(call: Call) -> None:
    """Raises EcrError where a repository could not be made as the template says."""
    if call.get("imageTagMutability") is not None or call.get("imageTagMutabilityExclusionFilters"):
        mutability_of(call)
    checked_tags(call.get("resourceTags"))
    encryption = call.get("encryptionConfiguration")
    if encryption is not None and encryption["encryptionType"] == "AES256" and "kmsKey" in encryption:
        raise EcrError(
            "InvalidParameterException", "Invalid parameter at 'encryptionConfiguration.kmsKey': AES256 takes no key"
        )
    try:
        if call.get("repositoryPolicy"):
            parse(str(call.get("repositoryPolicy")), Kind.REPOSITORY)
        if call.get("lifecyclePolicy"):
            retention.parse(str(call.get("lifecyclePolicy")))
    except PolicyError as error:
        raise EcrError("InvalidParameterException", f"Invalid parameter at 'repositoryPolicy': {error}") from None
    except retention.RetentionError as error:
        raise EcrError("InvalidParameterException", f"Invalid parameter at 'lifecyclePolicy': {error}") from None


def _given(call: Call) -> dict[str, Any]:
    return {name: call.parameters[name] for name in _SETTABLE if call.get(name) is not None}


@operation("CreateRepositoryCreationTemplate", by_repository=False)
def create_template(call: Call) -> Body:
    _checked(call)
    prefix = str(call.get("prefix"))
    template = {
        "prefix": prefix,
        "imageTagMutability": "MUTABLE",
        "encryptionConfiguration": {"encryptionType": "AES256"},
        **{name: value for name, value in _given(call).items() if value not in _EMPTY},
        "createdAt": call.now,
        "updatedAt": call.now,
    }
    if not call.registry.add_document("", PREFIX + prefix, json.dumps(template)):
        raise EcrError(
            "TemplateAlreadyExistsException",
            f"A repository creation template with prefix '{prefix}' already exists in the registry with id "
            f"'{call.account.number}'",
        )
    return _answer(call, template)


@operation("UpdateRepositoryCreationTemplate", by_repository=False)
def update_template(call: Call) -> Body:
    """What is given is set; an empty text or list takes away what was there, as in ECR."""
    before = _kept(call)
    _checked(call)
    changed = {**before, **_given(call), "updatedAt": call.now}
    if "imageTagMutability" in _given(call) and "imageTagMutabilityExclusionFilters" not in _given(call):
        changed.pop("imageTagMutabilityExclusionFilters", None)
    template = {name: value for name, value in changed.items() if value not in _EMPTY}
    call.registry.set_document("", PREFIX + str(call.get("prefix")), json.dumps(template))
    return _answer(call, template)


@operation("DeleteRepositoryCreationTemplate", by_repository=False)
def delete_template(call: Call) -> Body:
    template = _kept(call)
    call.registry.set_document("", PREFIX + str(call.get("prefix")), None)
    return _answer(call, template)


@operation("DescribeRepositoryCreationTemplates", by_repository=False)
def describe_templates(call: Call) -> Body:
    wanted = call.get("prefixes")
    found = [json.loads(text) for _, text in call.registry.documents("", PREFIX)]
    found = [one for one in found if wanted is None or one["prefix"] in wanted]
    page, more = call.page(found)
    return {"registryId": call.account.number, "repositoryCreationTemplates": page, **more}
