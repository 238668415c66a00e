"""Numbered requests: sent once, asked again, given up; no loop and no clock needed."""

from __future__ import annotations

import pytest

from bokilog.client import requests
from bokilog.client.requests import Query, Reply, Request, Requests, wait_ms
from bokilog.client.session import Session
from bokilog.client.units import NEVER
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    Closed,
    NodeUnreachable,
    NotReady,
    Overloaded,
    ReadTimeout,
    Trimmed,
    to_wire,
)
from bokilog.ids import START, Position, Term
from bokilog.messages import CancelRead, Propose, Read, RequestFailed, Tail, TailRequest
from bokilog.metalog import Proposer, Release

AT_9 = Position(Term(1), 9)


class Waiter:
    """A future without a loop."""

    def __init__(self) -> None:
        self.result: Reply | None = None
        self.error: BaseException | None = None
        self.cancelled = False

    def done(self) -> bool:
        return self.cancelled or self.result is not None or self.error is not None

    def set_result(self, result: Reply, /) -> None:
        assert not self.done()
        self.result = result

    def set_exception(self, exception: BaseException, /) -> None:
        assert not self.done()
        self.error = exception


class World:
    """Requests over a link that a test can cut."""

    def __init__(self) -> None:
        self.up = True
        self.sent: list[Query | CancelRead] = []
        self.session = Session("h")
        self.seen: list[tuple[int, Position]] = []
        self.requests = Requests(self.send, lambda space, at: self.seen.append((space, at)))

    def send(self, query: Query | CancelRead) -> bool:
        if self.up:
            self.sent.append(query)
        return self.up

    def ask(self, query: Query, *, deadline_s: float = 10, wait_until_s: float = 0) -> Waiter:
        waiter = Waiter()
        request = Request(
            query,
            waiter,
            self.session,
            deadline_s=deadline_s,
            timeout_s=10,
            wait_until_s=wait_until_s,
        )
        self.requests.ask(request, now_s=0)
        return waiter

    def tail(self, **options: float) -> tuple[int, Waiter]:
        number = self.requests.new_number()
        return number, self.ask(TailRequest(number, 0), **options)

    def fail(self, number: int, error: BokilogError, now_s: float = 0) -> float:
        return self.requests.failed(RequestFailed(number, to_wire(error), AT_9), now_s)


def test_an_answer_ends_its_request_and_moves_its_session_on() -> None:
    world = World()
    number, waiter = world.tail()
    reply = Tail(number, 0, AT_9, 50)
    world.requests.answered(reply, 0)
    world.requests.answered(reply, 0)  # once more: dropped
    assert waiter.result == reply
    assert world.session.position(0) == AT_9
    assert world.seen == [(0, AT_9)]
    assert len(world.requests) == 0


def test_an_error_moves_the_session_on_too() -> None:
    """Promise 5: a read returns its own token, also with errors."""
    world = World()
    number, waiter = world.tail()
    assert world.fail(number, Trimmed(5)) == NEVER
    assert isinstance(waiter.error, Trimmed)
    assert world.session.position(0) == AT_9


def test_a_lost_connection_only_costs_time() -> None:
    world = World()
    _, first = world.tail()
    world.up = False
    world.requests.down()
    _, second = world.tail()
    assert len(world.sent) == 1
    world.up = True
    world.requests.up(1)
    assert [query.request for query in world.sent] == [1, 1, 2]
    for number, waiter in ((1, first), (2, second)):
        world.requests.answered(Tail(number, 0, AT_9, 1), 1)
        assert waiter.result is not None


def test_an_unavailable_engine_is_asked_again_with_growing_pauses() -> None:
    world = World()
    number, waiter = world.tail()
    pauses, now_s = [], 0.0
    for _ in range(4):
        at_s = world.fail(number, NotReady("starting"), now_s)
        pauses.append(at_s - now_s)
        assert world.requests.tick(at_s - 0.001) <= at_s
        before = len(world.sent)
        world.requests.tick(at_s)
        assert len(world.sent) == before + 1
        now_s = at_s
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16])
    assert world.fail(number, Overloaded(0.5), now_s) == pytest.approx(now_s + 0.5)
    assert not waiter.done()


def test_the_last_reason_is_what_a_deadline_ends_with() -> None:
    world = World()
    number, waiter = world.tail(deadline_s=1)
    world.fail(number, NotReady("starting"), 0.99)  # no time to ask again
    assert isinstance(waiter.error, NotReady)
    number, waiter = world.tail(deadline_s=1)
    world.fail(number, NotReady("starting"), 0.5)
    world.requests.tick(1)
    assert isinstance(waiter.error, NotReady)


