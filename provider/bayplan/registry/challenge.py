"""What a registry asks for when it answers 401, and the tokens that its token service gives.

``WWW-Authenticate`` (RFC 9110, section 11.6.1) names a scheme with parameters: ``Basic realm=...`` or ``Bearer
realm=URL,service=S,scope=X``. For Bearer a token is fetched from the realm (distribution's token specification) for a
scope such as ``repository:team/app:pull,push``. Pure text and a cache: who sends the requests is :mod:`transport`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from bayplan.errors import BayplanError
from bayplan.records import dataclass, field

_SHORTEST = 60.0  # seconds: the specification's default life of a token
_MARGIN = 0.5  # a token is fetched anew at half its life


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. ``scheme`` is lower case; ``parameters`` have lower-case names."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse(header: str) -> tuple[Challenge, ...]:
    """The challenges of a ``WWW-Authenticate`` header; several may stand in one. What cannot be read ends the list."""
    found: list[Challenge] = []
    position, length = 0, len(header)

    def token() -> str:
        nonlocal position
        start = position
        while position < length and (header[position].isalnum() or header[position] in "!#$%&'*+-.^_`|~"):
            position += 1
        return header[start:position]

    def blanks(characters: str = " \t") -> None:
        nonlocal position
        while position < length and header[position] in characters:
            position += 1

    while position < length:
        blanks(" \t,")
        scheme = token()
        if not scheme:
            break
        parameters: dict[str, str] = {}
        while True:
            blanks(" \t,")
            mark = position
            name = token()
            blanks()
            if not name or position >= length or header[position] != "=":
                position = mark  # the next scheme, or the end
                break
            position += 1
            blanks()
            if position < length and header[position] == '"':
                position += 1
                value = ""
                while position < length and header[position] != '"':
                    if header[position] == "\\" and position + 1 < length:
                        position += 1
                    value += header[position]
                    position += 1
                position += 1
            else:
                value = token()
            parameters[name.lower()] = value
        found.append(Challenge(scheme.lower(), parameters))
    return tuple(found)


def token_url(challenge: Challenge, scope: str, account: str) -> str:
    """The address to GET for a token."""
    realm = challenge.parameters.get("realm", "")
    parts = urlsplit(realm)
    query = [("service", challenge.parameters["service"])] if challenge.parameters.get("service") else []
    query += [("scope", one) for one in scope.split(" ") if one]
    if account:
        query.append(("account", account))
    text = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, text, ""))


def token_form(challenge: Challenge, scope: str, refresh: str) -> bytes:
    """The body to POST to the realm with an identity (refresh) token (distribution's oauth2 page)."""
    fields = {
        "grant_type": "refresh_token",
        "service": challenge.parameters.get("service", ""),
        "client_id": "bayplan",
        "scope": scope,
        "refresh_token": refresh,
    }
    return urlencode(fields).encode()


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and when (``time.monotonic``) it is to be fetched anew."""

    value: str = field(repr=False)
    renew: float


def read_token(body: bytes, registry: str) -> Token:
    """The token in a token service's answer. Raises ``registry-login`` where there is none."""
    try:
        document = json.loads(body)
        value = document.get("token") or document.get("access_token")
        life = float(document.get("expires_in") or _SHORTEST)
    except (ValueError, AttributeError, TypeError):
        value, life = None, 0.0
    if not isinstance(value, str) or not value:
        raise BayplanError("registry-login", f"the token service of {registry} answered without a token")
    return Token(value, time.monotonic() + max(life, 10.0) * _MARGIN)


class Tokens:
    """Tokens by (registry, scope), shared by the threads of a client."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Token] = {}
        self._guard = threading.Lock()

    def get(self, registry: str, scope: str) -> str | None:
        with self._guard:
            token = self._kept.get((registry, scope))
        return token.value if token and token.renew > time.monotonic() else None

    def keep(self, registry: str, scope: str, token: Token) -> None:
        with self._guard:
            self._kept[registry, scope] = token

    def drop(self, registry: str, scope: str) -> None:
        with self._guard:
            self._kept.pop((registry, scope), None)
