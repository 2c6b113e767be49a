"""What can be seen of a container: its declaration, its life so far, and its state this instant.

The state is never stored: it is derived each time from the recorded phase, the kernel's processes and the freezer, so
it is right even after the machine, the monitor or the last command died.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from bayplan.records import dataclass, replace
from bayplan.runtime import cgroup, conmon, transitions
from bayplan.runtime.codec import spec_from, spec_json
from bayplan.runtime.effective import Effective
from bayplan.runtime.record import Files, Phase, Status, read_json
from bayplan.runtime.spec import ContainerSpec

REDACTED = "(secret)"


class State(StrEnum):
    """What a container is doing. ``restarting``: it ended and its policy will start it again."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class HealthReport:
    """``status`` is ``starting``, ``healthy``, ``unhealthy``, or ``""`` without a check; ``log`` the last results,
    oldest first.

    ``checked_at`` is the end of the last check in seconds since 1970, 0 for never; nobody watches a container whose
    last check is long past. ``counted_at`` is when a result last counted.
    """

    status: str = ""
    failing: int = 0
    checked_at: float = 0.0
    log: tuple[Mapping[str, Any], ...] = ()
    counted_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Container:
    """One container as it is now. ``spec`` has no secret values; ``created`` is in seconds since 1970.

    ``anonymous`` maps mount points to the volumes that the image asked for.
    """

    id: str
    name: str
    state: State
    spec: ContainerSpec
    effective: Effective
    status: Status
    health: HealthReport
    created: float
    anonymous: Mapping[str, str]
    succeeds: str = ""

    @property
    def labels(self) -> Mapping[str, str]:
        return self.spec.labels

    @property
    def running(self) -> bool:
        return self.state in (State.RUNNING, State.PAUSED)

    def as_dict(self) -> dict[str, Any]:
        """For ``inspect``: everything in JSON's terms; secret values as ``(secret)``."""
        spec = spec_json(self.spec)
        spec["env"] = {**spec["env"], **dict.fromkeys(sorted(self.spec.secret_env), REDACTED)}
        status = self.status
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state.value,
            "image": self.spec.image,
            "image_name": self.spec.image_name,
            "created": self.created,
            "pid": status.init.pid if status.init is not None and self.running else 0,
            "started_at": status.started_at,
            "finished_at": status.finished_at,
            "exit_code": status.exit_code,
            "oom_killed": status.oom,
            "error": status.error,
            "restarts": status.restarts,
            "addresses": dict(status.addresses),
            "ports": [
                {"container": container, "host": host, "host_ip": ip, "protocol": protocol}
                for container, host, ip, protocol in status.ports
            ],
            "health": {
                "status": self.health.status,
                "failing": self.health.failing,
                "checked_at": self.health.checked_at,
                "log": [dict(entry) for entry in self.health.log],
            },
            "effective": self.effective.to_json(),
            "anonymous_volumes": dict(self.anonymous),
            "spec": spec,
        }


def state_of(files: Files, status: Status) -> tuple[State, Status]:
    """The state now, and the status with what can be seen but is not yet written down (the exit code)."""
    if status.phase is Phase.REMOVING:
        return State.REMOVING, status
    if status.phase is Phase.CREATED:
        return State.CREATED, status
    if status.phase is Phase.STARTING:
        return (State.EXITED if status.finished_at else State.CREATED), status
    if status.phase is Phase.STARTED:
        if transitions.running(status):
            return (State.PAUSED if cgroup.frozen(files.cgroup) else State.RUNNING), status
        code = conmon.exit_code(files)
        return State.EXITED, replace(status, exit_code=transitions.UNKNOWN_EXIT if code is None else code)
    if transitions.restart_pending(status) and transitions.hook_alive(status):
        return State.RESTARTING, status
    return State.EXITED, status


def health_report(files: Files, status: Status) -> HealthReport:
    """The last checks of the present launch; a launch begins as ``starting``."""
    data = read_json(files.health)
    if data is None or data.get("run") != status.run:
        return HealthReport("starting")
    return HealthReport(data["status"], data["failing"], data["checked_at"], tuple(data["log"]), data["counted_at"])


def load(files: Files) -> Container | None:
    """The container now, or None when there is none (or not yet)."""
    definition = read_json(files.definition)
    if definition is None:
        return None
    state, status = state_of(files, files.status())
    what = Effective.from_json(definition["effective"])
    spec = spec_from(definition["spec"])
    return Container(
        id=files.id,
        name=spec.name,
        state=state,
        spec=spec,
        effective=what,
        status=status,
        health=HealthReport() if what.health is None else health_report(files, status),
        created=definition["created"],
        anonymous=definition["anonymous"],
        succeeds=definition["succeeds"],
    )
