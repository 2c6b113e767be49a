"""How an operation of the ECR API is written: a function of one :class:`Call`, under its name.

``@operation("PutImage")`` makes the function below it the operation; it is asked for ``ecr:PutImage`` on the repository that the
parameter ``repositoryName`` names, before the function is called. A function gives what the API's output shape says, and raises
:class:`EcrError` with an error that the operation declares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bayplan.records import dataclass
from bayplan.registry.access.accounts import Account
from bayplan.registry.access.model import Principal
from bayplan.registry.access.tokens import LIFE
from bayplan.registry.ecr.errors import EcrError, no_repository
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.model import Repository
from bayplan.registry.registry import Registry
from bayplan.registry.uploads import Uploads
from bayplan.registry.works import Works

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call, with what it may work on. ``origin`` is the address under which the caller reaches this server; ``token_life``
    how long an authorization token holds, in seconds."""

    operation: str
    parameters: Mapping[str, Any]
    principal: Principal
    account: Account
    registry: Registry
    uploads: Uploads
    works: Works
    origin: str
    now: float
    service: str
    token_life: float = LIFE

    def get(self, name: str, default: Any = None) -> Any:
        value = self.parameters.get(name)
        return default if value is None else value

    def repository(self, name: str | None = None) -> Repository:
        """The repository of the call. Raises EcrError ``RepositoryNotFoundException``."""
        wanted = str(self.get("repositoryName")) if name is None else name
        self.own_registry()
        try:
            found = self.registry.describe(wanted)
        except RegistryError as error:
            if error.fault is not Fault.NAME_UNKNOWN:
                raise
            raise no_repository(wanted, self.account.number) from None
        if bool(found.details.get("public")) != (self.service == "ecr-public"):
            raise no_repository(wanted, self.account.number)
        return found

    def own_registry(self) -> None:
        """Raises EcrError where the call means another account's registry."""
        given = self.get("registryId", self.account.number)
        if given != self.account.number:
            name = self.get("repositoryName")
            if name is not None:
                raise no_repository(str(name), str(given))
            raise EcrError("InvalidParameterException", f"there is no registry with id '{given}' here")

    def page(self, items: list[Any], most: int = 100) -> tuple[list[Any], Body]:
        """The part of ``items`` that the call asks for, and ``{"nextToken": ...}`` where there is more."""
        size = int(self.get("maxResults", most))
        token = self.get("nextToken")
        try:
            start = int(str(token).removeprefix("at-")) if token else 0
        except ValueError:
            raise EcrError(
                "InvalidParameterException", "Invalid parameter at 'nextToken': it is none of ours"
            ) from None
        more = {"nextToken": f"at-{start + size}"} if len(items) > start + size else {}
        return items[start : start + size], more


Function = Callable[[Call], Body]


@dataclass(frozen=True, slots=True)
class Operation:
    """``action`` is what a policy allows or denies; ``by_repository`` whether it is asked for one repository."""

    function: Function
    action: str
    by_repository: bool


OPERATIONS: dict[str, Operation] = {}  # of Amazon ECR
PUBLIC_OPERATIONS: dict[str, Operation] = {}  # of Amazon ECR Public


def operation(name: str, *, by_repository: bool = True, service: str = "ecr") -> Callable[[Function], Function]:
    """The function below becomes the operation ``name``."""
    known = PUBLIC_OPERATIONS if service == "ecr-public" else OPERATIONS

    def register(function: Function) -> Function:
        assert name not in known, f"{name} stands twice"
        known[name] = Operation(function, f"{service}:{name}", by_repository)
        return function

    return register
