"""Repositories whose bytes lie sealed, or in a bucket, or both: pushed, pulled, shared, collected, and what breaks on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_site import Proxy, client, login, moto
from ecr_images import digest_of, put, put_layers
from ecr_site import EcrSite, ask, ecr, refused
from registry_processes import archive, image

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry
from bayplan.registry.storage.bucket import PART
from bayplan.registry.storage.keys import add_key
from bayplan.registry.storage.sealing import read_head
from bayplan.registry.storage.vaults import Placing

WORD = b"a word that nobody reads on the disk " * 100


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def bucket(aws: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a bucket of its own."""
    login(monkeypatch)
    name = f"images-{os.urandom(6).hex()}"
    client("s3", aws).create_bucket(Bucket=name)
    return {"bucket": name, "prefix": "registry/", "endpoint": aws, "region": "us-east-1"}


def objects(aws: str, bucket: dict[str, Any]) -> dict[str, bytes]:
    s3 = client("s3", aws)
    found = s3.list_objects_v2(Bucket=bucket["bucket"]).get("Contents", [])
    return {one["Key"]: s3.get_object(Bucket=bucket["bucket"], Key=one["Key"])["Body"].read() for one in found}


def on_disk(folder: Path) -> bool:
    """Whether the word can be read somewhere."""
    return any(WORD[:30] in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def blob(site: EcrSite, repository: str, digest: str, **headers: str) -> bytes:
    request = urllib.request.Request(f"http://{site.address}/v2/{repository}/blobs/{digest}", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())


# -- sealed --------------------------------------------------------------------------------------------------------


def test_a_sealed_repository_is_pushed_to_and_pulled_from(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "first")
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(key_file=keys)) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        digest = put_layers(account, "app", [WORD], "v1")
        assert ask(site, "GET", "/v2/app/manifests/v1")[0] == 200
        assert blob(site, "app", digest_of(WORD)) == WORD
        assert blob(site, "app", digest_of(WORD), Range="bytes=100-199") == WORD[100:200]
        (described,) = account.describe_images(repositoryName="app")["imageDetails"]
        assert described["imageDigest"] == digest
        assert described["imageSizeInBytes"] > len(WORD)
    assert not on_disk(tmp_path / "root")


def test_what_was_there_before_stays_as_it_is_and_nothing_is_shared_across_keys(tmp_path: Path) -> None:
    with ecr(tmp_path / "root", Anonymous.PUSH) as site:
        site.client().create_repository(repositoryName="old")
        put_layers(site.client(), "old", [WORD], "v1")
    keys = tmp_path / "keys"
    add_key(keys, "first")
    with ecr(tmp_path / "root", Anonymous.PUSH, placing=Placing(key_file=keys)) as site:
        assert blob(site, "old", digest_of(WORD)) == WORD
        for name in ("new", "other"):
            site.client().create_repository(repositoryName=name)
        mount = f"/blobs/uploads/?mount={digest_of(WORD)}&from="
        assert ask(site, "POST", "/v2/new" + mount + "old")[0] == 202, "it lies elsewhere"
        put_layers(site.client(), "new", [WORD], "v1")
        assert ask(site, "POST", "/v2/other" + mount + "new")[0] == 201, "the same key"
        registry = Registry(site.root)
        assert registry.storage("old") is registry.store
        assert registry.storage("new") is registry.storage("other")
        registry.close()


def test_a_local_push_is_sealed_and_a_container_gets_it_in_clear(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "first")
    root = Root.at(tmp_path / "root").ensure()
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(key_file=keys)) as site:
        registry = Registry(root)
        registry.create_repository("app")
        store = Store(root)
        digest = image(store, [archive({"word": WORD})])
        registry.push_local("app", "v1", digest)
        layer = json.loads(store.read(digest))["layers"][0]["digest"]
        store.collect([])
        assert not store.has(digest), "the root's store has nothing of it any more"
        assert len(blob(site, "app", layer)) > len(WORD)
        with store.lease():
            registry.localize("app", digest)
        assert store.has(Digest.parse(layer))
        registry.close()


