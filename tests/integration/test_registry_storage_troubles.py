"""What breaks between a registry and its bucket or its keys: nothing is lost, nothing is called by another name, nobody else waits."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_site import Proxy, client, login, moto
from ecr_images import digest_of, put, put_layers
from ecr_site import EcrSite, ask, ecr, refused
from registry_processes import image

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.client import RegistryClient
from bayplan.registry.configuration import Tls
from bayplan.registry.registry import Registry
from bayplan.registry.storage.bucket import PART, Bucket
from bayplan.registry.storage.keys import FileKeys, KmsKeys, add_key
from bayplan.registry.storage.sealing import CHUNK, TAG, read_head
from bayplan.registry.storage.vault import Vault
from bayplan.registry.storage.vaults import Placing

ANYBODY = ssl._create_unverified_context()


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def bucket(aws: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a bucket of its own; what does not answer is given up after a second."""
    login(monkeypatch)
    monkeypatch.setattr("bayplan.registry.storage.bucket._SECONDS", 1)
    return {"bucket": new_bucket(aws), "prefix": "registry/", "endpoint": aws, "region": "us-east-1"}


@pytest.fixture
def proxy(aws: str) -> Iterator[Proxy]:
    made = Proxy(aws)
    yield made
    made.close()


def new_bucket(aws: str) -> str:
    name = f"images-{os.urandom(6).hex()}"
    client("s3", aws).create_bucket(Bucket=name)
    return name


def names(aws: str, bucket: dict[str, Any]) -> set[str]:
    return {one["Key"] for one in client("s3", aws).list_objects_v2(Bucket=bucket["bucket"]).get("Contents", [])}


def parts_left(aws: str, bucket: dict[str, Any]) -> list[Any]:
    found = client("s3", aws).list_multipart_uploads(Bucket=bucket["bucket"])
    return list(found.get("Uploads", []))


def blob(site: EcrSite, repository: str, data: bytes, part: str = "bytes=0-", scheme: str = "http") -> bytes:
    url = f"{scheme}://{site.address}/v2/{repository}/blobs/{digest_of(data)}"
    request = urllib.request.Request(url, headers={"Range": part})
    with urllib.request.urlopen(request, timeout=30, context=ANYBODY) as answer:
        return bytes(answer.read())


def push_blob(site: EcrSite, repository: str, data: bytes, scheme: str = "http") -> tuple[int, dict[str, Any]]:
    """A single POST of a blob: status, document."""
    url = f"{scheme}://{site.address}/v2/{repository}/blobs/uploads/?digest={digest_of(data)}"
    request = urllib.request.Request(url, data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60, context=ANYBODY) as answer:
            return answer.status, {}
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


# -- a bucket ------------------------------------------------------------------------------------------------------


def test_a_sweep_takes_nothing_of_other_vaults_nor_of_others(tmp_path: Path, aws: str, bucket: dict[str, Any]) -> None:
    key = client("kms", aws).create_key()["KeyMetadata"]["Arn"]
    client("s3", aws).put_object(Bucket=bucket["bucket"], Key="registry/somebody/elses", Body=b"x")
    placing = Placing(bucket, kms={"key": key, "endpoint": aws, "region": "us-east-1"})
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        with ecr(root, placing=placing) as site:
            account = site.client()
            account.create_repository(repositoryName="clear")
            account.create_repository(repositoryName="sealed", encryptionConfiguration={"encryptionType": "KMS"})
            for repository in ("clear", "sealed"):
                put(account, repository, "word", "v1")
    before = names(aws, bucket)
    assert len(before) == 13, "three objects for each of two vaults of two roots, and one of somebody else"
    for root in roots:
        registry = Registry(Root.at(root))
        assert [registry.vault(name).sweep(-1.0) for name in registry.vaults()] == [0, 0]
        registry.close()
    assert names(aws, bucket) == before


@pytest.mark.parametrize("size", [1000, PART + 1000])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_an_answer_that_is_lost_costs_nothing(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy, size: int, nth: int
) -> None:
    """The bucket did what it was asked and could not say so: what is tried again finds it done."""
    made = Bucket({**bucket, "endpoint": proxy.url})
    content = tmp_path / "content"
    content.write_bytes(os.urandom(size))
    made.check()
    proxy.lose_answers = {nth}
    with content.open("rb") as file:
        made.put("one", file, size)
    stored = client("s3", aws).get_object(Bucket=bucket["bucket"], Key="registry/one")["Body"].read()
    assert stored == content.read_bytes()
    begun = nth == 1 and size > PART  # an upload whose name nobody knows; a sweep ends it
    assert len(parts_left(aws, bucket)) == begun


