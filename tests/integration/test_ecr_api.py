"""The ECR API as boto3 speaks it: what each operation does, and what it answers when it does not."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ecr_images import INDEX, MANIFEST, digest_of, put, upload
from ecr_site import EcrSite, ecr, refused

from bayplan.registry.ecr import face, shapes
from bayplan.registry.ecr.operations import OPERATIONS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EcrSite]:
    with ecr(tmp_path / "root") as made:
        yield made


def test_every_operation_of_the_model_is_done() -> None:
    assert face.ROOMS
    assert set(OPERATIONS) == set(shapes.operations())
    assert len(OPERATIONS) == 62


def test_a_repository_from_its_making_to_its_end(site: EcrSite) -> None:
    client = site.client()
    made = client.create_repository(
        repositoryName="team/app",
        tags=[{"Key": "owner", "Value": "me"}],
        imageScanningConfiguration={"scanOnPush": True},
    )["repository"]
    assert made["repositoryArn"] == f"arn:aws:ecr:us-east-1:{site.number}:repository/team/app"
    assert made["repositoryUri"] == f"{site.address}/team/app"
    assert made["imageTagMutability"] == "MUTABLE"
    assert client.describe_repositories()["repositories"] == [made]
    assert client.describe_repositories(repositoryNames=["team/app"])["repositories"] == [made]
    assert client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"] == [{"Key": "owner", "Value": "me"}]
    client.tag_resource(resourceArn=made["repositoryArn"], tags=[{"Key": "stage", "Value": "prod"}])
    client.untag_resource(resourceArn=made["repositoryArn"], tagKeys=["owner"])
    assert client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"] == [
        {"Key": "stage", "Value": "prod"}
    ]
    with refused("RepositoryAlreadyExistsException") as met:
        client.create_repository(repositoryName="team/app")
    assert site.number in str(met[0])
    put(client, "team/app", "one", "1.0")
    with refused("RepositoryNotEmptyException"):
        client.delete_repository(repositoryName="team/app")
    assert client.delete_repository(repositoryName="team/app", force=True)["repository"]["repositoryName"] == "team/app"
    with refused("RepositoryNotFoundException"):
        client.describe_repositories(repositoryNames=["team/app"])


def test_lists_come_in_pages(site: EcrSite) -> None:
    client = site.client()
    names = [f"r{number:02}" for number in range(7)]
    for name in names:
        client.create_repository(repositoryName=name)
    pages = list(client.get_paginator("describe_repositories").paginate(PaginationConfig={"PageSize": 3}))
    assert [len(page["repositories"]) for page in pages] == [3, 3, 1]
    assert [one["repositoryName"] for page in pages for one in page["repositories"]] == names
    with refused("InvalidParameterException"):
        client.describe_repositories(nextToken="what")


@pytest.mark.parametrize(
    ("operation", "parameters", "said"),
    [
        ("create_repository", {"repositoryName": "Team/App"}, "must satisfy regular expression"),
        ("create_repository", {"repositoryName": "ab", "imageTagMutability": "SOMETIMES"}, "enum value set"),
        ("create_repository", {"repositoryName": "ab", "imageTagMutability": "IMMUTABLE_WITH_EXCLUSION"}, "filters"),
        ("describe_repositories", {"maxResults": 5000}, "less than or equal to 1000"),
        ("set_repository_policy", {"repositoryName": "app", "policyText": "{}"}, "Statement is missing"),
        ("put_lifecycle_policy", {"repositoryName": "app", "lifecyclePolicyText": "{" + " " * 200}, "no JSON"),
        ("put_image", {"repositoryName": "app", "imageManifest": "{}"}, "ImageManifest"),
        ("get_authorization_token", {"registryIds": ["000000000000"]}, "this registry"),
    ],
)
def test_parameters_are_refused_as_ecr_refuses_them(
    site: EcrSite, operation: str, parameters: dict[str, Any], said: str
) -> None:
    client = site.client()
    client.meta.events.unregister("before-parameter-build.ecr")
    client.create_repository(repositoryName="app")
    with refused("InvalidParameterException") as met:
        getattr(client, operation)(**parameters)
    assert said in str(met[0])


def test_images_are_put_got_listed_described_and_deleted(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    one, two = put(client, "app", "one", "1.0", "latest"), put(client, "app", "two")
    listed = client.list_images(repositoryName="app")["imageIds"]
    assert {(image["imageDigest"], image.get("imageTag")) for image in listed} == {
        (one, "1.0"),
        (one, "latest"),
        (two, None),
    }
    tagged = client.list_images(repositoryName="app", filter={"tagStatus": "UNTAGGED"})["imageIds"]
    assert tagged == [{"imageDigest": two}]
    (detail,) = client.describe_images(repositoryName="app", imageIds=[{"imageTag": "1.0"}])["imageDetails"]
    assert (detail["imageDigest"], sorted(detail["imageTags"])) == (one, ["1.0", "latest"])
    assert detail["imageSizeInBytes"] > 3
    got = client.batch_get_image(repositoryName="app", imageIds=[{"imageTag": "1.0"}, {"imageTag": "none"}, {}])
    assert [image["imageId"] for image in got["images"]] == [{"imageDigest": one, "imageTag": "1.0"}]
    assert [failure["failureCode"] for failure in got["failures"]] == ["ImageNotFound", "MissingDigestAndTag"]
    assert digest_of(got["images"][0]["imageManifest"].encode()) == one
    with refused("ImageNotFoundException"):
        client.describe_images(repositoryName="app", imageIds=[{"imageTag": "none"}])
    with refused("ImageAlreadyExistsException"):
        client.put_image(repositoryName="app", imageManifest=got["images"][0]["imageManifest"], imageTag="1.0")
    gone = client.batch_delete_image(repositoryName="app", imageIds=[{"imageTag": "latest"}, {"imageDigest": two}])
    assert gone["imageIds"] == [{"imageDigest": one, "imageTag": "latest"}, {"imageDigest": two}]
    assert client.list_images(repositoryName="app")["imageIds"] == [{"imageDigest": one, "imageTag": "1.0"}]


def test_what_an_image_needs_has_to_be_there(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digest = put(client, "app", "one", "1.0")
    manifest = client.batch_get_image(repositoryName="app", imageIds=[{"imageDigest": digest}])["images"][0][
        "imageManifest"
    ]
    client.create_repository(repositoryName="other")
    with refused("LayersNotFoundException"):
        client.put_image(repositoryName="other", imageManifest=manifest, imageTag="1.0")
    with refused("ImageDigestDoesNotMatchException"):
        client.put_image(repositoryName="app", imageManifest=manifest, imageTag="2", imageDigest="sha256:" + "0" * 64)
    absent = "sha256:" + "1" * 64
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [{"mediaType": MANIFEST, "digest": absent, "size": 3}],
    }
    with refused("ReferencedImagesNotFoundException") as met:
        client.put_image(repositoryName="app", imageManifest=json.dumps(index), imageTag="all")
    assert absent in str(met[0])


def test_an_image_of_an_index_stays_while_the_index_does(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    child = put(client, "app", "one")
    manifest = client.batch_get_image(repositoryName="app", imageIds=[{"imageDigest": child}])["images"][0][
        "imageManifest"
    ]
    entry = {"mediaType": MANIFEST, "digest": child, "size": len(manifest)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]})
    client.put_image(repositoryName="app", imageManifest=index, imageTag="all")
    kept = client.batch_delete_image(repositoryName="app", imageIds=[{"imageDigest": child}])
    assert [one["failureCode"] for one in kept["failures"]] == ["ImageReferencedByManifestList"]
    client.batch_delete_image(repositoryName="app", imageIds=[{"imageTag": "all"}])
    assert client.batch_delete_image(repositoryName="app", imageIds=[{"imageDigest": child}])["failures"] == []


def test_layers_come_in_parts_and_go_by_a_url_that_holds_for_this_blob_alone(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    data = bytes(range(256)) * 4096 * 11  # 11 MiB
    digest = upload(client, "app", data, part=5 << 20)
    with refused("LayerAlreadyExistsException"):
        upload(client, "app", data)
    (found,) = client.batch_check_layer_availability(repositoryName="app", layerDigests=[digest])["layers"]
    assert (found["layerAvailability"], found["layerSize"]) == ("AVAILABLE", len(data))
    url = client.get_download_url_for_layer(repositoryName="app", layerDigest=digest)["downloadUrl"]
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert hashlib.sha256(answer.read()).hexdigest() == digest.removeprefix("sha256:")
    other = upload(client, "app", b"another")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace(digest, other), timeout=30)
    assert caught.value.code == 401
    with refused("LayersNotFoundException"):
        client.get_download_url_for_layer(repositoryName="app", layerDigest="sha256:" + "0" * 64)


def test_parts_out_of_order_small_parts_and_wrong_digests_are_refused(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    begun = client.initiate_layer_upload(repositoryName="app")["uploadId"]

    def part(first: int, data: bytes) -> None:
        client.upload_layer_part(
            repositoryName="app",
            uploadId=begun,
            partFirstByte=first,
            partLastByte=first + len(data) - 1,
            layerPartBlob=data,
        )

    with refused("InvalidLayerPartException") as met:
        part(5, b"later")
    assert met[0].response["lastValidByteReceived"] == 0
    with refused("EmptyUploadException"):
        client.complete_layer_upload(repositoryName="app", uploadId=begun, layerDigests=[digest_of(b"")])
    part(0, b"small")
    with refused("InvalidLayerPartException"):
        part(9, b"gap")
    with refused("InvalidLayerException"):
        client.complete_layer_upload(repositoryName="app", uploadId=begun, layerDigests=[digest_of(b"other")])
    with refused("UploadNotFoundException"):
        client.complete_layer_upload(repositoryName="app", uploadId=begun, layerDigests=[digest_of(b"small")])


def test_tags_that_are_kept_and_their_exclusions(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app", imageTagMutability="IMMUTABLE")
    put(client, "app", "one", "1.0")
    with refused("ImageTagAlreadyExistsException") as met:
        put(client, "app", "two", "1.0")
    assert "cannot be overwritten because the repository is immutable." in str(met[0])
    client.put_image_tag_mutability(
        repositoryName="app",
        imageTagMutability="IMMUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "dev-*"}],
    )
    put(client, "app", "one", "dev-1")
    put(client, "app", "two", "dev-1")
    with refused("ImageTagAlreadyExistsException"):
        put(client, "app", "two", "1.0")
    client.put_image_tag_mutability(
        repositoryName="app",
        imageTagMutability="MUTABLE_WITH_EXCLUSION",
        imageTagMutabilityExclusionFilters=[{"filterType": "WILDCARD", "filter": "v*"}],
    )
    put(client, "app", "two", "1.0")
    put(client, "app", "one", "v1")
    with refused("ImageTagAlreadyExistsException"):
        put(client, "app", "two", "v1")


def test_a_lifecycle_policy_is_previewed_before_it_takes_anything(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digests = [put(client, "app", f"word {number}", f"v{number}") for number in range(4)]
    rule = {
        "rulePriority": 1,
        "description": "keep two",
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 2},
        "action": {"type": "expire"},
    }
    text = json.dumps({"rules": [rule]})
    with refused("LifecyclePolicyNotFoundException"):
        client.start_lifecycle_policy_preview(repositoryName="app")
    with refused("LifecyclePolicyPreviewNotFoundException"):
        client.get_lifecycle_policy_preview(repositoryName="app")
    client.put_lifecycle_policy(repositoryName="app", lifecyclePolicyText=text)
    assert client.start_lifecycle_policy_preview(repositoryName="app")["status"] == "IN_PROGRESS"
    client.get_waiter("lifecycle_policy_preview_complete").wait(repositoryName="app")
    shown = client.get_lifecycle_policy_preview(repositoryName="app")
    assert [one["imageDigest"] for one in shown["previewResults"]] == digests[:2]
    assert shown["summary"]["expiringImageTotalCount"] == 2
    assert len(client.list_images(repositoryName="app")["imageIds"]) == 4, "a preview takes nothing"
    assert client.get_lifecycle_policy(repositoryName="app")["lifecyclePolicyText"] == text
    assert client.delete_lifecycle_policy(repositoryName="app")["lifecyclePolicyText"] == text


def test_policies_of_repository_and_registry_are_kept_and_given_back(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    statement = {"Sid": "pull", "Effect": "Allow", "Principal": "*", "Action": ["ecr:BatchGetImage"]}
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with refused("RepositoryPolicyNotFoundException"):
        client.get_repository_policy(repositoryName="app")
    client.set_repository_policy(repositoryName="app", policyText=text)
    assert json.loads(client.get_repository_policy(repositoryName="app")["policyText"]) == json.loads(text)
    client.delete_repository_policy(repositoryName="app")
    with refused("RegistryPolicyNotFoundException"):
        client.get_registry_policy()
    resource = f"arn:aws:ecr:us-east-1:{site.number}:repository/*"
    whole = json.dumps({"Version": "2012-10-17", "Statement": [{**statement, "Resource": resource}]})
    client.put_registry_policy(policyText=whole)
    assert json.loads(client.get_registry_policy()["policyText"]) == json.loads(whole)
    client.delete_registry_policy()
    assert client.describe_registry()["registryId"] == site.number


def test_a_user_may_do_what_policies_say_on_both_faces(site: EcrSite) -> None:
    site.client().create_repository(repositoryName="team/app")
    site.client().create_repository(repositoryName="other")
    team = f"arn:aws:ecr:us-east-1:{site.number}:repository/team/*"
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
            {"Effect": "Allow", "Action": "ecr:*", "Resource": team},
            {"Effect": "Deny", "Action": "ecr:DeleteRepository", "Resource": "*"},
        ],
    }
    site.accounts.add_user("ada", {"team": json.dumps(policy)})
    client = site.client(site.accounts.add_key("ada"))
    put(client, "team/app", "one", "1.0")
    with refused("AccessDeniedException") as met:
        client.list_images(repositoryName="other")
    assert "user/ada is not authorized to perform: ecr:ListImages" in str(met[0])
    with refused("AccessDeniedException") as met:
        client.delete_repository(repositoryName="team/app", force=True)
    assert "explicit deny" in str(met[0])
    token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]

    def status(path: str, credentials: str) -> int:
        request = urllib.request.Request(
            f"http://{site.address}{path}", headers={"Authorization": f"Basic {credentials}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/v2/", token) == 200
    assert status("/v2/team/app/tags/list", token) == 200
    assert status("/v2/other/tags/list", token) == 403
    forged = base64.b64encode(b"AWS:" + base64.b64decode(token)[4:-6] + b"AAAAAA").decode()
    assert status("/v2/team/app/tags/list", forged) == 401
    site.accounts.remove_user("ada")
    assert status("/v2/team/app/tags/list", token) == 401, "who is gone has no token any more"
    with refused("UnrecognizedClientException"):
        client.list_images(repositoryName="team/app")
