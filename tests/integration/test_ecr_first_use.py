"""The first session with the registry as somebody has it who comes from ECR: the real command, AWS CLI, docker, skopeo."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import check
from engine_processes import dockerd, run
from registry_processes import archive

pytestmark = pytest.mark.root

BAYPLAN = [sys.executable, "-m", "bayplan.cli.main"]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A root and the address of its registry, served by the command."""
    root = tmp_path / "root"
    process = subprocess.Popen(
        [*BAYPLAN, "registry", "serve", "--root", str(root), "--listen", "127.0.0.1:0", "--quiet", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield root, json.loads(process.stdout.readline())["address"]
        process.terminate()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def bayplan(root: Path, *words: str) -> str:
    done = subprocess.run(
        [*BAYPLAN, "registry", words[0], *words[1:], "--root", str(root)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def told(root: Path, schema: str, *words: str) -> Any:
    """A document as its schema says."""
    found = json.loads(bayplan(root, *words, "--json"))
    check(schema, found)
    return found


def exported(lines: str) -> dict[str, str]:
    """What a shell would have after evaluating ``lines``."""
    found = {}
    for line in lines.splitlines():
        word, assignment = shlex.split(line)
        assert word == "export"
        name, _, value = assignment.partition("=")
        found[name] = value
    return found


def aws(environment: Mapping[str, str], *words: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        ["/usr/bin/aws", "--output", "json", "ecr", *words, "--endpoint-url", environment["AWS_ENDPOINT_URL_ECR"]],
        env={**clean, **environment, "AWS_PAGER": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_session_from_nothing_to_a_pushed_image(served: tuple[Path, str], tmp_path: Path) -> None:
    root, address = served
    environment = exported(bayplan(root, "env"))
    assert set(environment) == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL_ECR",
        "AWS_ENDPOINT_URL_ECR_PUBLIC",
    }
    assert environment["AWS_ENDPOINT_URL_ECR"] == f"http://{address}"
    assert stat.S_IMODE((root / "registry/account.json").stat().st_mode) == 0o600
    made = json.loads(aws(environment, "create-repository", "--repository-name", "team/app"))["repository"]
    assert made["repositoryUri"] == f"{address}/team/app"
    password = aws(environment, "get-login-password").strip()
    layer = tmp_path / "layer.tar"
    layer.write_bytes(archive({"random": os.urandom(500_000)}))
    with dockerd() as docker:
        name = f"{address}/team/app:1.0"
        docker("import", str(layer), name)
        refused = docker("push", name, check=False)
        assert refused.returncode != 0
        assert "no basic auth credentials" in refused.stderr
        docker("login", "--username", "AWS", "--password", password, address)
        docker("push", name)
        docker("rmi", "-f", name)
        docker("pull", name)
        unknown = f"{address}/team/other:1"
        docker("tag", name, unknown)
        refused = docker("push", unknown, check=False)
        assert refused.returncode != 0, "a push makes no repository"
        docker("logout", address)
    (detail,) = json.loads(aws(environment, "describe-images", "--repository-name", "team/app"))["imageDetails"]
    assert detail["imageTags"] == ["1.0"]
    assert detail["lastRecordedPullTime"]
    run(["skopeo", "inspect", "--tls-verify=false", "--creds", f"AWS:{password}", f"docker://{name}"])
    listed = json.loads(aws(environment, "list-images", "--repository-name", "team/app"))["imageIds"]
    assert listed == [{"imageDigest": detail["imageDigest"], "imageTag": "1.0"}]
    aws(environment, "delete-repository", "--repository-name", "team/app", "--force")


def test_users_and_keys_by_hand(served: tuple[Path, str], tmp_path: Path) -> None:
    root, address = served
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:Describe*", "Resource": "*"}]}
    (tmp_path / "look.json").write_text(json.dumps(policy))
    assert bayplan(root, "user", "add", "ada", "--policy", str(tmp_path / "look.json")) == "ada\n"
    id, secret = bayplan(root, "key", "add", "--user", "ada").split()
    assert secret not in json.dumps(told(root, "registry-keys", "key", "list"))
    assert told(root, "registry-users", "user", "list")["users"][0]["keys"] == [id]
    region = exported(bayplan(root, "env"))["AWS_REGION"]
    environment = {
        "AWS_ACCESS_KEY_ID": id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ENDPOINT_URL_ECR": f"http://{address}",
    }
    assert json.loads(aws(environment, "describe-repositories")) == {"repositories": []}
    with pytest.raises(AssertionError, match="AccessDeniedException"):
        aws(environment, "create-repository", "--repository-name", "mine")
    told(root, "registry-key", "key", "rm", id)
    told(root, "registry-environment", "env")
    told(root, "registry-key", "key", "add")
    with pytest.raises(AssertionError, match="UnrecognizedClientException"):
        aws(environment, "describe-repositories")
    told(root, "registry-user", "user", "rm", "ada")
    assert json.loads(bayplan(root, "user", "list", "--json")) == {"users": []}


def test_env_says_so_where_nothing_is_served(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BAYPLAN, "registry", "env", "--root", str(tmp_path / "root")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "error[not-served]" in done.stderr
    assert not (tmp_path / "root").exists()