def test_deadlines_are_told_ahead_and_kept() -> None:
    world = World()
    _, late = world.tail(deadline_s=5)
    _, soon = world.tail(deadline_s=2)
    assert world.requests.tick(0) == 2
    assert world.requests.tick(2) == 5
    assert isinstance(soon.error, ReadTimeout) and isinstance(soon.error, TimeoutError)
    assert not late.done()
    assert world.requests.tick(5) == NEVER
    assert isinstance(late.error, ReadTimeout)


def test_a_change_that_was_sent_ends_as_unknown_and_one_that_was_not_definitely() -> None:
    world = World()
    entry = Release(0, 1, "h", Proposer(0, 0))
    sent = world.ask(Propose(world.requests.new_number(), 0, entry), deadline_s=1)
    world.requests.down()
    world.up = False
    unsent = world.ask(Propose(world.requests.new_number(), 0, entry), deadline_s=1)
    world.requests.tick(1)
    assert isinstance(sent.error, AppendUnknown) and not sent.error.definite
    assert isinstance(unsent.error, NodeUnreachable) and unsent.error.definite


def test_what_is_left_of_a_wait_is_asked_for_again() -> None:
    world = World()
    read = Read(1, 0, 5, None, 0, 9, 1, 1, False, START, 4_000, False, -1, -1)
    world.requests.new_number()
    world.ask(read, deadline_s=14, wait_until_s=4)
    world.requests.down()
    world.requests.up(3)
    assert [query.wait_ms for query in world.sent if isinstance(query, Read)] == [4_000, 1_000]
    assert (wait_ms(0, 5), wait_ms(NEVER, 5)) == (0, requests.WAIT_MS_MAX)


def test_requests_beyond_the_bound_wait_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "IN_FLIGHT_MAX", 2)
    world = World()
    for _ in range(5):
        world.tail()
    assert [query.request for query in world.sent] == [1, 2]
    world.requests.answered(Tail(1, 0, AT_9, 1), 0)
    world.requests.cancel(4, 0)  # it waits: nothing takes its place
    assert [query.request for query in world.sent] == [1, 2, 3]
    world.requests.cancel(3, 0)  # it was sent: the next one is
    assert [query.request for query in world.sent] == [1, 2, 3, 5]


def test_waits_for_records_keep_no_others_from_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "IN_FLIGHT_MAX", 2)
    world = World()
    read = Read(0, 0, 5, None, 0, 9, 1, 1, False, START, 4_000, False, -1, -1)
    for _ in range(4):
        world.ask(read._replace(request=world.requests.new_number()), wait_until_s=4)
    world.tail()
    assert [query.request for query in world.sent] == [1, 2, 5]


def test_a_cancelled_request_makes_room_and_its_answer_is_dropped() -> None:
    world = World()
    number, waiter = world.tail()
    world.requests.cancel(number, 0)
    world.requests.answered(Tail(number, 0, AT_9, 1), 0)
    assert not waiter.done()
    assert world.requests._in_flight == [0, 0]


def test_the_engine_hears_of_a_wait_that_nobody_waits_for_any_more() -> None:
    """Else it would keep the read, which counts among what it lets wait, until its time is over."""
    world = World()
    read = Read(1, 3, 5, None, 0, 9, 1, 1, False, START, 4_000, False, -1, -1)
    world.requests.new_number()
    world.ask(read, wait_until_s=4)
    tail, _ = world.tail()
    assert not world.requests.cancel(tail, 0), "its answer comes soon"
    assert world.requests.cancel(1, 0)
    assert world.sent[2:] == [CancelRead(3, 1)]
    assert not world.requests.cancel(1, 0)
    assert len(world.sent) == 3


def test_of_a_wait_that_is_not_with_the_engine_nobody_hears() -> None:
    world = World()
    read = Read(1, 3, 5, None, 0, 9, 1, 1, False, START, 4_000, False, -1, -1)
    world.requests.new_number()
    world.ask(read, wait_until_s=4)
    world.requests.down()
    assert not world.requests.cancel(1, 0)
    assert world.sent == [read]


def test_closing_ends_everything() -> None:
    world = World()
    waiters = [world.tail()[1] for _ in range(3)]
    world.requests.fail(lambda: Closed("the log"))
    assert all(isinstance(waiter.error, Closed) for waiter in waiters)


def test_closing_leaves_changes_that_were_sent_unknown() -> None:
    world = World()
    sent = world.ask(Propose(world.requests.new_number(), 0, Release(0, 5, "h", Proposer(0, 0))))
    world.up = False
    world.requests.down()
    unsent = world.ask(Propose(world.requests.new_number(), 0, Release(0, 5, "h", Proposer(0, 0))))
    world.requests.fail(lambda: Closed("the log"))
    assert isinstance(sent.error, AppendUnknown)
    assert isinstance(unsent.error, Closed)
