"""Registries beyond this root: one client, made when it is first needed, with the user's credentials."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from bayplan.errors import BayplanError
from bayplan.execute.port import TRANSFER, Feedback
from bayplan.oci.descriptor import MediaType, Platform
from bayplan.oci.digest import Digest
from bayplan.oci.reference import ImageName
from bayplan.oci.store import Store

if TYPE_CHECKING:
    from bayplan.registry.client import RegistryClient

T = TypeVar("T")

#: What a registry says where there is nothing: that is an answer, no trouble.
_ABSENT = frozenset({"image-unknown", "repository-unknown", "manifest-unknown", "tag-unknown"})
_LOOK_TIMEOUT = 10.0  # seconds: a plan does not wait longer for a registry that is silent
_POLL = 0.1  # seconds between looks at the user's wish to stop


def attended(work: Callable[[], T], feedback: Feedback) -> T:
    """Do a transfer, and leave it where it is as soon as the user wants to stop: a socket that is silent listens to nobody.

    What was left goes on in a thread that ends with the process. Blobs are content, and a manifest is written last, in one
    request: whether it came to that, the next plan sees. Raises BayplanError ``cancelled`` and what ``work`` raises.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001  (handed over to whoever waits)
            failed.append(error)

    thread = threading.Thread(target=run, name=TRANSFER, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if thread.is_alive() and feedback.cancelled:
            raise BayplanError("cancelled", "the transfer was stopped")
    if failed:
        raise failed[0]
    return done[0]


class Remotes:
    """Looks, pulls and pushes. ``insecure`` are addresses that the definitions declare so."""

    def __init__(self, insecure: frozenset[str] = frozenset()) -> None:
        self._insecure = insecure
        self._looking: RegistryClient | None = None
        self._moving: RegistryClient | None = None

    def resolve(self, name: ImageName, *, to_run: bool = False) -> Digest | None:
        """What a name means in its registry now; None where it has none. ``to_run``: of an image for several platforms the one
        that runs here, so that no other is ever pulled. Raises BayplanError ``platform-unknown``, and where nobody can say.
        """
        looker = self._looker()
        try:
            found = looker.resolve(name)
            if not to_run or found.media_type not in MediaType.INDEXES:
                return found.digest
            _, index = looker.manifest(name.with_digest(found.digest))
        except BayplanError as error:
            if error.code in _ABSENT:
                return None
            raise
        from bayplan.registry.platforms import choose

        here = Platform.here()
        chosen = choose(index, here)
        if chosen is None:
            raise BayplanError(
                "platform-unknown",
                f"{name.familiar()} has no image for {here}",
                hint="choose an image that is made for this machine",
            )
        return Digest.parse(chosen)

    def pull(self, name: ImageName, store: Store) -> Digest:
        return self._mover().pull(name, store)

    def push(self, store: Store, digest: Digest, name: ImageName) -> None:
        self._mover().push(store, digest, name)

    def _looker(self) -> RegistryClient:
        if self._looking is None:
            from bayplan.registry.client import RegistryClient

            self._looking = RegistryClient(insecure=self._insecure, attempts=1, timeout=_LOOK_TIMEOUT)
        return self._looking

    def _mover(self) -> RegistryClient:
        if self._moving is None:
            from bayplan.registry.client import RegistryClient

            self._moving = RegistryClient(insecure=self._insecure)
        return self._moving
