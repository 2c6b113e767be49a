"""What the account and its templates say, and what of it counts with pushes and pulls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ecr_images import INDEX, MANIFEST, digest_of, put
from ecr_site import EcrSite, ask, ecr, login, refused

from bayplan.oci.digest import Digest
from bayplan.registry.ecr.lifecycle import carry_out
from bayplan.registry.registry import Registry

DAY = 86400.0
POLICY = json.dumps(
    {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "ecr:ListImages"}]}
)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EcrSite]:
    with ecr(tmp_path / "root") as made:
        yield made


def push(site: EcrSite, repository: str, tag: str, password: str = "") -> int:
    """Push an image of one blob over the distribution API; the status of the first call that was refused, or 201."""
    config = b"{}"
    status, _ = ask(
        site, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest_of(config)}", config, password=password
    )
    if status != 201:
        return status
    config_entry = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(config), "size": 2}
    text = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config_entry, "layers": []})
    return ask(site, "PUT", f"/v2/{repository}/manifests/{tag}", text.encode(), MANIFEST, password)[0]


def test_a_template_makes_the_repository_of_the_first_push(site: EcrSite) -> None:
    client = site.client()
    assert push(site, "team/app", "v1") == 404, "as in ECR, a push makes nothing by itself"
    made = client.create_repository_creation_template(
        prefix="team",
        description="for the team",
        appliedFor=["CREATE_ON_PUSH"],
        imageTagMutability="IMMUTABLE",
        resourceTags=[{"Key": "team", "Value": "blue"}],
        repositoryPolicy=POLICY,
    )
    assert made["repositoryCreationTemplate"]["prefix"] == "team"
    with refused("TemplateAlreadyExistsException"):
        client.create_repository_creation_template(prefix="team", appliedFor=["CREATE_ON_PUSH"])
    assert push(site, "team/app", "v1") == 201
    (repository,) = client.describe_repositories(repositoryNames=["team/app"])["repositories"]
    assert repository["imageTagMutability"] == "IMMUTABLE"
    assert client.list_tags_for_resource(resourceArn=repository["repositoryArn"])["tags"] == [
        {"Key": "team", "Value": "blue"}
    ]
    assert json.loads(client.get_repository_policy(repositoryName="team/app")["policyText"]) == json.loads(POLICY)
    assert push(site, "teams/app", "v1") == 404, "a prefix ends where a name's part does"


def test_who_may_not_make_repositories_makes_none_by_a_push(site: EcrSite) -> None:
    client = site.client()
    client.create_repository_creation_template(prefix="ROOT", appliedFor=["CREATE_ON_PUSH"])
    allowed = ["ecr:GetAuthorizationToken", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"]
    statement = {"Effect": "Allow", "Action": [*allowed, "ecr:PutImage"], "Resource": "*"}
    site.accounts.add_user("pusher", {"push": json.dumps({"Version": "2012-10-17", "Statement": [statement]})})
    key = site.accounts.add_key("pusher")
    password = login(site.client(key))
    assert push(site, "app", "v1", password) == 403
    assert client.describe_repositories()["repositories"] == []
    client.create_repository(repositoryName="app")
    assert push(site, "app", "v1", password) == 201


def test_templates_are_changed_listed_and_deleted(site: EcrSite) -> None:
    client = site.client()
    for prefix in ("aa", "bb", "ROOT"):
        client.create_repository_creation_template(prefix=prefix, appliedFor=["REPLICATION"], description="first")
    changed = client.update_repository_creation_template(prefix="bb", description="", imageTagMutability="IMMUTABLE")
    assert "description" not in changed["repositoryCreationTemplate"]
    assert changed["repositoryCreationTemplate"]["imageTagMutability"] == "IMMUTABLE"
    first = client.describe_repository_creation_templates(maxResults=2)
    rest = client.describe_repository_creation_templates(nextToken=first["nextToken"])
    found = first["repositoryCreationTemplates"] + rest["repositoryCreationTemplates"]
    assert [one["prefix"] for one in found] == ["ROOT", "aa", "bb"]
    only = client.describe_repository_creation_templates(prefixes=["aa", "absent"])["repositoryCreationTemplates"]
    assert [one["prefix"] for one in only] == ["aa"]
    client.delete_repository_creation_template(prefix="aa")
    for call in (client.delete_repository_creation_template, client.update_repository_creation_template):
        with refused("TemplateNotFoundException"):
            call(prefix="aa")
    with refused("InvalidParameterException"):
        client.create_repository_creation_template(prefix="cc", appliedFor=["REPLICATION"], lifecyclePolicy="{}")
    with refused("InvalidParameterException"):
        client.create_repository_creation_template(prefix="cc", appliedFor=["REPLICATION"], repositoryPolicy="{}")


def test_account_settings_are_kept_and_count(site: EcrSite) -> None:
    client = site.client()
    assert client.get_account_setting(name="BLOB_MOUNTING")["value"] == "ENABLED"
    for name in ("from", "to"):
        client.create_repository(repositoryName=name)
    put(client, "from", "word", "v1")
    mount = f"/v2/to/blobs/uploads/?mount={digest_of(b'word')}&from=from"
    client.put_account_setting(name="BLOB_MOUNTING", value="DISABLED")
    assert ask(site, "POST", mount, b"")[0] == 202, "nothing is mounted; an upload begins"
    client.put_account_setting(name="BLOB_MOUNTING", value="ENABLED")
    assert ask(site, "POST", mount, b"")[0] == 201
    for name, value in (("BLOB_MOUNTING", "PERHAPS"), ("COLOUR", "BLUE"), ("BASIC_SCAN_TYPE_VERSION", "CLAIR")):
        with refused("InvalidParameterException"):
            client.put_account_setting(name=name, value=value)
    with refused("InvalidParameterException"):
        client.get_account_setting(name="COLOUR")


def test_the_first_scope_of_registry_policies_is_for_three_actions(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    site.accounts.add_user("reader")
    key = site.accounts.add_key("reader")
    arn = f"arn:aws:iam::{site.number}:user/reader"
    statement = {"Sid": "all", "Effect": "Allow", "Principal": {"AWS": arn}, "Action": "ecr:*", "Resource": "*"}
    client.put_registry_policy(policyText=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    reader = site.client(key)
    assert reader.list_images(repositoryName="app")["imageIds"] == []
    client.put_account_setting(name="REGISTRY_POLICY_SCOPE", value="V1")
    with refused("AccessDeniedException"):
        reader.list_images(repositoryName="app")
    assert reader.create_repository(repositoryName="other")["repository"]["repositoryName"] == "other"


def test_pulls_of_those_who_are_excluded_are_not_recorded(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    put(client, "app", "word", "v1")
    statement = {"Effect": "Allow", "Action": "ecr:*", "Resource": "*"}
    site.accounts.add_user("scanner", {"all": json.dumps({"Version": "2012-10-17", "Statement": [statement]})})
    password = login(site.client(site.accounts.add_key("scanner")))
    me = f"arn:aws:iam::{site.number}:user/scanner"
    assert client.register_pull_time_update_exclusion(principalArn=me)["principalArn"] == me
    with refused("ExclusionAlreadyExistsException"):
        client.register_pull_time_update_exclusion(principalArn=me)
    assert client.list_pull_time_update_exclusions()["pullTimeUpdateExclusions"] == [me]

    def pulled() -> bool:
        assert ask(site, "GET", "/v2/app/manifests/v1", password=password)[0] == 200
        (found,) = client.describe_images(repositoryName="app")["imageDetails"]
        return "lastRecordedPullTime" in found

    assert not pulled()
    client.deregister_pull_time_update_exclusion(principalArn=me)
    with refused("ExclusionNotFoundException"):
        client.deregister_pull_time_update_exclusion(principalArn=me)
    assert pulled()


def test_signing_has_no_signer_here(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    put(client, "app", "word", "v1")
    profile = f"arn:aws:signer:us-east-1:{site.number}:/signing-profiles/mine"
    with refused("ValidationException"):
        client.put_signing_configuration(signingConfiguration={"rules": [{"signingProfileArn": profile}]})
    for call in (client.get_signing_configuration, client.delete_signing_configuration):
        with refused("SigningConfigurationNotFoundException"):
            call()
    status = client.describe_image_signing_status(repositoryName="app", imageId={"imageTag": "v1"})
    assert status["signingStatuses"] == []
    with refused("ImageNotFoundException"):
        client.describe_image_signing_status(repositoryName="app", imageId={"imageTag": "v2"})


# -- storage classes -----------------------------------------------------------------------------------------------


def test_an_archived_image_is_listed_apart_and_not_pulled(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digest = put(client, "app", "word", "v1")
    put(client, "app", "other", "v2")
    move = {"repositoryName": "app", "imageId": {"imageTag": "v1"}}
    assert client.update_image_storage_class(**move, targetStorageClass="ARCHIVE")["imageStatus"] == "ARCHIVED"
    assert [one["imageTags"] for one in client.describe_images(repositoryName="app")["imageDetails"]] == [["v2"]]
    (found,) = client.describe_images(repositoryName="app", filter={"imageStatus": "ARCHIVED"})["imageDetails"]
    assert (found["imageDigest"], found["imageStatus"]) == (digest, "ARCHIVED")
    assert found["lastArchivedAt"]
    assert len(client.list_images(repositoryName="app", filter={"imageStatus": "ANY"})["imageIds"]) == 2
    status, body = ask(site, "GET", "/v2/app/manifests/v1")
    assert status == 403
    assert "archived" in body
    got = client.batch_get_image(repositoryName="app", imageIds=[{"imageTag": "v1"}])
    assert got["failures"][0]["failureCode"] == "ImageInaccessible"
    assert client.update_image_storage_class(**move, targetStorageClass="STANDARD")["imageStatus"] == "ACTIVE"
    assert ask(site, "GET", "/v2/app/manifests/v1")[0] == 200
    with refused("ImageNotFoundException"):
        client.update_image_storage_class(
            repositoryName="app", imageId={"imageTag": "v3"}, targetStorageClass="ARCHIVE"
        )


def test_an_image_is_archived_after_its_index(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digest = put(client, "app", "word", "v1")
    (one,) = client.batch_get_image(repositoryName="app", imageIds=[{"imageDigest": digest}])["images"]
    child = {"mediaType": MANIFEST, "digest": digest, "size": len(one["imageManifest"])}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]})
    client.put_image(repositoryName="app", imageManifest=index, imageTag="all")
    with refused("ImageStorageClassUpdateNotSupportedException"):
        client.update_image_storage_class(
            repositoryName="app", imageId={"imageDigest": digest}, targetStorageClass="ARCHIVE"
        )
    for image in ({"imageTag": "all"}, {"imageDigest": digest}):
        moved = client.update_image_storage_class(repositoryName="app", imageId=image, targetStorageClass="ARCHIVE")
        assert moved["imageStatus"] == "ARCHIVED"


def test_a_lifecycle_policy_archives_and_spares_what_runs(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digests = [put(client, "app", f"word {number}", f"v{number}") for number in range(3)]
    rules = [
        {
            "rulePriority": 1,
            "selection": {"tagStatus": "tagged", "tagPatternList": ["v0"], "countType": "sinceImagePulled",
                          "countUnit": "days", "countNumber": 30},
            "action": {"type": "transition", "targetStorageClass": "archive"},
        },
        {
            "rulePriority": 2,
            "selection": {"tagStatus": "any", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 30},
            "action": {"type": "expire"},
        },
    ]  # fmt: skip
    client.put_lifecycle_policy(repositoryName="app", lifecyclePolicyText=json.dumps({"rules": rules}))
    registry = Registry(site.root)
    later = registry.resolve("app", "v0").pushed + 31 * DAY
    taken = carry_out(registry, "app", later, in_use=lambda: {Digest.parse(digests[1])})
    registry.close()
    assert {image.digest: rule.transition for image, rule in taken} == {digests[0]: True, digests[2]: False}
    found = client.describe_images(repositoryName="app", filter={"imageStatus": "ANY"})["imageDetails"]
    assert {one["imageDigest"]: one["imageStatus"] for one in found} == {digests[0]: "ARCHIVED", digests[1]: "ACTIVE"}
