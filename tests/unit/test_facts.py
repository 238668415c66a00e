"""What facts answer, and what they admit not to know."""

import pytest

from bokilog.facts import UNKNOWN, Facts, Known, Tail
from bokilog.limits import NO_END

BOOK = 7


@pytest.fixture
def facts() -> Facts:
    return Facts(1 << 20)


def ask(
    facts: Facts,
    start: int = 0,
    until: int = NO_END,
    *,
    limit: int = 10,
    reverse: bool = False,
    tag: str | None = "t",
) -> object:
    found = facts.range(BOOK, tag, start=start, until=until, limit=limit, reverse=reverse)
    facts.check()
    return found if found is UNKNOWN else found._replace(seqnums=list(found.seqnums))


# --- asking ---------------------------------------------------------------------------------------


def test_nothing_is_known_of_what_was_never_learned(facts: Facts) -> None:
    assert ask(facts) is UNKNOWN
    assert facts.next(BOOK, "t", 0) is UNKNOWN
    assert facts.prev(BOOK, "t", NO_END) is UNKNOWN


def test_an_interval_answers_inside_and_admits_not_to_know_past_its_end(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 20, [12, 15])
    assert ask(facts, 10, 20) == Known([12, 15], 20, False, False)
    assert ask(facts, 13, 18) == Known([15], 18, False, False)
    assert ask(facts, 16, 18) == Known([], 18, False, False)
    assert ask(facts, 10, 21) is UNKNOWN
    assert ask(facts, 9, 20) is UNKNOWN
    assert ask(facts, 20, 30) is UNKNOWN


def test_a_page_that_the_limit_ends_says_that_there_is_more(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 20, [12, 15, 17])
    assert ask(facts, 10, 99, limit=2) == Known([12, 15], 16, True, False)
    assert ask(facts, 10, 20, limit=2, reverse=True) == Known([17, 15], 15, True, False)


def test_whether_a_full_page_has_more_is_known_from_the_reply_it_came_from(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 16, [12, 15], above=40)
    assert ask(facts, 10, NO_END, limit=2) == Known([12, 15], 16, True, False)
    assert ask(facts, 10, 39, limit=2) is UNKNOWN  # the next one may stand past 39
    facts.learn(BOOK, "u", 30, 40, [31, 35], below=5)
    back = {"limit": 2, "reverse": True}
    assert facts.range(BOOK, "u", start=0, until=40, **back) is not UNKNOWN  # type: ignore[arg-type]
    assert facts.range(BOOK, "u", start=6, until=40, **back) is UNKNOWN  # type: ignore[arg-type]


def test_next_and_prev_answer_for_ever_or_not_at_all(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 20, [12, 15])
    assert facts.next(BOOK, "t", 10) == 12
    assert facts.next(BOOK, "t", 13) == 15
    assert facts.next(BOOK, "t", 16, 20) is None
    assert facts.next(BOOK, "t", 16) is UNKNOWN
    assert facts.prev(BOOK, "t", 20) == 15
    assert facts.prev(BOOK, "t", 12, 10) is None
    assert facts.prev(BOOK, "t", 12) is UNKNOWN
    assert facts.prev(BOOK, "t", 25) is UNKNOWN


def test_reverse_reads_start_at_the_end_of_the_range(facts: Facts) -> None:
    facts.learn(BOOK, "t", 0, 20, [12, 15])
    assert ask(facts, 0, 20, reverse=True) == Known([15, 12], 0, False, False)
    assert ask(facts, 0, 15, reverse=True) == Known([12], 0, False, False)
    assert ask(facts, 13, 15, reverse=True) == Known([], 13, False, False)
    assert ask(facts, 0, 21, reverse=True) is UNKNOWN


# --- learning -------------------------------------------------------------------------------------


