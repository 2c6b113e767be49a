"""A conversation with registries: which origin answers, who we are there, redirects, and another try after a failure.

Four rules make it safe. Credentials belong to the registry that asked for them: an ``Authorization`` header never goes
to another origin, however a redirect or an upload's Location points. A password goes to a token service only over TLS
(or where the registry itself is plain). Every retry is counted and every wait bounded; ``Retry-After`` is obeyed up to
a minute. And the errors say what the registry said, with nothing of what we sent.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import ssl
import threading
import time
from collections.abc import Collection, Mapping
from urllib.parse import urljoin

from bayplan.errors import BayplanError
from bayplan.registry import challenge as challenges
from bayplan.registry.credentials import Credential, Keychain
from bayplan.registry.endpoint import Origin, origins
from bayplan.registry.transport import Answer, Body, FileBody, Pool

_REDIRECTS = 5
_LONGEST_WAIT = 60.0  # seconds
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({301, 302, 303, 307, 308})


class Session:
    """Requests to registries, from any number of threads.

    ``insecure`` names registries that may have any certificate or none. ``attempts`` bounds the tries of one request,
    ``timeout`` (seconds) each wait for the network.
    """

    def __init__(
        self,
        *,
        keychain: Keychain | None = None,
        credentials: Mapping[str, Credential] | None = None,
        insecure: Collection[str] = (),
        attempts: int = 5,
        timeout: float = 60.0,
        connect_timeout: float = 15.0,
        first_wait: float = 0.25,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        from bayplan import __version__

        self._keychain = keychain or Keychain(environment)
        self._given = dict(credentials or {})
        self._insecure = frozenset(insecure)
        self._attempts = attempts
        self._timeout = timeout
        self._first_wait = first_wait
        self._pool = Pool(
            connect_timeout=connect_timeout,
            environment=environment,
            user_agent=f"bayplan/{__version__}",
        )
        self._origins: dict[str, Origin] = {}
        self._asked: dict[str, challenges.Challenge] = {}
        self._found: dict[tuple[str, str], Credential | None] = {}
        self._tokens = challenges.Tokens()
        self._guard = threading.Lock()

    def close(self) -> None:
        self._pool.close()

    # -- requests --------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        registry: str,
        target: str,
        *,
        repository: str = "",
        actions: str = "pull",
        also: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        expect: Collection[int] = (200,),
        retry: bool = True,
    ) -> Answer:
        """The answer to a request, its body unread; a status outside ``expect`` is raised as an error.

        ``target`` is a path (``/v2/...``) or an absolute URL the registry gave. ``actions`` is what the token is for
        (``pull`` or ``pull,push``) on ``repository``, ``also`` a repository to read from beside it (mounts).
        Raises ``registry-unreachable``, ``registry-timeout``, ``registry-certificate``, ``registry-login``,
        ``registry-denied``, ``registry-busy`` or ``registry-answer``.
        """
        scope = _scope(repository, actions, also)
        attempts = self._attempts if retry else 1
        for attempt in range(1, attempts + 1):
            try:
                answer = self._authorised(method, registry, target, scope, repository, dict(headers or {}), body)
            except (OSError, http.client.HTTPException) as error:
                if attempt == attempts or isinstance(error, ssl.SSLCertVerificationError):
                    raise _unreachable(registry, error) from None
                self._wait(attempt, "")
                continue
            if answer.status in expect:
                return answer
            if answer.status in _AGAIN and attempt < attempts:
                after = answer.header("Retry-After")
                answer.close()
                self._wait(attempt, after)
                continue
            with answer:
                if answer.status == 401:
                    raise _login_refused(registry, known=bool(self._credential(registry, repository)))
                raise refused(registry, method, answer)
        raise AssertionError("the last attempt returns or raises")

    def base(self, registry: str) -> Origin:
        """The origin that answers for ``registry``, found by trying once where there is a choice."""
        with self._guard:
            known = self._origins.get(registry)
        if known:
            return known
        insecure = registry in self._insecure
        choices = origins(registry, insecure=insecure)
        if insecure:
            for origin in choices:
                self._pool.trust(origin)
        chosen = choices[0]
        if len(choices) > 1 and not self._speaks(choices[0]) and self._speaks(choices[1]):
            chosen = choices[1]
        with self._guard:
            return self._origins.setdefault(registry, chosen)

    def _speaks(self, origin: Origin) -> bool:
        """Whether an HTTP API answers there. A TLS listener drops plain text or complains in plain text (Go's 400)."""
        try:
            with self._pool.send("GET", f"{origin}/v2/", {}, None, min(self._timeout, 10.0)) as answer:
                text = answer.read()
                return not (answer.status == 400 and b"HTTPS" in text)
        except ssl.SSLCertVerificationError:
            return True  # it does, and the request itself will say what is wrong with the certificate
        except (OSError, http.client.HTTPException):
            return False

    def _authorised(
        self,
        method: str,
        registry: str,
        target: str,
        scope: str,
        repository: str,
        headers: dict[str, str],
        body: Body | None,
    ) -> Answer:
        base = self.base(registry)
        url = target if "://" in target else f"{base}{target}"
        authorization = self._authorization(registry, repository, scope)
        for last in (False, True):
            answer = self._follow(method, url, base, headers, authorization, body)
            if answer.status != 401 or last or answer.origin != base:
                return answer
            offers = challenges.parse(", ".join(answer.headers.get_all("WWW-Authenticate") or []))
            again = self._take_up(registry, repository, scope, offers, refused=authorization)
            if again is None:
                return answer
            answer.read()
            answer.close()
            authorization = again
        raise AssertionError("the last turn returns")

    def _follow(
        self, method: str, url: str, base: Origin, headers: Mapping[str, str], authorization: str, body: Body | None
    ) -> Answer:
        for _ in range(_REDIRECTS + 1):
            sent = dict(headers)
            if authorization and Origin.of(url) == base:
                sent["Authorization"] = authorization
            timeout = max(self._timeout, 300.0) if isinstance(body, FileBody) else self._timeout
            answer = self._pool.send(method, url, sent, body, timeout)
            location = answer.header("Location")
            if answer.status not in _MOVED or not location:
                return answer
            answer.close()
            if answer.status == 303 and method not in ("GET", "HEAD"):
                method, body = "GET", None
            url = urljoin(url, location)
        raise BayplanError("registry-answer", f"{base} redirected more than {_REDIRECTS} times")

    # -- who we are ------------------------------------------------------------------------------------------------

    def _credential(self, registry: str, repository: str) -> Credential | None:
        if registry in self._given:
            return self._given[registry]
        key = (registry, repository)
        with self._guard:
            if key in self._found:
                return self._found[key]
        found = self._keychain.find(registry, repository)  # may run a helper program: not under the guard
        with self._guard:
            return self._found.setdefault(key, found)

    def _authorization(self, registry: str, repository: str, scope: str) -> str:
        with self._guard:
            asked = self._asked.get(registry)
        if asked is None:
            return ""
        if asked.scheme == "basic":
            credential = self._credential(registry, repository)
            return credential.basic() if credential else ""
        token = self._tokens.get(registry, scope) or self._fetch(registry, repository, scope, asked)
        return f"Bearer {token}" if token else ""

    def _take_up(
        self,
        registry: str,
        repository: str,
        scope: str,
        offers: tuple[challenges.Challenge, ...],
        *,
        refused: str,
    ) -> str | None:
        """The header for another try after a 401, or None where we have nothing (new) to show."""
        for offer in sorted(offers, key=lambda one: one.scheme != "bearer"):
            if offer.scheme == "bearer" and offer.parameters.get("realm"):
                self._tokens.drop(registry, scope)
                token = self._fetch(registry, repository, scope or offer.parameters.get("scope", ""), offer)
                header = f"Bearer {token}" if token else ""
            elif offer.scheme == "basic":
                credential = self._credential(registry, repository)
                header = credential.basic() if credential and not credential.identity else ""
            else:
                continue
            with self._guard:
                self._asked[registry] = offer
            return header if header and header != refused else None
        return None

    def _fetch(self, registry: str, repository: str, scope: str, offer: challenges.Challenge) -> str:
        base, realm = self.base(registry), Origin.of(offer.parameters.get("realm", ""))
        credential = self._credential(registry, repository)
        if credential and realm.scheme != "https" and base.scheme == "https":
            raise BayplanError(
                "registry-login", f"{registry} wants a password sent to {realm} in clear, which bayplan does not do"
            )
        url = challenges.token_url(offer, scope, credential.username if credential else "")
        if credential and credential.identity:
            form = challenges.token_form(offer, scope, credential.secret)
            sent = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._pool.send("POST", offer.parameters["realm"], sent, form, self._timeout)
        else:
            sent = {"Authorization": credential.basic()} if credential else {}
            answer = self._pool.send("GET", url, sent, None, self._timeout)
        with answer:
            if answer.status in _AGAIN:
                raise http.client.HTTPException(f"the token service answered {answer.status}")
            if answer.status != 200:
                raise _login_refused(registry, known=credential is not None)
            token = challenges.read_token(answer.read(), registry)
        self._tokens.keep(registry, scope, token)
        return token.value

    def _wait(self, attempt: int, retry_after: str) -> None:
        wait = min(self._first_wait * 2 ** (attempt - 1), 8.0) * random.uniform(0.5, 1.0)  # noqa: S311
        time.sleep(max(wait, _seconds(retry_after)))


# -- words ---------------------------------------------------------------------------------------------------------


def _scope(repository: str, actions: str, also: str) -> str:
    if not repository:
        return ""
    scopes = [f"repository:{repository}:{actions}"]
    if also:
        scopes.append(f"repository:{also}:pull")
    return " ".join(scopes)


def _seconds(retry_after: str) -> float:
    """Retry-After (RFC 9110, section 10.2.3): seconds or a date; at most a minute."""
    if not retry_after:
        return 0.0
    try:
        wait = float(retry_after)
    except ValueError:
        try:
            wait = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(wait, 0.0), _LONGEST_WAIT)


