"""Deadlines, cancellations and lost callers."""

from __future__ import annotations

from bokilog.call_errors import CallCancelled, CallTimeout
from bokilog.errors import to_wire
from bokilog.functions.runtime.effects import KillWorker, LinkDown, WorkerEnded
from bokilog.functions.runtime.messages import Cancel, Flag, Start, WorkerExited
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import (
    CALLER,
    Sim,
    codes,
    done,
    one_worker,
    receivers,
    sent,
    short_calls,
    start,
)


def test_a_call_that_waits_past_its_deadline_is_told_so_and_never_starts() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1), start(2, deadline_ms=500))
    effects = sim.wait(0.6)
    assert codes(effects) == {2: CallTimeout.code}
    effects = sim.tell(("worker", worker), done(started[0].call))
    assert sent(effects, Start) == []


def test_a_worker_that_does_not_end_a_call_at_its_deadline_is_killed() -> None:
    sim = one_worker(timeout_s=1.0)
    worker, _ = sim.run(start(1))
    effects = sim.wait(1.6)
    assert codes(effects) == {1: CallTimeout.code}
    (killed,) = [each for each in effects if isinstance(each, KillWorker)]
    assert (killed.worker, killed.pid) == (worker, worker + 1_000)
    assert not killed.was_told and any(isinstance(each, WorkerEnded) for each in effects)


def test_what_else_a_stuck_worker_runs_gets_a_little_time() -> None:
    sim = one_worker(timeout_s=1.0, max_workers=1, max_concurrency=100)
    worker, started = sim.run(start(1), start(2, deadline_ms=60_000))
    effects = sim.wait(1.6)
    assert codes(effects) == {1: CallTimeout.code}
    assert not any(isinstance(each, KillWorker) for each in effects)
    effects = sim.tell(("worker", worker), done(started[1].call))
    assert codes(effects) == {2: None}
    assert [each.worker for each in effects if isinstance(each, KillWorker)] == [worker]


def test_a_waiting_call_is_cancelled_at_once_a_running_one_through_its_worker() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1), start(2))
    assert codes(sim.ask(Cancel(2, "no"))) == {2: CallCancelled.code}
    effects = sim.ask(Cancel(1, "no"))
    assert sent(effects, Cancel, ("worker", worker)) == [Cancel(started[0].call, "no")]
    assert codes(effects) == {}
    cancelled = to_wire(CallCancelled("f", "no"))
    effects = sim.tell(("worker", worker), done(started[0].call, error=cancelled))
    assert codes(effects) == {1: CallCancelled.code}


def test_a_cancelled_call_that_goes_on_is_answered_all_the_same() -> None:
    sim = one_worker()
    worker, started = sim.run(start(1))
    sim.ask(Cancel(1, "no"))
    assert codes(sim.wait(1.1)) == {1: CallCancelled.code}
    assert codes(sim.tell(("worker", worker), done(started[0].call))) == {}
    assert len(sent(sim.ask(start(2)), Start)) == 1, "its worker is of use again"


def test_calls_of_a_caller_that_is_gone_are_cancelled_but_durable_ones() -> None:
    sim = one_worker(max_workers=2)
    effects = sim.ask(start(1), start(2, flags=int(Flag.DURABLE)), start(3))
    sim.ready(*sim.forks(effects))
    effects = sim.give(LinkDown(CALLER))
    assert len(sent(effects, Cancel)) == 1
    assert sim.core.stats().waiting == {"f": 0}
    assert codes(effects) == {}


def test_calls_of_a_worker_that_is_gone_are_cancelled() -> None:
    sim = Sim({"f": FunctionOptions(), "g": FunctionOptions()})
    worker, _ = sim.run(start(1))
    child, _ = sim.run(start(1, "g", depth=1), source=("worker", worker))
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256))
    assert receivers(effects, Cancel) == [("worker", child)]


def test_a_call_ahead_is_cancelled_through_its_worker_and_ends_at_its_deadline() -> None:
    sim, worker, given = short_calls(4)
    effects = sim.ask(Cancel(2, "no"))
    assert sent(effects, Cancel, ("worker", worker)) == [Cancel(given[1].call, "no")]
    cancelled = to_wire(CallCancelled("f", "no"))
    effects = sim.tell(("worker", worker), done(given[1].call, error=cancelled))
    assert codes(effects) == {2: CallCancelled.code}
    effects = sim.ask(start(5, deadline_ms=20))
    assert codes(sim.wait(0.1)) == {5: CallTimeout.code}
