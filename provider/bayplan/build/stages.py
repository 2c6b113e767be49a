"""The stages of one build, side by side where they may be, and what is told of them meanwhile.

A stage that copies from another waits for it at the step that needs it, not before. The first error ends the others; so does
an interrupt, and nothing of them runs on when :meth:`Stages.run` returns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from bayplan.build.comparing import Row
from bayplan.build.executing import StageState
from bayplan.build.keys import KeyedStep, Keys
from bayplan.build.planning import StagePlan
from bayplan.build.spec import BuildEvent, BuildEventKind
from bayplan.errors import BayplanError

Output = Callable[[BuildEvent], None]

_MOST_AT_ONCE = 4


class _Outcome:
    """What one stage comes to; whoever needs it waits. (concurrent.futures costs 15 ms to import, and brings no more.)"""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._state: StageState | None = None
        self.error: BaseException | None = None

    def set(self, state: StageState | None, error: BaseException | None = None) -> None:
        self._state, self.error = state, error
        self._ready.set()

    def get(self) -> StageState:
        self._ready.wait()
        if self._state is None:
            raise self.error or BayplanError("cancelled", "the build was cancelled")
        return self._state


class Stages:
    """The stages of one build, side by side where they may be; each waits for those that it needs.

    ``cancelled`` ends them all; whoever gave it may set it, and the first error sets it too.
    """

    def __init__(self, order: list[StagePlan], cancelled: threading.Event | None = None) -> None:
        self._order = order
        self._outcomes = {plan.index: _Outcome() for plan in order}
        self.cancelled = cancelled if cancelled is not None else threading.Event()

    def get(self, index: int) -> StageState:
        return self._outcomes[index].get()

    def run(self, build: Callable[[StagePlan], StageState]) -> dict[int, StageState]:
        """Build all. The first error ends the others; an interrupt too."""
        workers = min(len(self._order), _MOST_AT_ONCE, (os.cpu_count() or 1) + 1)
        try:
            if workers == 1 or self._is_chain():
                for plan in self._order:
                    self._outcomes[plan.index].set(build(plan))
            else:
                self._side_by_side(build, workers)
        except BaseException:
            self.cancelled.set()
            raise
        return {index: outcome.get() for index, outcome in self._outcomes.items()}

    def _is_chain(self) -> bool:
        """Each stage is built on the one before: nothing to do side by side."""
        return all(plan.base == before.index for before, plan in zip(self._order, self._order[1:], strict=False))

    def _side_by_side(self, build: Callable[[StagePlan], StageState], workers: int) -> None:
        queue = iter(self._order)  # a stage comes after those it needs, so whoever waits waits for one that runs
        guard = threading.Lock()

        def work() -> None:
            while not self.cancelled.is_set():
                with guard:
                    plan = next(queue, None)
                if plan is None:
                    return
                try:
                    self._outcomes[plan.index].set(build(plan))
                except BaseException as error:  # noqa: BLE001 - handed to whoever waits, and raised there
                    self._outcomes[plan.index].set(None, error)
                    self.cancelled.set()

        threads = [threading.Thread(target=work, name=f"build-{number}") for number in range(workers)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self.cancelled.set()
            for thread in threads:
                thread.join()
        self._raise_first()

    def _raise_first(self) -> None:
        """The error that began it, not the cancellations that followed from it."""
        errors = [outcome.error for outcome in self._outcomes.values() if outcome.error is not None]
        for error in errors:
            if not (isinstance(error, BayplanError) and error.code == "cancelled"):
                raise error
        if errors:
            raise errors[0]


class Telling:
    """Turns what the stages report into events, one at a time."""

    def __init__(self, output: Output | None) -> None:
        self._output = output
        self._guard = threading.Lock()
        self._numbers: dict[int, tuple[int, str]] = {}

    def expect(self, order: list[StagePlan], keys: Keys) -> None:
        number = 0
        for plan in order:
            for keyed in keys.stages[plan.index]:
                if keyed.step.files is not None:
                    number += 1
                    self._numbers[id(keyed)] = (number, plan.label)

    def all_cached(self, done: tuple[Row, ...]) -> None:
        steps = [(row.keyed, row.stage.label) for row in done if row.keyed and row.keyed.step.files is not None]
        self._numbers = {id(keyed): (number, label) for number, (keyed, label) in enumerate(steps, 1)}
        for keyed, _ in steps:
            self._tell(keyed, BuildEventKind.CACHED)

    def step(self, keyed: KeyedStep, cached: bool | None, seconds: float) -> None:
        kind = BuildEventKind.STEP if cached is None else BuildEventKind.CACHED if cached else BuildEventKind.DONE
        self._tell(keyed, kind, seconds=seconds)

    def output(self, keyed: KeyedStep, data: bytes) -> None:
        self._tell(keyed, BuildEventKind.OUTPUT, data=data)

    def _tell(self, keyed: KeyedStep, kind: BuildEventKind, *, data: bytes = b"", seconds: float = 0.0) -> None:
        if self._output is None:
            return
        number, stage = self._numbers[id(keyed)]
        where = keyed.step.instruction.where
        event = BuildEvent(kind, keyed.step.text, where, number, len(self._numbers), stage, data, seconds)
        with self._guard:
            self._output(event)