def test_garbage_of_a_vault_is_collected(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "first")
    with ecr(tmp_path / "root", placing=Placing(key_file=keys)) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        kept, gone = put(account, "app", "stays", "v1"), put(account, "app", "goes", "v2")
        account.batch_delete_image(repositoryName="app", imageIds=[{"imageDigest": gone}])
        registry = Registry(site.root, grace=0.0)
        registry.expire()
        freed = registry.collect_vaults()
        assert freed.blobs == 3, "the manifest, its configuration and its layer"
        store = registry.storage("app")
        assert store.has(Digest.parse(kept))
        assert not store.has(Digest.parse(gone))
        registry.close()


def test_a_repository_under_kms(tmp_path: Path, aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    login(monkeypatch)
    kms = client("kms", aws)
    key, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    there = {"key": key, "endpoint": aws, "region": "us-east-1"}
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(kms=there)) as site:
        account = site.client()
        wanted = {"encryptionType": "KMS"}
        made = account.create_repository(repositoryName="app", encryptionConfiguration=wanted)
        assert made["repository"]["encryptionConfiguration"]["encryptionType"] == "KMS"
        account.create_repository(repositoryName="own", encryptionConfiguration={**wanted, "kmsKey": other})
        account.create_repository(repositoryName="clear")
        for name in ("app", "own"):
            put_layers(account, name, [WORD], "v1")
            assert blob(site, name, digest_of(WORD)) == WORD
        registry = Registry(site.root)
        assert registry.storage("app") is not registry.storage("own"), "another key, another vault"
        assert registry.storage("clear") is registry.store
        registry.close()
        with refused("KmsException"):
            account.create_repository(repositoryName="double", encryptionConfiguration={"encryptionType": "KMS_DSSE"})
    assert not on_disk(tmp_path / "root")
    with ecr(tmp_path / "bare") as site, refused("KmsException"):
        site.client().create_repository(repositoryName="app", encryptionConfiguration=wanted)


def test_keys_are_rotated_by_the_command_line(tmp_path: Path) -> None:
    """A server that runs on takes the new key; once all is rewrapped, the old one can be taken out."""

    def bayplan(*words: str) -> Any:
        command = [sys.executable, "-m", "bayplan.cli.main", "registry", *words, "--json"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout)

    keys, root = tmp_path / "keys", tmp_path / "root"
    bayplan("key-file", str(keys), "--id", "old")
    with ecr(root, Anonymous.PULL, placing=Placing(key_file=keys)) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        put_layers(account, "app", [WORD], "v1")
        assert bayplan("key-file", str(keys), "--id", "new")["id"] == "new"
        put_layers(account, "app", [WORD * 2], "v2")
        registry = Registry(site.root)
        heads = [read_head(registry.storage("app").path(digest_of(word)).open("rb")).id for word in (WORD, WORD * 2)]
        registry.close()
        assert heads == ["old", "new"]
        rewrapped = [bayplan("rekey", "--root", str(root))["rekeyed"] for _ in range(2)]
        assert rewrapped[0] >= 2, "a layer and a manifest at least"
        assert rewrapped[1] == 0
        keys.write_text(keys.read_text().splitlines()[0] + "\n")
        assert [blob(site, "app", digest_of(word)) for word in (WORD, WORD * 2)] == [WORD, WORD * 2]
        assert ask(site, "GET", "/v2/app/manifests/v1")[0] == 200
    assert not on_disk(root)


# -- in a bucket ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [False, True])
def test_a_repository_in_a_bucket(tmp_path: Path, aws: str, bucket: dict[str, Any], sealed: bool) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "first")
    placing = Placing(bucket, key_file=keys if sealed else None)
    large = os.urandom(2 * PART + 12_345)
    with ecr(tmp_path / "root", Anonymous.PUSH, placing=placing) as site:
        store = Store(Root.at(tmp_path / "local").ensure())
        digest = image(store, [large, WORD])
        with RegistryClient() as pusher:
            for repository in ("app", "copy"):
                pusher.push(store, digest, ImageName(site.address, repository, "v1"))
        fetched = Store(Root.at(tmp_path / "fetched").ensure())
        with RegistryClient() as puller:
            assert puller.pull(ImageName(site.address, "copy", "v1"), fetched) == digest
        layer = json.loads(store.read(digest))["layers"][0]["digest"]
        assert blob(site, "app", layer, Range=f"bytes={PART - 10}-{PART + 9}") == large[PART - 10 : PART + 10]
        stored = objects(aws, bucket)
        assert all(key.startswith("registry/") and "/sha256/" in key for key in stored)
        assert len(stored) == 4, "manifest, configuration and two layers: the second repository shares them"
        assert (WORD in stored.values()) is not sealed
    assert not on_disk(tmp_path / "root")


