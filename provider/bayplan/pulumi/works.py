"""Single resources through the engine: made, changed, looked at, removed. The one module here that has effects.

Every call plans with one address and never prunes (DESIGN section 5, scope). What the engine finds under the identity
*(place, stack, address)* it adopts or makes what the inputs say; so a replacement is one operation of the engine, in which
the new container takes the old one's name and ports over, and the Delete of the old one that Pulumi sends afterwards finds
its uid gone. Update and Delete touch the uid in the id and nothing else, Update only the fields that were shown.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayplan import kinds
from bayplan.errors import BayplanError
from bayplan.pulumi.checking import Sealed
from bayplan.records import dataclass, field, replace

if TYPE_CHECKING:
    from bayplan.engine import Definitions, Engine, Planned
    from bayplan.execute.events import Report, Sink
    from bayplan.execute.walk import Cancel
    from bayplan.plan.model import Observed


@dataclass(frozen=True, slots=True)
class Where:
    """Where things lie: the embedded root, the folder of states, and the folder that relative paths start from."""

    root: Path
    state: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Identity:
    """``STACK/ADDRESS@UID``; ``uid`` is ``""`` where nobody knows it yet (an import)."""

    stack: str
    address: str
    uid: str = ""

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Raises BayplanError ``bad-address`` for what is no id."""
        stack, slash, rest = text.partition("/")
        address, _, uid = rest.partition("@")
        if not (stack and slash) or kinds.validate_address(address) is not None:
            raise BayplanError(
                "bad-address",
                f"'{text}' is no id of a resource",
                hint="write STACK/Kind.name, for example shop/Container.web",
            )
        return cls(stack, address, uid)

    def __str__(self) -> str:
        return f"{self.stack}/{self.address}" + (f"@{self.uid}" if self.uid else "")


