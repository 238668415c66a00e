"""Calls that came ahead begin in their order, and no more at once than may."""

from __future__ import annotations

from bokilog.functions.runtime.messages import Credit
from bokilog.functions.runtime.turns import Turns
from tests.unit.functions.runtime.hosts import start


def test_as_many_begin_as_may_and_the_others_once_these_are_over() -> None:
    turns = Turns(2)
    assert [turns.came(start(call), 1.0) for call in (1, 2, 3, 4)] == [True, True, False, False]
    assert turns.next() is None
    turns.over()
    begun = turns.next()
    assert begun is not None and (begun.start.call, begun.came_s) == (3, 1.0)
    assert turns.next() is None and turns.waiting_count == 1


def test_who_comes_while_others_wait_waits_behind_them() -> None:
    turns = Turns(1)
    turns.came(start(1), 0.0)
    turns.came(start(2), 0.0)
    turns.over()
    assert not turns.came(start(3), 0.0)
    begun = turns.next()
    assert begun is not None and begun.start.call == 2


def test_what_was_given_up_does_not_begin_and_what_has_begun_is_not_given_up() -> None:
    turns = Turns(1)
    for call in (1, 2, 3):
        turns.came(start(call), 0.0)
    assert [turns.give_up(call) for call in (1, 2, 2, 9)] == [False, True, False, False]
    turns.over()
    begun = turns.next()
    assert begun is not None and begun.start.call == 3


def test_no_call_is_given_back_whose_turn_has_come_though_it_has_not_begun() -> None:
    turns = Turns(2)
    for call in (1, 2, 3, 4, 5):
        turns.came(start(call), 0.0)
    turns.over()
    assert [turns.give_back(call) for call in (1, 3, 4, 4)] == [False, False, True, False]
    turns.over()
    assert not turns.give_back(5), "the turn of the call that was before it went on to it"
    begun = [turns.next(), turns.next()]
    assert [each.start.call for each in begun if each is not None] == [3, 5]
    assert turns.next() is None


def test_the_turn_of_a_call_that_is_given_up_is_the_next_ones() -> None:
    turns = Turns(1)
    for call in (1, 2, 3):
        turns.came(start(call), 0.0)
    turns.over()
    assert turns.give_up(2)
    assert not turns.give_back(3)


def test_credit_of_a_stream_that_waits_is_kept_for_it() -> None:
    turns = Turns(1)
    turns.came(start(1), 0.0)
    turns.came(start(2), 0.0)
    assert [turns.credit(Credit(call, 5)) for call in (1, 2, 2)] == [False, True, True]
    turns.over()
    begun = turns.next()
    assert begun is not None and begun.credit == 10


def test_arguments_that_wait_do_not_keep_the_read_that_they_came_with() -> None:
    turns = Turns(1)
    turns.came(start(1), 0.0)
    turns.came(start(2, payload=memoryview(b"abc")[1:]), 0.0)
    turns.over()
    begun = turns.next()
    assert begun is not None and begun.start.payload == b"bc"
    assert type(begun.start.payload) is bytes
