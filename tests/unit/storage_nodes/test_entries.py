"""Entries of a metalog wait in order, and of a term none past its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.ids import START, Position, Term
from bokilog.messages import FetchRuns, FollowMetalog, Runs
from bokilog.metalog import Proposer, Run, Trim
from bokilog.storage_nodes import entries as module
from bokilog.storage_nodes.entries import Entries
from bokilog.storage_nodes.membership import Membership
from bokilog.view import End
from tests.protocol.storage_rig import NODE, PRIMARY, SPACE, at, messages, view

ENTRY = Trim(1000, 7, None, 1, Proposer(1, 1))


def run(first: int, count: int, term: int = 1) -> Run:
    return Run(SPACE, Term(term), first, (ENTRY,) * count)


def end(count: int, term: int = 1) -> End:
    return replace(view().end(SPACE), position=Position(Term(term), count))


def entries(*, keeps_runs: bool = False) -> Entries:
    membership = Membership(NODE, view().space(SPACE))
    found = Entries(membership, START, keeps_runs=keeps_runs)
    found.end_term(Term(1), end(0, term=0))
    found.stand_at(at(0))
    return found


def counts(found: Entries) -> list[int]:
    return [position.count for position, _ in found.waiting]


def test_runs_wait_in_order_whichever_comes_first() -> None:
    found = entries()
    assert found.take(run(2, 2)) and counts(found) == []
    assert found.take(run(0, 2)) and counts(found) == [1, 2, 3, 4]
    assert found.known_until == at(4)


def test_the_metalog_is_asked_for_from_what_is_known() -> None:
    found = entries()
    found.take(run(0, 3))
    (follow,) = messages([found.follow()], FollowMetalog)
    assert found.follow().to == PRIMARY
    assert follow == FollowMetalog(SPACE, at(3), 0)


def test_p13_entries_past_the_end_of_a_term_are_past_it_and_of_a_later_one_wait() -> None:
    found = entries()
    found.take(run(0, 3))
    assert found.are_past(Term(2), end(2)) and not found.are_past(Term(2), end(3))
    found.end_term(Term(2), end(3))
    found.take(run(3, 1, term=2))
    assert [position for position, _ in found.waiting][-1] == at(4, term=2)


def test_p16_a_fold_past_the_end_of_its_term_will_not_do() -> None:
    found = entries()
    found.end_term(Term(2), end(3))
    assert found.end_before(at(4)) and not found.end_before(at(3))
    assert not found.end_before(at(9, term=2)), "that term goes on, as far as is known"


def test_p11_a_term_that_had_ended_later_ends_where_the_next_view_says() -> None:
    found = entries()
    found.end_term(Term(2), end(5))
    found.end_term(Term(3), end(2, term=2))
    ended = found.end_of(Term(1))
    assert ended is not None and ended.position == at(2)


@pytest.mark.parametrize("accepted", [True, False])
def test_p15_so_do_the_seqnums_that_it_gave_and_that_a_person_has_given_up(accepted: bool) -> None:
    """Whoever reads one of them is told that it is lost, not that there is none. Simulator, seed
    30014 with losses."""
    found = entries()
    found.end_term(Term(2), end(5))
    found.end_term(Term(3), replace(end(2, term=2), given_up=accepted))
    ended = found.end_of(Term(1))
    assert ended is not None and ended.given_up is accepted
    found.end_term(Term(4), end(2, term=3))
    ended = found.end_of(Term(1))
    assert ended is not None and ended.given_up is accepted, "and it stays so"


def test_p16_after_a_jump_the_metalog_goes_on_from_the_peers_position() -> None:
    found = entries()
    found.end_term(Term(2), end(5))
    found.jump(at(4))
    found.take(run(4, 3))
    assert counts(found) == [5], "and no entry past the end of the term"


def test_p20_what_was_ordered_before_a_start_over_does_not_wait_any_more() -> None:
    found = entries()
    found.take(run(0, 3))
    found.start_over(at(3))
    assert not found.waiting and found.known_until == at(3)


def test_p11_a_run_of_the_shared_journal_must_follow() -> None:
    found = entries()
    assert found.recover(run(0, 1))
    assert not found.recover(run(2, 1))


def test_p11_runs_are_kept_for_sequencers_that_may_lose_them() -> None:
    found, nothing = entries(keeps_runs=True), entries()
    for each in (found, nothing):
        each.take(run(0, 2))
    asked = FetchRuns(SPACE, 2, 0, 2)
    (kept,) = messages(found.give(PRIMARY, asked), Runs)
    (none,) = messages(nothing.give(PRIMARY, asked), Runs)
    assert kept == Runs(SPACE, 2, (run(0, 2),)) and none == Runs(SPACE, 2, ())


def test_p32_no_more_are_taken_while_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_WAITING_MAX", 3)
    found = entries()
    assert found.take(run(0, 4)) and found.are_too_many
    assert not found.take(run(4, 1))
    assert found.dropped_runs_count == 1 and found.known_until == at(4)
