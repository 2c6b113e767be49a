"""The port through which the executor meets a place; adapters in ``targets`` fulfil it.

An adapter makes one effect when it is told and says honestly how it went: an :class:`Outcome` when the declared state
holds, BayplanError when it certainly does not, :class:`OutcomeUnknown` when nobody can say (a connection that broke after
the request went out). It never decides what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bayplan.errors import BayplanError
from bayplan.plan.model import Operation, Value
from bayplan.records import dataclass, field

#: The name of a thread that a cancelled operation left to itself; nobody may wait for it.
TRANSFER = "bayplan-transfer"


class OutcomeUnknown(BayplanError):
    """The effect may or may not have happened. It is observed by the next run and never blindly retried."""


class Stale(BayplanError):
    """The object is not any more what the operation was planned against; nothing was done."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(
            "stale",
            f"{address} changed after the plan was made: {detail}",
            hint="plan again; only this operation and what depends on it were left out",
        )


@dataclass(frozen=True, slots=True)
class Order:
    """One operation, ready to be carried out.

    ``inputs`` are the declared properties with every expression filled in and normalised; ``fields`` their keyed digests,
    to be written in the object's labels in the call that makes it; ``secrets`` names the properties (and, for maps, the
    entries: ``env.TOKEN``) whose values must never reach a disk in clear. ``uid`` is the identity that a new object takes.
    """

    operation: Operation
    stack: str
    uid: str
    inputs: Mapping[str, Value]
    fields: Mapping[str, str]
    secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What stands in the world after an operation: its identity and what others may refer to.

    ``gone`` is True when the resource exists no more. An operation that is one of several of its resource (a push after a
    build) may leave ``uid`` empty: the recorded row keeps what it had, with ``outputs`` merged in.
    """

    uid: str = ""
    id: str = ""
    outputs: Mapping[str, Value] = field(default_factory=dict)
    gone: bool = False
    detail: str = ""


class Feedback(Protocol):
    """What an adapter may tell while it works, and whether it should stop."""

    def progress(self, text: str) -> None:
        """One short line on how far it is."""
        ...

    def started(self, outputs: Mapping[str, Value]) -> None:
        """The object stands and runs, with these outputs; the operation goes on until it is healthy. Who depends on no more
        than that may begin."""
        ...

    def output(self, data: bytes) -> None:
        """Raw output of a build step or the like."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the user asked to stop: end soon, undo what is half done, raise BayplanError ``cancelled``."""
        ...


class Target(Protocol):
    """One place."""

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        """Make the one effect of ``order.operation``.

        Checks ``operation.precondition`` against the object itself, as close to the effect as the place allows, and
        raises :class:`Stale`. Raises OutcomeUnknown or BayplanError otherwise.
        """
        ...

    def digest(self, value: Value) -> str:
        """The digest of one normalised, resolved value under this place's key (DESIGN 5, label ``fields``)."""
        ...
