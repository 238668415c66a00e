"""What one sequencer syncs of a metalog that it writes only, and when (P11)."""

from __future__ import annotations

from bokilog.effects import Effect, SyncWritten
from bokilog.ids import LogSpaceId, Term
from bokilog.messages import MetalogSynced
from bokilog.sequencer.synced import OwnSync, Synced

SPACE = LogSpaceId(1)
TERM = Term(4)
NODE = "storage-1"


def of(count: int) -> list[Effect]:
    return [SyncWritten(SPACE, TERM, count)]


def test_all_that_is_written_is_synced_at_once() -> None:
    own = OwnSync(SPACE, TERM)
    assert own.want(5, written=9) == of(9)
    assert own.synced(TERM, 9, written=12) == []
    assert (own.count, own.waits) == (9, False)


def test_one_sync_at_a_time() -> None:
    own = OwnSync(SPACE, TERM)
    assert own.want(5, written=9) == of(9)
    assert own.want(11, written=12) == []
    assert own.synced(TERM, 9, written=12) == of(12)


def test_what_is_wanted_has_to_be_written_first() -> None:
    own = OwnSync(SPACE, TERM)
    assert own.want(5, written=4) == []
    assert own.waits
    assert own.moved(5) == of(5)
    assert own.moved(6) == []


def test_a_sync_that_fails_is_never_told_and_never_tried_again() -> None:
    """The disk may say of the next one that all is well (P7)."""
    own = OwnSync(SPACE, TERM)
    assert own.want(5, written=5) == of(5)
    assert own.want(8, written=9) == []
    assert own.count == 0


def test_a_sync_of_another_term_says_nothing() -> None:
    own = OwnSync(SPACE, TERM)
    own.want(5, written=5)
    assert own.synced(Term(3), 9, written=9) == []
    assert own.count == 0


def test_a_lone_sequencer_is_a_majority() -> None:
    synced = Synced(SPACE, TERM, None)
    assert synced.want(NODE, 5, written=7) == of(7)
    told = [(each.to, each.message) for each in synced.own_synced(TERM, 7, written=7)]  # type: ignore[union-attr]
    assert told == [(NODE, MetalogSynced(SPACE, TERM, 7))]
    assert synced.own_synced(TERM, 9, written=9) == [], "nobody waits any more"


def test_who_is_gone_is_not_told() -> None:
    synced = Synced(SPACE, TERM, None)
    synced.want(NODE, 5, written=7)
    synced.link_down(NODE)
    assert synced.own_synced(TERM, 7, written=7) == []
