"""P2, P21: frames of a closed shard are garbage, also after the storage node started again.

1. An engine's frame reaches one storage node only; the engine dies, and its shard is closed.
2. That node stores its fold, and starts again in the same term.

Were the frame taken up again from the journal, it would hold its segment until the term ends, which
may be never.
"""

from __future__ import annotations

from bokilog.metalog import CloseShard, Cut, Proposer, Trim
from tests.protocol.storage_rig import (
    BOOK,
    NUMBER,
    SHARD,
    StorageRig,
    at,
    cut,
    frame,
    opening,
    view,
)

NEW = NUMBER + 1
ME = Proposer(NEW, 1)


def closed() -> StorageRig:
    """One frame of the old shard is ordered, one is not; the new start's shard is open."""
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(1, b"garbage" * 1000))
    rig.order(cut(1, 0, 1), CloseShard(2000, NUMBER, 1), opening(NEW))
    return rig


def test_p02_a_restart_in_the_same_term_drops_frames_of_closed_shards() -> None:
    rig = closed()
    rig.checkpoint()
    rig.restart()
    assert rig.index.shards.closed == {NUMBER}
    assert SHARD not in rig.replica._pending.shards
    assert rig.replica._pending.late_count == 2, "also the one that was ordered: it is folded"


def test_p02_a_late_frame_of_a_closed_shard_is_refused_after_a_restart_too() -> None:
    rig = closed()
    rig.checkpoint()
    rig.restart()
    before = rig.journal.segments()
    rig.hold(frame(2))
    assert rig.journal.segments() == before


def test_p02_what_was_not_stored_is_closed_again_by_the_metalog() -> None:
    rig = closed()
    rig.restart()
    rig.order(opening(), cut(1, 0, 1), CloseShard(2000, NUMBER, 1), opening(NEW), first=0)
    assert rig.index.shards.closed == {NUMBER}
    assert SHARD not in rig.replica._pending.shards


def test_p02_a_new_term_names_other_shards_so_none_is_closed() -> None:
    rig = closed()
    rig.checkpoint()
    end = rig.index.position
    rig.install(view(2, end=at(end.count), tail=2))
    assert rig.index.shards.closed == set()
    rig.checkpoint()
    rig.restart()
    assert rig.index.shards.closed == set()
    rig.order(opening(), term=2)
    rig.hold(frame(0, term=2))
    rig.order(Cut(3000, 2, cut(2, 0, 1).spans), term=2)
    assert rig.seqnums() == [1, 2]


def test_p21_the_segment_of_garbage_alone_goes_after_a_restart() -> None:
    """It was journalled after the last checkpoint: nothing stored knows its segment."""
    rig = StorageRig().begin()
    rig.checkpoint()
    rig.hold(frame(0, b"garbage" * 1000))
    rig.order(CloseShard(2000, NUMBER, 0), opening(NEW))
    for place in range(4):
        rig.hold(frame(place, b"x" * 7000, number=NEW))
        rig.order(cut(place + 1, place, place + 1, number=NEW))
    garbage = rig.journal.segments()[0].number
    rig.restart()
    rig.order(CloseShard(2000, NUMBER, 0), opening(NEW))
    for place in range(4):
        rig.order(cut(place + 1, place, place + 1, number=NEW))
    rig.order(Trim(3000, BOOK, None, 5, ME))
    for peer in rig.replica.space.replicas:
        rig.replica._releases.peer_stored(peer, 1_000_000)
    rig.checkpoint()
    assert garbage not in [segment.number for segment in rig.journal.segments()]
