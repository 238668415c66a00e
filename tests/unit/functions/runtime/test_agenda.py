from __future__ import annotations

from hypothesis import given, settings
from hypothesis.strategies import booleans, floats, integers, lists, tuples

from bokilog.functions.runtime.agenda import STEP_S, Agenda


def test_what_is_due_comes_in_order_and_once() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.set("b", 2.0)
    agenda.set("a", 1.0)
    agenda.set("c", 3.0)
    assert agenda.next_s() == 1.0
    assert agenda.take(2.0) == ["a", "b"]
    assert agenda.take(2.0) == []
    assert agenda.next_s() == 3.0


def test_only_the_time_set_last_counts() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.set("a", 1.0)
    agenda.set("a", 5.0)
    assert agenda.take(4.0) == [] and "a" in agenda
    agenda.drop("a")
    agenda.drop("a")
    assert agenda.next_s() is None and len(agenda) == 0


def test_many_calls_that_are_over_leave_nothing_behind() -> None:
    agenda: Agenda[int] = Agenda()
    for number in range(10_000):
        agenda.set(number, 60.0 + number * 1e-5)
        agenda.drop(number)
    assert agenda.next_s() is None
    assert agenda._heap == [] and agenda._steps == {}


@settings(max_examples=50)
@given(lists(tuples(integers(0, 5), floats(0.0, 10.0), booleans()), max_size=30))
def test_it_does_what_a_plain_table_does(steps: list[tuple[int, float, bool]]) -> None:
    agenda: Agenda[int] = Agenda()
    table: dict[int, float] = {}
    for key, due_s, dropped in steps:
        if dropped:
            agenda.drop(key)
            table.pop(key, None)
        else:
            agenda.set(key, due_s)
            table[key] = due_s
    for now_s in (2.5, 5.0, 11.0):
        took = set(agenda.take(now_s))
        assert all(table[key] <= now_s for key in took), "nothing is due early"
        for key in took:
            del table[key]
        assert all(due_s > now_s - 2 * STEP_S for due_s in table.values())