def test_touching_and_overlapping_intervals_become_one(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 20, [12])
    facts.learn(BOOK, "t", 30, 40, [33])
    assert ask(facts, 10, 40) is UNKNOWN
    facts.learn(BOOK, "t", 20, 30, [22, 29])
    assert ask(facts, 10, 40) == Known([12, 22, 29, 33], 40, False, False)
    facts.learn(BOOK, "t", 5, 25, [7, 12, 22])
    assert ask(facts, 5, 40) == Known([7, 12, 22, 29, 33], 40, False, False)


def test_an_interval_inside_a_known_one_changes_nothing(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 20, [12, 18])
    facts.learn(BOOK, "t", 13, 15, [])
    assert ask(facts, 10, 20) == Known([12, 18], 20, False, False)


# --- following ------------------------------------------------------------------------------------


def test_a_followed_line_grows_with_the_stream_and_answers_at_the_tail(facts: Facts) -> None:
    tail = Tail(20)
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, tail)
    assert ask(facts, 13) == Known([], 20, False, True)
    assert facts.extend(BOOK, [20, 21, 23], ["t", ["u", "t"], None]) == {"t"}
    tail.seqnum = 24
    assert ask(facts, 13) == Known([20, 21], 24, False, True)
    assert ask(facts, 13, 24) == Known([20, 21], 24, False, False)
    assert ask(facts, 0, NO_END, limit=1, reverse=True) == Known([21], 21, True, True)


def test_the_tail_moves_for_lines_that_nothing_was_appended_to(facts: Facts) -> None:
    tail = Tail(20)
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, tail)
    tail.seqnum = 500
    assert ask(facts, 13, 500) == Known([], 500, False, False)


def test_all_records_of_a_book_grow_without_looking_at_tags(facts: Facts) -> None:
    tail = Tail(5)
    facts.follow(BOOK, tail)
    facts.learn(BOOK, None, 0, 5, [])
    assert facts.extend(BOOK, range(5, 9), ["a", "b", None, ["c"]]) == {None}
    tail.seqnum = 9
    assert ask(facts, 0, tag=None) == Known([5, 6, 7, 8], 9, False, True)


def test_a_line_learned_below_the_tail_does_not_grow(facts: Facts) -> None:
    tail = Tail(20)
    facts.follow(BOOK, tail)
    facts.learn(BOOK, "t", 0, 10, [3])
    assert facts.extend(BOOK, [20], ["t"]) == set()
    tail.seqnum = 21
    assert ask(facts, 0) is UNKNOWN


def test_a_reply_ahead_of_the_stream_is_not_repeated_by_it(facts: Facts) -> None:
    tail = Tail(20)
    facts.follow(BOOK, tail)
    facts.learn(BOOK, "t", 0, 23, [21, 22])
    assert ask(facts, 0) is UNKNOWN  # at the stream's position 21 and 22 are not known yet
    assert facts.extend(BOOK, [21, 22, 24], ["t", "t", "t"]) == {"t"}
    tail.seqnum = 25
    assert ask(facts, 0) == Known([21, 22, 24], 25, False, True)


def test_a_hole_closes_facts_at_the_old_tail_until_a_reply_opens_them_again(facts: Facts) -> None:
    tail = Tail(20)
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, tail)
    tail.seqnum = 30
    facts.close(BOOK)
    tail.seqnum = 90
    assert facts.extend(BOOK, [91], ["t"]) == set()
    assert ask(facts, 0) is UNKNOWN
    assert ask(facts, 0, 30) == Known([12], 30, False, False)
    facts.learn(BOOK, "t", 30, 90, [44])
    assert ask(facts, 0) == Known([12, 44], 90, False, True)


def test_an_unfollowed_book_keeps_what_is_known(facts: Facts) -> None:
    tail = Tail(20)
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, tail)
    facts.unfollow(BOOK)
    tail.seqnum = 30
    assert ask(facts, 0, 20) == Known([12], 20, False, False)
    assert ask(facts, 0) is UNKNOWN


# --- trims ----------------------------------------------------------------------------------------


