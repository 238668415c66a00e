"""P16: a metalog lets go of what a write quorum of replicas has stored, and can do without it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.effects import Effect, Send
from bokilog.errors import CorruptJournal
from bokilog.ids import START, Position
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import IndexReport, Metalog, MetalogGone
from bokilog.sequencer import followers
from bokilog.sequencer.recovery import recover_metalog
from bokilog.sequencer.retention import stored_by_quorum
from tests.unit.sequencer.rig import SPACE, TERM, A, B, C, Rig, end, sent

FIRST = Position(TERM, 0)


def long(*, turns: int = 150, releases: bool = True, release_after_s: float = 0.0) -> Rig:
    """Many runs in small segments, one cut each."""
    begun = replace(end(), position=START, tail=1)
    rig = Rig(
        start=begun,
        journal=MemoryJournal(segment_bytes=1 << 13),
        releases=releases,
        release_after_s=release_after_s,
    )
    rig.open(1)
    rig.turn()
    for count in range(1, turns):
        rig.ordered({1: count})
    return rig


def stores(rig: Rig, node: str, count: int) -> None:
    position = Position(TERM, count)
    rig.primary.index_reported(node, IndexReport(SPACE, position, position, 0, empty=False))


def first_segment(rig: Rig) -> int:
    return rig.journal.segments()[0].number


def told(effects: list[Effect]) -> list[object]:
    return [each.message for each in effects if isinstance(each, Send)]


def test_a_quorum_is_the_w_th_largest_and_nobodys_word_is_none() -> None:
    assert stored_by_quorum([30, 10, 20], 2) == 20
    assert stored_by_quorum([30], 2) == 0


def test_p16_segments_go_once_a_write_quorum_has_stored_its_fold_past_them() -> None:
    rig = long()
    assert len(rig.journal.segments()) > 3
    stores(rig, A, 100)
    assert first_segment(rig) == 1, "one replica is no quorum of two"
    stores(rig, B, 100)
    assert first_segment(rig) > 1, "the third may be gone for good"
    kept = rig.primary.begins_at
    assert 0 < kept <= 100
    found = told(rig.follow(C, Position(TERM, kept)))
    runs = [message.run for message in found if isinstance(message, Metalog)]
    assert [each.first for each in runs] == list(range(kept, 150))


def test_p16_a_primary_that_is_new_lets_go_of_nothing() -> None:
    """An engine may not have found it yet, and would lack entries of its own frames."""
    rig = long(release_after_s=10.0)
    for now_s, goes in ((3.0, False), (12.9, False), (13.0, True)):
        rig.moment.now_s = now_s
        stores(rig, A, 100)
        stores(rig, B, 100)
        assert (first_segment(rig) > 1) is goes


def test_p16_what_an_engine_has_not_heard_of_stays() -> None:
    """It is told the position later, and its connection may break before."""
    rig = long()
    told(rig.follow("engine-2", rig.primary.published, shard=2))
    before = rig.primary.published.count
    for count in range(150, 300):
        rig.held({1: count})
        assert not sent(rig.turn(), "engine-2")
    for node in (A, B):
        stores(rig, node, rig.primary.published.count)
    assert 0 < rig.primary.begins_at <= before
    rig.primary.tell_positions()
    stores(rig, A, rig.primary.published.count)
    assert rig.primary.begins_at > before


def test_p16_who_is_further_behind_is_told_to_load_a_fold() -> None:
    rig = long()
    stores(rig, A, 100)
    stores(rig, B, 100)
    begins_at = rig.primary.begins_at
    for position in (START, FIRST, Position(TERM, begins_at - 1)):
        assert told(rig.follow(C, position)) == [MetalogGone(SPACE, begins_at)]
    engine = told(rig.follow("engine-1", Position(TERM, 3), shard=1))
    assert engine == [MetalogGone(SPACE, begins_at)]
    new = told(rig.follow("engine-2", START, shard=2))
    assert not any(isinstance(each, MetalogGone) for each in new), "it starts at the present"


def test_p16_what_a_connected_follower_has_not_been_sent_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(followers, "RUNS_FED", 2)
    rig = long()
    rig.follow(C, Position(TERM, 1))
    stores(rig, A, 100)
    stores(rig, B, 100)
    assert first_segment(rig) == 1
    while told(rig.primary.feed(C)):
        pass
    stores(rig, B, 100)
    assert first_segment(rig) > 1


def test_p13_a_restart_knows_the_end_of_a_metalog_that_begins_late() -> None:
    rig = long()
    before = rig.primary.tail, rig.primary.count
    stores(rig, A, 150)
    stores(rig, B, 150)
    begun = replace(end(), position=START, tail=1)
    rig.journal.crash()
    found = recover_metalog(rig.journal, begun, ceiling=1, released=True)
    assert (found.end.tail, found.end.position.count) == before
    assert found.begins_at > 0
    again = Rig(recovered=found, journal=rig.journal)
    assert told(again.follow(A, START)) == [MetalogGone(SPACE, found.begins_at)]
    with pytest.raises(CorruptJournal):
        recover_metalog(rig.journal, begun, ceiling=1)


def test_a_replica_that_was_wiped_since_has_stored_less_and_nothing_comes_back() -> None:
    """Found by the simulator."""
    rig = long()
    for node in (A, B):
        stores(rig, node, 100)
    begins_at = rig.primary.begins_at
    stores(rig, B, 1)
    stores(rig, C, 3)
    assert rig.primary.begins_at == begins_at


def test_what_is_not_its_own_journal_is_left_alone() -> None:
    """Embedded, frames lie in the same journal."""
    rig = long(releases=False)
    stores(rig, A, 100)
    stores(rig, B, 100)
    assert first_segment(rig) == 1
