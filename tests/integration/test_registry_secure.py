"""The server as it is run in earnest: TLS with HTTP/2, logins, rates, logs that are rotated, pages that watch it, an orderly end."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from ecr_site import eventually
from engine_processes import dockerd

BAYPLAN = [sys.executable, "-m", "bayplan.cli.main"]
SECONDS = 30


class Site:
    """``bayplan registry serve --config`` as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.errors = folder / "stderr"

    def start(self, *words: str, **configuration: Any) -> str:
        self.root.mkdir(exist_ok=True)
        file = self.folder / "registry.json"
        file.write_text(json.dumps({"listen": "127.0.0.1:0", **configuration}))
        command = [*BAYPLAN, "registry", "serve", "--root", str(self.root), "--config", str(file), "--json", *words]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.errors.read_text()
        self.address = str(json.loads(line)["address"])
        return self.address

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    @property
    def certificate(self) -> Path:
        return self.root / "registry/tls/registry.crt"

    def ask(
        self, method: str, path: str, data: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """(status, headers by lower-case name, body) over TLS where the server speaks it."""
        secure = self.certificate.exists()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            f"http{'s' if secure else ''}://{self.address}{path}", data, named, method=method
        )
        context = ssl.create_default_context(cafile=str(self.certificate)) if secure else None
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS, context=context)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    if made.process.poll() is None:
        assert made.stop() == 0


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def curl(site: Site, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-sS", "--max-time", str(SECONDS), "--cacert", str(site.certificate), *words]
    return subprocess.run(command, capture_output=True, timeout=SECONDS + 10, check=False)


def test_http2_pushes_and_pulls_in_parallel_what_http1_does(site: Site, tmp_path: Path) -> None:
    address = site.start(anonymous="push", tls={})
    blobs = [os.urandom(3_000_000) for _ in range(6)]

    def push(number: int) -> None:
        file = tmp_path / f"blob{number}"
        file.write_bytes(blobs[number])
        url = f"https://{address}/v2/app/blobs/uploads/?digest={digest_of(blobs[number])}"
        version = "--http2" if number % 2 else "--http1.1"
        done = curl(site, version, "-X", "POST", "--data-binary", f"@{file}", "-w", "%{http_version} %{http_code}", url)
        assert done.stdout.endswith(b"2 201" if number % 2 else b"1.1 201"), done

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(push, range(6)))
    for number, blob in enumerate(blobs):
        url = f"https://{address}/v2/app/blobs/{digest_of(blob)}"
        assert curl(site, "--http1.1" if number % 2 else "--http2", url).stdout == blob
        part = curl(site, "--http2", "-H", "Range: bytes=1000-1999", "-w", "%{http_code}", url).stdout
        assert part == blob[1000:2000] + b"206"
    assert curl(site, "--http2", "-I", f"https://{address}/v2/app/blobs/{digest_of(b'none')}").stdout.startswith(
        b"HTTP/2 404"
    )


def test_a_client_that_does_not_know_the_certificate_is_not_served(site: Site) -> None:
    address = site.start(anonymous="pull", tls={})
    stranger = subprocess.run(
        ["curl", "-sS", f"https://{address}/v2/"], capture_output=True, timeout=SECONDS, check=False
    )
    assert stranger.returncode == 60
    plain = subprocess.run(["curl", "-s", f"http://{address}/v2/"], capture_output=True, timeout=SECONDS, check=False)
    assert plain.returncode != 0
    old = curl(site, "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", f"https://{address}/v2/")
    assert old.returncode == 35, "TLS 1.2 is the least"


