"""crane, regctl, oras, notation, cosign and ECR's own credential helper, each built from its pinned module, at the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
from go_tools import go_tool
from registry_processes import archive, image, serving

from bayplan.oci.digest import Digest
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.access.guard import Anonymous
from bayplan.registry.configuration import Challenge, Htpasswd, Settings, Tls
from bayplan.registry.registry import Registry

SECONDS = 120


class Tool:
    """A client with a home of its own."""

    def __init__(self, name: str, home: Path) -> None:
        self.path = go_tool(name)
        self.home = home
        home.mkdir(exist_ok=True)

    def __call__(self, *words: str, code: int = 0, **more: str) -> str:
        """Run it; its standard output. It has to end with ``code``."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "DOCKER_CONFIG": str(self.home / ".docker"),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            **more,
        }
        done = subprocess.run(
            [str(self.path), *words],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root.at(tmp_path / "root").ensure()


@pytest.fixture
def pushed(root: Root) -> Digest:
    """An image ``team/app:1`` of two layers in the root's registry."""
    registry, store = Registry(root), Store(root)
    registry.create_repository("team/app")
    digest = image(store, [archive({"a": os.urandom(300_000)}), archive({"b": b"b"})])
    registry.push_local("team/app", "1", digest)
    registry.close()
    return digest


def test_crane_copies_lists_validates_and_deletes(root: Root, pushed: Digest, tmp_path: Path) -> None:
    crane = Tool("crane", tmp_path / "home")
    with serving(root) as address:
        name = f"{address}/team/app"
        assert crane("digest", f"{name}:1").strip() == pushed
        crane("copy", f"{name}:1", f"{address}/team/copy:2")
        assert crane("digest", f"{address}/team/copy:2").strip() == pushed
        crane("tag", f"{name}:1", "new")
        assert crane("ls", name).split() == ["1", "new"]
        assert "team/copy" in crane("catalog", address).split()
        (tmp_path / "layer.tar").write_bytes(archive({"c": os.urandom(100_000)}))
        crane("append", "--new_layer", str(tmp_path / "layer.tar"), "--new_tag", f"{address}/team/whole:1")
        crane("validate", "--remote", f"{address}/team/whole:1")
        crane("pull", f"{name}:1", "image.tar")
        crane("push", "image.tar", f"{address}/team/again:1")
        assert json.loads(crane("manifest", f"{address}/team/again:1"))["layers"]
        crane("delete", f"{name}@{pushed}")
        crane("digest", f"{name}:1", code=1)


def test_regctl_copies_with_referrers_and_reads_everything(root: Root, pushed: Digest, tmp_path: Path) -> None:
    regctl = Tool("regctl", tmp_path / "home")
    with serving(root) as address:
        regctl("registry", "set", "--tls", "disabled", address)
        name = f"{address}/team/app"
        note = tmp_path / "note.txt"
        note.write_text("a note")
        regctl("artifact", "put", "--artifact-type", "text/note", "--subject", f"{name}:1", "--file", str(note))
        regctl("image", "copy", "--referrers", f"{name}:1", f"{address}/team/copy:2")
        assert regctl("image", "digest", f"{address}/team/copy:2").strip() == pushed
        listed = json.loads(regctl("artifact", "list", "--format", "{{json .Manifest}}", f"{address}/team/copy:2"))
        assert [one["artifactType"] for one in listed["manifests"]] == ["text/note"]
        assert regctl("artifact", "get", "--subject", f"{address}/team/copy:2") == "a note"
        assert regctl("tag", "ls", name).split() == ["1"]
        assert "team/copy" in regctl("repo", "ls", address).split()
        layer = json.loads(regctl("manifest", "get", "--format", "{{json .}}", f"{name}:1"))["layers"][0]["digest"]
        assert regctl("blob", "head", f"{address}/team/copy", layer)
        regctl("tag", "delete", f"{address}/team/copy:2")
        assert regctl("tag", "ls", f"{address}/team/copy").split() == []


def test_oras_pushes_attaches_discovers_copies_and_deletes(root: Root, tmp_path: Path) -> None:
    oras = Tool("oras", tmp_path / "home")
    (oras.home / "chart.txt").write_text("a chart")
    (oras.home / "sbom.json").write_text("{}")
    plain = "--plain-http"
    with serving(root) as address:
        name = f"{address}/team/chart"
        oras("push", plain, "--artifact-type", "text/chart", f"{name}:1", "chart.txt:text/plain")
        oras("attach", plain, "--artifact-type", "text/sbom", f"{name}:1", "sbom.json:application/json")
        found = json.loads(oras("discover", plain, "--format", "json", f"{name}:1"))
        referrers = found.get("referrers") or found.get("manifests")
        assert [one["artifactType"] for one in referrers] == ["text/sbom"]
        oras("copy", "--from-plain-http", "--to-plain-http", "-r", f"{name}:1", f"{address}/team/copy:2")
        again = json.loads(oras("discover", plain, "--format", "json", f"{address}/team/copy:2"))
        assert len(again.get("referrers") or again.get("manifests")) == 1
        assert oras("repo", "tags", plain, name).split() == ["1"]
        assert "team/copy" in oras("repo", "ls", plain, address).split()
        oras("pull", plain, "-o", str(tmp_path / "out"), f"{address}/team/copy:2")
        assert (tmp_path / "out/chart.txt").read_text() == "a chart"
        oras("manifest", "delete", plain, "--force", f"{name}:1")
        oras("pull", plain, f"{name}:1", code=1)


def test_notation_signs_and_verifies(root: Root, pushed: Digest, tmp_path: Path) -> None:
    notation = Tool("notation", tmp_path / "home")
    with serving(root) as address:
        name = f"{address}/team/app@{pushed}"
        notation("cert", "generate-test", "--default", "bayplan.test")
        policy = {
            "version": "1.0",
            "trustPolicies": [
                {
                    "name": "all",
                    "registryScopes": ["*"],
                    "signatureVerification": {"level": "strict"},
                    "trustStores": ["ca:bayplan.test"],
                    "trustedIdentities": ["*"],
                }
            ],
        }
        (tmp_path / "policy.json").write_text(json.dumps(policy))
        notation("policy", "import", str(tmp_path / "policy.json"))
        notation("verify", "--insecure-registry", name, code=1)
        notation("sign", "--insecure-registry", name)
        assert "application/vnd.cncf.notary.signature" in notation("list", "--insecure-registry", name)
        assert "Successfully verified" in notation("verify", "--insecure-registry", name)


def test_cosign_signs_and_verifies(root: Root, pushed: Digest, tmp_path: Path) -> None:
    cosign = Tool("cosign", tmp_path / "home")
    secret = {"COSIGN_PASSWORD": "of the test"}
    with serving(root) as address:
        name = f"{address}/team/app@{pushed}"
        cosign("generate-key-pair", **secret)
        (cosign.home / "signing.json").write_text(cosign("signing-config", "create"))
        verify = ("verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry", name)
        cosign(*verify, code=10)
        sign = ("sign", "--key", "cosign.key", "--signing-config", "signing.json", "--allow-http-registry", "-y", name)
        cosign(*sign, **secret)
        assert pushed in cosign(*verify)
        old = ("--use-signing-config=false", "--new-bundle-format=false", "--tlog-upload=false")
        cosign("sign", "--key", "cosign.key", *old, "--allow-http-registry", "-y", name, **secret)
        assert pushed in cosign(*verify, "--new-bundle-format=false")


@pytest.mark.parametrize("challenge", list(Challenge))
def test_logins_with_a_password_over_tls(root: Root, pushed: Digest, tmp_path: Path, challenge: Challenge) -> None:
    """Each client keeps the login as it does; with ``bearer`` it fetches tokens for it, for two repositories in a copy."""
    crane, regctl, oras = (Tool(name, tmp_path / name) for name in ("crane", "regctl", "oras"))
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(5)).decode() + "\n")
    door = Htpasswd(users, Anonymous.PUSH)
    with serving(root, Settings(listen="127.0.0.1:0", tls=Tls(), htpasswd=door, challenge=challenge)) as address:
        name, trusted = f"{address}/team/app:1", str(root.path / "registry/tls/registry.crt")
        known = {"SSL_CERT_FILE": trusted}
        crane("digest", name, code=1, **known)
        crane("auth", "login", address, "-u", "ada", "-p", "wrong")
        crane("digest", name, code=1, **known)
        crane("auth", "login", address, "-u", "ada", "-p", "engine")
        crane("digest", name, code=1)  # whose certificate is that?
        crane("copy", name, f"{address}/by/crane:1", **known)
        crane("pull", name, "image.tar", **known)
        regctl(
            "registry", "set", "--cacert", Path(trusted).read_text(), address, code=1
        )  # kept, but it is not let in yet
        regctl("image", "digest", name, code=1)
        regctl("registry", "login", "-u", "ada", "-p", "engine", address)
        regctl("image", "copy", name, f"{address}/by/regctl:1")
        oras("copy", "--from-ca-file", trusted, "--to-ca-file", trusted, name, f"{address}/by/oras:1", code=1)
        oras("login", "--ca-file", trusted, "-u", "ada", "-p", "engine", address)
        oras("copy", "--from-ca-file", trusted, "--to-ca-file", trusted, name, f"{address}/by/oras:1")
        assert sorted(crane("catalog", address, **known).split()) == ["by/crane", "by/oras", "by/regctl", "team/app"]
    registry = Registry(root)
    assert {registry.resolve(f"by/{tool}", "1").digest for tool in ("crane", "regctl", "oras")} == {pushed}
    registry.close()


