"""Entries on the wire and on disk, what may be proposed, and how a follower takes runs (P13)."""

from __future__ import annotations

import pytest

from bokilog import metalog as module
from bokilog.cut import CutSpan
from bokilog.errors import RemoteProtocolError
from bokilog.ids import START, LogSpaceId, Position, Term
from bokilog.limits import HOLD_TTL_S_MAX, SEQNUM_MAX
from bokilog.metalog import (
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    ForgetKeys,
    Hold,
    MetalogFollower,
    Proposer,
    Release,
    Run,
    Trim,
    decode_run,
    encode_run,
    entry_from_plain,
    entry_to_plain,
    proposal_problem,
    verify_run,
)

SPACE = LogSpaceId(1)
PROPOSER = Proposer(5, 7)


def run(term: int, first: int, until: int) -> Run:
    """Entry number n carries n as its timestamp, so that a test sees which one it is."""
    return Run(SPACE, Term(term), first, tuple(map(ForgetKeys, range(first, until))))


def stamps(entries: list[tuple[Position, Entry]]) -> list[int]:
    return [entry.timestamp_ms for _, entry in entries]


def following(term: int = 1, count: int = 0) -> MetalogFollower:
    return MetalogFollower(SPACE, Position(Term(term), count))


# --- bytes ----------------------------------------------------------------------------------------


def test_a_run_knows_where_it_ends() -> None:
    assert run(1, 5, 9).until == 9


def test_a_cut_comes_back_with_its_spans() -> None:
    cut = Cut(5, 11, (CutSpan(1, 0, 2), CutSpan(7, 3, 4)))
    assert entry_from_plain([0, 5, 11, [[1, 0, 2], [7, 3, 4]]]) == cut
    assert entry_to_plain(cut) == [0, 5, 11, cut.spans]


def test_a_run_is_whole_only_with_every_byte() -> None:
    data = encode_run(run(1, 5, 9))
    assert verify_run(data)
    assert decode_run(memoryview(data)) == run(1, 5, 9)
    for broken in (data[:-1], data + b"\0", data[8:], b"", data[:8]):
        assert not verify_run(broken)
        with pytest.raises(RemoteProtocolError, match="checksum"):
            decode_run(broken)


def test_runs_encoded_in_turns_are_each_their_own() -> None:
    """The last one is remembered, as itself and not as one that is equal or follows."""
    one, other = run(1, 5, 9), run(1, 5, 10)
    first = [encode_run(one), encode_run(one), encode_run(other), encode_run(one)]
    assert first[0] == first[1] == first[3] == encode_run(run(1, 5, 9)) != first[2]
    assert [decode_run(data) for data in first] == [one, one, other, one]


def test_a_run_without_entries_is_none() -> None:
    with pytest.raises(RemoteProtocolError, match="without entries"):
        decode_run(encode_run(Run(SPACE, Term(1), 5, ())))


# --- proposals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        Trim(0, 7, None, 0, PROPOSER),
        Trim(0, 0, "é" * 128, SEQNUM_MAX + 1, PROPOSER),
        Hold(0, 7, "x" * 128, 0, HOLD_TTL_S_MAX * 1000, PROPOSER),
        Release(0, 7, "report", PROPOSER),
        DeleteBook(0, 2**63 - 1, PROPOSER),
        EndTags(0, 7, "$workflow:", PROPOSER),
    ],
)
def test_proposals_at_their_limits_are_taken(entry: Entry) -> None:
    assert proposal_problem(entry) is None


def test_a_prefix_that_is_not_a_librarys_is_refused() -> None:
    for prefix in ("", "w", "w$", "$" + "x" * 256):
        assert proposal_problem(EndTags(0, 7, prefix, PROPOSER)) is not None


# --- following ------------------------------------------------------------------------------------


def test_runs_in_order_are_applied_at_once() -> None:
    follower = following()
    assert follower.offer(run(1, 0, 2)) == [
        (Position(Term(1), 1), ForgetKeys(0)),
        (Position(Term(1), 2), ForgetKeys(1)),
    ]
    assert follower.position == Position(Term(1), 2)
    assert stamps(follower.offer(run(1, 2, 3))) == [2]


def test_what_was_applied_is_not_applied_again() -> None:
    follower = following()
    follower.offer(run(1, 0, 4))
    assert follower.offer(run(1, 0, 4)) == []
    assert stamps(follower.offer(run(1, 2, 6))) == [4, 5]
    assert not follower.gap


def test_a_run_ahead_of_its_turn_waits() -> None:
    follower = following()
    assert follower.offer(run(1, 2, 4)) == []
    assert follower.gap
    assert follower.offer(run(1, 6, 8)) == []
    assert stamps(follower.offer(run(1, 0, 2))) == [0, 1, 2, 3]
    assert follower.gap
    assert stamps(follower.offer(run(1, 4, 6))) == [4, 5, 6, 7]
    assert not follower.gap


def test_the_longer_of_two_runs_at_one_place_is_kept() -> None:
    follower = following()
    for until in (3, 6, 4):
        follower.offer(run(1, 2, until))
    assert stamps(follower.offer(run(1, 0, 2))) == list(range(6))
    assert not follower.gap


def test_too_many_runs_ahead_never_keep_back_the_one_that_is_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RUNS_HELD_MAX", 3)
    follower = following()
    for first in (10, 12, 14, 16, 18):
        follower.offer(run(1, first, first + 2))
    assert follower.dropped_count == 2
    assert stamps(follower.offer(run(1, 0, 10))) == list(range(16))
    assert not follower.gap


def test_a_later_term_waits_for_the_end_of_this_one() -> None:
    follower = following()
    follower.offer(run(1, 0, 3))
    assert follower.offer(run(2, 3, 5)) == []
    assert stamps(follower.end_term(Term(1), 3)) == [3, 4]
    assert follower.position == Position(Term(2), 5)


def test_terms_without_entries_are_passed_over() -> None:
    follower = following()
    follower.offer(run(1, 0, 3))
    follower.offer(run(4, 3, 5))
    for term in (1, 2):
        assert follower.end_term(Term(term), 3) == []
    assert stamps(follower.end_term(Term(3), 3)) == [3, 4]


def test_runs_past_the_end_of_their_term_are_not_held_back() -> None:
    follower = following()
    follower.end_term(Term(1), 3)
    assert follower.offer(run(1, 3, 9)) == []
    assert follower.offer(run(1, 7, 9)) == []
    assert not follower.gap
    assert stamps(follower.offer(run(1, 0, 9))) == [0, 1, 2]
    assert follower.position == Position(Term(1), 3)


def test_held_runs_of_an_ended_term_are_let_go() -> None:
    follower = following()
    follower.offer(run(1, 5, 9))
    follower.offer(run(2, 3, 4))
    assert stamps(follower.offer(run(1, 0, 3))) == [0, 1, 2]
    assert stamps(follower.end_term(Term(1), 3)) == [3]
    assert not follower.gap


def test_an_impossible_term_is_looked_at_only_once() -> None:
    follower = following()
    follower.end_term(Term(1), 0)
    assert follower.offer(run(2**62, 0, 3)) == []


def test_entries_past_an_end_that_were_applied_need_a_rebuild() -> None:
    follower = following()
    follower.offer(run(1, 0, 5))
    with pytest.raises(RemoteProtocolError, match="term 1 ended at 3"):
        follower.end_term(Term(1), 3)


def test_a_follower_of_a_new_cluster_begins_before_the_first_term() -> None:
    follower = MetalogFollower(SPACE, START)
    assert follower.end_term(Term(0), 0) == []
    assert stamps(follower.offer(run(1, 0, 2))) == [0, 1]
