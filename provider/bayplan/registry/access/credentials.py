"""Who shows what with a request of the distribution API: an ECR token, a password, a bearer token, or nothing.

Basic credentials are the user ``AWS`` with an authorization token, or a user of the htpasswd file; a bearer token is one of the
registry's token endpoint, or an authorization token. Nothing at all is anybody. Passwords are the only thing here that can be
guessed, so wrong ones are counted by address, and too many of them are refused unseen.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
import time
from concurrent.futures import Executor

from bayplan.registry.access import tokens
from bayplan.registry.access.accounts import Accounts
from bayplan.registry.access.model import ANONYMOUS, Principal, PrincipalKind
from bayplan.registry.access.passwords import Passwords
from bayplan.registry.faults import Fault, RegistryError
from bayplan.registry.throttle import Throttle

_REFUSED = "Not Authorized"


class Credentials:
    """For the event loop; hashes are computed in ``threads``. ``wrong``: how many wrong passwords an address may show a minute."""

    def __init__(
        self, accounts: Accounts, threads: Executor, passwords: Passwords | None = None, wrong: int = 30
    ) -> None:
        self._accounts = accounts
        self._threads = threads
        self._passwords = passwords
        self._wrong = Throttle(wrong / 60.0, wrong)

    async def shown(self, authorization: str, address: str) -> Principal:
        """Who an ``Authorization`` header stands for.

        Raises RegistryError ``unauthorized``, ``denied`` (a token that has expired), ``registry-busy`` (too many wrong passwords).
        """
        scheme, _, given = authorization.partition(" ")
        if not scheme:
            return ANONYMOUS
        if scheme.lower() == "bearer":
            return self._bearer(given.strip())
        if scheme.lower() != "basic":
            raise RegistryError(Fault.UNAUTHORIZED, _REFUSED, hint="this registry takes Basic and Bearer credentials")
        try:
            name, _, password = base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            raise RegistryError(Fault.UNAUTHORIZED, _REFUSED) from None
        return await self.named(name, password, address)

    async def named(self, name: str, password: str, address: str) -> Principal:
        """Who a user name and its password stand for. Raises like :meth:`shown`."""
        if name == tokens.USERNAME:
            return tokens.check(self._accounts.load(), password, time.time())
        if self._passwords is None:
            raise RegistryError(Fault.UNAUTHORIZED, _REFUSED, hint=f"the user name is {tokens.USERNAME}")
        seconds = self._wrong.wait(address, time.monotonic())
        if seconds:
            raise RegistryError(
                Fault.BUSY,
                "too many wrong passwords from this address",
                hint=f"try again in {math.ceil(seconds)} seconds",
            )
        loop = asyncio.get_running_loop()
        if not await loop.run_in_executor(self._threads, self._passwords.check, name, password):
            self._wrong.take(address, time.monotonic())
            raise RegistryError(Fault.UNAUTHORIZED, _REFUSED)
        return self._accounts.load().user(name)

    def _bearer(self, token: str) -> Principal:
        account = self._accounts.load()
        try:
            found = tokens.bearer_of(account, token, time.time())
        except RegistryError as error:
            try:
                return tokens.check(account, token, time.time())
            except RegistryError:
                raise error from None
        if (
            found.kind is PrincipalKind.USER
            and not found.key
            and not (self._passwords is not None and self._passwords.has(found.name))
        ):
            raise RegistryError(Fault.UNAUTHORIZED, _REFUSED)
        return found
