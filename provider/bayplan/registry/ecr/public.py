"""Amazon ECR Public on the same store: repositories that everybody may pull from, below ``public/``.

The public repository ``app`` is the repository ``public/app`` of the registry, marked as public: its images are pushed to and pulled
from ``HOST/public/app``. The operations are those of the private API where there is one, on that repository and in its words.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from bayplan.records import replace
from bayplan.registry.access import tokens
from bayplan.registry.access.model import PUBLIC
from bayplan.registry.ecr import images, layers, repositories
from bayplan.registry.ecr.errors import EcrError, no_repository
from bayplan.registry.ecr.operations import Body, Call, Function, operation
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Repository

SERVICE = "ecr-public"
_CATALOG = "catalog-data"
_REGISTRY_CATALOG = "public-registry-catalog"
_SYSTEMS = frozenset({"Linux", "Windows"})
_ARCHITECTURES = frozenset({"x86", "x86-64", "ARM", "ARM 64"})
_REPOSITORY = ("repositoryArn", "registryId", "repositoryName", "repositoryUri", "createdAt")
_IMAGE = (
    "registryId",
    "repositoryName",
    "imageDigest",
    "imageTags",
    "imageSizeInBytes",
    "imagePushedAt",
    "imageManifestMediaType",
    "artifactMediaType",
)


def _inner(call: Call) -> Call:
    """The call as the private API would get it."""
    name = call.get("repositoryName")
    return call if name is None else replace(call, parameters={**call.parameters, "repositoryName": PUBLIC + str(name)})


def _outer(value: Any) -> Any:
    """An answer with the names of public repositories."""
    if isinstance(value, dict):
        return {
            key: str(one).removeprefix(PUBLIC) if key == "repositoryName" else _outer(one) for key, one in value.items()
        }
    return [_outer(one) for one in value] if isinstance(value, list) else value


def _through(function: Function, call: Call) -> Body:
    """What an operation of the private API does with the public repository."""
    try:
        found: Body = _outer(function(_inner(call)))
    except EcrError as error:
        raise EcrError(
            error.code, error.message.replace(f"'{PUBLIC}", "'"), error.status, **_outer(error.members)
        ) from None
    return found


def _same(name: str, function: Function) -> None:
    operation(name, service=SERVICE)(lambda call: _through(function, call))


for _name, _function in (
    ("BatchCheckLayerAvailability", layers.batch_check_layer_availability),
    ("BatchDeleteImage", images.batch_delete_image),
    ("CompleteLayerUpload", layers.complete_layer_upload),
    ("DeleteRepositoryPolicy", repositories.delete_repository_policy),
    ("GetRepositoryPolicy", repositories.get_repository_policy),
    ("InitiateLayerUpload", layers.initiate_layer_upload),
    ("PutImage", images.put_image),
    ("SetRepositoryPolicy", repositories.set_repository_policy),
    ("UploadLayerPart", layers.upload_layer_part),
):
    _same(_name, _function)


# -- repositories --------------------------------------------------------------------------------------------------


def described(call: Call, one: Repository) -> Body:
    found = repositories.described(call, one)
    return {
        **{name: found[name] for name in _REPOSITORY},
        "repositoryName": one.name.removeprefix(PUBLIC),
        "repositoryArn": call.account.arn(one.name, public=True),
    }


def _catalog(call: Call, one: Repository) -> Body | None:
    text = call.registry.document(one.uid, _CATALOG)
    return None if text is None else dict(json.loads(text))


def _catalog_given(call: Call) -> Body:
    """The catalogue data of a call, checked. Raises EcrError."""
    given = dict(call.get("catalogData", {}))
    if "logoImageBlob" in given:
        raise EcrError("UnsupportedCommandException", "this registry has no gallery that would show a logo")
    for name, known in (("operatingSystems", _SYSTEMS), ("architectures", _ARCHITECTURES)):
        wrong = set(given.get(name) or ()) - known
        if wrong:
            raise EcrError(
                "InvalidParameterException", f"Invalid parameter at 'catalogData.{name}': {min(wrong)!r} is none of "
                f"{', '.join(sorted(known))}",
            )  # fmt: skip
    return {name: value for name, value in given.items() if value is not None}


@operation("CreateRepository", service=SERVICE)
def create_repository(call: Call) -> Body:
    call.own_registry()
    catalog = _catalog_given(call)
    name = str(call.get("repositoryName"))
    try:
        made = call.registry.create_repository(
            PUBLIC + name,
            tags=repositories.bounded_tags(call.get("tags")),
            details={"public": True},
            documents={_CATALOG: json.dumps(catalog)} if catalog else {},
        )
    except RegistryError as error:
        if error.fault is not Fault.NAME_EXISTS:
            raise
        raise EcrError(
            "RepositoryAlreadyExistsException",
            f"The repository with name '{name}' already exists in the registry with id '{call.account.number}'",
        ) from None
    return {"repository": described(call, made), "catalogData": catalog}


@operation("DescribeRepositories", by_repository=False, service=SERVICE)
def describe_repositories(call: Call) -> Body:
    call.own_registry()
    names = call.get("repositoryNames")
    if names is not None:
        return {"repositories": [described(call, _public(call, name)) for name in names]}
    page, more = call.page([one for one in call.registry.list() if one.details.get("public")])
    return {"repositories": [described(call, one) for one in page], **more}


def _public(call: Call, name: str | None = None) -> Repository:
    wanted = str(call.get("repositoryName")) if name is None else name
    try:
        return call.repository(PUBLIC + wanted)
    except EcrError:
        raise no_repository(wanted, call.account.number) from None


@operation("DeleteRepository", service=SERVICE)
def delete_repository(call: Call) -> Body:
    found = described(call, _public(call))
    _through(repositories.delete_repository, call)
    return {"repository": found}


@operation("PutRepositoryCatalogData", service=SERVICE)
def put_repository_catalog_data(call: Call) -> Body:
    one, catalog = _public(call), _catalog_given(call)
    call.registry.set_document(one.uid, _CATALOG, json.dumps(catalog))
    return {"catalogData": catalog}


@operation("GetRepositoryCatalogData", service=SERVICE)
def get_repository_catalog_data(call: Call) -> Body:
    catalog = _catalog(call, _public(call))
    if catalog is None:
        raise EcrError(
            "RepositoryCatalogDataNotFoundException",
            f"there is no catalog data for the repository with name '{call.get('repositoryName')}'",
        )
    return {"catalogData": catalog}


# -- images --------------------------------------------------------------------------------------------------------


@operation("DescribeImages", service=SERVICE)
def describe_images(call: Call) -> Body:
    found = _through(images.describe_images, call)
    return {
        **found,
        "imageDetails": [{name: one[name] for name in _IMAGE if name in one} for one in found["imageDetails"]],
    }


@operation("DescribeImageTags", service=SERVICE)
def describe_image_tags(call: Call) -> Body:
    one = _public(call)
    details = {
        image["imageDigest"]: {name: image[name] for name in (*_IMAGE[4:], "imageDigest") if name in image}
        for image in images.describe_images(
            replace(call, parameters={"repositoryName": one.name, "maxResults": 1_000_000})
        )["imageDetails"]
    }
    tags = [
        {"imageTag": tag.name, "createdAt": tag.pushed, "imageDetail": details[str(tag.digest)]}
        for tag in call.registry.tags(one.name)
        if str(tag.digest) in details
    ]
    page, more = call.page(tags)
    return {"imageTagDetails": page, **more}


# -- resource tags -------------------------------------------------------------------------------------------------


def _by_arn(function: Callable[[Call, Repository], Body]) -> Function:
    def found(call: Call) -> Body:
        arn, lead = str(call.get("resourceArn")), call.account.arn(PUBLIC, public=True)
        if not arn.startswith(lead):
            raise EcrError(
                "InvalidParameterException",
                f"Invalid parameter at 'resourceArn': {arn[:200]!r} is no ARN of a repository here",
            )
        return function(call, _public(call, arn.removeprefix(lead)))

    return found


operation("TagResource", by_repository=False, service=SERVICE)(_by_arn(repositories.tag))
operation("UntagResource", by_repository=False, service=SERVICE)(_by_arn(repositories.untag))
operation("ListTagsForResource", by_repository=False, service=SERVICE)(_by_arn(repositories.listed_tags))


# -- the registry --------------------------------------------------------------------------------------------------


@operation("GetAuthorizationToken", by_repository=False, service=SERVICE)
def get_authorization_token(call: Call) -> Body:
    password, until = tokens.issue(call.account, call.principal.key, call.now, call.token_life)
    token = base64.b64encode(f"{tokens.USERNAME}:{password}".encode()).decode("ascii")
    return {"authorizationData": {"authorizationToken": token, "expiresAt": until}}


@operation("DescribeRegistries", by_repository=False, service=SERVICE)
def describe_registries(call: Call) -> Body:
    alias = PUBLIC.rstrip("/")
    registry = {
        "registryId": call.account.number,
        "registryArn": f"arn:aws:ecr-public::{call.account.number}:registry/{call.account.number}",
        "registryUri": f"{call.origin.partition('://')[2]}/{alias}",
        "verified": False,
        "aliases": [{"name": alias, "status": "ACTIVE", "primaryRegistryAlias": True, "defaultRegistryAlias": True}],
    }
    page, more = call.page([registry])
    return {"registries": page, **more}


@operation("GetRegistryCatalogData", by_repository=False, service=SERVICE)
def get_registry_catalog_data(call: Call) -> Body:
    name = call.registry.document("", _REGISTRY_CATALOG)
    return {"registryCatalogData": {"displayName": name} if name else {}}


@operation("PutRegistryCatalogData", by_repository=False, service=SERVICE)
def put_registry_catalog_data(call: Call) -> Body:
    call.registry.set_document("", _REGISTRY_CATALOG, call.get("displayName"))
    return get_registry_catalog_data(call)
