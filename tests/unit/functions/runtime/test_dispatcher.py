"""How calls get to the workers of a host, and what becomes of those that come back or are lost."""

from __future__ import annotations

from bokilog.call_errors import UnknownFunction, WorkerLost
from bokilog.errors import from_wire
from bokilog.functions.runtime.effects import Address, Disconnect, LinkDown, Reload
from bokilog.functions.runtime.messages import (
    Done,
    Flag,
    Item,
    Recall,
    Retire,
    Returned,
    Start,
    StartMany,
    WorkerExited,
)
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import (
    CALLER,
    Sim,
    codes,
    done,
    one_ahead_and_another_worker,
    one_worker,
    receivers,
    sent,
    short_calls,
    start,
)


def test_a_warm_worker_gets_the_next_call_at_once_with_what_is_left_of_the_time() -> None:
    sim = one_worker(timeout_s=3.0)
    worker, started = sim.run(start(1))
    sim.tell(("worker", worker), done(started[0].call))
    (again,) = sent(sim.ask(start(2)), Start, ("worker", worker))
    assert again.deadline_ms == 3_000
    (answer,) = sent(sim.tell(("worker", worker), done(again.call)), Done)
    assert not answer.cold


def test_the_worker_that_was_idle_last_is_taken_first() -> None:
    sim = one_worker(min_workers=2)
    first, second = sorted(each.number for each in sim.core._fleet.workers.values())
    sim.ready(first, second)
    assert receivers(sim.ask(start(1)), Start) == [("worker", second)]
    assert receivers(sim.ask(start(2)), Start) == [("worker", first)]


def test_calls_of_one_function_start_in_the_order_in_which_they_came() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(*(start(number) for number in range(1, 6)))
    order = []
    while started:
        begun = started.pop(0)
        order.append(begun.call_id)
        started += sent(sim.tell(("worker", worker), done(begun.call)), Start)
    assert order == ["id1", "id2", "id3", "id4", "id5"]


def test_calls_of_a_lost_worker_start_again_while_retries_allow() -> None:
    sim = one_worker(retries=1)
    worker, _ = sim.run(start(1))
    effects = sim.tell(("template", sim.template), WorkerExited(worker, worker + 1_000, 256 - 9))
    assert codes(effects) == {}
    (next_worker,) = sim.forks(effects)
    (again,) = sent(sim.ready(next_worker), Start)
    assert (again.attempt, again.call_id, bytes(again.payload)) == (1, "id1", b"x")
    died = WorkerExited(next_worker, next_worker + 1_000, 256 + 3)
    (answer,) = sent(sim.tell(("template", sim.template), died), Done)
    error = from_wire(answer.error)
    assert isinstance(error, WorkerLost) and "exit code 3" in str(error) and not error.definite


def test_a_lost_link_counts_once_the_exit_status_had_its_time() -> None:
    sim = one_worker()
    worker, _ = sim.run(start(1))
    assert codes(sim.give(LinkDown(("worker", worker)))) == {}
    effects = sim.wait(0.3)
    assert codes(effects) == {1: WorkerLost.code}


def test_a_stream_of_which_something_has_left_is_not_started_again() -> None:
    sim = one_worker(retries=5)
    worker, started = sim.run(start(1, flags=int(Flag.STREAM)))
    effects = sim.tell(("worker", worker), Item(started[0].call, 0, 0, b"i"))
    assert sent(effects, Item, CALLER) == [Item(1, 0, 0, b"i")]
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256))
    assert codes(effects) == {1: WorkerLost.code}


def test_every_call_of_a_fresh_function_has_a_worker_of_its_own() -> None:
    sim = one_worker(fresh=True, max_workers=2)
    effects = sim.ask(start(1), start(2), start(3))
    workers = sim.forks(effects)
    assert len(workers) == 2
    begun = sent(sim.ready(*workers), Start)
    effects = sim.tell(("worker", workers[0]), done(begun[0].call))
    assert sent(effects, Retire) == [Retire(workers[0])]
    assert sent(effects, Start) == []
    (third,) = sim.forks(effects)
    assert len(sent(sim.ready(third), Start)) == 1


