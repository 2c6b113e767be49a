"""When a container that ended is started again. Pure.

Docker's policies: ``always`` and ``unless-stopped`` differ only after a reboot; ``on-failure`` looks at the exit code
and counts. The pause doubles from 100 ms to a minute, and begins anew once the container has run for ten seconds
(moby restartmanager.go; Docker has no upper bound there, but a minute is what a person is willing to wait).
"""

from __future__ import annotations

from bayplan.records import dataclass
from bayplan.runtime.spec import RestartPolicy

FIRST_DELAY = 0.1  # seconds
LONGEST_DELAY = 60.0
SETTLED_AFTER = 10.0


@dataclass(frozen=True, slots=True)
class Decision:
    """``again``: start it after ``delay`` seconds; ``restarts`` is the count then."""

    again: bool
    delay: float = 0.0
    restarts: int = 0


def decide(
    policy: RestartPolicy,
    retries: int,
    *,
    exit_code: int,
    stopped: bool,
    restarts: int,
    delay: float,
    ran_for: float,
) -> Decision:
    """What becomes of a container that has just ended.

    ``stopped``: the user ended it; ``restarts`` and ``delay`` as they were before this end; ``ran_for`` in seconds.
    """
    wanted = policy in (RestartPolicy.ALWAYS, RestartPolicy.UNLESS_STOPPED) or (
        policy is RestartPolicy.ON_FAILURE and exit_code != 0 and (retries == 0 or restarts < retries)
    )
    if stopped or not wanted:
        return Decision(False, restarts=restarts)
    fresh = ran_for >= SETTLED_AFTER or delay <= 0
    return Decision(True, FIRST_DELAY if fresh else min(delay * 2, LONGEST_DELAY), restarts + 1)


def at_boot(policy: RestartPolicy, *, stopped: bool, ran: bool) -> bool:
    """Whether to start a container after a reboot. ``ran``: it was running, or about to be, when the machine went down.

    ``always`` starts even what the user had stopped (as Docker does), ``unless-stopped`` what was not stopped;
    ``on-failure`` what ran, as a power cut is a failure.
    """
    if policy is RestartPolicy.ALWAYS:
        return True
    if policy is RestartPolicy.UNLESS_STOPPED:
        return ran and not stopped
    return policy is RestartPolicy.ON_FAILURE and ran and not stopped
