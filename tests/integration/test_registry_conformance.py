"""The conformance suite of the OCI distribution specification itself, against a server as users run it.

Nothing may fail and nothing be skipped: version 1.1, the coming version, and that with sparse indexes; plain and over TLS; open, with
an ECR token, with a password, and with bearer tokens.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import boto3
import pytest
from aws_site import client, login, moto
from go_tools import go_tool

from bayplan.oci.root import Root
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.storage.keys import add_key

BAYPLAN = [sys.executable, "-m", "bayplan.cli.main"]
#: What a whole run of the pinned suite counts, by (version, whether sparse indexes are pushed): (checks, those switched off). The
#: two that version 1.1 leaves out are the suite's own choice; whatever is switched off besides makes the first fewer, the second more.
WHOLE = {("1.1", False): (862, 2), ("dev", False): (986, 0), ("dev", True): (1032, 0)}


@contextlib.contextmanager
def served(root: Path, configuration: dict[str, object]) -> Iterator[str]:
    """``HOST:PORT`` of ``bayplan registry serve --config``."""
    root.mkdir()
    file = root.parent / "registry.json"
    file.write_text(json.dumps({"listen": "127.0.0.1:0", **configuration}))
    command = [*BAYPLAN, "registry", "serve", "--root", str(root), "--config", str(file), "--json", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        assert process.wait(60) == 0
        process.stdout.close()


def suite(address: str, results: Path, version: str, *, sparse: bool, **more: str) -> dict[str, int]:
    """Run the suite; its counts."""
    environment = {
        "PATH": os.environ["PATH"],
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_REPO1": "conformance/one",
        "OCI_REPO2": "conformance/two",
        "OCI_VERSION": version,
        "OCI_RESULTS_DIR": str(results),
        "OCI_DATA_SPARSE": "true" if sparse else "false",
        "OCI_LOG": "error",
        **more,
    }
    results.mkdir(exist_ok=True)
    run = subprocess.run(
        [str(go_tool("conformance"))],
        env=environment,
        cwd=results,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    top = ET.parse(results / "junit.xml").getroot()
    suites = [top] if top.tag == "testsuite" else list(top.iter("testsuite"))
    counts = {
        name: sum(int(one.get(name, 0)) for one in suites)
        for name in ("tests", "failures", "errors", "skipped", "disabled")
    }
    failed = [case.get("name") for case in top.iter("testcase") if case.find("failure") is not None]
    assert counts["failures"] == counts["errors"] == 0, (failed[:20], run.stdout[-2000:])
    assert run.returncode == 0
    return counts


def whole(address: str, folder: Path, version: str, *, sparse: bool, **more: str) -> None:
    counts = suite(address, folder / f"results-{version}-{sparse}", version, sparse=sparse, **more)
    assert counts["skipped"] == 0, counts
    assert (counts["tests"], counts["disabled"]) == WHOLE[version, sparse], counts


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


RUNS = [("1.1", False), ("dev", False), ("dev", True)]


@pytest.mark.parametrize(("version", "sparse"), RUNS)
def test_open_and_plain(tmp_path: Path, version: str, sparse: bool) -> None:
    with served(tmp_path / "root", {"anonymous": "push", "sparse_indexes": sparse}) as address:
        whole(address, tmp_path, version, sparse=sparse)


@pytest.mark.parametrize(("version", "sparse"), RUNS)
def test_with_an_ecr_token(tmp_path: Path, version: str, sparse: bool) -> None:
    root = tmp_path / "root"
    with served(root, {"sparse_indexes": sparse}) as address:
        account = Accounts(Root.at(root)).load()
        client = boto3.client(
            "ecr",
            endpoint_url=f"http://{address}",
            region_name=account.region,
            aws_access_key_id=account.root_key.id,
            aws_secret_access_key=account.root_key.secret,
        )
        client.create_repository_creation_template(prefix="ROOT", appliedFor=["CREATE_ON_PUSH"])
        token = client.get_authorization_token()["authorizationData"][0]["authorizationToken"]
        name, _, password = base64.b64decode(token).decode().partition(":")
        whole(address, tmp_path, version, sparse=sparse, OCI_USERNAME=name, OCI_PASSWORD=password)


@pytest.mark.parametrize(("version", "sparse"), RUNS)
def test_over_tls(tmp_path: Path, version: str, sparse: bool) -> None:
    root = tmp_path / "root"
    with served(root, {"anonymous": "push", "tls": {}, "sparse_indexes": sparse}) as address:
        trusted = str(root / "registry/tls/registry.crt")
        whole(address, tmp_path, version, sparse=sparse, OCI_TLS="enabled", SSL_CERT_FILE=trusted)


@pytest.mark.parametrize("challenge", ["basic", "bearer"])
@pytest.mark.parametrize(("version", "sparse"), RUNS)
def test_over_tls_with_a_password(tmp_path: Path, version: str, sparse: bool, challenge: str) -> None:
    root = tmp_path / "root"
    users = tmp_path / "users.htpasswd"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(6)).decode() + "\n")
    settings = {
        "tls": {},
        "htpasswd": {"file": str(users), "allow": "push"},
        "challenge": challenge,
        "sparse_indexes": sparse,
    }
    with served(root, settings) as address:
        trusted = str(root / "registry/tls/registry.crt")
        login = {"OCI_USERNAME": "ada", "OCI_PASSWORD": "engine"}
        whole(address, tmp_path, version, sparse=sparse, OCI_TLS="enabled", SSL_CERT_FILE=trusted, **login)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(("version", "sparse"), RUNS)
def test_in_a_bucket(
    tmp_path: Path, aws: str, monkeypatch: pytest.MonkeyPatch, version: str, sparse: bool, sealed: bool
) -> None:
    login(monkeypatch)
    name = f"conformance-{os.urandom(6).hex()}"
    client("s3", aws).create_bucket(Bucket=name)
    storage: dict[str, object] = {"s3": {"bucket": name, "endpoint": aws, "region": "us-east-1"}}
    if sealed:
        add_key(tmp_path / "keys", "first")
        storage["encryption"] = {"key_file": str(tmp_path / "keys")}
    with served(tmp_path / "root", {"anonymous": "push", "sparse_indexes": sparse, "storage": storage}) as address:
        whole(address, tmp_path, version, sparse=sparse)
