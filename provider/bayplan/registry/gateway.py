"""The door of the registry's server: who is calling, and which face answers.

One port has two faces: the OCI Distribution API below ``/v2/``, and the ECR API, which is a POST to ``/`` that names its operation
in ``X-Amz-Target``. A caller of the first shows a token, a password (:mod:`.access.credentials`) or nothing; one of the second signs
the request. Who shows nothing is anybody, and gets what ``--anonymous`` and the policies give to anybody. Besides there are the token
endpoint, and the pages by which a server is watched, for which nobody waits and nobody logs in.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any

from bayplan.errors import BayplanError
from bayplan.registry.access import sigv4
from bayplan.registry.access.credentials import Credentials
from bayplan.registry.access.guard import Guard
from bayplan.registry.access.model import ANONYMOUS
from bayplan.registry.answers import error_answer
from bayplan.registry.audit import records
from bayplan.registry.audit.trail import Trail
from bayplan.registry.distribution import Distribution
from bayplan.registry.exchange import BodyTooLarge, Repeated, Request, Response
from bayplan.registry.faults import KEYS_AWAY, STORAGE_AWAY, Fault, RegistryError
from bayplan.registry.recent import Recent
from bayplan.registry.routes import scope_of
from bayplan.registry.throttle import Throttle

_TARGET = re.compile(r"(AmazonEC2ContainerRegistry_V20150921|SpencerFrontendService)\.([A-Za-z]{1,80})")
_PUBLIC_TARGET = "SpencerFrontendService"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
#: Pages that are answered whatever the caller's rate: how a server is watched.
FREE = frozenset({"/healthz", "/metrics"})
_AMZ_JSON = "application/x-amz-json-1.1"
_LONGEST_CALL = 32 << 20  # bytes: the largest part of a layer, 20 MiB, in base64, with room


class Gateway:
    """The application of a server. ``failed`` is told what went wrong inside; ``pages`` are what else is served, by path."""

    def __init__(
        self,
        distribution: Distribution,
        ecr: Callable[[str], Any],
        guard: Guard,
        credentials: Credentials,
        threads: Executor,
        *,
        secure: bool = False,
        bearer: bool = False,
        throttle: Throttle | None = None,
        pages: Mapping[str, Callable[[Request], Awaitable[Response]]] | None = None,
        failed: Callable[[Request, Exception], None] | None = None,
        trail: Trail | None = None,
        recent: Recent | None = None,
    ) -> None:
        self._trail = trail
        self._recent = recent if throttle is None else None  # who counts requests sees each one
        self._distribution = distribution
        self._make_ecr = ecr
        self._ecr: dict[str, Any] = {}
        self._guard = guard
        self._credentials = credentials
        self._threads = threads
        self._scheme = "https" if secure else "http"
        self._bearer = bearer
        self._throttle = throttle
        self._pages = pages or {}
        self._failed = failed

    async def __call__(self, request: Request) -> Response:
        if request.path in FREE:
            page = self._pages.get(request.path)
            return await page(request) if page else Response(HTTPStatus.NOT_FOUND)
        request.notes["id"] = str(uuid.uuid4())
        version = self._recent.version(request) if self._recent is not None else None
        answer = await self._answered(request)
        record = self._record(self._trail, request, answer) if self._trail is not None else None
        if version is not None and self._recent is not None:
            self._recent.keep(request, answer, version, record)
        return answer

    def again(self, method: str, target: str, headers: Mapping[str, str], address: str) -> Repeated | None:
        """The answer to a request without a body that was just asked by the same caller, if it still holds."""
        return self._recent.again(method, target, headers, address) if self._recent is not None else None

    def _record(self, trail: Trail, request: Request, answer: Response) -> Mapping[str, Any]:
        notes = request.notes
        event = notes.get("event") or ("GetAuthorizationToken" if request.path in self._pages else "UnknownOperation")
        error = None
        if answer.status >= HTTPStatus.BAD_REQUEST:
            error = _error_of(answer)
        record = records.call(
            self._guard.accounts.load(),
            notes.get("principal", ANONYMOUS),
            event,
            when=time.time(),
            address=request.address,
            agent=request.headers.get("user-agent", ""),
            request=notes["id"],
            parameters=notes.get("parameters"),
            response=notes.get("response"),
            error=error,
            service=notes.get("service", "ecr"),
        )
        trail.write(record, now=not record["readOnly"])
        return record

    async def _answered(self, request: Request) -> Response:
        try:
            seconds = self._throttle.take(request.address, time.monotonic()) if self._throttle else 0.0
            if "x-amz-target" in request.headers or request.path == "/":
                return _told(400, "ThrottlingException", "Rate exceeded") if seconds else await self._call(request)
            if seconds:
                busy = error_answer(RegistryError(Fault.BUSY, "this address asks too often"))
                return Response(busy.status, (*busy.headers, ("Retry-After", str(math.ceil(seconds)))), busy.body)
            return await self._served(request)
        except (BayplanError, OSError) as error:
            if isinstance(error, ConnectionError):
                raise  # the peer's end, not the store's
            if self._failed is not None:
                self._failed(request, error)
            return _failure(request, error)

    async def _served(self, request: Request) -> Response:
        """The distribution API and its token endpoint."""
        page = self._pages.get(request.path)
        try:
            if page is not None:
                answer = await page(request)
            else:
                shown = await self._credentials.shown(request.headers.get("authorization", ""), request.address)
                request.notes["principal"], request.notes["who"] = shown, shown.arn or str(shown.kind)
                answer = await self._distribution(request, shown)
        except RegistryError as error:
            answer = error_answer(error)
        if answer.status != HTTPStatus.UNAUTHORIZED:
            return answer
        challenge = ("WWW-Authenticate", self._challenge(request, token=page is not None))
        return Response(answer.status, (*answer.headers, challenge), answer.body)

    def _challenge(self, request: Request, *, token: bool) -> str:
        """What the caller is to show. The token endpoint itself is asked with a password."""
        origin = self._origin(request)
        if token or not self._bearer:
            return f'Basic realm="{origin}/",service="ecr.amazonaws.com"'
        scope = scope_of(request)
        wanted = f',scope="{scope}"' if scope else ""
        wrong = ',error="insufficient_scope"' if "authorization" in request.headers else ""
        return f'Bearer realm="{origin}/token",service="{origin.partition("://")[2]}"{wanted}{wrong}'

    def _origin(self, request: Request) -> str:
        """How the caller reaches this server. What is no host is not repeated."""
        host = request.headers.get("host", "")
        return f"{self._scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"

    # -- the ECR API -----------------------------------------------------------------------------------------------

    async def _call(self, request: Request) -> Response:
        found = _TARGET.fullmatch(request.headers.get("x-amz-target", ""))
        if request.method != "POST" or request.path != "/" or found is None:
            return _told(404, "UnknownOperationException", "this is no call of the ECR API")
        try:
            body = await request.body.read(_LONGEST_CALL)
        except BodyTooLarge:
            return _told(413, "RequestEntityTooLargeException", f"a call has at most {_LONGEST_CALL} bytes")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._answer, request, _service(found[1]), found[2], body)

    def _answer(self, request: Request, service: str, operation: str, body: bytes) -> Response:
        request.notes["event"] = operation
        signed = sigv4.Signed(request.method, request.path, request.query, request.headers, body)
        try:
            principal = sigv4.verify(signed, self._guard.accounts.load(), time.time(), service=service)
        except sigv4.Unsigned as error:
            return _told(error.status, error.code, error.message)
        face = self._ecr.get(service)
        if face is None:
            face = self._ecr.setdefault(service, self._make_ecr(service))
        request.notes["principal"], request.notes["who"] = principal, principal.arn
        request.notes["service"] = service
        answer = face.handle(operation, body, principal, self._origin(request), request.address)
        request.notes["parameters"] = answer.parameters
        if answer.status == HTTPStatus.OK:
            request.notes["response"] = answer.body
        return _document(answer.status, answer.body, request.notes["id"])


def _failure(request: Request, error: Exception) -> Response:
    """The answer where something within failed: in the form of the face that was asked, without what only the log may say."""
    code = error.code if isinstance(error, BayplanError) else ""
    message = "the registry failed; its log says why"
    if "service" in request.notes:
        from bayplan.registry.ecr import shapes

        declared = shapes.declared(request.notes["event"], request.notes["service"])
        if code in KEYS_AWAY and "KmsException" in declared:
            return _told(HTTPStatus.BAD_REQUEST, "KmsException", "the key of this repository cannot be used now")
        return _told(HTTPStatus.INTERNAL_SERVER_ERROR, "ServerException", message)
    away = code in KEYS_AWAY or code == STORAGE_AWAY
    told = {"code": "UNAVAILABLE" if away else "UNKNOWN", "message": message}
    status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.INTERNAL_SERVER_ERROR
    return Response(status, (("Content-Type", "application/json"),), json.dumps({"errors": [told]}).encode())


def _service(target: str) -> str:
    return "ecr-public" if target == _PUBLIC_TARGET else "ecr"


def _told(status: int, code: str, message: str) -> Response:
    return _document(status, {"__type": code, "message": message})


def _error_of(answer: Response) -> tuple[str, str]:
    """The code and the message of an answer that refuses, of either face."""
    if answer.status == HTTPStatus.FORBIDDEN:
        code = "AccessDenied"
    elif answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code = "InternalFailure"
    else:
        code = HTTPStatus(answer.status).name
    try:
        said = json.loads(answer.body) if isinstance(answer.body, bytes) else {}
        if "__type" in said:
            return said["__type"], said["message"]
        first = said["errors"][0]
        return code if code in ("AccessDenied", "InternalFailure") else first["code"], first["message"]
    except (ValueError, KeyError, IndexError, TypeError):
        return code, ""


def _document(status: int, body: dict[str, Any], id: str = "") -> Response:
    headers = (("Content-Type", _AMZ_JSON), ("x-amzn-RequestId", id or str(uuid.uuid4())))
    return Response(status, headers, json.dumps(body, separators=(",", ":")).encode())
