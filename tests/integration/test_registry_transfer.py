"""Our client against our server, and against registries that break, redirect, ask who we are, or lie."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from registry_processes import image, index, serving

from bayplan.errors import BayplanError
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.credentials import Credential
from bayplan.registry.exchange import Access
from bayplan.registry.registry import Registry
from bayplan.registry.transfer import Step, Transfer


@pytest.fixture
def server(tmp_path: Path) -> Root:
    return Root.at(tmp_path / "server").ensure()


@pytest.fixture
def here(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "here").ensure())


@pytest.fixture
def there(tmp_path: Path) -> Store:
    return Store(Root.at(tmp_path / "there").ensure())


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    with RegistryClient(environment={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, attempts=3) as client:
        yield client


def test_what_is_pushed_is_pulled_byte_for_byte(
    server: Root, here: Store, there: Store, client: RegistryClient
) -> None:
    digest = image(here, [os.urandom(3_000_000), os.urandom(10), b""])
    with serving(server) as registry:
        name = ImageName.parse(f"{registry}/team/app:1")
        assert client.push(here, digest, name) == digest
        assert client.resolve(name).digest == digest
        assert client.pull(name, there) == digest
        assert client.tags(name) == ("1",)
    assert {blob for blob, _ in here.blobs()} == {blob for blob, _ in there.blobs()}


def test_a_second_push_moves_no_blob_and_another_repository_mounts_them(
    server: Root, here: Store, client: RegistryClient
) -> None:
    digest = image(here, [os.urandom(100_000)])
    log: list[Access] = []
    seen: list[Transfer] = []
    with serving(server, log=log) as registry:
        client.push(here, digest, ImageName.parse(f"{registry}/team/app:1"))
        client.push(here, digest, ImageName.parse(f"{registry}/team/app:2"), progress=seen.append)
        client.push(here, digest, ImageName.parse(f"{registry}/team/other:1"), progress=seen.append)
    assert sorted(one.step for one in seen) == [Step.MOUNTED] * 2 + [Step.PRESENT] * 2
    assert sum(one.method == "PUT" and "/blobs/" in one.target for one in log) == 2  # of the first push


def test_a_platform_is_chosen_from_an_index_and_without_one_all_of_it_comes(
    server: Root, here: Store, there: Store, client: RegistryClient, tmp_path: Path
) -> None:
    arm, amd = image(here, [b"arm"]), image(here, [b"amd"])
    both = index(here, {"linux/arm64": arm, "linux/amd64": amd})
    whole = Store(Root.at(tmp_path / "whole").ensure())
    with serving(server) as registry:
        name = ImageName.parse(f"{registry}/team/multi:1")
        client.push(here, both, name)
        assert client.pull(name, there, "linux/arm64") == arm
        assert not there.has(amd)
        assert client.pull(name, whole) == both
        with pytest.raises(BayplanError, match="no image for linux/s390x"):
            client.pull(name, there, "linux/s390x")
    assert whole.has(arm)
    assert whole.has(amd)


def test_many_threads_push_and_pull_at_once(server: Root, here: Store, there: Store, client: RegistryClient) -> None:
    shared = os.urandom(200_000)
    images = [image(here, [shared, os.urandom(50_000)]) for _ in range(12)]
    with serving(server) as registry, ThreadPoolExecutor(6) as threads:
        names = [ImageName.parse(f"{registry}/team/app{number % 3}:{number}") for number in range(12)]
        list(threads.map(lambda pair: client.push(here, *pair), zip(images, names, strict=True)))
        assert list(threads.map(lambda name: client.pull(name, there), names)) == images
    assert len(Registry(server).tags("team/app0")) == 4


def test_an_unknown_image_is_named_in_the_error(server: Root, there: Store, client: RegistryClient) -> None:
    with serving(server) as registry, pytest.raises(BayplanError) as caught:
        client.pull(ImageName.parse(f"{registry}/no/such:1"), there)
    assert caught.value.code == "image-unknown"
    assert "no/such:1" in caught.value.message


def test_a_registry_that_is_not_there_is_an_error_in_words(there: Store, client: RegistryClient) -> None:
    with pytest.raises(BayplanError) as caught:
        client.pull(ImageName.parse("127.0.0.1:1/no/such:1"), there)
    assert caught.value.code == "registry-unreachable"


# -- registries that misbehave -------------------------------------------------------------------------------------

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def scripted(answer: Answer) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def say(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    if "Content_Length" not in headers:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)


def parts(store: Store, layer: bytes) -> dict[str, bytes]:
    digest = image(store, [layer])
    manifest = json.loads(store.read(digest))
    found = {"/v2/app/manifests/1": store.read(digest)}
    for entry in (manifest["config"], *manifest["layers"]):
        with store.open(entry["digest"]) as file:
            found[f"/v2/app/blobs/{entry['digest']}"] = file.read()
    return found


def test_a_download_that_breaks_goes_on_where_it_broke(here: Store, there: Store, client: RegistryClient) -> None:
    layer = os.urandom(400_000)
    content = parts(here, layer)
    asked: list[str] = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path == "/v2/":
            return say(request, 200)
        body = content[request.path]
        if "/manifests/" in request.path or len(body) < 10_000:
            return say(request, 200, body)
        asked.append(request.headers.get("Range", ""))
        start = int(asked[-1].removeprefix("bytes=").rstrip("-") or 0)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        request.wfile.write(body[start : start + 150_000])
        request.close_connection = True
        return None

    with scripted(answer) as registry:
        client.pull(ImageName.parse(f"{registry}/app:1"), there)
    assert asked == ["", "bytes=150000-", "bytes=300000-"]
    assert there.has("sha256:" + hashlib.sha256(layer).hexdigest())  # type: ignore[arg-type]


def test_bytes_that_are_not_the_digests_are_refused(here: Store, there: Store, client: RegistryClient) -> None:
    content = parts(here, b"x" * 20_000)
    wrong = {path: b"y" * len(body) if len(body) == 20_000 else body for path, body in content.items()}
    with (
        scripted(lambda request: say(request, 200, wrong.get(request.path, b""))) as registry,
        pytest.raises(BayplanError) as caught,
    ):
        client.pull(ImageName.parse(f"{registry}/app:1"), there)
    assert caught.value.code == "digest-mismatch"
    assert not list(there.blobs()) or all(stat.st_size != 20_000 for _, stat in there.blobs())


def test_a_busy_registry_is_asked_again_after_the_time_it_names(
    here: Store, there: Store, client: RegistryClient
) -> None:
    content = parts(here, b"layer")
    refusals = [429, 503]

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if "/manifests/" in request.path and refusals:
            return say(request, refusals.pop(), Retry_After="0")
        return say(request, 200, content.get(request.path, b""))

    with scripted(answer) as registry:
        client.pull(ImageName.parse(f"{registry}/app:1"), there)
    assert not refusals


def test_tries_are_bounded(there: Store, client: RegistryClient) -> None:
    tries: list[str] = []

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        tries.append(request.path)
        say(request, 200 if request.path == "/v2/" else 503)

    with scripted(answer) as registry, pytest.raises(BayplanError) as caught:
        client.pull(ImageName.parse(f"{registry}/app:1"), there)
    assert caught.value.code == "registry-busy"
    assert tries.count("/v2/app/manifests/1") == 3


def test_a_bearer_token_is_fetched_with_the_login_and_never_follows_a_redirect_to_another_host(
    here: Store, there: Store, tmp_path: Path
) -> None:
    content = parts(here, b"layer" * 1000)
    leaked: list[str] = []
    scopes: list[str] = []
    basic = "Basic " + base64.b64encode(b"ann:s3cret").decode()

    def elsewhere(request: http.server.BaseHTTPRequestHandler) -> None:
        leaked.append(request.headers.get("Authorization") or "")
        say(request, 200, content[request.path])

    with scripted(elsewhere) as storage:

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            given = request.headers.get("Authorization")
            if request.path.startswith("/token"):
                assert given == basic
                scopes.append(request.path)
                return say(request, 200, json.dumps({"token": "opaque", "expires_in": 300}).encode())
            if given != "Bearer opaque":
                realm = f'Bearer realm="http://{request.headers["Host"]}/token",service="test",scope="x"'
                return say(request, 401, WWW_Authenticate=realm)
            if "/blobs/" in request.path:
                return say(request, 307, Location=f"http://{storage}{request.path}")
            return say(request, 200, content.get(request.path, b""))

        with scripted(answer) as registry:
            login = {registry: Credential("ann", "s3cret")}
            with RegistryClient(credentials=login, environment={"HOME": str(tmp_path)}) as client:
                client.pull(ImageName.parse(f"{registry}/app:1"), there)
    assert leaked == ["", ""]
    assert len(scopes) == 1
    assert "scope=repository%3Aapp%3Apull" in scopes[0]


def test_a_refused_login_names_the_registry_and_not_the_secret(tmp_path: Path) -> None:
    challenge = {"WWW_Authenticate": 'Basic realm="x"'}
    with (
        scripted(lambda request: say(request, 401, b"no", **challenge)) as registry,
        RegistryClient(environment={"HOME": str(tmp_path)}) as client,
        pytest.raises(BayplanError) as caught,
    ):
        client.login(registry, "ann", "s3cret-value")
    assert caught.value.code == "registry-login"
    assert registry in caught.value.message
    assert "s3cret-value" not in caught.value.render()
    assert not (tmp_path / ".docker").exists()


def test_a_login_is_tried_and_kept_where_docker_keeps_it(tmp_path: Path, there: Store, here: Store) -> None:
    content = parts(here, b"layer")
    basic = "Basic " + base64.b64encode(b"ann:s3cret").decode()

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") != basic:
            return say(request, 401, WWW_Authenticate='Basic realm="x"')
        return say(request, 200, content.get(request.path, b""))

    with scripted(answer) as registry, RegistryClient(environment={"HOME": str(tmp_path)}) as client:
        client.login(registry, "ann", "s3cret")
        client.pull(ImageName.parse(f"{registry}/app:1"), there)
        assert (tmp_path / ".docker/config.json").stat().st_mode & 0o777 == 0o600
        assert client.logout(registry)
        assert not client.logout(registry)
    assert json.loads((tmp_path / ".docker/config.json").read_text())["auths"] == {}
