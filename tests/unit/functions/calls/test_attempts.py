"""The attempts that a host claims, runs or has run, and the room for more."""

from __future__ import annotations

import pytest

from bokilog.functions.calls.attempts import At, Attempts
from bokilog.functions.calls.records import Retried
from bokilog.functions.calls.state import OpenCall
from tests.unit.functions.calls.world import spawned


def call(number: int, function: str = "f") -> OpenCall:
    return OpenCall(spawned(f"{number:016x}", function=function), number, 0)


def begin(attempts: Attempts, count: int, function: str = "f") -> None:
    for _ in range(count):
        attempts.begin(call(len(attempts) + 1, function), extend_s=1.0)


def test_an_attempt_begins_as_claiming_with_the_number_of_its_call() -> None:
    attempts, again = Attempts(), call(1)
    again.attempt = 3
    begun = attempts.begin(again, extend_s=7.0)
    assert (begun.function, begun.number, begun.extend_s) == ("f", 3, 7.0)
    assert (begun.at, begun.outcome) == (At.CLAIMING, None)
    assert attempts.get(again.call_id) is begun
    assert list(attempts) == [again.call_id] and again.call_id in attempts
    attempts.check()


def test_what_is_over_has_an_outcome() -> None:
    attempts = Attempts()
    begun = attempts.begin(call(1), extend_s=1.0)
    outcome = Retried(call(1).call_id, "a/1", 0, 0, [])
    begun.end(outcome)
    assert (begun.at, begun.outcome) == (At.OVER, outcome)
    attempts.check()


def test_one_function_has_three_quarters_of_the_room_and_at_least_one_place() -> None:
    attempts = Attempts()
    begin(attempts, 5)
    assert attempts.has_room("f", 8)
    begin(attempts, 1)
    assert not attempts.has_room("f", 8)
    assert attempts.has_room("g", 8)
    assert attempts.has_room("g", 1)


def test_a_forgotten_attempt_makes_room() -> None:
    attempts = Attempts()
    begun = attempts.begin(call(1), extend_s=1.0)
    assert not attempts.has_room("f", 1)
    assert attempts.forget(call(1).call_id) is begun
    assert attempts.forget(call(1).call_id) is None
    assert attempts.has_room("f", 1) and len(attempts) == 0
    attempts.check()


def test_a_count_that_is_wrong_is_found() -> None:
    attempts = Attempts()
    begun = attempts.begin(call(1), extend_s=1.0)
    begun.at = At.OVER
    with pytest.raises(AssertionError):
        attempts.check()
