"""What the engine asks of a place besides effects: one look at what is there, and what content a definition would give.

An adapter fulfils :class:`Place` (and with it the executor's port). It looks and acts; it compares nothing and decides
nothing: that is the planner's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bayplan.execute.port import Target
from bayplan.plan.model import Desired, Forecast, Observed, Recorded, Value
from bayplan.records import dataclass, field

#: Says which digest an image name stands for, or None where only the apply will know (another resource makes it).
#: Raises BayplanError ``image-not-found``.
ImageResolver = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at a place found. ``objects`` by address; see :class:`bayplan.plan.model.World` for the rest."""

    objects: Mapping[str, tuple[Observed, ...]]
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    looked_at: int = 0
    calls: int = 0


class Place(Target, Protocol):
    """One place: an embedded root, an engine's endpoint, a registry, an account and region."""

    place: str

    def declare(self, registries: Mapping[str, Mapping[str, Value]]) -> None:
        """What the definitions say of registries, by alias: under which address the embedded one is known, which others
        may speak plain HTTP. What was declared before is forgotten."""
        ...

    def observe(self, stack: str, desired: Sequence[Desired], recorded: Sequence[Recorded]) -> Sight:
        """Everything under the identity of ``stack`` here, and what is recorded as imported; no effect.

        One list call a kind; ``desired`` tells which names and ports to look for trouble with.
        """
        ...

    def bases(self, desired: Desired) -> Sequence[str]:
        """The image names that the definition of an Image stands on (``FROM``), as written."""
        ...

    def forecast(
        self, stack: str, desired: Desired, observed: Observed | None, resolve: ImageResolver
    ) -> Forecast | None:
        """What a definition would give, read without effect: an Image's content, a Repository's uri; None: nothing."""
        ...

    def remote(self, target: str) -> str | None:
        """The manifest digest that a push target refers to now; ``""`` where it has none, None where nobody can look."""
        ...

    def resolve_image(self, name: str, pull_policy: str) -> str | None:
        """The manifest digest that ``name`` means here (DESIGN 8, rules 2 and 3); None where no one has it.

        ``pull_policy`` is a container's; ``""`` asks what the name means now, which is what builds stand on.
        """
        ...

    def find(self, kind: str, name: str) -> Observed | None:
        """The object of this name whoever made it, for ``import``; its address is empty."""
        ...

    def relabel(self, observed: Observed, stack: str, address: str) -> None:
        """Give an object another identity (``state mv``), or none (``stack`` empty: ``state rm``)."""
        ...

    def recover(self) -> bool:
        """Finish or clear away what a process that died here left half done, below what a plan can see.

        True where there was something: a plan that was made before is made of what is not any more.
        """
        ...

    def sweep(self, stack: str) -> str:
        """After a destroy: remove what nothing refers to any more (blobs, unpacked layers). Returns one line on it."""
        ...

    def lock_path(self, stack: str) -> Path:
        """The file whose lock guards the effects on this stack here."""
        ...
