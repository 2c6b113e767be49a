"""Walks a plan: starts what is ready, journals, and lets everything that does not depend on a failure go on.

The walker decides nothing. One thread owns the schedule, the journal and the face; workers only make effects. Each turn of
the loop takes all completions that have arrived, writes their ends and the begins of what starts next in one transaction,
and hands the new operations out: an effect never starts before its begin is durable, a dependant never before the ends of
what it waits for, and the cost is one fsync a turn however wide the plan is. One exception: who waits for no more of a
container than that it is started begins when the place says so, while its operation still waits for its health (decision
0012).

Where a plan is wide, begins run ahead of the workers, and an end that nobody waits for may wait itself for company, not
longer than an eye notices: fewer turns leave the disk to the effects. A crash meanwhile costs nothing but another look at
what was begun.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from bayplan.errors import BayplanError
from bayplan.execute.events import Event, Finished, Output, Progress, Report, Result, Sink, Started
from bayplan.execute.port import Order, Outcome, OutcomeUnknown, Stale, Target
from bayplan.execute.values import Redactor, SecretSource, holds_secret, resolve, without_secrets
from bayplan.plan.model import Action, Condition, Operation, Plan, Recorded, Value
from bayplan.records import dataclass, field, replace
from bayplan.state.store import Ended, Phase, State

#: Puts the declared properties of a kind in their canonical form (``kinds.normalise``).
Normaliser = Callable[[str, Mapping[str, Value]], Mapping[str, Value]]

#: An Image's content is made without waiting for the repositories that it is pushed to.
_TAKEN_BY_PUSH = frozenset({"push"})
#: Operations that are begun for each worker: the one at work and those that wait in front of it.
_BEGUN = 8
#: Seconds that an end may wait for others, where nothing depends on it and the workers have enough to do.
_LINGER = 0.05
_PHASES = {Result.OK: Phase.OK, Result.UNKNOWN: Phase.UNKNOWN, Result.CANCELLED: Phase.CANCELLED}


class Cancel:
    """The user's wish to stop, shared by everything that works for one command. ``number`` is the signal that said so."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.number = 2

    def set(self, number: int = 2) -> None:
        self.number = number
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep up to ``seconds``; True as soon as the wish is there."""
        return self._event.wait(seconds)


@dataclass(slots=True)
class _Done:
    operation: Operation
    step: int
    finished: Finished
    recorded: Recorded | None = None
    forget: tuple[str, str] | None = None
    outputs: Mapping[str, Value] | None = None


@dataclass(frozen=True, slots=True)
class _Running:
    """The object of an operation runs; the operation goes on."""

    operation: Operation
    outputs: Mapping[str, Value]


@dataclass(slots=True)
class Walk:
    """One execution of one plan. ``recorded`` is the state as the plan saw it (by place and address)."""

    plan: Plan
    run: int
    state: State
    targets: Mapping[str, Target]
    secrets: SecretSource
    normalise: Normaliser
    sink: Sink
    recorded: Mapping[tuple[str, str], Recorded] = field(default_factory=dict)
    parallelism: int = 8
    cancel: Cancel = field(default_factory=Cancel)
    redactor: Redactor = field(default_factory=Redactor)
    outputs: dict[str, Mapping[str, Value]] = field(default_factory=dict)
    _rows: dict[tuple[str, str], Recorded] = field(default_factory=dict)
    _inbox: queue.SimpleQueue[_Done | _Running | Event | BaseException] = field(default_factory=queue.SimpleQueue)
    #: Identities of new objects: distinct, not secret, and without a system call each.
    _chance: random.Random = field(default_factory=lambda: random.Random(os.urandom(32)))  # noqa: S311

    def go(self) -> Report:
        """Carry the plan out; returns when nothing runs any more, also after a cancellation."""
        operations = {operation.number: operation for operation in self.plan.operations}
        self.outputs = {address: dict(values) for address, values in self.plan.known.items()}
        self._rows = dict(self.recorded)
        waiting = {number: len(operation.after) for number, operation in operations.items()}
        dependants: dict[int, list[int]] = {}
        early: dict[int, list[int]] = {}
        for number, operation in operations.items():
            for earlier in operation.after:
                dependants.setdefault(earlier, []).append(number)
                if _suffices_started(operation, operations[earlier]):
                    early.setdefault(earlier, []).append(number)
        begun_early: set[tuple[int, int]] = set()
        ready = [number for number, count in waiting.items() if not count]
        ready.reverse()  # taken from the end, lowest number first
        finished: dict[int, Finished] = {}
        begun: set[int] = set()
        running = 0
        secrets = self.redactor.watch(self.secrets)

        def work(operation: Operation, step: int) -> None:
            try:
                self._inbox.put(self._perform(operation, step, secrets))
            except BaseException as error:  # the process is going down: the walker goes with it, the journal knows
                self._inbox.put(error)
                raise

        def release(later: int) -> None:
            waiting[later] -= 1
            if not waiting[later] and later not in finished:
                ready.append(later)

        def is_due(item: _Done, arrived: int) -> bool:
            short = bool(ready) and running - arrived <= self.parallelism * _BEGUN // 2
            return (
                short
                or arrived == running
                or item.finished.result is not Result.OK
                or item.operation.number in dependants
            )

        with ThreadPoolExecutor(self.parallelism, thread_name_prefix="bayplan-op") as pool:
            arrived: list[_Done | _Running] = []
            while True:
                ended: list[Ended] = []
                for item in arrived:
                    if isinstance(item, _Running):
                        self.outputs[item.operation.address] = item.outputs
                        for later in early.pop(item.operation.number, ()):
                            begun_early.add((item.operation.number, later))
                            release(later)
                        continue
                    number = item.operation.number
                    running -= 1
                    finished[number] = item.finished
                    result = item.finished.result
                    error = item.finished.error
                    ended.append(
                        Ended(
                            item.step,
                            _PHASES.get(result, Phase.FAILED),
                            item.recorded,
                            item.forget,
                            error.message if error else "",
                        )
                    )
                    if item.recorded is not None:
                        self._rows[item.recorded.place, item.recorded.address] = item.recorded
                    if item.forget is not None:
                        self._rows.pop(item.forget, None)
                    if item.outputs is not None:
                        self.outputs[item.operation.address] = item.outputs
                    if result is Result.OK:
                        for later in dependants.get(number, ()):
                            if (number, later) not in begun_early:
                                release(later)
                    else:
                        self._skip(number, operations, dependants, finished, begun)
                        ready = [one for one in ready if one not in finished]
                starting: list[Operation] = []
                if self.cancel.is_set:
                    ready.clear()
                while ready and running + len(starting) < self.parallelism * _BEGUN:
                    starting.append(operations[ready.pop()])
                steps = self.state.turn(self.run, ended, starting)
                for item in arrived:
                    if isinstance(item, _Done):
                        self.sink(item.finished)
                for operation, step in zip(starting, steps, strict=True):
                    running += 1
                    begun.add(operation.number)
                    pool.submit(work, operation, step)
                if not running:
                    break
                arrived = self._listen(is_due)
        for number, operation in operations.items():
            if number not in finished:
                finished[number] = Finished(operation, Result.CANCELLED, 0.0, "not started")
        return Report(tuple(finished[number] for number in sorted(finished)), cancelled=self.cancel.is_set)

    def tell(self, event: Event) -> None:
        """Pass an event on to the face, from any thread; the face hears them in order, one at a time."""
        self._inbox.put(event)

    def hear(self, item: _Running) -> None:
        """Take note that something runs, from any thread."""
        self._inbox.put(item)

    def _listen(self, is_due: Callable[[_Done, int], bool]) -> list[_Done | _Running]:
        """What has ended or begun to run when a turn is due, at least one; what workers tell meanwhile goes to the face at
        once.

        Waits in slices, so that signal handlers get their turn.
        """
        arrived: list[_Done | _Running] = []
        ends = 0
        due = float("inf")
        while True:
            left = due - time.monotonic()
            for _ in range(self._inbox.qsize() if left <= 0 else 1):
                try:
                    item = self._inbox.get(timeout=max(0.0, min(left, 0.5)))
                except queue.Empty:
                    break
                if isinstance(item, BaseException):
                    self.cancel.set()  # what was begun ahead is not to start any more
                    raise item
                if isinstance(item, _Running):
                    arrived.append(item)
                    due = 0.0
                    continue
                if not isinstance(item, _Done):
                    self.sink(item)
                    continue
                arrived.append(item)
                ends += 1
                if is_due(item, ends):
                    due = 0.0
                elif ends == 1:
                    due = time.monotonic() + _LINGER
            if left <= 0:
                return arrived

    def _skip(
        self,
        number: int,
        operations: Mapping[int, Operation],
        dependants: Mapping[int, list[int]],
        finished: dict[int, Finished],
        begun: set[int],
    ) -> None:
        """Everything that waits for ``number``, directly or not, is left out, but for what began before it failed."""
        stack = [(number, later) for later in dependants.get(number, ())]
        while stack:
            cause, later = stack.pop()
            if later in finished or later in begun:
                continue
            operation = operations[later]
            finished[later] = Finished(operation, Result.SKIPPED, 0.0, f"[{cause}] did not end well")
            self.sink(finished[later])
            stack.extend((later, more) for more in dependants.get(later, ()))

    def _perform(self, operation: Operation, step: int, secrets: SecretSource) -> _Done:
        """One effect, in a worker. Never raises: an error of ours is as much a result as one of the world."""
        began = time.monotonic()

        def finish(result: Result, detail: str = "", error: BayplanError | None = None) -> _Done:
            return _Done(operation, step, Finished(operation, result, time.monotonic() - began, detail, error))

        if self.cancel.is_set:
            return finish(Result.CANCELLED, "not started")
        self.tell(Started(operation))
        try:
            order = self._order(operation, secrets)
            outcome = self.targets[operation.place].perform(order, _Feedback(self, operation))
        except Stale as error:
            return finish(Result.STALE, error=error)
        except OutcomeUnknown as error:
            return finish(Result.UNKNOWN, error=self._clean(error))
        except BayplanError as error:
            result = Result.CANCELLED if error.code == "cancelled" else Result.FAILED
            return finish(result, error=self._clean(error))
        except Exception as error:  # noqa: BLE001  (a bug in an adapter: the effect's outcome is not known)
            told = OutcomeUnknown(
                "internal",
                self.redactor.clean(f"{operation.address}: {type(error).__name__}: {error}"),
                hint="this is a bug in bayplan; run the command again to see what really stands, and report it",
            )
            told.__cause__ = error
            return finish(Result.UNKNOWN, error=told)
        done = finish(Result.OK, self.redactor.clean(outcome.detail))
        key = (operation.place, operation.address)
        if outcome.gone:
            done.forget = key
        else:
            done.recorded = self._record(order, outcome)
            done.outputs = done.recorded.outputs
        return done

    def _order(self, operation: Operation, secrets: SecretSource) -> Order:
        left_out = _TAKEN_BY_PUSH if operation.action is not Action.PUSH else frozenset()
        resolved = {
            name: resolve(value, self.outputs, secrets)
            for name, value in operation.inputs.items()
            if operation.kind != "Image" or name not in left_out
        }
        inputs = self.normalise(operation.kind, resolved)
        target = self.targets[operation.place]
        hidden: set[str] = set()
        for name, value in operation.inputs.items():
            if isinstance(value, Mapping):
                hidden.update(f"{name}.{key}" for key, item in value.items() if holds_secret(item))
            elif holds_secret(value):
                hidden.add(name)
        return Order(
            operation=operation,
            stack=self.plan.stack,
            uid=f"{self._chance.getrandbits(64):016x}",
            inputs=inputs,
            fields={name: target.digest(value) for name, value in inputs.items()},
            secrets=frozenset(hidden),
        )

    def _record(self, order: Order, outcome: Outcome) -> Recorded:
        """The row that the outcome makes: a new one, or the old one with what this operation added."""
        operation = order.operation
        before = self._rows.get((operation.place, operation.address))
        if not outcome.uid and before is not None:
            # The plan looked at the world, and earlier operations told; the row may be older than both.
            known = self.outputs.get(operation.address, {})
            return replace(before, outputs={**before.outputs, **known, **outcome.outputs})
        return Recorded(
            address=operation.address,
            kind=operation.kind,
            place=operation.place,
            uid=outcome.uid or operation.uid or order.uid,
            id=outcome.id or operation.id,
            fields=order.fields,
            values={
                name: without_secrets(operation.inputs.get(name), value)
                for name, value in order.inputs.items()
                if name not in order.secrets
            },
            outputs=outcome.outputs,
            depends_on=operation.depends_on,
            imported=False,
        )

    def _clean(self, error: BayplanError) -> BayplanError:
        error.message = self.redactor.clean(error.message)
        error.hint = self.redactor.clean(error.hint)
        error.args = (error.message,)
        return error


def _suffices_started(operation: Operation, earlier: Operation) -> bool:
    """Whether ``operation`` may begin when the container of ``earlier`` runs, before that is healthy.

    Where ``earlier`` takes over from a container that serves, it is that one's successor only at its end.
    """
    return (
        earlier.kind == "Container"
        and earlier.action in (Action.CREATE, Action.START)
        and operation.waits_for.get(earlier.address) is Condition.STARTED
    )


class _Feedback:
    """What a worker's adapter talks to."""

    def __init__(self, walk: Walk, operation: Operation) -> None:
        self._walk = walk
        self._operation = operation

    def progress(self, text: str) -> None:
        self._send(Progress(self._operation, self._walk.redactor.clean(text)))

    def started(self, outputs: Mapping[str, Value]) -> None:
        self._walk.hear(_Running(self._operation, outputs))

    def output(self, data: bytes) -> None:
        self._send(Output(self._operation, self._walk.redactor.clean_bytes(data)))

    @property
    def cancelled(self) -> bool:
        return self._walk.cancel.is_set

    def _send(self, event: Event) -> None:
        self._walk.tell(event)
