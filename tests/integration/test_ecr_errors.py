"""Every operation of both APIs, by what it declares: wrong parameters, repositories and images that are not there, who may not.

The parameters are made from the APIs' own models, so that an operation that comes with a new SDK is tried here at once.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ecr_site import EcrSite, ecr

from bayplan.registry.access.accounts import AccessKey
from bayplan.registry.ecr import shapes

DIGEST = "sha256:" + "0" * 64
_VALUES: dict[str, Any] = {
    "imageDigest": DIGEST,
    "layerDigest": DIGEST,
    "layerDigests": [DIGEST],
    "uploadId": "2e0a9f0e-0000-4000-8000-000000000000",
    "replicationBackfillId": "2e0a9f0e-0000-4000-8000-000000000000",
    "principalArn": "arn:aws:iam::111111111111:user/nobody",
    "upstreamRegistryUrl": "quay.io",
    "resourceArn": "arn:aws:ecr:us-east-1:{account}:repository/none/such",
    "repositoryName": "none/such",
    "registryId": "{account}",
    "region": "eu-west-1",
    "imageId": {"imageDigest": DIGEST},
    "imageIds": [{"imageDigest": DIGEST}],
    "signingProfileArn": "arn:aws:signer:us-east-1:111111111111:/signing-profiles/mine",
    "name": "BLOB_MOUNTING",
    "value": "ENABLED",
    "layerPartBlob": "AAAA",
    "partFirstByte": 0,
    "partLastByte": 2,
}
CASES = [(service, name) for service in ("ecr", "ecr-public") for name in sorted(shapes.operations(service))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EcrSite]:
    with ecr(tmp_path_factory.mktemp("errors") / "root") as made:
        for service in ("ecr", "ecr-public"):
            made.client(service=service).create_repository(repositoryName="there/is")
        yield made


def call(site: EcrSite, service: str, name: str, given: dict[str, Any], key: AccessKey | None = None) -> str:
    """The code of the error that a signed call is answered with; empty where it is done. No SDK looks at it before."""
    account = site.accounts.load()
    used = key or account.root_key
    target = f"{shapes.model(service)['metadata']['targetPrefix']}.{name}"
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1", "Host": site.address}
    signed = AWSRequest("POST", f"http://{site.address}/", headers, json.dumps(given).encode())
    SigV4Auth(Credentials(used.id, used.secret), service, account.region).add_auth(signed)
    request = urllib.request.Request(signed.url, signed.data, dict(signed.headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert isinstance(json.loads(answer.read()), dict)
            return ""
    except urllib.error.HTTPError as error:
        said = json.loads(error.read())
        assert said["__type"] in shapes.declared(name, service) | {"AccessDeniedException"}, said
        assert said["__type"] != "ServerException", said
        return str(said["__type"])


def value(service: str, shape: str, name: str, account: str) -> Any:
    """The least value of a shape."""
    if name in _VALUES:
        return json.loads(json.dumps(_VALUES[name]).replace("{account}", account))
    said = shapes.model(service)["shapes"][shape]
    kind = said["type"]
    if kind == "structure":
        return {one: value(service, said["members"][one]["shape"], one, account) for one in said.get("required", ())}
    if kind == "list":
        return [value(service, said["member"]["shape"], name.removesuffix("s"), account)]
    if kind == "string":
        return said["enum"][0] if "enum" in said else "x" * max(2, said.get("min", 0))
    return {"integer": 1, "long": 1, "boolean": True, "timestamp": 1.0}[kind]


def parameters(service: str, name: str, account: str) -> dict[str, Any]:
    shape = shapes.operations(service)[name].get("input")
    return dict(value(service, shape["shape"], "", account)) if shape else {}


@pytest.mark.parametrize(("service", "name"), CASES)
def test_a_repository_that_is_not_there(site: EcrSite, service: str, name: str) -> None:
    given = parameters(service, name, site.number)
    if service == "ecr-public" and "resourceArn" in given:
        given["resourceArn"] = f"arn:aws:ecr-public::{site.number}:repository/none/such"
    if name == "DescribeRepositories":
        given["repositoryNames"] = ["none/such"]
    wanted = "RepositoryNotFoundException" in shapes.declared(name, service)
    if name == "CreateRepository":
        given["repositoryName"] = "new/one"
    answer = call(site, service, name, given)
    if name == "BatchGetRepositoryScanningConfiguration":
        assert answer == "", "it is told among the failures of the answer"
    elif wanted:
        assert answer == "RepositoryNotFoundException"
    else:
        assert answer != "RepositoryNotFoundException"


@pytest.mark.parametrize(("service", "name"), CASES)
def test_an_image_that_is_not_there(site: EcrSite, service: str, name: str) -> None:
    given = {**parameters(service, name, site.number), "repositoryName": "there/is"}
    if name == "DescribeImages":
        given["imageIds"] = [{"imageDigest": DIGEST}]
    if "ImageNotFoundException" in shapes.declared(name, service):
        assert call(site, service, name, given) == "ImageNotFoundException"
    elif "UploadNotFoundException" in shapes.declared(name, service):
        assert call(site, service, name, given) == "UploadNotFoundException"


@pytest.mark.parametrize(("service", "name"), CASES)
def test_parameters_of_another_type(site: EcrSite, service: str, name: str) -> None:
    shape = shapes.operations(service)[name].get("input")
    members = shapes.model(service)["shapes"][shape["shape"]].get("members", {}) if shape else {}
    kinds = {member: shapes.model(service)["shapes"][one["shape"]]["type"] for member, one in members.items()}
    good = parameters(service, name, site.number)
    for member, kind in kinds.items():
        wrong = ["none"] if kind in ("structure", "map") else {"no": "such thing"}
        assert call(site, service, name, {**good, member: wrong}) == "InvalidParameterException", member
    for member in shapes.model(service)["shapes"][shape["shape"]].get("required", ()) if shape else ():
        given = {one: thing for one, thing in good.items() if one != member}
        assert call(site, service, name, given) == "InvalidParameterException", f"without {member}"


@pytest.mark.parametrize(("service", "name"), CASES)
def test_who_may_not_do_it(site: EcrSite, service: str, name: str) -> None:
    user = f"{service}-{name}"
    statement = {"Effect": "Allow", "NotAction": f"{service}:{name}", "Resource": "*"}
    site.accounts.add_user(user, {"all-but": json.dumps({"Version": "2012-10-17", "Statement": [statement]})})
    key = site.accounts.add_key(user)
    given = {**parameters(service, name, site.number)}
    answer = call(site, service, name, given, key)
    if (service, name) == ("ecr-public", "BatchCheckLayerAvailability"):
        assert answer == "RepositoryNotFoundException", "everybody may pull, and so look"
    else:
        assert answer == "AccessDeniedException"


def test_what_is_no_operation(site: EcrSite) -> None:
    for target in ("AmazonEC2ContainerRegistry_V20150921.Nothing", "SpencerFrontendService.Nothing", "Nothing.Nothing"):
        request = urllib.request.Request(f"http://{site.address}/", b"{}", {"X-Amz-Target": target}, method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        assert caught.value.code in (400, 404)
