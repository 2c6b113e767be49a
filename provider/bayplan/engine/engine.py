"""Observe, plan, execute: wired with the places.

What one face applied, every other face plans as "no changes": the labels of the objects are the recorded side, the state a
cache of it. :meth:`Engine.plan` adopts nothing; :meth:`Engine.apply` writes down what it found before it makes its first
effect, so that a state that was lost or lags behind is right again after any apply.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bayplan import kinds
from bayplan.engine.definitions import Definitions, declared_tags, define, with_bases
from bayplan.engine.look import bases_of, current, look
from bayplan.engine.registries import home_of
from bayplan.engine.sides import Sides, adopt
from bayplan.errors import BayplanError
from bayplan.execute.values import Redactor, holds_secret, resolve
from bayplan.plan.model import Action, Desired, Plan, Recorded, Value, World
from bayplan.plan.planner import plan as make_plan
from bayplan.records import dataclass, field, replace
from bayplan.stack import Stack
from bayplan.state import Lock, State
from bayplan.targets.model import Place

if TYPE_CHECKING:
    from bayplan.execute.events import Report, Sink
    from bayplan.execute.walk import Cancel

_MASKED = "(secret)"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where things lie and how hard to work. ``root`` is the default embedded host, ``state`` the folder of states."""

    root: Path
    state: Path
    parallelism: int = 8
    lock_timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and what it was made from; ``seen_run`` is the newest run of the state at that time, -1 where it was not over
    yet: then the look may have been taken in the middle of it."""

    plan: Plan
    definitions: Definitions
    desired: Mapping[str, Desired]
    world: World
    recorded: Mapping[tuple[str, str], Recorded]
    seen_run: int
    whole: bool = True
    destroy: bool = False
    only: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the whole plan."""
        from bayplan.plan.codec import digest

        return digest(self.plan)

    @property
    def vanished(self) -> list[Recorded]:
        """Rows of resources that are not there any more and are not to be: the state may forget them."""
        touched = {operation.address for operation in self.plan.operations}
        return [
            row
            for row in self.recorded.values()
            if (self.destroy or row.address not in self.desired)
            and row.address not in touched
            and not self.world.objects.get(row.address)
        ]

    @property
    def forgotten(self) -> list[tuple[str, str]]:
        """The rows to drop when this is applied: those that vanished, as far as this plan is about them."""
        aims = set(self.only) if self.destroy else set()
        return [
            (row.place, row.address)
            for row in self.vanished
            if self.whole or row.address in aims or row.address.partition("[")[0] in aims
        ]


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of an apply. ``outputs`` are the stack's outputs, those that hold secrets masked."""

    report: Report
    outputs: Mapping[str, Value] = field(default_factory=dict)
    swept: str = ""


#: Makes the adapter of a place from its identity.
PlaceFactory = Callable[[str], Place]