@pytest.mark.parametrize("where", [200, 5_000_000, PART + 2_000_000])
def test_a_part_that_breaks_off_is_sent_again(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy, where: int
) -> None:
    large = os.urandom(2 * PART + 99)
    with ecr(tmp_path / "root", Anonymous.PUSH, placing=Placing({**bucket, "endpoint": proxy.url})) as site:
        store = Store(Root.at(tmp_path / "local").ensure())
        proxy.lose_after = where
        with RegistryClient() as pusher:
            pusher.push(store, image(store, [large]), ImageName(site.address, "app", "v1"))
        assert proxy.lose_after is None, "it did break"
        assert blob(site, "app", large) == large
    assert parts_left(aws, bucket) == []


@pytest.mark.parametrize("trouble", ["refuse", "silent"])
def test_a_push_is_told_that_the_bucket_is_away(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy, trouble: str
) -> None:
    placing = Placing({**bucket, "endpoint": proxy.url})
    with ecr(tmp_path / "root", Anonymous.PUSH, ["storage-unreachable"], placing=placing) as site:
        assert push_blob(site, "app", b"first")[0] == 201
        setattr(proxy, trouble, True)
        status, said = push_blob(site, "app", b"second")
        assert status == 503, said
        assert said["errors"][0]["code"] == "UNAVAILABLE"
        assert ask(site, "HEAD", f"/v2/app/blobs/{digest_of(b'second')}")[0] == 404
        for _ in range(3):
            began = time.monotonic()
            assert ask(site, "GET", f"/v2/app/blobs/{digest_of(b'first')}")[0] == 503
            assert time.monotonic() - began < 2, "one try: it did not answer a moment ago"
        setattr(proxy, trouble, False)
        assert push_blob(site, "app", b"second")[0] == 201
        assert blob(site, "app", b"first") == b"first"
    vault = vault_of(tmp_path / "root", "app")
    assert list(vault.incoming.iterdir()) == []


@pytest.mark.parametrize("size", [1000, PART + 1000])
def test_a_bucket_that_asks_to_slow_down_is_asked_again(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy, size: int
) -> None:
    vault = Vault(tmp_path / "vault", None, Bucket({**bucket, "endpoint": proxy.url}))
    vault.put(b"first")
    content = os.urandom(size)
    proxy.slow_down = 2
    digest = vault.put(content)
    assert proxy.slow_down == 0
    proxy.slow_down = 2
    assert vault.read(digest, 2 * PART) == content
    proxy.slow_down = 1000
    with pytest.raises(BayplanError) as caught:
        vault.put(b"second")
    assert caught.value.code == "storage-unreachable"
    assert "SlowDown" in caught.value.message
    proxy.slow_down = 0
    assert parts_left(aws, bucket) == []
    assert vault.put(b"second") == Digest.of(b"second")


def test_a_vault_that_many_begin_at_once_has_one_name(tmp_path: Path, aws: str, bucket: dict[str, Any]) -> None:
    vaults = [Vault(tmp_path / "vault", None, Bucket(bucket)) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: vaults[number].put(str(number).encode()), range(8)))
    assert len(names(aws, bucket)) == 8
    assert len({name.split("/")[1] for name in names(aws, bucket)}) == 1


def vault_of(root: Path, repository: str) -> Vault:
    registry = Registry(Root.at(root))
    vault = registry.storage(repository)
    registry.close()
    assert isinstance(vault, Vault)
    return vault


def test_parts_of_an_upload_that_died_are_swept_when_they_are_old(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy
) -> None:
    with ecr(tmp_path / "root", Anonymous.PUSH, placing=Placing({**bucket, "endpoint": proxy.url})) as site:
        assert push_blob(site, "app", b"first")[0] == 201
    vault = vault_of(tmp_path / "root", "app")
    proxy.lose_after, proxy.refuse_then = PART + 5_000_000, True
    with pytest.raises(BayplanError, match="bucket does not take a part"):
        vault.put(os.urandom(2 * PART))
    proxy.refuse = proxy.refuse_then = False
    assert len(parts_left(aws, bucket)) == 1
    vault.sweep(1e12)
    assert len(parts_left(aws, bucket)) == 1, "it may be somebody's upload"
    vault.sweep()  # moto says of every upload that it began in 2010
    assert parts_left(aws, bucket) == []


