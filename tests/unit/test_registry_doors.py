"""Who gets in: passwords of an htpasswd file, bearer tokens, rates, the certificate that a server shows."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.registry.access import tokens
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.model import ANONYMOUS
from bayplan.registry.access.passwords import Passwords
from bayplan.registry.certificates import certificate_for
from bayplan.registry.configuration import Tls
from bayplan.registry.exchange import Access
from bayplan.registry.faults import RegistryError
from bayplan.registry.metrics import Metrics, endpoint_of
from bayplan.registry.throttle import Throttle
from bayplan.registry.token_service import wanted


def line(name: str, password: str) -> str:
    return f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


# -- passwords -----------------------------------------------------------------------------------------------------


def test_a_password_is_right_or_not(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("# users\n\n" + line("ada", "engine") + line("bob", "builder"))
    passwords = Passwords(file)
    assert passwords.check("ada", "engine")
    assert passwords.check("ada", "engine"), "and again, as it is remembered"
    assert not passwords.check("ada", "builder")
    assert not passwords.check("eve", "engine")
    assert not passwords.check("ada", "")


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(line("ada", "engine"))
    passwords = Passwords(file)
    assert passwords.check("ada", "engine")
    file.write_text(line("bob", "builder") + "# longer\n")
    assert not passwords.check("ada", "engine"), "what was remembered is forgotten"
    assert passwords.has("bob")


HASH = "$2b$04$" + "a" * 53


@pytest.mark.parametrize("text", ["ada\n", "ada:plain\n", "ada:$apr1$x$y\n", f"AWS:{HASH}\n", f"a b:{HASH}\n"])
def test_lines_that_are_none_are_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users"
    file.write_text("# one\n" + text)
    with pytest.raises(BayplanError) as caught:
        Passwords(file)
    assert caught.value.code == "bad-htpasswd"
    assert caught.value.where is not None
    assert caught.value.where.line == 2


# -- bearer tokens -------------------------------------------------------------------------------------------------


def test_a_bearer_token_is_for_what_it_says_and_so_long(tmp_path: Path) -> None:
    accounts = Accounts(Root.at(tmp_path / "root").ensure())
    accounts.settle(None, None)
    account = accounts.load()
    principal = account.principal(account.root_key)
    token = tokens.bearer(account, principal, [("app", "pull")], 1000.0, 300.0)
    found = tokens.bearer_of(account, token, 1299.0)
    assert (found.arn, found.scopes) == (principal.arn, frozenset({("app", "pull")}))
    with pytest.raises(RegistryError, match="expired"):
        tokens.bearer_of(account, token, 1300.0)
    for bad in (token[:-4] + "AAAA", token[4:], "", "é", tokens.issue(account, principal.key, 1000.0)[0]):
        with pytest.raises(RegistryError):
            tokens.bearer_of(account, bad, 1000.0)
    with pytest.raises(RegistryError):
        tokens.check(account, token, 1000.0)  # nor is it a password
    anybody = tokens.bearer_of(account, tokens.bearer(account, ANONYMOUS, [], 1000.0, 300.0), 1000.0)
    assert (anybody.kind, anybody.scopes) == (ANONYMOUS.kind, frozenset())


def test_scopes_are_read_as_clients_write_them() -> None:
    assert wanted(["repository:team/app:pull,push"]) == (("team/app", "pull"), ("team/app", "push"))
    assert wanted(["repository:app:*"]) == (("app", "pull"), ("app", "push"), ("app", "delete"))
    assert wanted(["registry:catalog:*", "repository(plugin):app:pull"]) == (("_catalog", "*"), ("app", "pull"))
    assert wanted(["repository:APP:pull", "repository:app:fly", "nonsense", ""]) == ()
    assert wanted(["repository:a:pull", "repository:a:pull"]) == (("a", "pull"),)


# -- rates ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2), min_size=1, max_size=100), st.integers(1, 10), st.floats(0.5, 20))
def test_no_address_gets_more_than_its_rate_and_burst(gaps: list[float], burst: int, rate: float) -> None:
    throttle = Throttle(rate, burst)
    now, taken = 0.0, 0
    for gap in gaps:
        now += gap
        wait = throttle.wait("a", now)
        refused = throttle.take("a", now)
        assert (wait > 0) == (refused > 0)
        taken += not refused
        if refused:
            assert throttle.take("a", now + refused + 1e-6) == 0.0
            taken += 1
            now += refused + 1e-6
    assert taken <= burst + rate * now + 1
    assert throttle.take("b", now) == 0.0, "another address has its own"


def test_many_addresses_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bayplan.registry.throttle._MOST", 100)
    throttle = Throttle(1.0, 2)
    for number in range(1000):
        throttle.take(str(number), 0.0)
    assert len(throttle._buckets) == 100


# -- certificates --------------------------------------------------------------------------------------------------


def names_of(path: Path) -> set[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes())
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*alternative.get_values_for_type(x509.DNSName), *map(str, alternative.get_values_for_type(x509.IPAddress))}


def test_a_certificate_of_its_own_is_kept_and_made_again_for_a_new_name(tmp_path: Path) -> None:
    root = Root.at(tmp_path / "root").ensure()
    first = certificate_for(root, Tls(), "127.0.0.1")
    assert first.own
    assert {"127.0.0.1", "localhost", "::1"} <= names_of(first.certificate)
    assert first.key.stat().st_mode & 0o777 == 0o600
    before = first.certificate.read_bytes()
    assert certificate_for(root, Tls(), "127.0.0.1").certificate.read_bytes() == before
    again = certificate_for(root, Tls(names=("registry.example.com", "192.0.2.7")), "0.0.0.0")
    assert {"registry.example.com", "192.0.2.7"} <= names_of(again.certificate)
    assert again.certificate.read_bytes() != before
    ends = x509.load_pem_x509_certificate(before).not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(days=390) < ends < datetime.timedelta(days=398)
    context = ssl.create_default_context(cafile=str(again.certificate))
    assert context.cert_store_stats()["x509_ca"] == 1, "it is its own authority"


@pytest.mark.parametrize("broken", ["other key", "empty key", "no key", "no certificate", "half a certificate"])
def test_a_certificate_of_its_own_that_broke_is_made_again(tmp_path: Path, broken: str) -> None:
    root = Root.at(tmp_path / "root").ensure()
    own = certificate_for(root, Tls(), "127.0.0.1")
    before = own.certificate.read_bytes()
    if broken == "other key":  # what a stop between the writing of the two files leaves
        other = certificate_for(Root.at(tmp_path / "other").ensure(), Tls(), "127.0.0.1")
        own.key.write_bytes(other.key.read_bytes())
    elif broken == "empty key":
        own.key.write_bytes(b"")
    elif broken == "no key":
        own.key.unlink()
    elif broken == "no certificate":
        own.certificate.unlink()
    else:
        own.certificate.write_bytes(before[: len(before) // 2])
    again = certificate_for(root, Tls(), "127.0.0.1")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(again.certificate, again.key)
    assert again.certificate.read_bytes() != before
    assert again.key.stat().st_mode & 0o777 == 0o600


def test_a_given_certificate_has_to_serve(tmp_path: Path) -> None:
    root = Root.at(tmp_path / "root").ensure()
    own = certificate_for(root, Tls(), "127.0.0.1")
    given = certificate_for(root, Tls(own.certificate, own.key), "127.0.0.1")
    assert (given.own, given.key) == (False, own.key)
    both = tmp_path / "both.pem"
    both.write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    assert certificate_for(root, Tls(both), "127.0.0.1").key == both
    other = certificate_for(Root.at(tmp_path / "other").ensure(), Tls(), "127.0.0.1")
    (tmp_path / "empty").write_text("")
    for tls in (
        Tls(own.certificate, other.key),
        Tls(tmp_path / "absent"),
        Tls(tmp_path / "empty"),
        Tls(own.certificate),
    ):
        with pytest.raises(BayplanError) as caught:
            certificate_for(root, tls, "127.0.0.1")
        assert caught.value.code == "bad-certificate"


# -- metrics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("/v2/", "root"), ("/v2/a/b/manifests/v1", "manifests"), ("/v2/a/blobs/uploads/?digest=x", "uploads"),
        ("/v2/a/blobs/sha256:0", "blobs"), ("/v2/a/tags/list?n=1", "tags"), ("/v2/a/referrers/sha256:0", "referrers"),
        ("/v2/_catalog", "catalog"), ("/", "ecr"), ("/token?scope=x", "token"), ("/../etc", "other"),
    ],
)  # fmt: skip
def test_requests_are_counted_by_endpoint(target: str, endpoint: str) -> None:
    assert endpoint_of(target) == endpoint


def test_the_page_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    for number in range(3):
        metrics(Access(0.0, "127.0.0.1:1", "GET", "/v2/a/manifests/v1", 200, 0, 100, 0.002 * number))
    metrics(Access(0.0, "127.0.0.1:1", "BREW", "/pot", 418, 7, 0, 100.0))
    text = metrics.text({"some_gauge": ("Of something.", lambda: 2.5)})
    assert 'bayplan_registry_requests_total{endpoint="manifests",method="GET",status="200"} 3' in text
    assert 'bayplan_registry_requests_total{endpoint="other",method="other",status="418"} 1' in text
    assert 'bayplan_registry_request_seconds_bucket{endpoint="manifests",le="0.0025"} 2' in text
    assert 'bayplan_registry_request_seconds_bucket{endpoint="other",le="60.0"} 0' in text
    assert 'bayplan_registry_request_seconds_bucket{endpoint="other",le="+Inf"} 1' in text
    assert "bayplan_registry_sent_bytes_total 300" in text
    assert "some_gauge 2.5" in text
    assert f"process_open_fds {len(os.listdir('/proc/self/fd'))}"[:16] in text
    names = [row.split()[2] for row in text.splitlines() if row.startswith("# TYPE")]
    assert len(names) == len(set(names))
