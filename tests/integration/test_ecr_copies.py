"""Images that come from other registries and go to them: the pull-through cache, replication, backfills."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ecr_images import INDEX, MANIFEST, put
from ecr_site import EcrSite, ask, ecr, eventually, login, refused

from bayplan.registry.access.guard import Anonymous
from bayplan.registry.replication import Destination

WEST = "eu-west-1"


def profile(site: EcrSite, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AWS profile ``west`` of the site's root key."""
    key = site.accounts.load().root_key
    file = folder / "credentials"
    file.write_text(f"[west]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[EcrSite, EcrSite]]:
    """A registry, and the one that it may replicate to."""
    with ecr(tmp_path / "west", region=WEST, account="222222222222") as west:
        profile(west, tmp_path, monkeypatch)
        there = Destination(WEST, "222222222222", f"http://{west.address}", "west")
        with ecr(tmp_path / "home", destinations=(there,)) as home:
            yield home, west


def rule(*prefixes: str, deletes: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"destinations": [{"region": WEST, "registryId": "222222222222"}]}
    if prefixes:
        found["repositoryFilters"] = [{"filter": one, "filterType": "PREFIX_MATCH"} for one in prefixes]
    if deletes:
        found["deleteReplication"] = {"enabled": True}
    return found


def images(client: Any, repository: str) -> set[str]:
    try:
        return {one["imageDigest"] for one in client.list_images(repositoryName=repository)["imageIds"]}
    except client.exceptions.RepositoryNotFoundException:
        return set()


def test_what_is_pushed_is_replicated_with_its_tags(pair: tuple[EcrSite, EcrSite]) -> None:
    home, west = (one.client() for one in pair)
    wanted = {"rules": [rule("prod")]}
    assert home.put_replication_configuration(replicationConfiguration=wanted)["replicationConfiguration"] == wanted
    assert home.describe_registry()["replicationConfiguration"] == wanted
    for name in ("prod/app", "dev/app"):
        home.create_repository(repositoryName=name)
    digest = put(home, "prod/app", "word", "v1", "v2")
    put(home, "dev/app", "word", "v1")

    def complete() -> bool:
        told = home.describe_image_replication_status(repositoryName="prod/app", imageId={"imageDigest": digest})
        tags = west.describe_images(repositoryName="prod/app")["imageDetails"] if images(west, "prod/app") else []
        done = [one["status"] for one in told["replicationStatuses"]] == ["COMPLETE"]
        return done and any(sorted(one.get("imageTags", ())) == ["v1", "v2"] for one in tags)

    eventually(complete)
    assert images(west, "prod/app") == {digest}
    assert images(west, "dev/app") == set()
    status, _ = ask(pair[1], "GET", f"/v2/prod/app/manifests/{digest}")
    assert status == 200
    with refused("ImageNotFoundException"):
        home.describe_image_replication_status(repositoryName="prod/app", imageId={"imageTag": "v9"})


def test_deletions_follow_where_they_should(pair: tuple[EcrSite, EcrSite]) -> None:
    home, west = (one.client() for one in pair)
    home.put_replication_configuration(replicationConfiguration={"rules": [rule(deletes=True)]})
    home.create_repository(repositoryName="app")
    digest = put(home, "app", "word", "v1")
    eventually(lambda: images(west, "app") == {digest})
    home.batch_delete_image(repositoryName="app", imageIds=[{"imageDigest": digest}])
    eventually(lambda: images(west, "app") == set())


def test_a_destination_has_to_be_known(pair: tuple[EcrSite, EcrSite]) -> None:
    home = pair[0].client()
    elsewhere = {"destinations": [{"region": "ap-south-1", "registryId": "222222222222"}]}
    with refused("ValidationException"):
        home.put_replication_configuration(replicationConfiguration={"rules": [elsewhere]})
    here = {"destinations": [{"region": "us-east-1", "registryId": pair[0].number}]}
    with refused("InvalidParameterException"):
        home.put_replication_configuration(replicationConfiguration={"rules": [here]})
    with refused("ValidationException"):
        home.start_replication_backfill(destination={"region": WEST, "registryId": "222222222222"})


def test_a_backfill_brings_what_was_there_before(pair: tuple[EcrSite, EcrSite]) -> None:
    home, west = (one.client() for one in pair)
    home.create_repository(repositoryName="app")
    digests = {put(home, "app", f"word {number}", f"v{number}") for number in range(5)}
    home.put_replication_configuration(replicationConfiguration={"rules": [rule()]})
    started = home.start_replication_backfill(destination={"region": WEST, "registryId": "222222222222"})
    id = started["replicationBackfillId"]

    def ended() -> Any:
        (found,) = home.list_replication_backfills()["backfills"]
        return found if found["status"] == "COMPLETE" else None

    found = eventually(ended)
    assert found["progress"]["completedReplicationCount"] == 5
    assert images(west, "app") == digests
    results = home.describe_replication_backfill_results(replicationBackfillId=id)
    assert {one["imageId"]["imageDigest"] for one in results["results"]} == digests
    failed = home.describe_replication_backfill_results(replicationBackfillId=id, resultStatusFilter="FAILED")
    assert failed["results"] == []
    with refused("ReplicationBackfillInvalidStatusException"):
        home.stop_replication_backfill(replicationBackfillId=id)
    for call in (home.stop_replication_backfill, home.describe_replication_backfill_results):
        with refused("ReplicationBackfillNotFoundException"):
            call(replicationBackfillId="2e0a9f0e-0000-4000-8000-000000000000")


def test_replication_waits_for_a_registry_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ecr(tmp_path / "west", region=WEST, account="222222222222") as west:
        profile(west, tmp_path, monkeypatch)
        address = west.address
    there = Destination(WEST, "222222222222", f"http://{address}", "west")
    with ecr(tmp_path / "home", destinations=(there,)) as home:
        client = home.client()
        client.put_replication_configuration(replicationConfiguration={"rules": [rule()]})
        client.create_repository(repositoryName="app")
        digest = put(client, "app", "word", "v1")
        told = client.describe_image_replication_status(repositoryName="app", imageId={"imageDigest": digest})
        assert [one["status"] for one in told["replicationStatuses"]] == ["IN_PROGRESS"]
    # The server that took the push is gone before it could replicate; the next one does it.
    with (
        ecr(tmp_path / "west", region=WEST, listen=address) as west,
        ecr(tmp_path / "home", destinations=(there,)) as home,
    ):
        assert eventually(lambda: images(west.client(), "app") == {digest}, 60)


# -- pull through --------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[tuple[EcrSite, EcrSite]]:
    """A registry, and the upstream that it may cache (open to everybody)."""
    with ecr(tmp_path / "upstream", Anonymous.PUSH) as upstream, ecr(tmp_path / "cache") as cache:
        yield cache, upstream


def pull(site: EcrSite, repository: str, reference: str) -> int:
    return ask(site, "GET", f"/v2/{repository}/manifests/{reference}")[0]


def test_what_is_pulled_is_fetched_once_and_kept(cached: tuple[EcrSite, EcrSite]) -> None:
    cache, upstream = cached
    client, there = cache.client(), upstream.client()
    there.create_repository(repositoryName="library/app")
    digest = put(there, "library/app", "word", "v1")
    assert pull(cache, "hub/app", "v1") == 404
    made = client.create_pull_through_cache_rule(
        ecrRepositoryPrefix="hub", upstreamRegistryUrl=f"http://{upstream.address}", upstreamRepositoryPrefix="library"
    )
    assert made["ecrRepositoryPrefix"] == "hub"
    assert eventually(lambda: pull(cache, "hub/app", "v1") == 200), "a rule counts after a second"
    assert images(client, "hub/app") == {digest}
    there.delete_repository(repositoryName="library/app", force=True)
    assert pull(cache, "hub/app", "v1") == 200, "what is here stays"
    assert pull(cache, "hub/app", "v2") == 404
    assert pull(cache, "hub/other", "v1") == 404
    assert images(client, "hub/other") == set(), "a name that is nothing there makes nothing here"


def test_of_an_index_only_what_is_asked_for_is_fetched(cached: tuple[EcrSite, EcrSite]) -> None:
    cache, upstream = cached
    client, there = cache.client(), upstream.client()
    there.create_repository(repositoryName="app")
    digests = [put(there, "app", word) for word in ("amd64", "arm64")]
    sizes = [
        len(one["imageManifest"])
        for one in there.batch_get_image(repositoryName="app", imageIds=[{"imageDigest": one} for one in digests])[
            "images"
        ]
    ]
    children = [{"mediaType": MANIFEST, "digest": one, "size": size} for one, size in zip(digests, sizes, strict=True)]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": children})
    top = there.put_image(repositoryName="app", imageManifest=index, imageTag="all")["image"]["imageId"]["imageDigest"]
    client.create_pull_through_cache_rule(ecrRepositoryPrefix="ROOT", upstreamRegistryUrl=upstream.address)
    assert eventually(lambda: pull(cache, "app", "all") == 200)
    assert images(client, "app") == {top}
    assert pull(cache, "app", digests[1]) == 200
    assert images(client, "app") == {top, digests[1]}


def test_a_pull_through_needs_the_right_to_import(cached: tuple[EcrSite, EcrSite]) -> None:
    cache, upstream = cached
    client, there = cache.client(), upstream.client()
    there.create_repository(repositoryName="app")
    put(there, "app", "word", "v1")
    client.create_pull_through_cache_rule(ecrRepositoryPrefix="up", upstreamRegistryUrl=upstream.address)
    pulls = ["ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]

    def pulled(name: str, *actions: str) -> int:
        """The status of a pull by a new user who may do that besides."""
        statement = {"Effect": "Allow", "Action": [*pulls, *actions], "Resource": "*"}
        cache.accounts.add_user(name, {"pull": json.dumps({"Version": "2012-10-17", "Statement": [statement]})})
        password = login(cache.client(cache.accounts.add_key(name)))
        return ask(cache, "GET", "/v2/up/app/manifests/v1", password=password)[0]

    time.sleep(1.1)  # until the rule counts
    assert pulled("puller") == 403
    assert pulled("importer", "ecr:BatchImportUpstreamImage") == 403, "the repository has to be made, too"
    assert pulled("maker", "ecr:BatchImportUpstreamImage", "ecr:CreateRepository") == 200


def test_rules_of_the_cache_are_listed_validated_and_deleted(cached: tuple[EcrSite, EcrSite]) -> None:
    cache, upstream = cached
    client = cache.client()
    client.create_pull_through_cache_rule(ecrRepositoryPrefix="up", upstreamRegistryUrl=upstream.address)
    client.create_pull_through_cache_rule(ecrRepositoryPrefix="quay", upstreamRegistryUrl="quay.io")
    with refused("PullThroughCacheRuleAlreadyExistsException"):
        client.create_pull_through_cache_rule(ecrRepositoryPrefix="up", upstreamRegistryUrl=upstream.address)
    with refused("UnsupportedUpstreamRegistryException"):
        client.create_pull_through_cache_rule(ecrRepositoryPrefix="bad", upstreamRegistryUrl="file:///etc/passwd")
    secret = "arn:aws:secretsmanager:us-east-1:111111111111:secret:ecr-pullthroughcache/hub"
    with refused("SecretNotFoundException"):
        client.create_pull_through_cache_rule(
            ecrRepositoryPrefix="hub", upstreamRegistryUrl="registry-1.docker.io", credentialArn=secret
        )
    rules = client.describe_pull_through_cache_rules()["pullThroughCacheRules"]
    assert [(one["ecrRepositoryPrefix"], one.get("upstreamRegistry")) for one in rules] == [
        ("quay", "quay"),
        ("up", None),
    ]
    assert client.validate_pull_through_cache_rule(ecrRepositoryPrefix="up")["isValid"] is True
    client.create_pull_through_cache_rule(ecrRepositoryPrefix="dead", upstreamRegistryUrl="127.0.0.1:1")
    dead = client.validate_pull_through_cache_rule(ecrRepositoryPrefix="dead")
    assert (dead["isValid"], bool(dead["failure"])) == (False, True)
    with refused("ValidationException"):
        client.update_pull_through_cache_rule(ecrRepositoryPrefix="up")
    assert client.delete_pull_through_cache_rule(ecrRepositoryPrefix="up")["ecrRepositoryPrefix"] == "up"
    for call in (
        client.delete_pull_through_cache_rule,
        client.validate_pull_through_cache_rule,
        client.update_pull_through_cache_rule,
    ):
        with refused("PullThroughCacheRuleNotFoundException"):
            call(ecrRepositoryPrefix="up")
    with refused("PullThroughCacheRuleNotFoundException"):
        client.describe_pull_through_cache_rules(ecrRepositoryPrefixes=["up"])
