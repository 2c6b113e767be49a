"""A container's namespace, made ahead of all that belongs into it.

An OCI runtime needs the namespace of a container before it creates one, and nothing that is in it until the container runs. So
a start makes the namespace first, with the few modules that this takes, and makes the rest while the runtime is at work
(:mod:`bayplan.runtime.connecting`). The root's lock is held from here until the attachment stands: a namespace that no record
knows is a dead process's for everybody else, and :meth:`.networks.Networks.detach` removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from . import namespaces
from .model import DEFAULT_NETWORK, Phase, RootDir, State
from .records import Records, check_container_id


class Ahead:
    """A namespace at ``path`` and the root's lock, with the ``state`` under it."""

    def __init__(self, path: Path, state: State, held: contextlib.ExitStack) -> None:
        self.path = path
        self.state = state
        self._held = held

    @contextlib.contextmanager
    def lock(self) -> Iterator[State]:
        """The rest of the time that the lock is held."""
        with self._held:
            yield self.state

    def abandon(self) -> None:
        """Give it all back."""
        with self._held:
            namespaces.remove(self.path)


def begin(root: RootDir, container_id: str, *, default: bool) -> Ahead | None:
    """Make the namespace of a container that is on no network yet; ``default``: it will join the default network.

    None where something has to be done before that: a dead process's work to be ended, an older attachment, the default
    network to be made. Raises network-lock, netns-failed.
    """
    check_container_id(container_id)
    records = Records(root)
    if default and records.definition(DEFAULT_NETWORK) is None:
        return None
    with contextlib.ExitStack() as held:
        state = held.enter_context(records.lock())
        whole = all(record.phase is Phase.READY for record in state.records.values())
        if container_id in state.records or state.pending or not whole:
            return None
        path = records.namespace(container_id)
        namespaces.create(path)
        return Ahead(path, state, held.pop_all())
