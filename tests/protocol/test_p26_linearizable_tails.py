"""P26: a tail is told in a round begun after it was asked for, and covers what was acknowledged.

1. An append is acknowledged: its entry is published.
2. Another client, told of it over the telephone, asks for the tail.

Were it answered from before the append, the record would not be found.
"""

from __future__ import annotations

from bokilog.effects import Send
from bokilog.ids import Position, Term
from bokilog.messages import RequestFailed, Tail, TailRequest
from tests.unit.sequencer.rig import SPACE, TERM, Rig, opened, sent


def tail_of(rig: Rig, request: int) -> Tail:
    """Asked for now, answered with the batch."""
    assert rig.primary.tail_wanted("engine-1", TailRequest(request, SPACE)) == []
    (told,) = sent(rig.end_batch(), "engine-1")
    assert isinstance(told, Tail)
    return told


def test_p26_a_tail_covers_everything_published_before() -> None:
    rig = opened(1)
    rig.ordered({1: 5})
    assert tail_of(rig, 1) == Tail(1, SPACE, Position(TERM, 12), 105)


def test_p26_a_tail_and_its_position_belong_together() -> None:
    rig = opened(1)
    for count in (2, 5, 9):
        rig.held({1: count})
        rig.end_batch()  # three runs in flight
    for token, tail in ((2, 102), (3, 105), (4, 109)):
        rig.primary.persisted(token)
        assert tail_of(rig, token) == Tail(token, SPACE, Position(TERM, 9 + token + 1), tail)


def test_p26_what_is_not_durable_is_not_told() -> None:
    rig = opened(1)
    rig.held({1: 5})
    rig.end_batch()
    assert tail_of(rig, 1).tail == 100


def test_p26_all_who_wait_are_answered_in_one_round_each_once() -> None:
    rig = opened(1)
    for request in (1, 2, 3):
        rig.primary.tail_wanted(f"engine-{request}", TailRequest(request, SPACE))
    tails = [each for each in rig.end_batch() if isinstance(each, Send)]
    assert [each.to for each in tails] == ["engine-1", "engine-2", "engine-3"]
    assert rig.end_batch() == []


def test_p26_a_sealed_term_confirms_nothing() -> None:
    rig = opened(1)
    rig.primary.tail_wanted("engine-1", TailRequest(1, SPACE))
    (refused,) = sent(rig.primary.depose(Term(TERM + 1)), "engine-1")
    assert isinstance(refused, RequestFailed)
    assert rig.end_batch() == []
