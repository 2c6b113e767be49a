"""The walker: order, journal, failures, cancellation, secrets. Places here are plain functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bayplan.errors import BayplanError
from bayplan.execute.events import Event, Finished, Report, Result, Started
from bayplan.execute.port import Feedback, Order, Outcome, OutcomeUnknown, Stale
from bayplan.execute.walk import Cancel, Walk
from bayplan.plan.model import Action, Condition, Operation, Plan, Ref, SecretRef, Template, Value
from bayplan.records import replace
from bayplan.state import Phase, State

PLACE = "embedded:/r"


class Place:
    """A place whose effect is a function; remembers what it was told."""

    def __init__(self, effect: Callable[[Order, Feedback], Outcome]) -> None:
        self.effect = effect
        self.orders: list[Order] = []

    def perform(self, order: Order, feedback: Feedback) -> Outcome:
        self.orders.append(order)
        return self.effect(order, feedback)

    def digest(self, value: Value) -> str:
        return f"d{len(str(value))}"


def operation(
    number: int, address: str, after: tuple[int, ...] = (), inputs: Mapping[str, Value] | None = None
) -> Operation:
    return Operation(
        number,
        address,
        address.partition(".")[0],
        PLACE,
        Action.CREATE,
        "not there yet",
        inputs=inputs or {},
        after=after,
    )


def done(order: Order, _: Feedback) -> Outcome:
    return Outcome(uid=order.uid, id=f"id-{order.operation.address}", outputs={"name": order.operation.address.lower()})


def walk(
    tmp_path: Path,
    operations: list[Operation],
    effect: Callable[[Order, Feedback], Outcome] = done,
    *,
    secrets: Callable[[str], str] = lambda name: f"value of {name}",
    cancel: Cancel | None = None,
    parallelism: int = 4,
) -> tuple[Report, State, list[Event], Place]:
    state = State(tmp_path, "s")
    run = state.start_run("apply", "digest", "tester")
    events: list[Event] = []
    place = Place(effect)
    walker = Walk(
        plan=Plan("s", tuple(operations)),
        run=run,
        state=state,
        targets={PLACE: place},
        secrets=secrets,
        normalise=lambda kind, inputs: inputs,
        sink=events.append,
        parallelism=parallelism,
        cancel=cancel or Cancel(),
    )
    return walker.go(), state, events, place


def test_an_operation_starts_after_everything_it_waits_for(tmp_path: Path) -> None:
    plan = [operation(1, "Network.n"), operation(2, "Image.i"), operation(3, "Container.c", (1, 2))]
    report, _, events, _ = walk(tmp_path, plan)
    assert report.ok
    order = [(type(event).__name__, event.operation.number) for event in events]
    assert order.index(("Started", 3)) > order.index(("Finished", 1))
    assert order.index(("Started", 3)) > order.index(("Finished", 2))


def test_independent_operations_run_side_by_side(tmp_path: Path) -> None:
    meeting = threading.Barrier(3, timeout=10)

    def effect(order: Order, feedback: Feedback) -> Outcome:
        meeting.wait()
        return done(order, feedback)

    report, *_ = walk(tmp_path, [operation(n, f"Volume.v{n}") for n in (1, 2, 3)], effect)
    assert report.ok


def test_parallelism_bounds_how_many_run_at_once(tmp_path: Path) -> None:
    at_work, most, guard = [0], [0], threading.Lock()

    def effect(order: Order, feedback: Feedback) -> Outcome:
        with guard:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        threading.Event().wait(0.005)
        with guard:
            at_work[0] -= 1
        return done(order, feedback)

    walk(tmp_path, [operation(n, f"Volume.v{n}") for n in range(1, 21)], effect, parallelism=2)
    assert most[0] == 2


def test_who_waits_for_a_start_begins_while_health_is_waited_for(tmp_path: Path) -> None:
    met = threading.Barrier(2, timeout=10)

    def effect(order: Order, feedback: Feedback) -> Outcome:
        if order.operation.number == 1:
            feedback.started({"name": "db-1"})
            met.wait()
        elif order.operation.number == 2:
            assert order.inputs == {"env": {"DB": "db-1"}}, "its outputs are there already"
            met.wait()
        return done(order, feedback)

    after = replace(
        operation(2, "Container.app", (1,), {"env": {"DB": Ref("Container.db", "name")}}),
        waits_for={"Container.db": Condition.STARTED},
    )
    patient = replace(operation(3, "Container.web", (1,)), waits_for={"Container.db": Condition.HEALTHY})
    report, _, events, _ = walk(tmp_path, [operation(1, "Container.db"), after, patient], effect)
    assert report.ok
    order = [(type(event).__name__, event.operation.number) for event in events]
    assert order.index(("Started", 3)) > order.index(("Finished", 1)) > order.index(("Started", 2))


def test_what_began_early_ends_as_it_ends_when_its_dependency_never_gets_healthy(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def effect(order: Order, feedback: Feedback) -> Outcome:
        if order.operation.number == 1:
            feedback.started({})
            assert begun.wait(10)
            ended.set()
            raise BayplanError("unhealthy", "it is not healthy")
        if order.operation.number == 2:
            begun.set()
            assert ended.wait(10)
        return done(order, feedback)

    early = replace(operation(2, "Container.app", (1,)), waits_for={"Container.db": Condition.STARTED})
    patient = replace(operation(3, "Container.web", (1,)), waits_for={"Container.db": Condition.HEALTHY})
    later = operation(4, "Container.last", (2,))
    report, state, _, _ = walk(tmp_path, [operation(1, "Container.db"), early, patient, later], effect)
    assert [one.result for one in report.finished] == [Result.FAILED, Result.OK, Result.SKIPPED, Result.OK]
    assert {address for _, address in state.recorded()} == {"Container.app", "Container.last"}


def test_a_failure_leaves_out_its_dependants_and_nothing_else(tmp_path: Path) -> None:
    def effect(order: Order, feedback: Feedback) -> Outcome:
        if order.operation.number == 1:
            raise BayplanError("no", "it does not work")
        return done(order, feedback)

    plan = [
        operation(1, "Image.a"),
        operation(2, "Container.a", (1,)),
        operation(3, "Container.z", (2,)),
        operation(4, "Image.b"),
    ]
    report, state, _, _ = walk(tmp_path, plan, effect)
    assert [one.result for one in report.finished] == [Result.FAILED, Result.SKIPPED, Result.SKIPPED, Result.OK]
    assert [
        (step.address, step.phase, step.error) for step in sorted(state.steps(1), key=lambda step: step.number)
    ] == [
        ("Image.a", Phase.FAILED, "it does not work"),
        ("Image.b", Phase.OK, ""),
    ]
    assert set(state.recorded()) == {(PLACE, "Image.b")}


@pytest.mark.parametrize(
    ("raised", "result", "phase"),
    [
        (Stale("Image.a", "its content differs"), Result.STALE, Phase.FAILED),
        (OutcomeUnknown("timeout", "no answer"), Result.UNKNOWN, Phase.UNKNOWN),
        (BayplanError("cancelled", "stopped"), Result.CANCELLED, Phase.CANCELLED),
        (ZeroDivisionError("a bug"), Result.UNKNOWN, Phase.UNKNOWN),
    ],
)
def test_each_way_to_end_is_journalled_for_what_it_is(
    tmp_path: Path, raised: Exception, result: Result, phase: Phase
) -> None:
    def effect(order: Order, feedback: Feedback) -> Outcome:
        raise raised

    report, state, _, _ = walk(tmp_path, [operation(1, "Image.a")], effect)
    assert report.finished[0].result is result
    assert state.steps(1)[0].phase is phase


def test_a_begin_is_durable_before_its_effect(tmp_path: Path) -> None:
    seen: list[Phase] = []

    def effect(order: Order, feedback: Feedback) -> Outcome:
        other = State(tmp_path, "s")
        seen.extend(step.phase for step in other.steps(1))
        other.close()
        return done(order, feedback)

    walk(tmp_path, [operation(1, "Image.a")], effect)
    assert seen == [Phase.BEGIN]


def test_outputs_of_one_operation_are_inputs_of_the_next(tmp_path: Path) -> None:
    inputs = {"networks": [Ref("Network.n", "name")], "label": Template(("net=", Ref("Network.n", "name")))}
    _, _, _, place = walk(tmp_path, [operation(1, "Network.n"), operation(2, "Container.c", (1,), inputs)])
    assert place.orders[-1].inputs == {"networks": ["network.n"], "label": "net=network.n"}


def test_a_secret_reaches_the_effect_and_nothing_else(tmp_path: Path) -> None:
    def effect(order: Order, feedback: Feedback) -> Outcome:
        feedback.progress(f"using {order.inputs['env']['TOKEN']}")
        feedback.output(b"TOKEN=hunter2hunter2\n")
        raise BayplanError("no", "the program said hunter2hunter2", hint="not hunter2hunter2")

    inputs = {"env": {"TOKEN": SecretRef("token"), "PLAIN": "x"}}
    report, state, events, place = walk(
        tmp_path, [operation(1, "Container.c", (), inputs)], effect, secrets=lambda _: "hunter2hunter2"
    )
    assert place.orders[0].inputs["env"]["TOKEN"] == "hunter2hunter2"
    assert place.orders[0].secrets == {"env.TOKEN"}
    error = report.finished[0].error
    assert error is not None
    told = error.render() + "".join(str(event) for event in events if not isinstance(event, Started))
    assert "hunter2" not in told
    state.close()
    assert all(b"hunter2" not in file.read_bytes() for file in tmp_path.iterdir())


def test_recorded_values_leave_secrets_out(tmp_path: Path) -> None:
    inputs = {"env": {"TOKEN": SecretRef("token"), "PLAIN": "x"}, "user": SecretRef("who"), "memory": 5}
    _, state, _, _ = walk(tmp_path, [operation(1, "Container.c", (), inputs)])
    row = state.recorded()[PLACE, "Container.c"]
    assert row.values == {"env": {"TOKEN": None, "PLAIN": "x"}, "memory": 5}
    assert set(row.fields) == {"env", "user", "memory"}


def test_cancelling_starts_nothing_new_and_lets_what_runs_end(tmp_path: Path) -> None:
    cancel = Cancel()

    def effect(order: Order, feedback: Feedback) -> Outcome:
        cancel.set()
        assert feedback.cancelled
        return done(order, feedback)

    report, state, _, _ = walk(
        tmp_path, [operation(1, "Image.a"), operation(2, "Container.a", (1,))], effect, cancel=cancel, parallelism=1
    )
    assert [one.result for one in report.finished] == [Result.OK, Result.CANCELLED]
    assert report.cancelled
    assert not state.pending()


def test_what_was_begun_ahead_of_its_turn_does_not_start_after_a_cancellation(tmp_path: Path) -> None:
    cancel = Cancel()

    def effect(order: Order, feedback: Feedback) -> Outcome:
        cancel.set()
        return done(order, feedback)

    plan = [operation(n, f"Volume.v{n}") for n in range(1, 6)]
    report, state, events, place = walk(tmp_path, plan, effect, cancel=cancel, parallelism=1)
    assert [one.result for one in report.finished] == [Result.OK, *[Result.CANCELLED] * 4]
    assert len(place.orders) == 1
    assert sum(isinstance(event, Started) for event in events) == 1
    assert not state.pending(), "each begin has its end in the journal"


def test_a_thousand_operations_end_in_order_of_their_plan(tmp_path: Path) -> None:
    plan = [operation(n, f"Volume.v{n}", (n - 7,) if n > 7 else ()) for n in range(1, 1001)]
    report, state, events, _ = walk(tmp_path, plan)
    assert report.ok
    assert [one.operation.number for one in report.finished] == list(range(1, 1001))
    assert len(state.recorded()) == 1000
    assert sum(isinstance(event, Finished) for event in events) == 1000