@pytest.mark.root
@pytest.mark.parametrize("challenge", ["basic", "bearer"])
def test_docker_logs_in_with_a_password_and_pushes(site: Site, tmp_path: Path, challenge: str) -> None:
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(5)).decode() + "\n")
    address = site.start(htpasswd={"file": str(users), "allow": "push"}, challenge=challenge)
    layer = tmp_path / "layer.tar"
    subprocess.run(["tar", "-cf", str(layer), "-C", str(tmp_path), "users"], check=True, timeout=SECONDS)
    with dockerd() as docker:
        docker("import", str(layer), f"{address}/team/app:1")
        docker("login", "-u", "ada", "-p", "engine", address)
        docker("push", f"{address}/team/app:1")
        docker("rmi", f"{address}/team/app:1")
        docker("pull", f"{address}/team/app:1")
        docker("logout", address)
    assert site.ask("GET", "/v2/team/app/tags/list")[0] == 401


def test_a_bearer_token_is_fetched_for_the_scope_that_is_named(site: Site, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(5)).decode() + "\n")
    site.start(htpasswd={"file": str(users), "allow": "push"}, challenge="bearer")
    status, headers, _ = site.ask("GET", "/v2/app/tags/list")
    assert status == 401
    asked = dict(re.findall(r'(\w+)="([^"]*)"', headers["www-authenticate"]))
    assert asked["scope"] == "repository:app:pull"
    path = "/" + asked["realm"].split("/", 3)[3]
    basic = "Basic YWRhOmVuZ2luZQ=="  # ada:engine
    token = json.loads(site.ask("GET", f"{path}?service=x&scope={asked['scope']}", Authorization=basic)[2])["token"]
    assert site.ask("GET", "/v2/app/tags/list", Authorization=f"Bearer {token}")[0] == 404, (
        "there is no such repository"
    )
    status, headers, _ = site.ask("POST", "/v2/app/blobs/uploads/", b"", Authorization=f"Bearer {token}")
    assert status == 401
    assert 'error="insufficient_scope"' in headers["www-authenticate"]
    form = b"grant_type=password&username=ada&password=engine&service=x&scope=repository:app:push"
    wide = json.loads(site.ask("POST", path, form)[2])["access_token"]
    assert site.ask("POST", "/v2/app/blobs/uploads/", b"", Authorization=f"Bearer {wide}")[0] == 202
    assert site.ask("GET", f"{path}?scope={asked['scope']}", Authorization="Basic YWRhOndyb25n")[0] == 401


def test_a_blob_is_mounted_only_from_where_a_token_lets_read(site: Site, tmp_path: Path) -> None:
    """Who names the source is told the scope that he lacks; who names none gets an upload as if nobody had the blob."""
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(5)).decode() + "\n")
    site.start(htpasswd={"file": str(users), "allow": "push"}, challenge="bearer")
    basic = "Basic YWRhOmVuZ2luZQ=="  # ada:engine

    def bearer(*scopes: str) -> str:
        query = "&".join(f"scope={scope}" for scope in scopes)
        return "Bearer " + json.loads(site.ask("GET", f"/token?{query}", Authorization=basic)[2])["token"]

    blob = os.urandom(1000)
    url = f"/v2/source/blobs/uploads/?digest={digest_of(blob)}"
    assert site.ask("POST", url, blob, Authorization=bearer("repository:source:pull,push"))[0] == 201
    mount = f"/v2/target/blobs/uploads/?mount={digest_of(blob)}"
    narrow = bearer("repository:target:pull,push")
    status, headers, _ = site.ask("POST", f"{mount}&from=source", b"", Authorization=narrow)
    assert status == 401
    assert "repository:source:pull" in headers["www-authenticate"]
    assert site.ask("POST", mount, b"", Authorization=narrow)[0] == 202
    assert site.ask("HEAD", f"/v2/target/blobs/{digest_of(blob)}", Authorization=narrow)[0] == 404
    wide = bearer("repository:target:pull,push", "repository:source:pull")
    assert site.ask("POST", mount, b"", Authorization=wide)[0] == 201
    assert site.ask("GET", f"/v2/target/blobs/{digest_of(blob)}", Authorization=narrow)[2] == blob


