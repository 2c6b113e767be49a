"""The audit trail: every call of either face leaves one record, in CloudTrail's shape, without what is secret."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ecr_images import put
from ecr_site import EcrSite, ask, ecr, eventually, login, refused

from bayplan.registry.audit.search import Wanted, search
from bayplan.registry.server import TRAIL

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/output/registry-audit.schema.json").read_text())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[EcrSite]:
    with ecr(tmp_path / "root") as made:
        yield made


def trail(site: EcrSite, **wanted: Any) -> list[dict[str, Any]]:
    """The records that fit, oldest first, each of them valid."""
    found = list(search(site.root.path / TRAIL, Wanted(**wanted)))[::-1]
    for record in found:
        jsonschema.validate(record, SCHEMA)
    return found


def test_a_call_of_the_ecr_api_is_one_record(site: EcrSite) -> None:
    client = site.client()
    answer = client.create_repository(repositoryName="app", tags=[{"Key": "a", "Value": "b"}])
    (record,) = trail(site, event="CreateRepository")
    assert record["userIdentity"]["type"] == "Root"
    assert record["userIdentity"]["accessKeyId"] == site.accounts.load().root_key.id
    assert record["requestParameters"] == {"repositoryName": "app", "tags": [{"Key": "a", "Value": "b"}]}
    assert record["responseElements"]["repository"]["repositoryName"] == "app"
    assert record["requestID"] == answer["ResponseMetadata"]["RequestId"]
    assert record["readOnly"] is False
    assert record["resources"][0]["ARN"] == answer["repository"]["repositoryArn"]
    assert "Boto3" in record["userAgent"]


def test_a_push_and_a_pull_are_told_in_ecrs_words(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    digest = put(client, "app", "a word", "v1")
    names = [record["eventName"] for record in trail(site, repository="app", changes=True)]
    assert names[0] == "CreateRepository"
    assert names.count("UploadLayerPart") == 2
    assert names[-1] == "PutImage"
    assert ask(site, "GET", "/v2/app/manifests/v1")[0] == 200
    (pull,) = eventually(lambda: trail(site, event="BatchGetImage"))
    assert pull["requestParameters"] == {"repositoryName": "app", "imageId": {"imageTag": "v1"}}
    assert (pull["readOnly"], pull["responseElements"]) == (True, None)
    assert ask(site, "DELETE", f"/v2/app/manifests/{digest}")[0] == 202
    (gone,) = trail(site, event="BatchDeleteImage")
    assert gone["requestParameters"]["imageId"] == {"imageDigest": digest}


def test_what_is_refused_is_recorded_with_the_reason(site: EcrSite) -> None:
    client = site.client()
    with refused("RepositoryNotFoundException"):
        client.list_images(repositoryName="none")
    site.accounts.add_user("nobody")
    with refused("AccessDeniedException"):
        site.client(site.accounts.add_key("nobody")).create_repository(repositoryName="app")
    missing, denied = eventually(lambda: found if len(found := trail(site, errors=True)) == 2 else None)
    assert missing["errorCode"] == "RepositoryNotFoundException"
    assert denied["errorCode"] == "AccessDeniedException"
    assert denied["userIdentity"]["userName"] == "nobody"
    assert denied["responseElements"] is None
    assert trail(site, user="nobody") == [denied]
    assert ask(site, "GET", "/v2/app/manifests/v1", password="none")[0] == 401
    last = eventually(lambda: [one for one in trail(site, errors=True) if one["errorCode"] == "UNAUTHORIZED"])[0]
    assert last["userIdentity"]["accountId"] == "ANONYMOUS_PRINCIPAL"


def test_nothing_secret_stands_in_it(site: EcrSite) -> None:
    client = site.client()
    client.create_repository(repositoryName="app")
    password = login(client)
    put(client, "app", "bytes of a layer", "v1")
    key = site.accounts.load().root_key
    eventually(lambda: trail(site, event="GetAuthorizationToken"))
    text = "".join(path.read_text() for path in (site.root.path / TRAIL).glob("*.jsonl"))
    for secret in (password, key.secret, "bytes of a layer", "Ynl0ZXMgb2Yg"):
        assert secret not in text
    assert all(path.stat().st_mode & 0o077 == 0 for path in (site.root.path / TRAIL).iterdir())


def test_the_command_finds_records(site: EcrSite) -> None:
    client = site.client()
    for name in ("one", "two"):
        client.create_repository(repositoryName=name)

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "bayplan.cli.main",
            "registry",
            "audit",
            "--root",
            str(site.root.path),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    lines = asked("--event", "CreateRepository", "--json").stdout.splitlines()
    assert [json.loads(line)["requestParameters"]["repositoryName"] for line in lines] == ["two", "one"]
    table = asked("--repository", "one", "--since", "1h").stdout
    assert "CreateRepository" in table
    assert "two" not in table
    assert asked("--until", "1h").stdout.count("\n") == 1, "nothing but the heading"
    wrong = asked("--since", "yesterday")
    assert (wrong.returncode, "--since" in wrong.stderr) == (64, True)
