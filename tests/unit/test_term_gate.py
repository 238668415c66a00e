"""P17: messages of another term than the installed one."""

from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.messages import Metalog, MetalogPosition, Replicate, TermChanged
from bokilog.metalog import CloseShard, Run
from bokilog.term_gate import (
    CURRENT,
    ENTRY_BYTES,
    FUTURE,
    MESSAGE_BYTES,
    PAST,
    Held,
    TermGate,
    message_bytes,
)
from tests.unit.functions.engine.world import columns

MESSAGE = TermChanged(1)


def gate(term: int = 3, held_max: int = 10, held_bytes_max: int = 10_000) -> TermGate:
    return TermGate(Term(term), held_max, held_bytes_max)


def test_past_current_and_future_terms_are_told_apart() -> None:
    guard = gate(3)
    assert guard.admit(2, "a", MESSAGE) is PAST
    assert guard.admit(3, "a", MESSAGE) is CURRENT
    assert guard.admit(4, "a", MESSAGE) is FUTURE
    assert len(guard) == 1


def test_held_messages_come_out_in_order_once_their_term_is_installed() -> None:
    guard = gate(3)
    for term, source in ((5, "a"), (4, "b"), (5, "c"), (6, "d")):
        guard.admit(term, source, TermChanged(term))
    assert guard.install(4) == [Held(Term(4), "b", TermChanged(4))]
    guard.check()
    assert guard.install(5) == [
        Held(Term(5), "a", TermChanged(5)),
        Held(Term(5), "c", TermChanged(5)),
    ]
    assert guard.admit(5, "a", MESSAGE) is CURRENT
    assert len(guard) == 1


def test_what_was_held_for_a_term_that_was_skipped_is_dropped() -> None:
    guard = gate(3)
    guard.admit(4, "a", MESSAGE)
    assert guard.install(5) == []
    assert len(guard) == 0 and guard.held_bytes == 0


def test_more_messages_than_fit_are_dropped_and_counted() -> None:
    guard = gate(held_max=2)
    for _ in range(5):
        assert guard.admit(4, "a", MESSAGE) is FUTURE
    guard.check()
    assert (len(guard), guard.dropped_count) == (2, 3)


def test_more_bytes_than_fit_are_dropped_and_counted() -> None:
    guard = gate(held_bytes_max=2 * MESSAGE_BYTES)
    for _ in range(3):
        guard.admit(4, "a", MESSAGE)
    guard.check()
    assert (len(guard), guard.dropped_count) == (2, 1)


def test_what_a_lost_connection_brought_is_forgotten() -> None:
    guard = gate()
    guard.admit(4, "a", MESSAGE)
    guard.admit(4, "b", MESSAGE)
    guard.forget("a")
    guard.check()
    assert [held.source for held in guard.install(4)] == ["b"]


def test_frames_are_counted_with_all_their_bytes() -> None:
    shard = Shard(LogSpaceId(1), Term(1), 1)
    frame = Frame(shard=shard, first=0, columns=columns("a"), payload=[b"x"])
    assert message_bytes(Replicate(frame)) == frame.size_bytes
    run = Run(LogSpaceId(1), Term(1), 0, (CloseShard(1, 1, 1),) * 3)
    assert message_bytes(Metalog(run)) == MESSAGE_BYTES + 3 * ENTRY_BYTES
    assert message_bytes(MetalogPosition(1, Position(Term(1), 1), 1)) == MESSAGE_BYTES