def test_an_address_that_asks_too_often_is_told_to_wait(site: Site) -> None:
    site.start(anonymous="pull", limits={"requests_per_second": 1, "burst": 5})
    answers = [site.ask("GET", "/v2/") for _ in range(8)]
    assert [status for status, _, _ in answers[:5]] == [200] * 5
    status, headers, body = answers[-1]
    assert (status, int(headers["retry-after"]) >= 1) == (429, True)
    assert json.loads(body)["errors"][0]["code"] == "TOOMANYREQUESTS"
    assert site.ask("GET", "/healthz")[0] == 200, "who watches is not counted"


def test_wrong_passwords_run_out(site: Site, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("ada:" + bcrypt.hashpw(b"engine", bcrypt.gensalt(5)).decode() + "\n")
    site.start(htpasswd={"file": str(users), "allow": "pull"}, limits={"wrong_passwords_per_minute": 3})
    wrong = "Basic YWRhOndyb25n"
    assert [site.ask("GET", "/v2/", Authorization=wrong)[0] for _ in range(5)] == [401, 401, 401, 429, 429]


def test_health_and_metrics(site: Site) -> None:
    site.start(anonymous="push")
    health = json.loads(site.ask("GET", "/healthz")[2])
    assert health["status"] == "ok"
    assert set(health["checks"]) == {"database", "store", "disk", "audit"}
    site.ask("GET", "/v2/app/manifests/v1")
    text = site.ask("GET", "/metrics")[2].decode()
    assert 'bayplan_registry_requests_total{endpoint="manifests",method="GET",status="404"} 1' in text
    assert "bayplan_registry_connections" in text
    site.ask("POST", "/v2/app/blobs/uploads/", b"")
    (site.root / "registry/registry.db").rename(site.root / "registry/away.db")
    (site.root / "registry/audit").rename(site.root / "registry/away")
    (site.root / "registry/audit").write_text("in the way")
    time.sleep(1.1)
    site.ask("POST", "/v2/app/blobs/uploads/", b"")
    status, _, body = site.ask("GET", "/healthz")
    assert (status, json.loads(body)["status"]) == (503, "failing")


def test_the_access_log_is_json_and_follows_a_rotation(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    site.start(anonymous="pull", access_log={"format": "json", "file": str(log)})
    site.ask("GET", "/v2/?a=b", User_Agent="a tester")
    eventually(log.read_text)
    (line,) = [json.loads(text) for text in log.read_text().splitlines()]
    assert (line["method"], line["path"], line["query"], line["status"]) == ("GET", "/v2/", "a=b", 200)
    assert (line["agent"], line["who"]) == ("a tester", "anonymous")
    log.rename(tmp_path / "access.log.1")
    time.sleep(1.1)
    site.ask("GET", "/v2/")
    assert eventually(lambda: log.exists() and log.read_text()).count("\n") == 1


@pytest.mark.parametrize("tls", [None, {}])
def test_the_end_is_in_order(site: Site, tls: dict[str, Any] | None) -> None:
    """What is under way is answered; then nobody listens any more, and nothing is said to run."""
    configuration: dict[str, Any] = {"anonymous": "push", "grace": "20s"} | ({} if tls is None else {"tls": tls})
    address = site.start(**configuration)
    blob = os.urandom(2_000_000)
    scheme = ["--cacert", str(site.certificate), f"https://{address}"] if tls is not None else [f"http://{address}"]
    url = scheme.pop() + f"/v2/app/blobs/uploads/?digest={digest_of(blob)}"
    words = (
        "--limit-rate",
        "1M",
        "--http1.1",
        "-H",
        "Expect:",
        "-X",
        "POST",
        "--data-binary",
        "@-",
        "-w",
        "%{http_code}",
        url,
    )
    slow = subprocess.Popen(["curl", "-sS", *scheme, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(slow.communicate, blob, 60)
        time.sleep(0.7)
        assert site.stop() == 0
        assert sent.result()[0].endswith(b"201")
    assert not (site.root / "registry/server.json").exists()
    assert "Traceback" not in site.errors.read_text()
