"""What became of the last append about a call: whether the state may be acted upon."""

from __future__ import annotations

from bokilog.functions.calls.tickets import NOT_BUSY, UNTIL_TOLD, Tickets


def begun() -> Tickets:
    tickets = Tickets()
    tickets.begin("t")
    return tickets


def test_nothing_is_known_of_what_nothing_was_appended_about() -> None:
    tickets = Tickets()
    assert tickets.busy_until("t", 0, 1.0) == NOT_BUSY
    assert not tickets.end("t", 5)
    assert not tickets.fail("t", again_s=2.0)
    assert "t" not in tickets and tickets.under_way_count == 0


def test_an_append_under_way_keeps_everybody_waiting() -> None:
    tickets = begun()
    assert tickets.busy_until("t", 100, 1.0) == UNTIL_TOLD
    assert "t" in tickets and tickets.under_way_count == 1


def test_once_answered_the_state_has_to_take_the_record_in() -> None:
    tickets = begun()
    assert tickets.end("t", 5)
    assert tickets.under_way_count == 0
    assert tickets.busy_until("t", 4, 1.0) == UNTIL_TOLD
    assert tickets.busy_until("t", 5, 1.0) == NOT_BUSY
    assert "t" not in tickets, "and then it is forgotten"


def test_an_append_that_failed_is_not_tried_again_at_once() -> None:
    tickets = begun()
    assert tickets.fail("t", again_s=2.0)
    assert tickets.busy_until("t", 0, 1.0) == 2.0
    assert tickets.busy_until("t", 0, 2.0) == NOT_BUSY


def test_an_answer_may_ask_for_patience_too() -> None:
    tickets = begun()
    tickets.end("t", 5, again_s=2.0)
    assert tickets.busy_until("t", 4, 3.0) == UNTIL_TOLD
    assert tickets.busy_until("t", 5, 1.0) == 2.0
    assert tickets.busy_until("t", 5, 3.0) == NOT_BUSY


def test_a_new_append_forgets_what_became_of_the_last() -> None:
    tickets = begun()
    tickets.fail("t", again_s=2.0)
    tickets.begin("t")
    tickets.end("t", 5)
    assert tickets.busy_until("t", 5, 1.0) == NOT_BUSY


def test_only_what_was_answered_is_forgotten_unless_all_of_it_is_to_be() -> None:
    tickets = begun()
    tickets.begin("answered")
    tickets.end("answered", 5)
    for ticket in ("t", "answered", "never"):
        tickets.forget_answered(ticket)
    assert "t" in tickets and "answered" not in tickets
    tickets.begin("answered")
    tickets.end("answered", 5)
    tickets.forget_all_answered()
    assert "t" in tickets and "answered" not in tickets
    tickets.forget("t")
    assert "t" not in tickets
