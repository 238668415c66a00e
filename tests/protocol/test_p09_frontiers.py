"""P9: the frontier is the W-th largest of the replicas' progress; only metalog entries order."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.ids import Position
from bokilog.metalog import Cut
from tests.unit.sequencer.rig import NODES, TERM, WALL_MS, A, B, Rig, entries_sent, opened


@pytest.mark.parametrize(
    ("counts", "write_quorum", "ordered"),
    [((9, 7, 5), 1, 9), ((5, 9, 7), 2, 7), ((7, 5, 9), 3, 5), ((0, 0, 4), 2, 0), ((4, 4, 0), 3, 0)],
)
def test_p09_exactly_what_a_write_quorum_holds_is_ordered(
    counts: tuple[int, ...], write_quorum: int, ordered: int
) -> None:
    rig = Rig(write_quorum=write_quorum)
    rig.open(1)
    rig.turn()
    for node, count in zip(NODES, counts, strict=True):
        rig.report(node, {1: count})
    rig.turn()
    assert rig.primary.stats().tail == 100 + ordered


def test_p09_a_node_that_reports_twice_is_still_one_node() -> None:
    rig = opened(1)
    for count in (3, 6, 9):
        rig.report(A, {1: count})
    rig.turn()
    assert rig.primary.stats().tail == 100


def test_p09_shards_are_cut_independently_and_listed_in_order() -> None:
    rig = opened(3, 1, 2)
    rig.follow("reader", Position(TERM, 13))
    rig.report(A, {1: 4, 2: 9, 3: 2})
    rig.report(B, {3: 2, 1: 1})
    cut = Cut(WALL_MS, 100, (CutSpan(1, 0, 1), CutSpan(3, 0, 2)))
    assert entries_sent(rig.turn(), "reader") == [(Position(TERM, 14), cut)]


def test_p09_progress_alone_orders_nothing() -> None:
    rig = opened(1)
    rig.follow("reader", Position(TERM, 11))
    rig.held({1: 5})
    assert rig.primary.stats().tail == 100
    rig.end_batch()
    assert rig.primary.stats().tail == 100, "in flight is not published"
    assert len(entries_sent(rig.sync(), "reader")) == 1
    assert rig.primary.stats().tail == 105