def test_what_the_second_bucket_is_owed_survives_all_that_happens_meanwhile(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy
) -> None:
    second = {**bucket, "bucket": new_bucket(aws)}
    vault = Vault(tmp_path / "vault", None, Bucket(bucket), Bucket({**second, "endpoint": proxy.url}))
    proxy.refuse = True
    kept, brought, gone = (vault.put(word) for word in (b"kept", b"brought already", b"gone again"))
    assert vault.owed() == 3
    collected = vault.collect([lambda: [kept, brought]])
    assert collected.blobs == 1
    with pytest.raises(BayplanError, match="does not"):
        vault.sweep(-1.0)
    with pytest.raises(BayplanError, match="does not"):
        vault.settle()
    proxy.refuse = False
    (key,) = (one for one in names(aws, bucket) if Digest.parse(brought).hex in one)
    client("s3", aws).put_object(Bucket=second["bucket"], Key=key, Body=b"brought already")
    assert vault.settle() == 2
    assert vault.owed() == 0
    assert names(aws, bucket) == names(aws, second)
    assert not any(Digest.parse(gone).hex in one for one in names(aws, second))


def test_a_bucket_that_was_away_a_moment_ago_is_not_asked_first(
    tmp_path: Path, aws: str, bucket: dict[str, Any], proxy: Proxy
) -> None:
    second = {**bucket, "bucket": new_bucket(aws)}
    vault = Vault(tmp_path / "vault", None, Bucket({**bucket, "endpoint": proxy.url}), Bucket(second))
    digests = [vault.put(os.urandom(1000)) for _ in range(20)]
    proxy.silent = True
    vault.read(digests[0])
    began = time.monotonic()
    for digest in digests:
        vault.read(digest)
    assert time.monotonic() - began < 1.0, "none of them waited for the first bucket"


