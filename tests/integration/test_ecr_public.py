"""Amazon ECR Public: repositories of their own, pushed to with a token and pulled from by everybody."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecr_images import put
from ecr_site import EcrSite, ask, ecr, login, refused

from bayplan.registry.ecr import shapes
from bayplan.registry.ecr.operations import PUBLIC_OPERATIONS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EcrSite]:
    with ecr(tmp_path / "root") as made:
        yield made


def test_every_operation_is_done() -> None:
    assert set(PUBLIC_OPERATIONS) == set(shapes.operations("ecr-public"))
    assert len(PUBLIC_OPERATIONS) == 23


def test_a_public_repository_from_its_making_to_its_end(site: EcrSite) -> None:
    client = site.client(service="ecr-public")
    catalog = {"description": "an app", "architectures": ["x86-64"], "operatingSystems": ["Linux"]}
    made = client.create_repository(repositoryName="app", catalogData=catalog, tags=[{"Key": "a", "Value": "b"}])
    arn = f"arn:aws:ecr-public::{site.number}:repository/app"
    assert made["repository"]["repositoryArn"] == arn
    assert made["repository"]["repositoryUri"] == f"{site.address}/public/app"
    assert made["catalogData"]["description"] == "an app"
    with refused("RepositoryAlreadyExistsException"):
        client.create_repository(repositoryName="app")
    digest = put(client, "app", "word", "v1", "v2")
    (image,) = client.describe_images(repositoryName="app")["imageDetails"]
    assert (image["imageDigest"], sorted(image["imageTags"]), image["repositoryName"]) == (digest, ["v1", "v2"], "app")
    tags = client.describe_image_tags(repositoryName="app")["imageTagDetails"]
    assert [(one["imageTag"], one["imageDetail"]["imageDigest"]) for one in tags] == [("v1", digest), ("v2", digest)]
    with refused("ImageNotFoundException"):
        client.describe_images(repositoryName="app", imageIds=[{"imageTag": "v3"}])
    client.tag_resource(resourceArn=arn, tags=[{"Key": "c", "Value": "d"}])
    client.untag_resource(resourceArn=arn, tagKeys=["a"])
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == [{"Key": "c", "Value": "d"}]
    client.batch_delete_image(repositoryName="app", imageIds=[{"imageTag": "v1"}])
    with refused("RepositoryNotEmptyException"):
        client.delete_repository(repositoryName="app")
    assert client.delete_repository(repositoryName="app", force=True)["repository"]["repositoryName"] == "app"
    with refused("RepositoryNotFoundException"):
        client.describe_images(repositoryName="app")


def test_public_and_private_repositories_do_not_mix(site: EcrSite) -> None:
    private, public = site.client(), site.client(service="ecr-public")
    private.create_repository(repositoryName="mine")
    public.create_repository(repositoryName="app")
    assert [one["repositoryName"] for one in private.describe_repositories()["repositories"]] == ["mine"]
    assert [one["repositoryName"] for one in public.describe_repositories()["repositories"]] == ["app"]
    with refused("RepositoryNotFoundException"):
        public.describe_repositories(repositoryNames=["mine"])
    with refused("RepositoryNotFoundException"):
        private.list_images(repositoryName="public/app")
    with refused("RepositoryNotFoundException"):
        private.delete_repository(repositoryName="public/app", force=True)


def test_everybody_pulls_and_only_who_may_pushes(site: EcrSite) -> None:
    client = site.client(service="ecr-public")
    client.create_repository(repositoryName="app")
    digest = put(client, "app", "word", "v1")
    url = f"http://{site.address}/v2/public/app/manifests/v1"
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.headers["Docker-Content-Digest"] == digest
        manifest = json.loads(answer.read())
    with urllib.request.urlopen(
        f"http://{site.address}/v2/public/app/blobs/{manifest['layers'][0]['digest']}", timeout=20
    ) as answer:
        assert answer.read() == b"word"
    upload = "/v2/public/app/blobs/uploads/"
    assert ask(site, "POST", upload, password="wrong")[0] == 401
    site.accounts.add_user("nobody", {"token": _policy("ecr:GetAuthorizationToken")})
    nobody = site.accounts.add_key("nobody")
    assert ask(site, "POST", upload, password=login(site.client(nobody)))[0] == 403
    site.accounts.add_user("pusher", {"push": _policy("ecr-public:*")})
    pusher = site.client(site.accounts.add_key("pusher"), service="ecr-public")
    said = pusher.get_authorization_token()["authorizationData"]["authorizationToken"]
    password = base64.b64decode(said).decode().partition(":")[2]
    assert ask(site, "POST", upload, password=password)[0] == 202
    assert ask(site, "POST", "/v2/private/blobs/uploads/", password=password)[0] in (403, 404)
    with refused("AccessDeniedException"):
        site.client(nobody, service="ecr-public").create_repository(repositoryName="other")


def _policy(action: str) -> str:
    statement = {"Effect": "Allow", "Action": action, "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_catalogue_data_and_registries(site: EcrSite) -> None:
    client = site.client(service="ecr-public")
    client.create_repository(repositoryName="app")
    with refused("RepositoryCatalogDataNotFoundException"):
        client.get_repository_catalog_data(repositoryName="app")
    client.put_repository_catalog_data(repositoryName="app", catalogData={"aboutText": "it runs"})
    assert client.get_repository_catalog_data(repositoryName="app")["catalogData"] == {"aboutText": "it runs"}
    with refused("UnsupportedCommandException"):
        client.put_repository_catalog_data(repositoryName="app", catalogData={"logoImageBlob": b"png"})
    with refused("InvalidParameterException"):
        client.put_repository_catalog_data(repositoryName="app", catalogData={"operatingSystems": ["Plan 9"]})
    assert client.get_registry_catalog_data()["registryCatalogData"] == {}
    assert client.put_registry_catalog_data(displayName="ours")["registryCatalogData"] == {"displayName": "ours"}
    assert client.get_registry_catalog_data()["registryCatalogData"] == {"displayName": "ours"}
    (registry,) = client.describe_registries()["registries"]
    assert registry["registryUri"] == f"{site.address}/public"


def test_a_policy_of_a_public_repository_lets_somebody_push(site: EcrSite) -> None:
    client = site.client(service="ecr-public")
    client.create_repository(repositoryName="app")
    with refused("RepositoryPolicyNotFoundException"):
        client.get_repository_policy(repositoryName="app")
    site.accounts.add_user("friend", {"token": _policy("ecr-public:GetAuthorizationToken")})
    friend = site.client(site.accounts.add_key("friend"), service="ecr-public")
    with refused("AccessDeniedException"):
        friend.initiate_layer_upload(repositoryName="app")
    arn = f"arn:aws:iam::{site.number}:user/friend"
    statement = {"Effect": "Allow", "Principal": {"AWS": arn}, "Action": "ecr-public:InitiateLayerUpload"}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    assert client.set_repository_policy(repositoryName="app", policyText=text)["repositoryName"] == "app"
    assert friend.initiate_layer_upload(repositoryName="app")["uploadId"]
    assert json.loads(client.delete_repository_policy(repositoryName="app")["policyText"]) == json.loads(text)
