"""A container's network, made while the rest of its start goes on.

An OCI runtime needs the network namespace to exist when it creates the container, and nothing more of the network before
the container's own process runs. So the addresses, links, ports and names are made on a thread, beside the root file
system and beside conmon and the runtime, which are processes of their own: together they take as long as the longer of
the two. Nothing of the container runs before :meth:`Connecting.finish` has returned, and nothing is released before
:meth:`Connecting.settle`: what a failed start takes away, no thread makes after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan.runtime.record import Files, RootPlace
from bayplan.runtime.spec import ContainerSpec

if TYPE_CHECKING:
    from bayplan.runtime.net import NetState


class Connecting:
    """The attachment of one container, from the moment it begins. Container's lock held throughout.

    ``gate`` is held while addresses are taken.
    """

    def __init__(
        self,
        root: RootPlace,
        files: Files,
        spec: ContainerSpec,
        gate: Callable[[], AbstractContextManager[None]],
        *,
        publish: bool,
    ) -> None:
        self._request = (root, files.id, spec, gate, publish)
        self._stands = threading.Event()
        self._netns: Path | None = None
        self._state: NetState | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bayplan-connect", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        root, id, spec, gate, publish = self._request
        try:
            from bayplan.runtime.net import Networks

            with gate():
                self._state = Networks(root).attach(
                    id, spec.name, spec.networks, spec.ports, publish=publish, standing=self._standing
                )
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits, whatever it is
            self._error = error
        finally:
            self._stands.set()

    def _standing(self, netns: Path) -> None:
        self._netns = netns
        self._stands.set()

    def netns(self) -> Path:
        """The namespace's path, as soon as it stands. Raises what :meth:`.net.Networks.attach` raises."""
        self._stands.wait()
        return self._netns if self._netns is not None else self.finish().netns

    def finish(self) -> NetState:
        """What the container has, when all of it stands. Raises what :meth:`.net.Networks.attach` raises."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._state is not None, "an attachment ends with a state or an error"
        return self._state

    def settle(self) -> None:
        """Wait until nothing more is made, however it ends. For who takes everything away again."""
        self._thread.join()
