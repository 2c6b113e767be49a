"""Our client over TLS and through proxies: whom it trusts, what it sends where."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from registry_processes import image, serving

from bayplan.errors import BayplanError
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.root import Root
from bayplan.oci.store import Store
from bayplan.registry.client import RegistryClient
from bayplan.registry.registry import Registry


def certificate(folder: Path) -> Path:
    """A self-signed certificate with its key for 127.0.0.1 and localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's registry")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    (folder / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


def shovel(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until either side ends."""
    ways = {one: other, other: one}
    try:
        while True:
            pending = [s for s in ways if isinstance(s, ssl.SSLSocket) and s.pending()]
            for source in pending or select.select(list(ways), [], [], 10)[0]:
                data = source.recv(65536)
                if not data:
                    return
                ways[source].sendall(data)
    except OSError:
        return
    finally:
        one.close()
        other.close()


@contextmanager
def tls_before(registry: str, pem: Path) -> Iterator[str]:
    """A TLS listener that hands on to a plain registry."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    listener = socket.create_server(("127.0.0.1", 0))
    host, _, port = registry.partition(":")

    def accept() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            try:
                wrapped = context.wrap_socket(line, server_side=True)
            except (ssl.SSLError, OSError):
                line.close()
                continue
            behind = socket.create_connection((host, int(port)))
            threading.Thread(target=shovel, args=(wrapped, behind), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def pushed(tmp_path: Path) -> Iterator[tuple[str, Digest]]:
    """A served registry with one image, app:1."""
    root = Root.at(tmp_path / "server").ensure()
    registry = Registry(root)
    registry.create_repository("app")
    digest = image(registry.store, [b"layer" * 100_000])
    registry.push_local("app", "1", digest)
    with serving(root) as where:
        yield where, digest


def test_a_certificate_in_certs_d_is_trusted_and_no_other_is(pushed: tuple[str, Digest], tmp_path: Path) -> None:
    registry, digest = pushed
    there = Store(Root.at(tmp_path / "there").ensure())
    with tls_before(registry, certificate(tmp_path)) as where:
        name = ImageName.parse(f"{where}/app:1")
        with RegistryClient(environment={"HOME": str(tmp_path)}) as client:
            with pytest.raises(BayplanError) as caught:
                client.pull(name, there)
            assert caught.value.code == "registry-certificate"
            assert "certs.d" in caught.value.hint
        folder = tmp_path / ".config/docker/certs.d" / where
        folder.mkdir(parents=True)
        (tmp_path / "ca.crt").rename(folder / "ca.crt")
        with RegistryClient(environment={"HOME": str(tmp_path)}) as client:
            assert client.pull(name, there) == digest
            assert client.push(there, digest, ImageName.parse(f"{where}/copy:1")) == digest


def test_an_insecure_registry_may_show_any_certificate(pushed: tuple[str, Digest], tmp_path: Path) -> None:
    registry, digest = pushed
    there = Store(Root.at(tmp_path / "there").ensure())
    pem = certificate(tmp_path)
    with (
        tls_before(registry, pem) as where,
        RegistryClient(environment={"HOME": str(tmp_path)}, insecure=[where]) as client,
    ):
        assert client.pull(ImageName.parse(f"{where}/app:1"), there) == digest


def test_requests_to_others_go_through_the_proxy_with_its_own_login(pushed: tuple[str, Digest], tmp_path: Path) -> None:
    registry, digest = pushed
    there = Store(Root.at(tmp_path / "there").ensure())
    seen: list[tuple[str, str]] = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
            host, _, port = registry.partition(":")
            behind = socket.create_connection((host, int(port)))
            target = self.path.partition("://")[2].partition("/")[2]
            behind.sendall(f"{self.command} /{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            while data := behind.recv(65536):
                self.wfile.write(data)
            behind.close()
            self.close_connection = True

        def do_CONNECT(self) -> None:
            seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
            self.send_error(502)

        def log_message(self, *arguments: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    proxy = f"http://u:pw@127.0.0.1:{server.server_address[1]}"
    environment = {"HOME": str(tmp_path), "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
    try:
        with RegistryClient(environment=environment, insecure=["registry.invalid:5000"], attempts=1) as client:
            assert client.pull(ImageName.parse("registry.invalid:5000/app:1"), there) == digest
        with RegistryClient(environment=environment, attempts=1) as client, pytest.raises(BayplanError) as caught:
            client.pull(ImageName.parse("other.invalid/app:1"), there)
    finally:
        server.shutdown()
        server.server_close()
    assert caught.value.code == "registry-unreachable"
    login = "Basic " + base64.b64encode(b"u:pw").decode()
    assert {given for _, given in seen} == {login}
    assert "other.invalid:443" in {path for path, _ in seen}
    assert any(path.startswith("http://registry.invalid:5000/v2/app/blobs/") for path, _ in seen)
