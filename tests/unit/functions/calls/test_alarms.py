"""When a host looks at something again: one time per ticket, and one wish at the shell."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from bokilog.functions.calls.alarms import Alarms


def due(alarms: Alarms, now_s: float) -> list[str]:
    found = []
    while (ticket := alarms.pop_due(now_s)) is not None:
        found.append(ticket)
    return found


def test_tickets_come_when_their_time_has_the_earliest_first() -> None:
    alarms = Alarms()
    for ticket, at_s in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        alarms.set(ticket, at_s)
    assert due(alarms, 0.9) == []
    assert due(alarms, 2.0) == ["a", "b"]
    assert due(alarms, 2.0) == [], "once"
    assert due(alarms, 9.0) == ["c"]


def test_the_last_time_that_was_set_is_the_one() -> None:
    alarms = Alarms()
    alarms.set("a", 1.0)
    alarms.set("a", 5.0)
    assert due(alarms, 4.0) == []
    alarms.set("a", 2.0)
    assert due(alarms, 9.0) == ["a"]


def test_what_was_dropped_wakes_nobody() -> None:
    alarms = Alarms()
    alarms.set("a", 1.0)
    alarms.drop("a")
    alarms.drop("never set")
    assert alarms.pop_wish() is None
    assert due(alarms, 9.0) == []


def test_the_shell_is_asked_only_for_an_earlier_time_than_before() -> None:
    alarms = Alarms()
    assert alarms.pop_wish() is None
    alarms.set("a", 5.0)
    assert alarms.pop_wish() == 5.0
    alarms.set("b", 7.0)
    assert alarms.pop_wish() is None
    alarms.set("c", 3.0)
    assert alarms.pop_wish() == 3.0
    alarms.rang()
    assert due(alarms, 3.0) == ["c"]
    assert alarms.pop_wish() == 5.0, "it is asked anew once it has rung"


STEPS = st.tuples(
    st.sampled_from(["set", "drop", "due"]), st.sampled_from("abcd"), st.integers(0, 9)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_they_are_a_dictionary_of_times(steps: list[tuple[str, str, int]]) -> None:
    alarms, times = Alarms(), dict[str, float]()
    for step, ticket, at_s in steps:
        if step == "set":
            alarms.set(ticket, at_s)
            times[ticket] = at_s
        elif step == "drop":
            alarms.drop(ticket)
            times.pop(ticket, None)
        else:
            found = due(alarms, at_s)
            assert found == sorted(
                [each for each in times if times[each] <= at_s],
                key=lambda each: (times[each], each),
            )
            times = {each: time_s for each, time_s in times.items() if each not in found}
        alarms.rang()
        assert alarms.pop_wish() == min(times.values(), default=None)
