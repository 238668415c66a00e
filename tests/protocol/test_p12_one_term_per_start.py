"""P12: a process never resumes as primary; positions order as (term, count).

1. A primary is paused; meanwhile another start stores the view of the next term.
2. It wakes up with commits under way and readers waiting.

Were it to go on, two primaries would give the same seqnums.
"""

from __future__ import annotations

from bokilog.ids import Position, Term
from bokilog.messages import RequestFailed, TailRequest
from tests.unit.sequencer.rig import SPACE, TERM, Rig, end, entries_sent, journalled, opened, sent


def test_p12_the_next_start_begins_where_the_last_ended_in_a_term_of_its_own() -> None:
    first = opened(1)
    first.ordered({1: 5})
    recovered = journalled(first.journal, end())
    second = Rig(start=recovered.end, journal=first.journal)
    second.open(2)
    second.follow("reader", recovered.end.position)
    ((position, _),) = entries_sent(second.turn(), "reader")
    assert position.count == recovered.end.position.count + 1
    assert position > recovered.end.position


def test_p12_no_shard_outlives_its_term() -> None:
    first = opened(1)
    first.ordered({1: 5})
    second = Rig(start=journalled(first.journal, end()).end, journal=first.journal)
    second.held({1: 9})  # late reports of the old term's shard
    assert second.turn() == []


def test_p12_a_primary_that_was_succeeded_publishes_and_confirms_nothing() -> None:
    rig = opened(1)
    rig.follow("reader", Position(TERM, 11))
    rig.held({1: 5})
    rig.end_batch()
    rig.primary.depose(Term(TERM + 1))
    assert rig.sync() == []
    (refused,) = sent(rig.primary.tail_wanted("engine-1", TailRequest(1, SPACE)), "engine-1")
    assert isinstance(refused, RequestFailed)


def test_p12_a_later_term_comes_after_any_count_of_an_earlier_one() -> None:
    assert Position(Term(2), 1) > Position(Term(1), 1000)