class Engine:
    """All calls of the faces. Cheap to make; places are opened when they are first needed."""

    def __init__(self, settings: Settings, factory: PlaceFactory | None = None) -> None:
        self.settings = settings
        self._factory = factory or self._open
        self._places: dict[str, Place] = {}
        self._registries: Mapping[str, Mapping[str, Value]] = {}

    # -- places and state ------------------------------------------------------------------------------------------

    def place(self, identity: str) -> Place:
        """The adapter of a place. Raises BayplanError ``unknown-host-type`` for a type that is not known here."""
        if identity not in self._places:
            self._places[identity] = self._factory(identity)
            if self._registries:
                self._places[identity].declare(self._registries)
        return self._places[identity]

    def _open(self, identity: str) -> Place:
        kind, _, rest = identity.partition(":")
        if kind == "embedded":
            from bayplan.targets.embedded import EmbeddedPlace

            return EmbeddedPlace(Path(rest))
        raise BayplanError("unknown-host-type", f"there is no host or registry of the type '{kind}'")

    @property
    def home(self) -> str:
        """The identity of the default embedded place."""
        return home_of(self.settings.root)

    def _declare(self, definitions: Definitions) -> None:
        """Tell the places which registries the definitions declare, where they say more than that there are some."""
        told = {alias: entry for alias, entry in definitions.registries.items() if "address" in entry}
        if told != self._registries:
            self._registries = told
            for place in self._places.values():
                place.declare(told)

    def state(self, stack: str) -> State:
        return State(self.settings.state, stack)

    # -- planning --------------------------------------------------------------------------------------------------

    def define(self, stack: Stack) -> Definitions:
        definitions = define(stack, self.settings.root)
        self._declare(definitions)
        return definitions

    def linked(self, definitions: Definitions) -> dict[str, Desired]:
        """The desired resources with all their edges, those included that only a Dockerfile tells. Reads files only."""
        self._declare(definitions)
        tags = declared_tags(definitions)
        return {
            address: with_bases(one, bases_of(one, self.place(one.place), tags)) if one.kind == "Image" else one
            for address, one in definitions.desired.items()
        }

    def plan(
        self,
        definitions: Definitions,
        *,
        only: Sequence[str] = (),
        replace_: Sequence[str] = (),
        destroy: bool = False,
        prune: bool = True,
    ) -> Planned:
        """The exact plan. Reads only. Raises BayplanErrors for what the planner refuses (``prevent_destroy``)."""
        self._declare(definitions)
        state = self.state(definitions.stack)
        latest = -1 if state.interrupted() else state.latest_run()
        rows = state.recorded()
        state.close()
        places = self._places_of(definitions, rows)
        scope = rows.of(places)
        desired, world = look(definitions, places, scope.imported(), forecasts=not destroy)
        recorded = Sides(scope, world)
        secrets = definitions.secrets

        def digester(place: str) -> Callable[[Value], str]:
            target = places[place]
            return lambda value: target.digest(resolve(value, {}, secrets))

        plan = make_plan(
            definitions.stack,
            desired,
            recorded,
            world,
            digester=digester,
            kinds=kinds.load(),
            normalise=kinds.normalise,
            targets=only,
            replace=replace_,
            destroy=destroy,
            prune=prune,
            outputs=definitions.outputs,
        )
        return Planned(
            plan,
            definitions,
            desired,
            world,
            scope,
            latest,
            whole=prune and not only,
            destroy=destroy,
            only=tuple(only),
        )

    def _places_of(self, definitions: Definitions, rows: Mapping[tuple[str, str], Recorded]) -> dict[str, Place]:
        """The places of the definitions, and those that the state knows besides.

        Another embedded root is another world: rows of one that the definitions do not name are out of scope, so that
        ``--root`` never reaches into the default root.
        """
        names = {one.place for one in definitions.desired.values()} | {self.home}
        names |= {place for place, _ in rows if not place.startswith("embedded:")}
        return {name: self.place(name) for name in sorted(names)}

    # -- applying --------------------------------------------------------------------------------------------------

    def mend(self, definitions: Definitions) -> None:
        """What an apply and a destroy begin with: where the last run died, finish or undo what it left half done.

        That lies below a plan's sight, and changes what a plan sees: done after the plan was made it would make the plan's
        operations stale.
        """
        state = self.state(definitions.stack)
        rows = state.recorded() if state.interrupted() else None
        state.close()
        if rows is None:
            return
        places = self._places_of(definitions, rows)
        with ExitStack() as held:
            try:
                for lock in self._locks(definitions.stack, list(places), timeout=0.0):
                    held.enter_context(lock)
            except BayplanError as error:
                if error.code != "locked":
                    raise
                return  # the last run is not dead, it is under way: whoever applies waits for it
            for place in places.values():
                place.recover()

    def apply(self, planned: Planned, *, verb: str, sink: Sink, cancel: Cancel | None = None) -> Applied:
        """Carry a plan out, exactly; operations whose object changed since fail alone, with their dependants.

        Takes the stack's locks; raises BayplanError ``locked`` when another process keeps them too long.
        """
        from bayplan.execute.events import Report
        from bayplan.execute.walk import Cancel, Walk

        plan = planned.plan
        self._declare(planned.definitions)
        adopted, forgotten = self._bookkeeping(planned)
        if plan.empty and not adopted and not forgotten and self._settled(planned, verb):
            return Applied(Report(()), self._outputs(planned, planned.plan.known, Redactor()))
        names = sorted({operation.place for operation in plan.operations} | {self.home})
        with ExitStack() as held:
            for lock in self._locks(plan.stack, names, cancel):
                held.enter_context(lock)
            state = self.state(plan.stack)
            held.callback(state.close)
            for name in names:
                self.place(name).recover()
            died = state.interrupted()
            state.write(adopted, forgotten)
            run = state.start_run(verb, planned.digest, _who())
            redactor = Redactor()
            walk = Walk(
                plan=plan,
                run=run,
                state=state,
                targets={name: self.place(name) for name in names},
                secrets=planned.definitions.secrets,
                normalise=kinds.normalise,
                sink=sink,
                recorded={**planned.recorded, **{(row.place, row.address): row for row in adopted}},
                parallelism=self.settings.parallelism,
                cancel=cancel or Cancel(),
                redactor=redactor,
            )
            report = walk.go()
            outputs = self._outputs(planned, walk.outputs, redactor) if verb != "destroy" else {}
            swept = self._sweep(planned, names, died=died) if report.finished or died else ""
            outcome = "ok" if report.ok else "cancelled" if report.cancelled else "failed"
            state.end_run(run, outcome, outputs if report.ok or verb == "destroy" else None)
        return Applied(report, outputs, swept)

    def plan_and_apply(
        self, make: Callable[[], Planned], *, verb: str, sink: Sink, cancel: Cancel | None = None
    ) -> tuple[Planned, Applied]:
        """Plan, lock, plan again if somebody else applied in between, apply: what ``apply --yes`` does."""
        planned = make()
        names = sorted({operation.place for operation in planned.plan.operations} | {self.home})
        if planned.plan.empty and planned.seen_run >= 0:
            return planned, self.apply(planned, verb=verb, sink=sink, cancel=cancel)
        with ExitStack() as held:
            locks = [held.enter_context(lock) for lock in self._locks(planned.plan.stack, names, cancel)]
            state = self.state(planned.plan.stack)
            latest = state.latest_run()
            state.close()
            mended = [self.place(name).recover() for name in names]
            if any(mended) or latest != planned.seen_run or any(lock.waited for lock in locks):
                planned = make()
            return planned, self.apply(planned, verb=verb, sink=sink, cancel=cancel)

    def _locks(
        self, stack: str, places: Sequence[str], cancel: Cancel | None = None, timeout: float | None = None
    ) -> list[Lock]:
        timeout = self.settings.lock_timeout if timeout is None else timeout
        paths = [self.place(name).lock_path(stack) for name in places]
        paths.append(self.settings.state / f"{stack}.lock")
        return [
            Lock(path, f"stack {stack}", timeout=timeout, cancelled=lambda: cancel is not None and cancel.is_set)
            for path in paths
        ]

    def _settled(self, planned: Planned, verb: str) -> bool:
        """Whether an empty plan leaves nothing to write down: no dead run, and the outputs as they stand."""
        state = self.state(planned.plan.stack)
        try:
            outputs = self._outputs(planned, planned.plan.known, Redactor()) if verb != "destroy" else {}
            return not state.interrupted() and state.outputs() == outputs
        finally:
            state.close()

    def _bookkeeping(self, planned: Planned) -> tuple[list[Recorded], list[tuple[str, str]]]:
        """Rows to write for what was found without a row (or under another uid), and rows of what is gone."""
        touched = {operation.address for operation in planned.plan.operations}
        adopted: list[Recorded] = []
        for address in planned.world.objects:
            found = current(planned.world.objects, address)
            wanted = planned.desired.get(address)
            if found is None or wanted is None:
                continue
            row = planned.recorded.get((found.place, address))
            if row is None or row.uid != found.uid:
                adopted.append(adopt(found, wanted))
            elif row.imported:
                continue
            elif address in touched:
                if row.fields != found.recorded or row.outputs != found.outputs:
                    adopted.append(replace(row, id=found.id, fields=dict(found.recorded), outputs=dict(found.outputs)))
            elif row.fields != found.recorded:
                adopted.append(adopt(found, wanted))
        return adopted, planned.forgotten

    def _outputs(
        self, planned: Planned, known: Mapping[str, Mapping[str, Value]], redactor: Redactor
    ) -> dict[str, Value]:
        """The stack's outputs that have a value now. Those that hold a secret are masked."""
        found: dict[str, Value] = {}
        for name, value in planned.plan.outputs.items():
            if holds_secret(value):
                found[name] = _MASKED
                continue
            try:
                found[name] = resolve(value, known, redactor.watch(planned.definitions.secrets))
            except BayplanError:
                continue  # its resource failed or was left out; the report says so
        return found

    def _sweep(self, planned: Planned, names: Sequence[str], *, died: bool) -> str:
        """Blobs that this plan made unreferenced go at once, so that a destroy leaves nothing behind; those of a run that
        ``died`` before it came to that, too."""
        freeing = {Action.DELETE, Action.REPLACE, Action.BUILD, Action.LOAD, Action.COPY, Action.TAG, Action.PUSH}
        if not died and not any(operation.action in freeing for operation in planned.plan.operations):
            return ""
        return "; ".join(filter(None, (self.place(name).sweep(planned.plan.stack) for name in names)))


def _who() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
