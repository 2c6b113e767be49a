"""ECR authorization tokens: what `aws ecr get-login-password` prints and `docker login -u AWS` sends back.

A token says whose key it was made with and until when, sealed with the account's own key (HMAC-SHA256, RFC 2104): any server of
the root can check one, none has to remember it, and one of a key that was removed is worth nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json

from bayplan.registry.access.accounts import Account
from bayplan.registry.access.principal import Principal
from bayplan.registry.faults import Fault, RegistryError

USERNAME = "AWS"
LIFE = 12 * 3600.0  # seconds, as in ECR
_LINK_LIFE = 3600


def issue(account: Account, key: str, now: float) -> tuple[str, float]:
    """(the password, when it expires in Unix seconds) for the access key ``key``."""
    until = now + LIFE
    text = json.dumps({"k": key, "e": int(until)}, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_seal(account, text) + text).decode("ascii"), float(int(until))


def check(account: Account, password: str, now: float) -> Principal:
    """Who a token stands for. Raises RegistryError ``unauthorized`` (no token of ours), ``denied`` (expired)."""
    try:
        data = base64.urlsafe_b64decode(password.encode("ascii"))
        seal, text = data[:32], data[32:]
        if not hmac.compare_digest(seal, _seal(account, text)):
            raise ValueError
        said = json.loads(text)
        key = account.keys[said["k"]]
    except (ValueError, KeyError, binascii.Error, UnicodeEncodeError):
        raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="log in again") from None
    if said["e"] <= now:
        raise RegistryError(Fault.DENIED, "Your authorization token has expired. Reauthenticate and try again.")
    return account.principal(key)


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


def _seal(account: Account, text: bytes) -> bytes:
    return hmac.digest(account.seal, b"ecr-token\n" + text, "sha256")
