"""A container takes the place of another: its ports, its name, its name in the networks.

For a client the moment is the network's: one nftables transaction (:meth:`.net.Networks.hand_over`). Around it names
change in several files, so what is intended is written first (``handover.json`` in the new container's folder) and
whoever finds it later does all of it again: every step may be repeated. The two containers are locked in the order of
their ids, so that two hand-overs cannot wait for each other.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bayplan.errors import BayplanError
from bayplan.runtime.names import check_name
from bayplan.runtime.record import Files, gone, read_json, write_json

if TYPE_CHECKING:
    from bayplan.runtime.containers import Runtime

_JOURNAL = "handover.json"


def hand_over(runtime: Runtime, old: Files, new: Files, aside_name: str) -> None:
    """See :meth:`.containers.Runtime.hand_over`. Raises BayplanError ``name-taken``, ``port-taken``,
    ``not-running``."""
    check_name(aside_name)
    if old.id == new.id:
        raise BayplanError("bad-hand-over", "a container cannot take over from itself")
    with contextlib.ExitStack() as stack:
        for files in sorted((old, new), key=lambda each: each.id):
            stack.enter_context(files.locked())
        theirs, ours = read_json(old.definition), read_json(new.definition)
        if theirs is None or ours is None:
            raise gone(old.id if theirs is None else new.id)
        owner = runtime.definitions.names.owner(aside_name)
        if owner and owner != old.id:
            runtime.definitions.names.claim(aside_name, old.id)  # raises, unless the claim is void
        journal = {"old": old.id, "name": theirs["spec"]["name"], "aside": aside_name, "was": ours["spec"]["name"]}
        write_json(new.directory / _JOURNAL, journal, durable=True)
        try:
            _ports(runtime, new, old.id, journal, ours)
        except BayplanError:
            (new.directory / _JOURNAL).unlink()
            raise
        _names(runtime, old, new, journal)
        (new.directory / _JOURNAL).unlink()


def pending(files: Files) -> bool:
    """Whether a hand-over to this container was begun and not finished."""
    return (files.directory / _JOURNAL).exists()


def finish(runtime: Runtime, new: Files) -> None:
    """Finish a hand-over whose process died. The old container may be gone by now."""
    journal = read_json(new.directory / _JOURNAL)
    if journal is None:
        (new.directory / _JOURNAL).unlink(missing_ok=True)
        return
    old = runtime.definitions.files(journal["old"])
    with contextlib.ExitStack() as stack:
        for files in sorted((old, new), key=lambda each: each.id):
            if files.definition.exists():
                stack.enter_context(files.locked())
        ours = read_json(new.definition)
        if ours is None or not (new.directory / _JOURNAL).exists():
            return
        _ports(runtime, new, old.id, journal, ours)
        _names(runtime, old, new, journal)
        (new.directory / _JOURNAL).unlink()


def _ports(runtime: Runtime, new: Files, old_id: str, journal: dict[str, Any], ours: dict[str, Any]) -> None:
    """The moment. A container without a network of its own, or that does not run, has nothing to be given now."""
    networks = runtime.networks
    if ours["spec"]["network_mode"] != "bridge" or networks.state(new.id) is None:
        return
    state = networks.hand_over(old_id, new.id, journal["name"])
    ports = tuple((port.container, port.host, port.host_ip, port.protocol) for port in state.ports)
    new.change_status(new.status(), ports=ports)
    old = runtime.definitions.files(old_id)
    if old.definition.exists():
        old.change_status(old.status(), ports=())


def _names(runtime: Runtime, old: Files, new: Files, journal: dict[str, Any]) -> None:
    names = runtime.definitions.names
    ours, theirs = read_json(new.definition), read_json(old.definition)
    if ours is not None:
        spec = {**ours["spec"], "name": journal["name"]}
        runtime.definitions.write(new, {**ours, "spec": spec, "succeeds": ""})
    names.give(journal["name"], new.id)
    if journal["was"] != journal["name"]:
        names.release(journal["was"], new.id)
    if theirs is not None:
        names.claim(journal["aside"], old.id)
        # Its ports are the other's now; should it be started again, it comes without them until they are handed back.
        spec = {**theirs["spec"], "name": journal["aside"]}
        runtime.definitions.write(old, {**theirs, "spec": spec, "succeeds": new.id})