def test_recursion_through_one_function_does_not_wait_for_itself() -> None:
    sim = one_worker(max_workers=1)
    worker, _ = sim.run(start(1))
    for depth in range(1, 10):
        parent: Address = ("worker", worker)
        (worker,) = sim.forks(sim.ask(start(depth, depth=depth), source=parent))
        assert len(sent(sim.ready(worker), Start)) == 1


def test_a_call_that_waits_for_a_function_that_is_gone_is_told() -> None:
    sim = Sim({"f": FunctionOptions(), "g": FunctionOptions()})
    sim.ask(start(1, "g"))
    sim.give(Reload("m.py"))
    assert codes(sim.load({"f": FunctionOptions()})) == {1: UnknownFunction.code}


def test_ten_thousand_calls_wait_in_order() -> None:
    sim = one_worker(max_workers=2, queue_limit=10_000)
    effects = sim.ask(StartMany(1, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 10_000))
    assert codes(effects) == {}
    effects = sim.ready(*sim.forks(effects))
    assert [each.call_id for each in sent(effects, Start)] == ["id", "id.1"]
    assert sim.core.stats().waiting == {"f": 9_998}


def test_a_busy_worker_is_given_short_calls_ahead_and_begins_them_in_order() -> None:
    sim, worker, given = short_calls(9)
    assert [each.call_id for each in given] == ["id1", "id2", "id3", "id4", "id5"]
    assert sim.core.stats().waiting == {"f": 8}, "only one has begun"
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given[:2]))
    assert sent(effects, Start) == [], "there is enough for it to do"
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given[2:4]))
    assert [each.call_id for each in sent(effects, Start)] == ["id6", "id7", "id8", "id9"]


def test_long_calls_are_not_given_ahead() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1_000))
    sim.now_s += 0.1
    sim.tell(("worker", worker), done(started[0].call))
    assert len(sent(sim.ask(start(1), start(2), start(3)), Start)) == 1


def test_what_is_ahead_in_a_worker_goes_to_another_one_that_has_room() -> None:
    sim, worker, other, given = one_ahead_and_another_worker()
    effects = sim.tell(("worker", worker), Returned(given[1].call))
    assert [each.call_id for each in sent(effects, Start, ("worker", other))] == ["id2"]


def test_what_had_begun_when_it_was_to_be_taken_back_is_not_started_again() -> None:
    sim, worker, _, given = one_ahead_and_another_worker()
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given))
    assert codes(effects) == {1: None, 2: None}
    assert sent(effects, Start) == []


def test_a_worker_that_gives_back_what_it_runs_by_the_books_is_disconnected() -> None:
    sim, worker, _, given = one_ahead_and_another_worker()
    sim.tell(("worker", worker), done(given[0].call))
    effects = sim.tell(("worker", worker), Returned(given[1].call))
    assert [each.peer for each in effects if isinstance(each, Disconnect)] == [("worker", worker)]
    assert sent(effects, Start) == [], "it would run without its arguments: they are let go"


def test_calls_that_make_calls_have_none_behind_them() -> None:
    sim, worker, given = short_calls(5)
    effects = sim.ask(start(1, depth=1), source=("worker", worker))
    assert [each.call for each in sent(effects, Recall)] == [
        each.call for each in reversed(given[1:])
    ]
    sim.tell(("worker", worker), *(Returned(each.call) for each in reversed(given[1:])))
    effects = sim.tell(("worker", worker), done(given[0].call))
    assert [each.call_id for each in sent(effects, Start)] == ["id2"]


def test_what_was_ahead_in_a_lost_worker_starts_again_though_nothing_may_run_twice() -> None:
    sim, worker, given = short_calls(3)
    sim.give(LinkDown(("worker", worker), whole=True))
    died = WorkerExited(worker, 1, 256 - 9)
    effects = sim.tell(("template", sim.template), died)
    assert codes(effects) == {1: WorkerLost.code}
    again = sent(sim.ready(*sim.core._fleet.workers), Start)
    assert [(each.call_id, each.attempt) for each in again[:2]] == [("id2", 0), ("id3", 0)]
    assert [each.call_id for each in given] == ["id1", "id2", "id3"]


def test_a_broken_link_leaves_open_what_had_begun() -> None:
    sim, worker, _ = short_calls(3)
    sim.give(LinkDown(("worker", worker)))
    assert codes(sim.wait(0.3)) == {1: WorkerLost.code, 2: WorkerLost.code, 3: WorkerLost.code}
