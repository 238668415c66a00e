"""P13: a term's end is decided by the next view; entries past it are dropped and never served.

1. A follower has entries of term 4 that the journal lost: the view says that term 4 ended before.
2. Entries of term 5 arrive, at the same counts.

Were both kept, replicas would differ for ever.
"""

from __future__ import annotations

import pytest

from bokilog.errors import RemoteProtocolError
from bokilog.ids import Position, Term
from bokilog.metalog import Entry, ForgetKeys, MetalogFollower, Run
from tests.unit.sequencer.rig import BASE, SPACE, TERM, Rig, end, entries_sent, journalled, opened

NEXT = Term(TERM + 1)


def run(term: Term, first: int, *stamps_ms: int) -> Run:
    return Run(SPACE, term, first, tuple(map(ForgetKeys, stamps_ms)))


def stamps(entries: list[tuple[Position, Entry]]) -> list[int]:
    return [entry.timestamp_ms for _, entry in entries]


def test_p13_the_end_is_the_last_durable_entry() -> None:
    rig = opened(1)
    rig.ordered({1: 5})
    rig.held({1: 9})
    rig.end_batch()
    rig.journal.crash()
    assert journalled(rig.journal, end()).end == end(Position(TERM, 12), tail=105)


@pytest.mark.parametrize("view_first", [True, False])
def test_p13_entries_past_the_end_are_dropped(view_first: bool) -> None:
    follower = MetalogFollower(SPACE, Position(TERM, 10))
    late, following = run(TERM, 10, 1, 2, 3), run(NEXT, 11, 7, 8)
    if view_first:
        assert follower.end_term(TERM, 11) == []
        assert stamps(follower.offer(late)) == [1]
        assert stamps(follower.offer(following)) == [7, 8]
    else:
        assert follower.offer(following) == []
        assert follower.end_term(TERM, 11) == [], "the last entry of the old term is missing"
        assert stamps(follower.offer(late)) == [1, 7, 8]
    assert follower.position == Position(NEXT, 13)


def test_p13_who_applied_entries_past_the_end_must_be_rebuilt() -> None:
    follower = MetalogFollower(SPACE, Position(TERM, 10))
    follower.offer(run(TERM, 10, 1, 2, 3))
    with pytest.raises(RemoteProtocolError):
        follower.end_term(TERM, 11)


def test_p13_a_primary_serves_nothing_past_the_end_to_those_who_were_further() -> None:
    first = opened(1)
    recovered = journalled(first.journal, end())
    rig = Rig(start=recovered.end, journal=first.journal)
    lost = Position(TERM, recovered.end.position.count + 7)
    assert rig.follow("storage-1", lost) == []
    rig.open(2)
    ((position, _),) = entries_sent(rig.turn(), "storage-1")
    assert position.count == recovered.end.position.count + 1


def test_p13_old_and_new_terms_are_served_as_one_sequence() -> None:
    first = opened(1)
    first.ordered({1: 5})
    recovered = journalled(first.journal, end())
    rig = Rig(recovered=recovered, journal=first.journal)
    rig.open(2)
    rig.turn()
    served = entries_sent(rig.follow("storage-1", BASE), "storage-1")
    assert [position.count for position, _ in served] == [11, 12, 13]
