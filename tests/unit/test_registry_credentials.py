"""Logins where docker and podman keep them, and what registries ask for."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.registry import challenge
from bayplan.registry.credentials import Credential, Keychain
from bayplan.registry.endpoint import Origin, origins, proxy_for


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
    }


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def helper(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / "bin" / f"docker-credential-{name}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_login_is_kept_0600_and_unknown_keys_stay(tmp_path: Path, environment: dict[str, str]) -> None:
    path = write(tmp_path / ".docker/config.json", {"psFormat": "x", "auths": {"other": auth("a", "b")}})
    Keychain(environment).login("localhost:5000", "ann", "pa:ss")
    document = json.loads(path.read_text())
    assert document["psFormat"] == "x"
    assert set(document["auths"]) == {"other", "localhost:5000"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keychain(environment).find("localhost:5000") == Credential("ann", "pa:ss")
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_the_folder_that_docker_config_names_is_used(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["DOCKER_CONFIG"] = str(tmp_path / "elsewhere")
    assert Keychain(environment).login("r.io", "ann", "pw") == str(tmp_path / "elsewhere/config.json")


def test_docker_hub_is_found_under_the_key_that_docker_writes(tmp_path: Path, environment: dict[str, str]) -> None:
    write(tmp_path / ".docker/config.json", {"auths": {"https://index.docker.io/v1/": auth("ann", "pw")}})
    assert Keychain(environment).find("docker.io", "library/python") == Credential("ann", "pw")


def test_podmans_file_is_read_and_its_most_specific_entry_wins(tmp_path: Path, environment: dict[str, str]) -> None:
    auths = {"q.io": auth("all", "1"), "q.io/team": auth("team", "2"), "q.io/team/app": auth("app", "3")}
    write(tmp_path / "run/containers/auth.json", {"auths": auths})
    keychain = Keychain(environment)
    assert keychain.find("q.io", "team/app") == Credential("app", "3")
    assert keychain.find("q.io", "team/other") == Credential("team", "2")
    assert keychain.find("q.io", "x") == Credential("all", "1")
    assert keychain.find("z.io", "x") is None


def test_a_helper_answers_for_its_registry_and_is_told_the_name_on_standard_input(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    helper(tmp_path, "test", f'read server; echo "$1 $server $#" >> {tmp_path}/log\n'
           'echo "{\\"ServerURL\\":\\"x\\",\\"Username\\":\\"ann\\",\\"Secret\\":\\"pw\\"}"')  # fmt: skip
    write(tmp_path / ".docker/config.json", {"credHelpers": {"ecr.example": "test"}, "credsStore": "missing"})
    assert Keychain(environment).find("ecr.example") == Credential("ann", "pw")
    assert (tmp_path / "log").read_text() == "get ecr.example 1\n"


def test_a_helper_that_knows_nothing_leaves_the_other_files(tmp_path: Path, environment: dict[str, str]) -> None:
    helper(tmp_path, "test", 'echo "credentials not found in native keychain"; exit 1')
    write(tmp_path / ".docker/config.json", {"credsStore": "test"})
    write(tmp_path / "run/containers/auth.json", {"auths": {"q.io": auth("ann", "pw")}})
    assert Keychain(environment).find("q.io") == Credential("ann", "pw")


def test_a_token_of_a_helper_is_an_identity_token(tmp_path: Path, environment: dict[str, str]) -> None:
    helper(tmp_path, "test", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"t\\"}"')
    write(tmp_path / ".docker/config.json", {"credsStore": "test"})
    assert Keychain(environment).find("q.io") == Credential("<token>", "t", identity=True)


def test_a_login_goes_to_the_helper_when_one_is_configured(tmp_path: Path, environment: dict[str, str]) -> None:
    helper(tmp_path, "test", f"cat > {tmp_path}/stored; echo $@ > {tmp_path}/arguments")
    path = write(tmp_path / ".docker/config.json", {"credsStore": "test"})
    assert Keychain(environment).login("q.io", "ann", "s3cret") == "docker-credential-test"
    assert json.loads((tmp_path / "stored").read_text()) == {"ServerURL": "q.io", "Username": "ann", "Secret": "s3cret"}
    assert (tmp_path / "arguments").read_text() == "store\n"
    assert "s3cret" not in path.read_text()


@pytest.mark.parametrize(
    ("body", "words"),
    [("exit 3", "exit code 3"), ("echo nonsense", "no login in JSON"), ("exec sleep 20", "gave no answer")],
)
def test_a_helper_that_fails_is_an_error_in_words(
    tmp_path: Path, environment: dict[str, str], body: str, words: str
) -> None:
    helper(tmp_path, "test", body)
    write(tmp_path / ".docker/config.json", {"credsStore": "test"})
    with pytest.raises(BayplanError, match=words) as caught:
        Keychain(environment, helper_timeout=0.5).find("q.io")
    assert caught.value.code == "credential-helper"


def test_a_helper_that_refuses_a_secret_does_not_see_it_repeated(tmp_path: Path, environment: dict[str, str]) -> None:
    helper(tmp_path, "test", "cat; cat >&2; exit 1")
    write(tmp_path / ".docker/config.json", {"credsStore": "test"})
    with pytest.raises(BayplanError) as caught:
        Keychain(environment).login("q.io", "ann", "s3cret-value")
    assert "s3cret-value" not in caught.value.render()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x"])
def test_a_helper_is_a_name_and_never_a_path(tmp_path: Path, environment: dict[str, str], name: str) -> None:
    write(tmp_path / ".docker/config.json", {"credHelpers": {"q.io": name}})
    if name:
        with pytest.raises(BayplanError):
            Keychain(environment).find("q.io")
    else:
        assert Keychain(environment).find("q.io") is None


def test_a_broken_file_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / ".docker/config.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(BayplanError, match="is not JSON") as caught:
        Keychain(environment).find("q.io")
    assert str(path) in caught.value.message


def test_a_secret_is_not_in_a_credentials_text() -> None:
    assert "s3cret" not in repr(Credential("ann", "s3cret"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        ('Negotiate, Basic realm="a \\"b\\"", Digest qop=auth',
         [("negotiate", {}), ("basic", {"realm": 'a "b"'}), ("digest", {"qop": "auth"})]),
        ("", []),
        ("=", []),
        ('Bearer realm="open', [("bearer", {"realm": "open"})]),
    ],
)  # fmt: skip
def test_challenges_are_read(header: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, dict(one.parameters)) for one in challenge.parse(header)] == expected


def test_loopback_is_plain_first_and_others_are_tls_alone() -> None:
    assert [str(one) for one in origins("localhost:5000", insecure=False)] == [
        "http://localhost:5000",
        "https://localhost:5000",
    ]
    assert [str(one) for one in origins("docker.io", insecure=False)] == ["https://registry-1.docker.io"]
    assert [one.scheme for one in origins("r.example:5000", insecure=True)] == ["https", "http"]
    assert str(origins("[::1]:5000", insecure=False)[0]) == "http://[::1]:5000"
    for wrong in ("", "a/b", "u@h", "h:x"):
        with pytest.raises(BayplanError):
            origins(wrong, insecure=False)


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [("", False), ("r.example", True), (".example", True), ("example", True), ("other", False), ("*", True),
     ("r.example:443", True), ("r.example:80", False)],
)  # fmt: skip
def test_no_proxy_names_hosts_domains_and_ports(no_proxy: str, direct: bool) -> None:
    found = proxy_for(
        Origin("https", "r.example", 443), {"HTTPS_PROXY": "http://u:p%40@proxy:3128", "NO_PROXY": no_proxy}
    )
    assert (found is None) is direct
    if found:
        assert (found.host, found.port) == ("proxy", 3128)
        assert base64.b64decode(found.authorization.removeprefix("Basic ")) == b"u:p@"
        assert "p@" not in repr(found)


def test_no_proxy_takes_networks_and_loopback_is_never_proxied() -> None:
    environment = {"http_proxy": "proxy:1", "no_proxy": "10.0.0.0/8"}
    assert proxy_for(Origin("http", "10.1.2.3", 80), environment) is None
    assert proxy_for(Origin("http", "11.1.2.3", 80), environment) is not None
    assert proxy_for(Origin("http", "127.0.0.1", 80), environment) is None
