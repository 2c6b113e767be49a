"""The door of the registry's server: who is calling, and which face answers.

One port has two faces: the OCI Distribution API below ``/v2/``, and the ECR API, which is a POST to ``/`` that names its operation
in ``X-Amz-Target``. A caller of the first shows a token (``docker login -u AWS``) or nothing; one of the second signs the request.
Who shows nothing is anybody, and gets what ``--anonymous`` and the policies give to anybody.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any

from bayplan.errors import BayplanError
from bayplan.registry.access import sigv4, tokens
from bayplan.registry.access.guard import Guard
from bayplan.registry.access.principal import ANONYMOUS, Principal
from bayplan.registry.distribution import Distribution, error_answer
from bayplan.registry.exchange import BodyTooLarge, Request, Response
from bayplan.registry.faults import Fault, RegistryError

_TARGET = re.compile(r"AmazonEC2ContainerRegistry_V20150921\.([A-Za-z]{1,80})")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_AMZ_JSON = "application/x-amz-json-1.1"
_LONGEST_CALL = 32 << 20  # bytes: the largest part of a layer, 20 MiB, in base64, with room


class Gateway:
    """The application of a server. ``failed`` is told what went wrong inside."""

    def __init__(
        self,
        distribution: Distribution,
        ecr: Callable[[], Any],
        guard: Guard,
        threads: Executor,
        *,
        secure: bool = False,
        failed: Callable[[Request, Exception], None] | None = None,
    ) -> None:
        self._distribution = distribution
        self._make_ecr = ecr
        self._ecr: Any = None
        self._guard = guard
        self._threads = threads
        self._scheme = "https" if secure else "http"
        self._failed = failed

    async def __call__(self, request: Request) -> Response:
        try:
            if "x-amz-target" in request.headers or request.path == "/":
                return await self._call(request)
            try:
                principal = self._shown(request)
            except RegistryError as error:
                answer = error_answer(error)
            else:
                answer = await self._distribution(request, principal)
            if answer.status == HTTPStatus.UNAUTHORIZED:
                challenge = f'Basic realm="{self._origin(request)}/",service="ecr.amazonaws.com"'
                return Response(answer.status, (*answer.headers, ("WWW-Authenticate", challenge)), answer.body)
            return answer
        except (BayplanError, OSError) as error:
            if isinstance(error, ConnectionError):
                raise  # the peer's end, not the store's
            if self._failed is not None:
                self._failed(request, error)
            text = json.dumps({"errors": [{"code": "UNKNOWN", "message": "the registry failed; its log says why"}]})
            return Response(HTTPStatus.INTERNAL_SERVER_ERROR, (("Content-Type", "application/json"),), text.encode())

    def _origin(self, request: Request) -> str:
        """How the caller reaches this server. What is no host is not repeated."""
        host = request.headers.get("host", "")
        return f"{self._scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"

    def _shown(self, request: Request) -> Principal:
        """Who shows a token with a request of the distribution API. Raises RegistryError ``unauthorized``, ``denied``."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if not scheme:
            return ANONYMOUS
        if scheme.lower() != "basic":
            raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint="this registry takes Basic credentials")
        try:
            name, _, password = base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized") from None
        if name != tokens.USERNAME:
            raise RegistryError(Fault.UNAUTHORIZED, "Not Authorized", hint=f"the user name is {tokens.USERNAME}")
        return tokens.check(self._guard.accounts.load(), password, time.time())

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
        return await loop.run_in_executor(self._threads, self._answer, request, found[1], body)

    def _answer(self, request: Request, operation: str, body: bytes) -> Response:
        signed = sigv4.Signed(request.method, request.path, request.query, request.headers, body)
        try:
            principal = sigv4.verify(signed, self._guard.accounts.load(), time.time(), service="ecr")
        except sigv4.Unsigned as error:
            return _told(error.status, error.code, error.message)
        if self._ecr is None:
            self._ecr = self._make_ecr()
        peer = request.peer.rpartition(":")[0] or request.peer
        answer = self._ecr.handle(operation, body, principal, self._origin(request), peer)
        return _document(answer.status, answer.body)


def _told(status: int, code: str, message: str) -> Response:
    return _document(status, {"__type": code, "message": message})


def _document(status: int, body: dict[str, Any]) -> Response:
    headers = (("Content-Type", _AMZ_JSON), ("x-amzn-RequestId", str(uuid.uuid4())))
    return Response(status, headers, json.dumps(body, separators=(",", ":")).encode())
