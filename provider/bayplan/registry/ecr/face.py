"""The ECR API's front: one call in, one answer out.

In this order, as AWS does: the operation is known, the parameters are what its model says, the caller may do it, it is done.
Whatever the state machine refuses becomes an error that the operation declares.
"""

from __future__ import annotations

import json
import time
from typing import Any

from bayplan.records import dataclass
from bayplan.registry.access.guard import Guard
from bayplan.registry.access.model import PUBLIC, Principal
from bayplan.registry.ecr import account as account_room
from bayplan.registry.ecr import (
    images,
    layers,
    lifecycle,
    public,
    pull_through,
    replication,
    repositories,
    scanning,
    settings,
    shapes,
    storage_class,
    templates,
)
from bayplan.registry.ecr.errors import EcrError, told
from bayplan.registry.ecr.operations import OPERATIONS, PUBLIC_OPERATIONS, Call
from bayplan.registry.faults import RegistryError
from bayplan.registry.registry import Registry
from bayplan.registry.uploads import Uploads
from bayplan.registry.works import Works

ROOMS = (
    account_room,
    images,
    layers,
    lifecycle,
    public,
    pull_through,
    replication,
    repositories,
    scanning,
    settings,
    storage_class,
    templates,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """``parameters`` are those of the call, where they could be read."""

    status: int
    body: dict[str, Any]
    parameters: dict[str, Any] | None = None


class Ecr:
    """The API over one registry. Any thread may call."""

    def __init__(self, registry: Registry, uploads: Uploads, guard: Guard, works: Works, service: str = "ecr") -> None:
        self._registry = registry
        self._uploads = uploads
        self._guard = guard
        self._works = works
        self._service = service
        self._operations = PUBLIC_OPERATIONS if service == "ecr-public" else OPERATIONS

    def handle(self, name: str, body: bytes, principal: Principal, origin: str, peer: str) -> Answer:
        """The answer to the operation ``name``. ``origin`` is how the caller reaches us (``http://127.0.0.1:5000``)."""
        parameters = None
        try:
            parameters = _parameters(name, body, self._service)
            return Answer(200, self._done(name, parameters, principal, origin, peer), parameters)
        except EcrError as error:
            told = {"__type": error.code, "message": error.message, **error.members}
            return Answer(error.status, told, parameters)

    def _done(
        self, name: str, parameters: dict[str, Any], principal: Principal, origin: str, peer: str
    ) -> dict[str, Any]:
        shapes.check(name, parameters, self._service)
        found = self._operations[name]
        account = self._guard.accounts.load()
        repository = parameters.get("repositoryName") if found.by_repository else None
        if repository is not None and self._service == public.SERVICE:
            repository = PUBLIC + repository
        try:
            self._guard.require(principal, found.action, repository, {"aws:sourceip": (peer,)})
            life = self._guard.token_life
            call = Call(
                name,
                parameters,
                principal,
                account,
                self._registry,
                self._uploads,
                self._works,
                origin,
                time.time(),
                self._service,
                life,
            )
            return found.function(call)
        except RegistryError as error:
            raise told(error, shapes.declared(name, self._service)) from None


def _parameters(name: str, body: bytes, service: str) -> dict[str, Any]:
    if name not in shapes.operations(service):
        raise EcrError("UnknownOperationException", f"there is no operation {name[:80]}")
    try:
        parameters = json.loads(body or b"{}")
        if b"\\u" in body:
            json.dumps(parameters, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise EcrError("SerializationException", "the body is no JSON") from None
    if not isinstance(parameters, dict):
        raise EcrError("SerializationException", "the body is no JSON object")
    return parameters