def test_nothing_below_a_trim_is_answered(facts: Facts) -> None:
    facts.learn(BOOK, "t", 0, 20, [3, 12])
    facts.trim(BOOK, None, 10)
    assert facts.trim_until(BOOK, "t") == 10
    assert ask(facts, 0, 20) == Known([12], 20, False, False)
    facts.learn(BOOK, "t", 0, 15, [3, 12])
    assert ask(facts, 0, 20, reverse=True) == Known([12], 0, False, False)


def test_a_tags_trim_leaves_other_tags_and_forgets_what_is_known_of_the_whole(facts: Facts) -> None:
    for tag in ("t", "u", None):
        facts.learn(BOOK, tag, 0, 20, [3, 12])
    facts.trim(BOOK, "t", 10)
    assert ask(facts, 0, 20) == Known([12], 20, False, False)
    assert ask(facts, 0, 20, tag="u") == Known([3, 12], 20, False, False)
    assert ask(facts, 0, 20, tag=None) is UNKNOWN
    assert ask(facts, 10, 20, tag=None) == Known([12], 20, False, False)
    assert facts.trim_until(BOOK, None) == 0
    assert facts.tags_trimmed_until(BOOK) == 10


def test_a_followed_line_that_is_trimmed_away_goes_on_growing(facts: Facts) -> None:
    tail = Tail(20)
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, tail)
    facts.watch(BOOK, "t")
    facts.trim(BOOK, None, 20)
    assert ask(facts, 0) == Known([], 20, False, True)
    facts.extend(BOOK, [20], ["t"])
    tail.seqnum = 21
    assert ask(facts, 0) == Known([20], 21, False, True)


def test_a_trim_forgets_hints_that_may_point_to_trimmed_records(facts: Facts) -> None:
    facts.learn(BOOK, "t", 10, 16, [12, 15], above=40)
    facts.trim(BOOK, "t", 11)
    assert ask(facts, 11, NO_END, limit=2) == Known([12, 15], 16, True, False)
    facts.trim(BOOK, "t", 20)
    assert len(facts) == 0


def test_a_deleted_book_is_forgotten(facts: Facts) -> None:
    facts.learn(BOOK, "t", 0, 20, [12])
    facts.follow(BOOK, Tail(20))
    facts.drop(BOOK)
    assert ask(facts, 0, 20) is UNKNOWN
    assert facts.bytes_used == 0


# --- the budget -----------------------------------------------------------------------------------


def test_the_line_used_longest_ago_goes_first() -> None:
    facts = Facts(4000)
    for tag in "abcd":
        facts.learn(BOOK, tag, 0, 10, [1])
    facts.next(BOOK, "a", 0)
    facts.learn(BOOK, "e", 0, 10, [1])
    facts.check()
    assert facts.next(BOOK, "a", 0) == 1
    assert facts.next(BOOK, "b", 0) is UNKNOWN
    assert facts.bytes_used <= 4000
    assert facts.evicted_count == 1


def test_a_line_that_somebody_waits_on_stays() -> None:
    facts = Facts(2000)
    facts.learn(BOOK, "a", 0, 10, [1])
    facts.watch(BOOK, "a")
    for tag in "bcd":
        facts.learn(BOOK, tag, 0, 10, [1])
    assert facts.next(BOOK, "a", 0) == 1
    facts.unwatch(BOOK, "a")
    for tag in "bcd":
        facts.learn(BOOK, tag, 0, 10, [1])
    assert facts.next(BOOK, "a", 0) is UNKNOWN


def test_a_line_too_large_for_the_budget_forgets_its_older_half() -> None:
    facts = Facts(10_000)
    facts.learn(BOOK, "a", 0, 2000, range(2000))
    facts.check()
    assert facts.bytes_used <= 10_000
    assert facts.prev(BOOK, "a", 2000) == 1999
    assert facts.next(BOOK, "a", 0) is UNKNOWN


def test_without_a_budget_nothing_is_kept() -> None:
    facts = Facts(0)
    facts.follow(BOOK, Tail(10))
    facts.learn(BOOK, "a", 0, 10, [1])
    assert len(facts) == 0 and facts.bytes_used == 0