def _unreachable(registry: str, error: Exception) -> BayplanError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return BayplanError(
            "registry-certificate",
            f"the certificate of {registry} is not trusted: {error.verify_message}",
            hint=f"put its authority into /etc/docker/certs.d/{registry}/ca.crt, or mark the registry insecure",
        )
    if isinstance(error, TimeoutError):
        return BayplanError("registry-timeout", f"{registry} did not answer in time")
    if isinstance(error, ssl.SSLError):
        return BayplanError(
            "registry-unreachable",
            f"{registry} does not speak TLS as expected: {error.reason or error}",
            hint="mark the registry insecure if it is a plain HTTP registry",
        )
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    return BayplanError("registry-unreachable", f"{registry} cannot be reached: {reason}")


def _login_refused(registry: str, *, known: bool) -> BayplanError:
    if known:
        return BayplanError(
            "registry-login", f"{registry} refuses the login it was shown", hint=f"bayplan login {registry}"
        )
    return BayplanError("registry-login", f"{registry} wants a login", hint=f"bayplan login {registry}")


def told(body: bytes) -> tuple[str, str]:
    """(code, message) of the first error in an error document (distribution spec, "Error codes"), or two blanks."""
    try:
        first = json.loads(body)["errors"][0]
        return str(first.get("code") or ""), str(first.get("message") or "")
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", ""


def refused(registry: str, method: str, answer: Answer) -> BayplanError:
    """The error for an answer that was not expected."""
    try:
        code, message = ("", "") if method == "HEAD" else told(answer.read(64 << 10))
    except (OSError, http.client.HTTPException, BayplanError):
        code, message = "", ""
    said = " ".join(filter(None, (code, message)))[:500]
    text = f"{registry} answered {answer.status}{': ' + said if said else ''}"
    if answer.status == 403:
        return BayplanError("registry-denied", text, hint=f"has the login to {registry} the right to do this?")
    if answer.status == 404:
        return BayplanError("registry-unknown", text)
    if answer.status in _AGAIN:
        return BayplanError("registry-busy", text)
    return BayplanError("registry-answer", text)
