"""Who may do what: signatures against botocore's signer, tokens, policies by AWS's own rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from bayplan.errors import BayplanError
from bayplan.oci.root import Root
from bayplan.records import replace
from bayplan.registry.access import tokens
from bayplan.registry.access.accounts import Account, Accounts
from bayplan.registry.access.model import ANONYMOUS, Asked, Principal, PrincipalKind
from bayplan.registry.access.policy import Kind, PolicyError, evaluate, parse
from bayplan.registry.access.sigv4 import Signed, Unsigned, verify
from bayplan.registry.faults import RegistryError

CASES = Path(__file__).parents[1] / "cases/registry-policy"


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Accounts(Root.at(tmp_path)).load()


# -- signatures ----------------------------------------------------------------------------------------------------


def signed(account: Account, body: bytes = b"{}", *, service: str = "ecr", region: str = "", query: str = "") -> Signed:
    """A call as botocore signs it, now."""
    key = account.root_key
    request = AWSRequest(
        "POST",
        f"http://127.0.0.1:5000/{'?' + query if query else ''}",
        headers={"X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.DescribeRepositories", "Host": "127.0.0.1:5000"},
        data=body,
    )
    SigV4Auth(Credentials(key.id, key.secret), service, region or account.region).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Signed("POST", "/", query, headers, body)


def now() -> float:
    return datetime.now(UTC).timestamp()


def test_what_botocore_signs_is_whose_key_it_is(account: Account) -> None:
    for query in ("", "a=1&b=%20x&a=0", "empty="):
        found = verify(signed(account, b'{"a": 1}', query=query), account, now(), service="ecr")
        assert (found.kind, found.account, found.key) == (PrincipalKind.ROOT, account.number, account.root_key.id)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda one: changed_to(one, body=b"{ }"), "InvalidSignatureException"),
        (lambda one: changed_to(one, method="GET"), "InvalidSignatureException"),
        (lambda one: changed_to(one, path="/v2/"), "InvalidSignatureException"),
        (lambda one: changed_to(one, query="a=1"), "InvalidSignatureException"),
        (lambda one: with_header(one, "host", "example.com"), "InvalidSignatureException"),
        (lambda one: with_header(one, "x-amz-target", "AmazonEC2ContainerRegistry_V20150921.PutImage"), "InvalidSignatureException"),
        (lambda one: with_header(one, "x-amz-extra", "1"), "InvalidSignatureException"),
        (lambda one: with_header(one, "x-amz-date", "20200101T000000Z"), "InvalidSignatureException"),
        (lambda one: with_header(one, "x-amz-date", "yesterday"), "IncompleteSignatureException"),
        (lambda one: with_header(one, "authorization", ""), "MissingAuthenticationTokenException"),
        (lambda one: with_header(one, "authorization", "Basic abc"), "IncompleteSignatureException"),
        (lambda one: with_header(one, "authorization", one.headers["authorization"] + "g"), "IncompleteSignatureException"),
        (lambda one: with_header(one, "authorization", flipped(one.headers["authorization"])), "InvalidSignatureException"),
        (lambda one: with_header(one, "authorization", unsigned_host(one)), "IncompleteSignatureException"),
    ],
)  # fmt: skip
def test_a_changed_request_is_refused(account: Account, change: Any, code: str) -> None:
    with pytest.raises(Unsigned) as caught:
        verify(change(signed(account)), account, now(), service="ecr")
    assert caught.value.code == code
    assert account.root_key.secret not in caught.value.message


def changed_to(one: Signed, **values: Any) -> Signed:
    return replace(one, **values)


def with_header(one: Signed, name: str, value: str) -> Signed:
    return replace(one, headers={**one.headers, name: value})


def unsigned_host(one: Signed) -> str:
    return one.headers["authorization"].replace("host;", "")


def flipped(text: str) -> str:
    return text[:-1] + ("0" if text[-1] != "0" else "1")


@pytest.mark.parametrize("seconds", [-301.0, 301.0, 86400.0])
def test_a_signature_holds_for_five_minutes(account: Account, seconds: float) -> None:
    one = signed(account)
    assert verify(one, account, now() + (299 if seconds > 0 else -299), service="ecr")
    with pytest.raises(Unsigned, match=r"expired|not yet current"):
        verify(one, account, now() + seconds, service="ecr")


def test_another_service_region_or_key_is_refused(account: Account) -> None:
    for one in (signed(account, service="s3"), signed(account, region="eu-west-1")):
        with pytest.raises(Unsigned) as caught:
            verify(one, account, now(), service="ecr")
        assert caught.value.code == "InvalidSignatureException"
    with pytest.raises(Unsigned) as caught:
        verify(signed(account), replace(account, keys={}), now(), service="ecr")
    assert caught.value.code == "UnrecognizedClientException"


# -- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_holds_for_twelve_hours_and_for_its_key(account: Account) -> None:
    password, until = tokens.issue(account, account.root_key.id, 1000.0)
    assert until == 1000 + 12 * 3600
    assert tokens.check(account, password, until - 1).kind is PrincipalKind.ROOT
    with pytest.raises(RegistryError, match="expired") as caught:
        tokens.check(account, password, until)
    assert caught.value.code == "denied"
    with pytest.raises(RegistryError):
        tokens.check(replace(account, keys={}), password, 1000.0)
    with pytest.raises(RegistryError):
        tokens.check(replace(account, seal=b"x" * 32), password, 1000.0)
    for wrong in ("", "abc", "ä", password[:-4], ("B" if password[0] == "A" else "A") + password[1:]):
        with pytest.raises(RegistryError):
            tokens.check(account, wrong, 1000.0)


def test_a_link_opens_one_blob_for_an_hour(account: Account) -> None:
    link = tokens.link(account, "team/app", "sha256:a", 1000.0)
    assert tokens.opens(account, link, "team/app", "sha256:a", 4599.0)
    assert not tokens.opens(account, link, "team/app", "sha256:a", 4600.0)
    assert not tokens.opens(account, link, "team/app", "sha256:b", 1000.0)
    assert not tokens.opens(account, link, "team/other", "sha256:a", 1000.0)
    assert not tokens.opens(account, "", "team/app", "sha256:a", 1000.0)
    assert not tokens.opens(account, "9" * 30 + ".00", "team/app", "sha256:a", 1000.0)


# -- accounts ------------------------------------------------------------------------------------------------------


def test_an_account_is_made_once_and_read_by_its_owner_alone(tmp_path: Path) -> None:
    first = Accounts(Root.at(tmp_path)).load()
    assert Accounts(Root.at(tmp_path)).load() == first
    assert len(first.number) == 12
    assert len(first.root_key.secret) == 40
    assert (tmp_path / "registry/account.json").stat().st_mode & 0o777 == 0o600
    renamed = Accounts(Root.at(tmp_path)).settle("123456789012", "eu-west-1")
    assert (renamed.number, renamed.region, renamed.keys) == ("123456789012", "eu-west-1", first.keys)


def test_users_and_keys_have_their_bounds(tmp_path: Path) -> None:
    accounts = Accounts(Root.at(tmp_path))
    accounts.add_user("ada")
    keys = [accounts.add_key("ada") for _ in range(2)]
    for code, act in (
        ("user-exists", lambda: accounts.add_user("ada")),
        ("bad-user", lambda: accounts.add_user("root")),
        ("bad-user", lambda: accounts.add_user("a b")),
        ("too-many-keys", lambda: accounts.add_key("ada")),
        ("user-unknown", lambda: accounts.add_key("bob")),
        ("user-unknown", lambda: accounts.remove_user("bob")),
        ("key-unknown", lambda: accounts.remove_key("AKIA")),
        ("last-root-key", lambda: accounts.remove_key(accounts.load().root_key.id)),
        ("bad-account", lambda: accounts.settle("12", None)),
        ("bad-account", lambda: accounts.settle(None, "here")),
    ):
        with pytest.raises(BayplanError) as caught:
            act()
        assert caught.value.code == code
    accounts.remove_user("ada")
    assert not {key.id for key in keys} & set(accounts.load().keys)


# -- policies ------------------------------------------------------------------------------------------------------

OWNER, FOREIGN = "111122223333", "444455556666"


def somebody(text: str) -> Principal:
    """``anonymous``, ``root``, ``NAME``; ``other:NAME`` is in another account."""
    if text == "anonymous":
        return ANONYMOUS
    number = FOREIGN if text.startswith("other:") else OWNER
    name = text.removeprefix("other:")
    if name == "root":
        return Principal(PrincipalKind.ROOT, number, f"arn:aws:iam::{number}:root", name, "AKIAROOT")
    return Principal(PrincipalKind.USER, number, f"arn:aws:iam::{number}:user/{name}", name, "AKIAUSER")


def matrix() -> list[Any]:
    found = []
    for file in sorted(CASES.glob("*.yaml")):
        document = yaml.safe_load(file.read_text())
        for number, case in enumerate(document["cases"], 1):
            found.append(pytest.param(document, case, id=f"{file.stem}-{number}"))
    return found


@pytest.mark.parametrize(("given", "case"), matrix())
def test_the_matrix(given: Mapping[str, Any], case: Mapping[str, Any]) -> None:
    def policies(kind: Kind) -> list[Any]:
        texts = case.get(kind.value, given.get(kind.value, []))
        return [parse(json.dumps({"Version": "2012-10-17", "Statement": one}), kind) for one in texts]

    asked = Asked(
        case.get("action", "ecr:BatchGetImage"),
        case.get("resource", f"arn:aws:ecr:us-east-1:{OWNER}:repository/team/app"),
        {key.lower(): tuple(map(str, values)) for key, values in case.get("context", {}).items()},
    )
    found = evaluate(
        asked,
        somebody(case["who"]),
        owner=OWNER,
        identity=policies(Kind.IDENTITY),
        resource=[*policies(Kind.REPOSITORY), *policies(Kind.REGISTRY)],
    )
    assert found.value == case["expect"], case


def test_the_matrix_has_its_size() -> None:
    assert len(matrix()) >= 120


@pytest.mark.parametrize(
    ("kind", "statement", "said"),
    [
        (Kind.IDENTITY, {"Effect": "Maybe", "Action": "ecr:*", "Resource": "*"}, "Effect is Allow or Deny"),
        (Kind.IDENTITY, {"Effect": "Allow", "Resource": "*"}, "one of Action and NotAction"),
        (Kind.IDENTITY, {"Effect": "Allow", "Action": "ecr:*"}, "one of Resource and NotResource"),
        (Kind.IDENTITY, {"Effect": "Allow", "Action": "*", "Resource": "*", "Principal": "*"}, "names no Principal"),
        (Kind.IDENTITY, {"Effect": "Allow", "Action": "PutImage", "Resource": "*"}, "is no action"),
        (Kind.IDENTITY, {"Effect": "Allow", "Action": 1, "Resource": "*"}, "a text or a list of texts"),
        (Kind.REPOSITORY, {"Effect": "Allow", "Action": "ecr:*"}, "one of Principal and NotPrincipal"),
        (Kind.REPOSITORY, {"Effect": "Allow", "Action": "ecr:*", "Principal": "*", "Resource": "*"}, "names no Resource"),
        (Kind.REPOSITORY, {"Effect": "Allow", "Action": "ecr:*", "Principal": {"Who": "x"}}, "no kind of principal Who"),
        (Kind.REGISTRY, {"Effect": "Allow", "Action": "ecr:*", "Principal": "*"}, "one of Resource and NotResource"),
        (Kind.IDENTITY, {"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"Now": {}}}, "no condition operator Now"),
        (Kind.IDENTITY, {"Effect": "Allow", "Action": "*", "Resource": "*", "When": {}}, "has no element When"),
    ],
)  # fmt: skip
def test_a_document_that_is_no_policy_says_why(kind: Kind, statement: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        parse(json.dumps({"Version": "2012-10-17", "Statement": [statement]}), kind)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"Statement": []}', '{"Version": "2020-01-01", "Statement": [{}]}', "[" * 5000]
)
def test_other_texts_are_no_policies(text: str) -> None:
    with pytest.raises(PolicyError):
        parse(text, Kind.IDENTITY)
