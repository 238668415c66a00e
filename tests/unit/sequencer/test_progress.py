"""Which records count as held, and become part of a cut exactly once (P2, P6, P9)."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.ids import NodeId
from bokilog.sequencer.progress import Progress
from tests.unit.sequencer.rig import NODES, A, B, C

DISK = ("disk", 1)
ALL = 1 << 60


@pytest.fixture
def held() -> Progress:
    made = Progress(write_quorum=2)
    made.open(1, engine="engine-1", replicas=NODES)
    made.open(2, engine="engine-2", replicas=NODES)
    return made


def test_a_cut_takes_what_a_write_quorum_holds(held: Progress) -> None:
    held.report(A, DISK, [(1, 9), (2, 3)])
    assert held.take_cut(room=ALL) == ()
    held.report(B, DISK, [(1, 5)])
    assert held.waiting == 5
    assert held.take_cut(room=ALL) == (CutSpan(1, 0, 5),)
    held.report(C, DISK, [(1, 7), (2, 8)])
    assert held.take_cut(room=ALL) == (CutSpan(1, 5, 7), CutSpan(2, 0, 3))
    held.check()


def test_what_was_cut_is_not_cut_again(held: Progress) -> None:
    held.report(A, DISK, [(1, 5)])
    held.report(B, DISK, [(1, 5)])
    held.take_cut(room=ALL)
    held.report(C, DISK, [(1, 5)])
    assert (held.waiting, held.take_cut(room=ALL)) == (0, ())


def test_a_lower_count_of_the_same_life_is_a_late_message(held: Progress) -> None:
    held.report(A, DISK, [(1, 5)])
    held.report(A, DISK, [(1, 3)])
    held.report(B, DISK, [(1, 5)])
    assert held.take_cut(room=ALL) == (CutSpan(1, 0, 5),)


def test_reports_of_strangers_and_of_unknown_shards_do_not_count(held: Progress) -> None:
    held.report(A, DISK, [(1, 5), (7, 5)])
    held.report(NodeId("storage-9"), DISK, [(1, 5)])
    assert held.take_cut(room=ALL) == ()
    held.check()


def test_another_life_of_a_node_has_to_hold_again_what_is_not_ordered(held: Progress) -> None:
    held.report(A, DISK, [(1, 5)])
    held.report(B, DISK, [(1, 5)])
    held.report(B, ("disk", 2), [(1, 2)])
    assert held.take_cut(room=ALL) == (CutSpan(1, 0, 2),)
    held.report(B, ("other", 1), [])
    held.check()
    assert held.take_cut(room=ALL) == ()
    held.report(B, ("other", 1), [(1, 5)])
    assert held.take_cut(room=ALL) == (CutSpan(1, 2, 5),)


def test_an_earlier_life_does_not_come_back(held: Progress) -> None:
    held.report(A, ("disk", 2), [(1, 2)])
    held.report(A, ("disk", 1), [(1, 9)])
    held.report(B, DISK, [(1, 9)])
    assert held.take_cut(room=ALL) == (CutSpan(1, 0, 2),)


def test_a_closed_shard_keeps_what_was_ordered_and_no_more(held: Progress) -> None:
    held.report(A, DISK, [(1, 5)])
    held.report(B, DISK, [(1, 5)])
    held.take_cut(room=ALL)
    held.report(A, DISK, [(1, 9)])
    held.report(B, DISK, [(1, 9)])
    assert held.close(1) == 5
    held.report(C, DISK, [(1, 9)])
    assert held.take_cut(room=ALL) == ()
    held.check()


def test_a_shard_that_does_not_fit_waits_whole(held: Progress) -> None:
    for node in (A, B):
        held.report(node, DISK, [(1, 6), (2, 4)])
    assert held.take_cut(room=5) == (CutSpan(2, 0, 4),)
    assert held.waiting == 6
    assert held.take_cut(room=5) == ()
    held.check()
    assert held.take_cut(room=6) == (CutSpan(1, 0, 6),)


def test_a_shard_is_opened_once(held: Progress) -> None:
    with pytest.raises(AssertionError):
        held.open(1, engine="engine-1", replicas=NODES)