def test_a_bucket_that_does_not_answer_breaks_a_push_and_nothing_else(
    tmp_path: Path, aws: str, bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayplan.registry.storage.bucket._SECONDS", 1)
    proxy = Proxy(aws)
    with ecr(tmp_path / "root", placing=Placing({**bucket, "endpoint": proxy.url})) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        put(account, "app", "first", "v1")
    registry = Registry(Root.at(tmp_path / "root"))
    vault = registry.storage("app")
    before = len(objects(aws, bucket))
    proxy.refuse = True
    with pytest.raises(BayplanError) as caught:
        vault.put(b"second")
    assert caught.value.code == "storage-unreachable"
    assert not vault.has(Digest.of(b"second"))
    assert list(vault.incoming.iterdir()) == []
    proxy.refuse = False
    assert len(objects(aws, bucket)) == before
    vault.put(b"second")
    with vault.open(Digest.of(b"second")) as file:
        assert file.read() == b"second"
    proxy.close()
    registry.close()


def test_a_download_goes_on_where_the_line_broke(tmp_path: Path, aws: str, bucket: dict[str, Any]) -> None:
    proxy = Proxy(aws)
    large = os.urandom(3_000_000)
    with ecr(tmp_path / "root", Anonymous.PUSH, placing=Placing({**bucket, "endpoint": proxy.url})) as site:
        store = Store(Root.at(tmp_path / "local").ensure())
        with RegistryClient() as pusher:
            pusher.push(store, image(store, [large]), ImageName(site.address, "app", "v1"))
        proxy.cut_after = 1_000_000
        assert blob(site, "app", digest_of(large)) == large
        assert proxy.cut_after is None, "it did break"
    proxy.close()


def test_the_second_bucket_takes_over_and_is_made_up_for(
    tmp_path: Path, aws: str, bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bayplan.registry.storage.bucket._SECONDS", 2)
    name = f"second-{os.urandom(6).hex()}"
    client("s3", aws).create_bucket(Bucket=name)
    first, second = Proxy(aws), Proxy(aws)
    placing = Placing({**bucket, "endpoint": first.url}, {**bucket, "bucket": name, "endpoint": second.url})
    with ecr(tmp_path / "root", Anonymous.PULL, placing=placing) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        put_layers(account, "app", [WORD], "v1")
        assert objects(aws, bucket) == objects(aws, {"bucket": name})
        first.refuse = True
        assert blob(site, "app", digest_of(WORD)) == WORD
        first.refuse, second.refuse = False, True
        put_layers(account, "app", [b"while the second was away"], "v2")
        second.refuse = False
    missing = objects(aws, bucket).keys() - objects(aws, {"bucket": name}).keys()
    assert missing
    registry = Registry(Root.at(tmp_path / "root"))
    registry.collect_vaults()
    registry.close()
    assert objects(aws, bucket) == objects(aws, {"bucket": name})
    for proxy in (first, second):
        proxy.close()


def test_objects_that_nothing_names_are_swept_when_they_are_old(
    tmp_path: Path, aws: str, bucket: dict[str, Any]
) -> None:
    with ecr(tmp_path / "root", placing=Placing(bucket)) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        put(account, "app", "word", "v1")
    own = "/".join(next(iter(objects(aws, bucket))).split("/")[:2])
    client("s3", aws).put_object(Bucket=bucket["bucket"], Key=f"{own}/sha256/00/left-by-a-crash/1", Body=b"x")
    kept = len(objects(aws, bucket)) - 1
    registry = Registry(Root.at(tmp_path / "root"))
    (name,) = registry.vaults()
    assert registry.vault(name).sweep() == 0, "it may be somebody's upload"
    assert registry.vault(name).sweep(-1.0) == 1
    assert len(objects(aws, bucket)) == kept
    registry.close()


def test_a_bucket_that_is_not_there_is_told_at_the_start(tmp_path: Path, bucket: dict[str, Any]) -> None:
    from bayplan.registry.server import Server, Settings

    root = Root.at(tmp_path / "root").ensure()
    with pytest.raises(BayplanError) as caught:
        Server(root, Settings(placing=Placing({**bucket, "bucket": "no-such-bucket"})))
    assert caught.value.code == "storage-unreachable"
