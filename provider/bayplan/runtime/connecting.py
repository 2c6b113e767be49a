"""A container's network, made while the rest of its start goes on.

An OCI runtime needs the network namespace to exist when it creates the container, and nothing more of the network before
the container's own process runs. So a thread makes the namespace beside the root file system, then waits until the runtime is
at work, which is a process of its own, and makes addresses, links, ports and names meanwhile. Nothing of the container runs
before :meth:`Connecting.finish` has returned, and nothing is released before :meth:`Connecting.settle`: what a failed start
takes away, no thread makes after it.
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

    ``gate`` is held while addresses are taken. ``error`` is what it ended in, once it is settled.
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
        self._at_work = threading.Event()
        self._netns: Path | None = None
        self._state: NetState | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="bayplan-connect", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        root, id, spec, gate, publish = self._request
        try:
            from bayplan.runtime.net.ahead import begin

            with gate():
                ahead = begin(root, id, default=not spec.networks)
                try:
                    if ahead is not None:
                        self._netns = ahead.path
                        self._stands.set()
                        self._at_work.wait()
                    from bayplan.runtime.net import Networks

                    self._state = Networks(root).attach(
                        id, spec.name, spec.networks, spec.ports, publish=publish, ahead=ahead
                    )
                except BaseException:
                    if ahead is not None:
                        ahead.abandon()
                    raise
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits, whatever it is
            self.error = error
        finally:
            self._stands.set()

    def netns(self) -> Path:
        """The namespace's path, as soon as it stands. Raises what :meth:`.net.Networks.attach` raises."""
        self._stands.wait()
        return self._netns if self._netns is not None else self.finish().netns

    def go_on(self) -> None:
        """The runtime is at work: there is time for the rest."""
        self._at_work.set()

    def finish(self) -> NetState:
        """What the container has, when all of it stands. Raises what :meth:`.net.Networks.attach` raises."""
        self.go_on()
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self._state is not None, "an attachment ends with a state or an error"
        return self._state

    def settle(self) -> None:
        """Wait until nothing more is made, however it ends. For who takes everything away again."""
        self.go_on()
        self._thread.join()
