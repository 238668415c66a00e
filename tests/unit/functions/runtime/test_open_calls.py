"""Who is told how a call ended, and in whose numbers."""

from __future__ import annotations

from bokilog.call_errors import CallCancelled, CallTimeout
from bokilog.errors import to_wire
from bokilog.functions.runtime.agenda import Agenda, Key
from bokilog.functions.runtime.effects import Address, CallOver, Effect
from bokilog.functions.runtime.messages import Done
from bokilog.functions.runtime.open_calls import OpenCalls, as_start
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.pool import Call, Phase, Pool, Worker
from tests.unit.functions.runtime.hosts import CALLER, codes, done, sent


class Calls:
    """Open calls under test, and what they say."""

    def __init__(self) -> None:
        self.out: list[Effect] = []
        self.agenda: Agenda[Key] = Agenda()
        self.open = OpenCalls(grace_s=0.5, agenda=self.agenda, out=self.out)

    def call(self, number: int, *, asked: int, source: Address = CALLER) -> Call:
        return Call(
            number,
            source=source,
            asked=asked,
            function="f",
            encoding=0,
            depth=0,
            attempt=0,
            flags=0,
            call_id=f"id{asked}",
            token="",
            trace="",
            payload=b"x",
            received_s=10.0,
            deadline_s=12.0,
        )

    def add(self, number: int, *, asked: int) -> Call:
        call = self.call(number, asked=asked)
        assert self.open.add(call)
        self.open.check()
        return call


def test_an_end_goes_to_the_source_in_its_own_number() -> None:
    calls = Calls()
    calls.open.end(calls.add(5, asked=1), done(5), 11.0)
    assert codes(calls.out) == {1: None}
    assert [each for each in calls.out if isinstance(each, CallOver)] == [
        CallOver("id1", "f", [], 1.0, False)
    ]
    assert not calls.open.by_number and not calls.open.by_source and not len(calls.agenda)


def test_a_source_is_told_once_and_the_end_that_comes_later_is_only_the_calls() -> None:
    calls = Calls()
    call = calls.add(5, asked=1)
    calls.open.fail_early(call, CallTimeout("f", 2.0), 12.5)
    assert calls.open.asked(CALLER, 1) is None and calls.open.by_number == {5: call}
    calls.open.end(call, done(5), 13.0)
    calls.open.fail(call, CallCancelled("f", "no"), 14.0)
    assert [each.call for each in sent(calls.out, Done)] == [1]
    assert calls.open.outcomes == {("f", "CallTimeout"): 1}
    assert call.phase is Phase.OVER and not calls.open.by_number


def test_a_number_that_its_source_has_in_use_is_not_taken_and_changes_nothing() -> None:
    calls = Calls()
    first = calls.add(5, asked=1)
    assert not calls.open.add(calls.call(6, asked=1))
    assert calls.open.by_number == {5: first} and calls.open.asked(CALLER, 1) is first
    calls.open.check()


def test_a_source_that_is_gone_is_told_nothing_and_its_calls_are_counted_all_the_same() -> None:
    calls = Calls()
    first, second = calls.add(5, asked=1), calls.add(6, asked=2)
    assert calls.open.forget_source(CALLER) == [first, second]
    assert calls.open.forget_source(CALLER) == []
    calls.open.end(first, done(5), 11.0)
    calls.open.fail(second, CallCancelled("f", "its caller is gone"), 11.0)
    assert not sent(calls.out, Done) and not calls.open.by_number
    assert [each for each in calls.out if isinstance(each, CallOver)] == [
        CallOver("id1", "f", [], 1.0, False),
        CallOver("id2", "f", to_wire(CallCancelled("f", "its caller is gone")), 1.0, False),
    ]
    assert calls.open.outcomes == {("f", "ok"): 1, ("f", "CallCancelled"): 1}


def test_an_end_of_which_nobody_is_told_is_counted_once() -> None:
    calls = Calls()
    call = calls.add(5, asked=1)
    calls.open.forget_source(CALLER)
    calls.open.fail_early(call, CallCancelled("f", "it goes on"), 11.0)
    calls.open.end(call, done(5), 11.5)
    assert calls.open.outcomes == {("f", "CallCancelled"): 1}
    assert len([each for each in calls.out if isinstance(each, CallOver)]) == 1


def test_calls_of_a_worker_are_its_children_until_they_are_over() -> None:
    calls = Calls()
    worker = Worker(3, Pool("f", FunctionOptions()), template=1, started_s=0.0)
    call = calls.call(5, asked=1, source=("worker", 3))
    call.parent = worker
    assert calls.open.add(call) and worker.children == 1
    calls.open.forget(call)
    calls.open.forget(call)
    assert worker.children == 0


def test_another_host_gets_a_grace_more_to_say_that_a_call_is_over() -> None:
    calls = Calls()
    call = calls.add(5, asked=1)
    assert calls.open.last_s(call) == 12.5
    call.peer = "host-2"
    assert calls.open.last_s(call) == 13.0


def test_whoever_runs_a_call_is_told_this_hosts_number_and_the_time_that_is_left() -> None:
    calls = Calls()
    call = calls.add(5, asked=1)
    assert (as_start(call, 10.5).call, as_start(call, 10.5).deadline_ms) == (5, 1_500)
    assert as_start(call, 99.0).deadline_ms == 1, "none would mean that there is no deadline"
