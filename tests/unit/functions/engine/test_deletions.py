"""Deleted LogBooks, as far as an engine has heard: what is void, and what may be missing."""

from bokilog.functions.engine.deletions import Deletions
from tests.unit.functions.engine.world import BOOK, columns


def test_p5_units_are_void_only_after_the_entry_that_deletes_their_logbook() -> None:
    deletions = Deletions()
    deletions.add(BOOK, 5)
    frame = columns("a", "b")
    assert deletions.void_units(frame, 5) == []
    assert deletions.void_units(frame, 6) == [0, 1]


def test_p5_only_the_units_of_that_logbook_are_void() -> None:
    deletions = Deletions()
    deletions.add(BOOK, 5)
    frame = columns("a", "b", "c", books=[BOOK, 8, BOOK])
    assert deletions.void_units(frame, 6) == [0, 2]
    assert deletions.void_units(columns("a", books=8), 6) == []


def test_the_earliest_bound_of_a_deletion_counts() -> None:
    deletions = Deletions()
    deletions.indexed([BOOK], 9)
    deletions.add(BOOK, 5)
    deletions.indexed([BOOK], 12)
    assert deletions.void_units(columns("a"), 6) == [0]
    assert deletions.void_units(columns("a"), 5) == []


def test_p34_a_frame_with_a_problem_is_void_for_that() -> None:
    deletions = Deletions()
    deletions.add(BOOK, 5)
    frame = columns("a")
    frame.problem = "units without records"
    assert deletions.void_units(frame, 6) == []


def test_p16_deletions_that_the_primary_let_go_are_missing_until_an_index_replica_tells() -> None:
    deletions = Deletions()

    def standing() -> tuple[bool, bool]:
        return deletions.some_told, deletions.all_known

    assert standing() == (False, True)
    deletions.metalog_begins(10)
    assert standing() == (False, False)
    deletions.indexed([], 9)
    assert standing() == (True, False)
    deletions.indexed([BOOK], 10)
    assert standing() == (True, True)
    deletions.indexed([], 4)  # another replica, which is not as far
    assert standing() == (True, True)


def test_p11_what_was_told_past_the_end_of_a_term_says_nothing_of_the_next() -> None:
    deletions, known = Deletions(), []
    deletions.indexed([], 18)
    deletions.end_term(13)
    for begins_at in (12, 15):
        deletions.metalog_begins(begins_at)
        known.append(deletions.all_known)
    deletions.indexed([BOOK], 15)
    assert [*known, deletions.all_known] == [True, False, True]
