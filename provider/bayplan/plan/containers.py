"""What is a Container's own: whether it runs, what stands in the way of its replacement, what that costs the service.

A container is one object with a life. Its *fields* are compared like any resource's; here its *state* is compared with
``desired_state`` (running where nothing is declared), and a replacement is described: as a rule the old one serves until
the new one is healthy, since an embedded host moves ports and name in one step. Where something can be held by one
container only, the old one has to stop first, and the plan says for how long the service is down.
"""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.plan.model import Action, Change, Desired, Observed, Reason, Value
from bayplan.plan.values import MISSING

RUNNING, PAUSED, STOPPED = "running", "paused", "stopped"

_STATES = {"running": RUNNING, "restarting": RUNNING, "paused": PAUSED}
_STOP_SECONDS = 10

#: observed -> wanted: the actions that lead there.
_STEPS: Mapping[tuple[str, str], tuple[Action, ...]] = {
    (STOPPED, RUNNING): (Action.START,),
    (PAUSED, RUNNING): (Action.UNPAUSE,),
    (RUNNING, PAUSED): (Action.PAUSE,),
    (STOPPED, PAUSED): (Action.START, Action.PAUSE),
    (RUNNING, STOPPED): (Action.STOP,),
    (PAUSED, STOPPED): (Action.STOP,),
}


def wanted_state(one: Desired) -> str:
    """``running``, ``paused`` or ``stopped``."""
    return str(one.properties.get("desired_state") or RUNNING)


def state(observed: Observed) -> str:
    """``running``, ``paused`` or ``stopped`` (which covers exited and never started)."""
    found = observed.fields.get("state", observed.fields.get("desired_state", RUNNING))
    return _STATES.get(str(found), STOPPED)


def steps(one: Desired, observed: Observed) -> tuple[Action, ...]:
    """The actions that bring an existing container to its declared state."""
    if "desired_state" in one.lifecycle.ignore_changes:
        return ()
    return _STEPS.get((state(observed), wanted_state(one)), ())


def state_change(one: Desired, observed: Observed, *, declared: bool) -> tuple[Change, str, bool]:
    """The change of state, its cause in words, and whether it finishes what an interrupted run left.

    ``declared`` says that the files changed their mind; else the world did.
    """
    raw = str(observed.fields.get("state", ""))
    before = raw or state(observed)
    after = wanted_state(one)
    change = Change(
        "desired_state",
        before,
        after,
        Reason.DECLARED if declared else Reason.DRIFT,
        where=one.positions.get("desired_state", one.where),
    )
    if raw == "created" and after != STOPPED:
        return change, "made, and never started", True
    if declared:
        return change, f"desired_state: {after}", False
    if state(observed) == RUNNING:
        return change, "started by hand" if after == STOPPED else "unpaused by hand", False
    if state(observed) == PAUSED:
        return change, "paused by hand", False
    code = observed.fields.get("exit_code")
    if observed.fields.get("stopped") or code is None:
        return change, "stopped by hand", False
    return change, f"exited with {code}", False


def obstacle(one: Desired, filled: Mapping[str, Value], old: Observed, *, declared_name: bool) -> str:
    """What the old container holds and the new one needs, in words; ``""`` where the two can stand side by side.

    On an embedded host ports and name move in one step. A named volume that is written to is another matter: two
    containers on the same data are what no database survives. (A bind mount is shared on purpose, and is not counted.)
    """
    if filled.get("network_mode") == "host":
        return "the host's network"
    if volume := _written_volume(filled, old):
        return f"volume {volume}"
    if one.place.startswith("embedded:"):
        return ""
    ports = host_ports(filled)
    held = host_ports(old.fields) if "ports" in old.fields else ports
    if shared := [port for port in ports if port in held]:
        return f"host port {shared[0][0]}"
    return f"the name {one.name}" if declared_name and old.name in ("", one.name) else ""


def host_ports(fields: Mapping[str, Value]) -> list[tuple[int, str]]:
    """Fixed host ports with their protocol, of ``8080:3000/tcp`` and ``127.0.0.1:8080:3000/tcp``."""
    found: list[tuple[int, str]] = []
    ports = fields.get("ports")
    for entry in ports if isinstance(ports, (list, tuple)) else ():
        if not isinstance(entry, str):
            continue
        rest, _, protocol = entry.partition("/")
        pieces = rest.rsplit(":", 2)
        if len(pieces) > 1 and pieces[-2].isdigit() and int(pieces[-2]):
            found.append((int(pieces[-2]), protocol or "tcp"))
    return found


def _written_volume(filled: Mapping[str, Value], old: Observed) -> str:
    """The first named volume that both containers write to. (One that is made anew is not the old one's.)"""
    wanted = _written(filled)
    held = _written(old.fields) if "volumes" in old.fields else wanted
    return next((volume for volume in wanted if volume in held), "")


def _written(fields: Mapping[str, Value]) -> list[str]:
    """Named volumes that are mounted to be written to."""
    found: list[str] = []
    volumes = fields.get("volumes")
    for entry in volumes if isinstance(volumes, (list, tuple)) else ():
        if not isinstance(entry, str):
            continue
        source, *rest = entry.split(":")
        if rest and "/" not in source and not source.startswith((".", "~")) and "ro" not in rest[-1].split(","):
            found.append(source)
    return found


def replacement_note(filled: Mapping[str, Value], observed: Observed, one: Desired, held: str) -> str:
    """What a replacement costs the service. ``held`` is the :func:`obstacle`."""
    if wanted_state(one) != RUNNING or state(observed) != RUNNING:
        return ""
    until = f"until the new one {'is healthy' if _watched(filled, observed) else 'runs'}"
    if not held:
        return f"the old one serves {until}"
    seconds = filled.get("stop_timeout", observed.fields.get("stop_timeout", _STOP_SECONDS))
    return (
        f"the old one stops first ({held}): the service is down for its stop (at most {_number(seconds)} s) and {until}"
    )


def _watched(filled: Mapping[str, Value], observed: Observed) -> bool:
    """Whether the health of the new container is known to be checked."""
    check = filled.get("healthcheck", MISSING)
    if check is MISSING:
        if observed.healthy is not None:
            return True
        check = observed.defaults.get("healthcheck")
    if isinstance(check, Mapping):
        test = check.get("test")
        return bool(test) and test != ["NONE"] and not check.get("disable")
    return bool(check)


def _number(seconds: Value) -> str:
    return f"{seconds:g}" if isinstance(seconds, (int, float)) else str(seconds)
