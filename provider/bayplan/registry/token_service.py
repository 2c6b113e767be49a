"""The endpoint ``/token``: bearer tokens for a scope (distribution's "token authentication specification", GET and OAuth2 POST).

A token is for what was asked for, as far as policies allow it to the caller; what is asked of the registry later is checked against
policies all the same, so that a token can be worth less than it says but never more.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from bayplan.registry.access import tokens
from bayplan.registry.access.credentials import Credentials
from bayplan.registry.access.guard import Guard
from bayplan.registry.access.model import Principal
from bayplan.registry.exchange import BodyTooLarge, Request, Response
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.routes import CATALOG

PATH = "/token"
_LONGEST = 64 << 10  # bytes of a form
_MOST = 50  # scopes of one token
_REPOSITORY = re.compile(r"repository(?:\([a-z0-9]+\))?:([a-z0-9._/-]{1,255}):([a-z*,]{1,80})")
_ACTIONS = {"pull": "ecr:BatchGetImage", "push": "ecr:PutImage", "delete": "ecr:BatchDeleteImage"}


def wanted(scopes: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(repository, action) of each scope; the catalogue is ``(_catalog, *)``. What is no scope of ours is left out."""
    found: dict[tuple[str, str], None] = {}
    for scope in scopes:
        if scope == "registry:catalog:*":
            found[CATALOG, "*"] = None
        match = _REPOSITORY.fullmatch(scope)
        for action in match[2].split(",") if match else ():
            for one in _ACTIONS if action == "*" else (action,):
                if match and one in _ACTIONS:
                    found[match[1], one] = None
    return tuple(found)[: _MOST * len(_ACTIONS)]


class TokenService:
    """``life``: seconds that a token holds."""

    def __init__(self, guard: Guard, credentials: Credentials, threads: Executor, life: float) -> None:
        self._guard = guard
        self._credentials = credentials
        self._threads = threads
        self._life = life

    async def __call__(self, request: Request) -> Response:
        """Raises RegistryError: the caller is not who he says, the form is none, the method is none of ours."""
        if request.method == "GET":
            asked = request.parameters()
            principal = await self._credentials.shown(request.headers.get("authorization", ""), request.address)
        elif request.method == "POST":
            asked = await self._form(request)
            if asked.get("grant_type", [""])[-1] != "password":
                raise RegistryError(Fault.PARAMETER_INVALID, "grant_type is password here")
            name, password = asked.get("username", [""])[-1], asked.get("password", [""])[-1]
            principal = await self._credentials.named(name, password, request.address)
        else:
            raise RegistryError(Fault.UNSUPPORTED, "a token is fetched with GET or POST")
        if principal.scopes is not None:
            raise RegistryError(Fault.UNAUTHORIZED, "a token is not given for a token", hint="show the password")
        request.notes["who"] = principal.arn or str(principal.kind)
        scopes = wanted(one for text in asked.get("scope", ()) for one in text.split(" "))
        if len(scopes) > _MOST:
            raise RegistryError(Fault.PARAMETER_INVALID, f"a token is for at most {_MOST} scopes")
        return await self._made(principal, scopes, request)

    async def _form(self, request: Request) -> dict[str, list[str]]:
        try:
            text = (await request.body.read(_LONGEST)).decode("utf-8")
            return parse_qs(text, keep_blank_values=True, max_num_fields=200)
        except BodyTooLarge:
            raise RegistryError(Fault.PARAMETER_INVALID, f"the form has more than {_LONGEST} bytes") from None
        except ValueError:
            raise RegistryError(Fault.PARAMETER_INVALID, "the body is no form") from None

    async def _made(self, principal: Principal, scopes: tuple[tuple[str, str], ...], request: Request) -> Response:
        context = {"aws:sourceip": (request.address,)}
        loop = asyncio.get_running_loop()
        given = await loop.run_in_executor(
            self._threads, lambda: [scope for scope in scopes if self._allows(principal, *scope, context)]
        )
        now = time.time()
        token = tokens.bearer(self._guard.accounts.load(), principal, given, now, self._life)
        issued = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        document = {"token": token, "access_token": token, "expires_in": int(self._life), "issued_at": issued}
        headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
        return Response(HTTPStatus.OK, headers, json.dumps(document).encode())

    def _allows(self, principal: Principal, name: str, action: str, context: dict[str, Any]) -> bool:
        try:
            if name == CATALOG:
                self._guard.require(principal, "ecr:DescribeRepositories", None, context)
            else:
                self._guard.require(principal, _ACTIONS[action], name, context)
        except RegistryError as error:
            if error.fault not in (Fault.DENIED, Fault.UNAUTHORIZED):
                raise
            return False
        return True