@dataclass(frozen=True, slots=True)
class Standing:
    """An object that is there. ``outputs`` and ``fields`` in the schemas' names; ``drift`` maps each property that is not
    what the inputs say to what it is (None: not readable, or a secret)."""

    id: Identity
    outputs: Mapping[str, Any]
    fields: Mapping[str, Any]
    declared: frozenset[str] = frozenset()
    drift: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an effect: what stands now (None: nothing) and, where it did not end well, why.

    ``kept``: the object was there before and is the same one.
    """

    standing: Standing | None
    reasons: tuple[str, ...] = ()
    cancelled: bool = False
    kept: bool = False


class Works:
    """One engine for all calls of a provider. Effects are carried out one after another, looks side by side."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._engine: Engine | None = None
        self._turn = threading.Lock()
        self._start = threading.Lock()

    @property
    def engine(self) -> Engine:
        with self._start:
            if self._engine is None:
                from bayplan.engine import Engine, Settings

                self._engine = Engine(Settings(root=self._where.root, state=self._where.state))
            return self._engine

    # -- looks -----------------------------------------------------------------------------------------------------

    def content(self, stack: str, address: str, sealed: Sealed) -> str:
        """A digest of an Image's definition and of the files that it reads; ``""`` where only a build can tell.

        Reads files, and of a base only what stands in the store: no registry is asked.
        """
        if sealed.kind != "Image" or not {"build", "rootfs"} & sealed.properties.keys():
            return ""
        desired = self._define(stack, address, sealed).desired[address]
        place = self.engine.place(desired.place)
        try:
            found = place.forecast(stack, desired, None, lambda name: place.resolve_image(name, "never"))
        except BayplanError:
            return ""  # a definition that cannot be read is told by the effect, with its place
        return found.key if found is not None else ""

    def look(self, identity: Identity, sealed: Sealed | None) -> Standing | None:
        """What stands under an address, compared with the inputs where there are some; None: nothing does."""
        kind = identity.address.partition(".")[0]
        return self._standing(identity, self._plan(identity, sealed or _least(kind)))

    def find(self, kind: str, name: str) -> Mapping[str, Any]:
        """The outputs of any object of the host, whoever made it. Raises BayplanError ``not-found``."""
        found = self.engine.place(self.engine.home).find(kind, name)
        if found is None:
            raise BayplanError(
                "not-found", f"there is no {kind.lower()} '{name}'", hint="'bayplan' lists what is there"
            )
        return found.outputs

    # -- effects ---------------------------------------------------------------------------------------------------

    def make(
        self, identity: Identity, sealed: Sealed, sink: Sink, cancel: Cancel, *, replacing: bool = False
    ) -> Outcome:
        """Create or adopt: afterwards the object is what the inputs say. ``replacing``: what is there gives way to a new one
        in any case, because its Delete is going to follow."""
        return self._apply(identity, sealed, frozenset(), sink, cancel, replacing=replacing)

    def change(self, identity: Identity, sealed: Sealed, fields: frozenset[str], sink: Sink, cancel: Cancel) -> Outcome:
        """Make ``fields`` what the inputs say and leave every other one; without any, finish what an earlier call left half
        done, or build again what reads other files now.

        Raises BayplanError ``not-found`` where the object is not the one of the id any more.
        """
        there = self.look(identity, sealed)
        if there is None or there.id.uid != identity.uid:
            raise BayplanError(
                "not-found",
                f"{identity.address} is not the object any more that Pulumi knows",
                hint="run pulumi refresh, which finds the present one",
            )
        others = frozenset(kinds.load()[sealed.kind].properties) - fields if fields else frozenset()
        return self._apply(identity, sealed, others, sink, cancel)

    def remove(self, identity: Identity, sealed: Sealed, sink: Sink, cancel: Cancel) -> tuple[str, ...]:
        """Remove the object of the id; one that is gone, or that another one took the place of, is no error.

        The result says why it did not end well; empty where it did.
        """

        def make() -> Planned:
            return self._plan(identity, sealed, destroy=True)

        with self._alone(cancel):
            there = self._standing(identity, make())
            if there is None or (identity.uid and there.id.uid != identity.uid):
                return ()
            _, applied = self.engine.plan_and_apply(make, verb="destroy", sink=sink, cancel=cancel)
        return _reasons(applied.report)

    def _apply(
        self,
        identity: Identity,
        sealed: Sealed,
        ignored: frozenset[str],
        sink: Sink,
        cancel: Cancel,
        *,
        replacing: bool = False,
    ) -> Outcome:
        def make() -> Planned:
            planned = self._plan(identity, sealed, ignored, replacing=replacing)
            if planned.plan.problems:
                raise BayplanError("cannot-apply", "; ".join(planned.plan.problems), hint="nothing was changed")
            return planned

        with self._alone(cancel):
            self.engine.mend(self._define(identity.stack, identity.address, sealed))
            planned, applied = self.engine.plan_and_apply(make, verb="apply", sink=sink, cancel=cancel)
            before = self._standing(identity, planned)
            standing = self._standing(identity, self._plan(identity, sealed))
        kept = before is not None and standing is not None and before.id.uid == standing.id.uid
        return Outcome(standing, _reasons(applied.report), applied.report.cancelled, kept)

    @contextmanager
    def _alone(self, cancel: Cancel) -> Iterator[None]:
        """One effect at a time: what an engine finds half done belongs to a run that died. Gives way to a cancellation."""
        while not self._turn.acquire(timeout=0.1):
            if cancel.is_set:
                raise BayplanError("cancelled", "stopped while waiting for its turn; nothing was changed")
        try:
            yield
        finally:
            self._turn.release()

    # -- the engine's side -----------------------------------------------------------------------------------------

    def _define(self, stack: str, address: str, sealed: Sealed, ignored: frozenset[str] = frozenset()) -> Definitions:
        from bayplan.stack import NO_LIFECYCLE, Lifecycle, Resource, Secrets, Stack
        from bayplan.stack.source import Source

        folder = self._where.folder
        properties = kinds.anchored(sealed.kind, sealed.properties, str(folder))
        resource = Resource(
            address,
            sealed.kind,
            address.partition(".")[2],
            properties,
            {},
            Lifecycle(ignore_changes=tuple(sorted(ignored))) if ignored else NO_LIFECYCLE,
            (),
            Source("the Pulumi program", folder / "Pulumi.yaml", b""),
            address,
        )
        secrets = Secrets(given=sealed.secrets)
        definitions = self.engine.define(Stack(stack, {address: resource}, secrets=secrets))
        desired = {name: replace(one, positions={}) for name, one in definitions.desired.items()}
        return replace(definitions, desired=desired)

    def _plan(
        self,
        identity: Identity,
        sealed: Sealed,
        ignored: frozenset[str] = frozenset(),
        *,
        destroy: bool = False,
        replacing: bool = False,
    ) -> Planned:
        definitions = self._define(identity.stack, identity.address, sealed, ignored)
        only = (identity.address,)
        replace_ = only if replacing else ()
        return self.engine.plan(definitions, only=only, replace_=replace_, prune=False, destroy=destroy)

    def _standing(self, identity: Identity, planned: Planned) -> Standing | None:
        from bayplan.engine.look import current
        from bayplan.plan.model import Redacted

        found: Observed | None = current(planned.world.objects, identity.address)
        if found is None:
            return None
        drift = {
            change.field: None if isinstance(change.before, Redacted) else change.before
            for operation in planned.plan.operations
            if operation.address == identity.address
            for change in operation.changes
        }
        row = planned.recorded.get((found.place, identity.address))
        values = {**(row.values if row is not None else {}), **found.fields}
        return Standing(
            replace(identity, uid=found.uid),
            found.outputs,
            values,
            frozenset(found.recorded or (row.fields if row is not None else ())),
            drift,
        )


def _least(kind: str) -> Sealed:
    """The fewest properties with which an address can be looked for."""
    least = {"Container": {"image": "scratch", "pull_policy": "never"}, "Repository": {"repository_name": "unknown"}}
    return Sealed(kind, least.get(kind, {}), {})


def _reasons(report: Report) -> tuple[str, ...]:
    """Why an execution did not end well, a sentence each."""
    found = []
    for one in report.finished:
        if one.error is not None:
            hint = f" ({one.error.hint})" if one.error.hint else ""
            found.append(f"{one.error.message}{hint}")
    if report.cancelled and not found:
        found.append("stopped before it was done")
    return tuple(found)


#: What a call gives to hear of the progress: the resource's urn and a line.
Tell = Callable[[str, str], None]
