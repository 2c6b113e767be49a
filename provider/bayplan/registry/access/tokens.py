"""Tokens: what `aws ecr get-login-password` prints and `docker login -u AWS` sends back, bearer tokens, links to blobs.

A token says whose key it was made with and until when, sealed with the account's own key (HMAC-SHA256, RFC 2104): any server of
the root can check one, none has to remember it, and one of a key that was removed is worth nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from typing import Any

from bayplan.records import replace
from bayplan.registry.access.accounts import Account
from bayplan.registry.access.model import ANONYMOUS, Principal
from bayplan.registry.faults import Fault, RegistryError

USERNAME = "AWS"
LIFE = 12 * 3600.0  # seconds, as in ECR
_LINK_LIFE = 3600
_LOGIN, _BEARER = b"ecr-token", b"bearer"


def issue(account: Account, key: str, now: float, life: float = LIFE) -> tuple[str, float]:
    """(the password, when it expires in Unix seconds) for the access key ``key``."""
    until = now + life
    text = json.dumps({"k": key, "e": int(until)}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_seal(account, text) + text).decode("ascii"), float(int(until))


def check(account: Account, password: str, now: float) -> Principal:
    """Who a token stands for. Raises RegistryError ``unauthorized`` (no token of ours), ``denied`` (expired)."""
    try:
        said = _opened(account, password, _LOGIN)
        key = account.keys[said["k"]]
    except (ValueError, KeyError, binascii.Error, UnicodeEncodeError):
        raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="log in again") from None
    if said["e"] <= now:
        raise RegistryError(Fault.DENIED, "Your authorization token has expired. Reauthenticate and try again.")
    return account.principal(key)


def bearer(account: Account, principal: Principal, scopes: Iterable[tuple[str, str]], now: float, life: float) -> str:
    """A bearer token of ``principal`` for ``scopes``, pairs of a repository's name and ``pull``, ``push`` or ``delete``."""
    said = {"k": principal.key, "u": "" if principal.key else principal.name, "e": int(now + life), "s": sorted(scopes)}
    text = json.dumps(said, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_seal(account, text, _BEARER) + text).decode("ascii")


def bearer_of(account: Account, token: str, now: float) -> Principal:
    """Who a bearer token stands for, and for what. The caller looks whether a user without a key still has a password.

    Raises RegistryError ``unauthorized``, so that the client fetches another one.
    """
    try:
        said = _opened(account, token, _BEARER)
        scopes = frozenset((str(name), str(action)) for name, action in said["s"])
        if said["k"]:
            shown = account.principal(account.keys[said["k"]])
        elif said["u"]:
            shown = account.user(said["u"])
        else:
            shown = ANONYMOUS
    except (ValueError, KeyError, TypeError, binascii.Error, UnicodeEncodeError):
        raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="this is no token of this registry") from None
    if said["e"] <= now:
        raise RegistryError(Fault.UNAUTHORIZED, "the token has expired", hint="fetch another one")
    return replace(shown, scopes=scopes)


def link(account: Account, repository: str, digest: str, now: float) -> str:
    """What makes the URL of one blob worth something for an hour, to whoever has it (GetDownloadUrlForLayer)."""
    text = f"{int(now + _LINK_LIFE)}".encode()
    seal = hmac.digest(account.seal, b"\n".join((b"blob-link", repository.encode(), digest.encode(), text)), "sha256")
    return f"{text.decode()}.{seal.hex()}"


def opens(account: Account, given: str, repository: str, digest: str, now: float) -> bool:
    """Whether ``given`` is a :func:`link` to this very blob that still holds."""
    until = given.partition(".")[0]
    if not until.isdecimal() or int(until) <= now:
        return False
    return hmac.compare_digest(given.encode(), link(account, repository, digest, int(until) - _LINK_LIFE).encode())


def _seal(account: Account, text: bytes, kind: bytes = _LOGIN) -> bytes:
    return hmac.digest(account.seal, kind + b"\n" + text, "sha256")


def _opened(account: Account, token: str, kind: bytes) -> Any:
    """What a token says. Raises ValueError and its like for what is none of this kind."""
    data = base64.urlsafe_b64decode(token.encode("ascii"))
    seal, text = data[:32], data[32:]
    if not hmac.compare_digest(seal, _seal(account, text, kind)):
        raise ValueError
    return json.loads(text)