@pytest.mark.parametrize("sealed", [False, True])
def test_a_blob_that_is_read_from_its_start_is_one_request(
    tmp_path: Path, bucket: dict[str, Any], proxy: Proxy, sealed: bool
) -> None:
    add_key(tmp_path / "keys", "first")
    keys = FileKeys(tmp_path / "keys") if sealed else None
    vault = Vault(tmp_path / "vault", keys, Bucket({**bucket, "endpoint": proxy.url}))
    for size in (0, 500, CHUNK, 5 * CHUNK + 7):
        content = os.urandom(size)
        digest = vault.put(content)
        proxy.gets = 0
        with vault.open(digest) as file:
            assert file.read() == content
        assert proxy.gets == (1 if size or sealed else 0)
        with vault.open(digest) as file:
            file.seek(size // 2)
            assert file.read(10) == content[size // 2 :][:10]


# -- keys ----------------------------------------------------------------------------------------------------------


def test_an_alias_may_be_turned_to_another_key(tmp_path: Path, aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manual rotation of AWS KMS: what was sealed before is read, and ``rekey`` brings it under the new key."""
    login(monkeypatch)
    kms = client("kms", aws)
    old, new = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    alias = f"alias/registry-{os.urandom(4).hex()}"
    kms.create_alias(AliasName=alias, TargetKeyId=old)
    settings = {"key": alias, "endpoint": aws, "region": "us-east-1"}
    before = Vault(tmp_path / "vault", KmsKeys(settings, "here")).put(b"content")
    kms.update_alias(AliasName=alias, TargetKeyId=new)
    vault = Vault(tmp_path / "vault", KmsKeys(settings, "here"))
    assert vault.read(before) == b"content"
    fresh = vault.put(b"fresh")
    heads = {digest: read_head(vault.path(digest).open("rb")).id for digest in (before, fresh)}
    assert heads == {before: old, fresh: new}
    assert (vault.rekey(), vault.rekey()) == (1, 0)
    assert read_head(vault.path(before).open("rb")).id == new
    assert Vault(tmp_path / "vault", KmsKeys(settings, "here")).read(before) == b"content"
    with pytest.raises(BayplanError) as caught:
        Vault(tmp_path / "vault", KmsKeys(settings, "elsewhere")).read(before)
    assert caught.value.code == "sealing-key", "another encryption context"


def test_a_kms_that_is_silent_keeps_nobody_else_waiting(
    tmp_path: Path, aws: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    monkeypatch.setattr("bayplan.registry.storage.keys._SECONDS", 2)
    key = client("kms", aws).create_key()["KeyMetadata"]["Arn"]
    there = {"key": key, "endpoint": proxy.url, "region": "us-east-1"}
    with ecr(tmp_path / "root", Anonymous.PUSH, ["sealing-key"], placing=Placing(kms=there)) as site:
        account = site.client()
        account.create_repository(repositoryName="sealed", encryptionConfiguration={"encryptionType": "KMS"})
        account.create_repository(repositoryName="clear")
        proxy.silent = True
        answers: list[tuple[int, dict[str, Any]]] = []
        waiting = threading.Thread(target=lambda: answers.append(push_blob(site, "sealed", b"content")))
        waiting.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert push_blob(site, "clear", b"content")[0] == 201
        assert time.monotonic() - began < 1.0
        waiting.join(60)
        assert [(status, said["errors"][0]["code"]) for status, said in answers] == [(503, "UNAVAILABLE")]
        with refused("KmsException"):
            account.initiate_layer_upload(repositoryName="sealed")
        proxy.silent = False
        put_layers(account, "sealed", [b"content"], "v1")
        assert blob(site, "sealed", b"content") == b"content"


def test_a_change_of_where_kms_is_reaches_the_vaults_that_are_there(
    tmp_path: Path, aws: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    login(monkeypatch)
    key, own = (client("kms", aws).create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    moved = {"key": key, "endpoint": proxy.url, "region": "us-east-1"}
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(kms=moved)) as site:
        wanted = {"encryptionType": "KMS", "kmsKey": own}
        site.client().create_repository(repositoryName="app", encryptionConfiguration=wanted)
        put_layers(site.client(), "app", [b"content"], "v1")
    proxy.refuse = True
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(kms={**moved, "endpoint": aws})) as site:
        assert blob(site, "app", b"content") == b"content"


def test_keys_are_rotated_under_a_running_server_beside_collections(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    add_key(keys, "first")
    words = [os.urandom(70_000) for _ in range(40)]
    with ecr(tmp_path / "root", Anonymous.PULL, placing=Placing(key_file=keys)) as site:
        account = site.client()
        account.create_repository(repositoryName="app")
        put_layers(account, "app", words, "v1")
        add_key(keys, "second")
        registry = Registry(site.root)
        stop = threading.Event()
        troubles: list[BaseException] = []

        def collections() -> None:
            try:
                while not stop.is_set():
                    registry.collect_vaults()
            except (BayplanError, OSError) as error:
                troubles.append(error)

        beside = threading.Thread(target=collections)
        beside.start()
        try:
            vault = registry.storage("app")
            assert isinstance(vault, Vault)
            assert vault.rekey() == 42, "forty layers, a configuration, a manifest"
        finally:
            stop.set()
            beside.join(60)
        assert troubles == []
        keys.write_text(keys.read_text().splitlines()[0] + "\n")
        assert isinstance(FileKeys(keys), FileKeys)
        assert all(blob(site, "app", word) == word for word in words)
        registry.close()


# -- what lies there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_damaged_blob_is_never_given_out_whole(tmp_path: Path, scheme: str) -> None:
    """Damage that is met before the answer begins is an error, later a connection that breaks; nobody is left waiting."""
    keys = tmp_path / "keys"
    add_key(keys, "first")
    data = os.urandom(40 * CHUNK)
    placing, tls = Placing(key_file=keys), Tls() if scheme == "https" else None
    with ecr(tmp_path / "root", Anonymous.PUSH, ["blob-damaged"], placing=placing, tls=tls) as site:
        assert push_blob(site, "app", data, scheme)[0] == 201
        path = vault_of(tmp_path / "root", "app").path(digest_of(data))
        sealed = path.read_bytes()
        path.chmod(0o600)
        for chunk, begins in ((0, False), (35, True)):
            broken = bytearray(sealed)
            broken[-(40 - chunk) * (CHUNK + TAG)] ^= 1
            path.write_bytes(broken)
            began = time.monotonic()
            if begins:
                with pytest.raises((http.client.IncompleteRead, ConnectionError, TimeoutError)):
                    blob(site, "app", data, scheme=scheme)
                assert blob(site, "app", data, "bytes=0-99", scheme) == data[:100]
            else:
                with pytest.raises(urllib.error.HTTPError) as caught:
                    blob(site, "app", data, scheme=scheme)
                assert caught.value.code == 500
                caught.value.close()
            assert time.monotonic() - began < 5
        path.write_bytes(sealed[: -2 * (CHUNK + TAG)])
        with pytest.raises(urllib.error.HTTPError) as caught:
            blob(site, "app", data, "bytes=0-99", scheme)
        assert caught.value.code == 500, "it is cut, though not where it is asked for"
        caught.value.close()
        path.write_bytes(sealed)
        assert blob(site, "app", data, scheme=scheme) == data