_WITH_THE_NAME_OF_ECR = """
set -eu
ip link set lo up
mount --bind "$WORK/hosts" /etc/hosts
"$PYTHON" -m bayplan.cli.main registry serve --root "$WORK/root" --config "$WORK/registry.json" --json > "$WORK/ready" &
server=$!
trap 'kill $server; wait $server' EXIT
for _ in $(seq 200); do [ -s "$WORK/ready" ] && break; sleep 0.1; done
export SSL_CERT_FILE="$WORK/root/registry/tls/registry.crt"
eval "$("$PYTHON" -m bayplan.cli.main registry env --root "$WORK/root")"
export AWS_ENDPOINT_URL_ECR="https://$NAME"
"$CRANE" push "$WORK/image.tar" "$NAME/team/app:1" || echo refused
"$PYTHON" - <<'EOF'
import boto3, os
boto3.client("ecr", verify=os.environ["SSL_CERT_FILE"]).create_repository(repositoryName="team/app")
EOF
"$CRANE" push "$WORK/image.tar" "$NAME/team/app:1"
"$CRANE" digest "$NAME/team/app:1"
"""


@pytest.mark.root
def test_ecrs_credential_helper_logs_in_and_pushes(pushed: Digest, root: Root, tmp_path: Path) -> None:
    """The helper takes only registries with Amazon's own names, so here is a network where such a name is this registry's."""
    crane, helper = Tool("crane", tmp_path / "home"), go_tool("docker-credential-ecr-login")
    with serving(root) as address:
        crane("pull", f"{address}/team/app:1", str(tmp_path / "image.tar"))
    name = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    (tmp_path / "hosts").write_text(f"127.0.0.1 localhost {name}\n")
    settings = {"listen": "127.0.0.1:443", "account": "123456789012", "region": "us-east-1", "tls": {"names": [name]}}
    (tmp_path / "registry.json").write_text(json.dumps(settings))
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"credHelpers": {name: "ecr-login"}}))
    (tmp_path / "root").rename(tmp_path / "first")
    (tmp_path / "root").mkdir()
    environment = {
        "PATH": f"{helper.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "AWS_ECR_DISABLE_CACHE": "true",
        "WORK": str(tmp_path),
        "NAME": name,
        "PYTHON": sys.executable,
        "CRANE": str(crane.path),
    }
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", _WITH_THE_NAME_OF_ECR],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *_, last = done.stdout.split()
    assert first == "refused", "as in ECR, a push makes no repository"
    assert last.startswith("sha256:")
    registry = Registry(Root.at(tmp_path / "root"))
    assert registry.resolve("team/app", "1").digest == last
    registry.close()
