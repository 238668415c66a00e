"""Frontiers and cuts by example; tests/property/test_cut_properties.py has the algebra."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan, advance, first_seqnums, frontier, record_count

SPANS = (CutSpan(1, 3, 5), CutSpan(2, 0, 4), CutSpan(9, 7, 8))


@pytest.mark.parametrize(
    ("counts", "write_quorum", "held"),
    [
        ([5, 9, 7], 1, 9),
        ([5, 9, 7], 2, 7),
        ([5, 9, 7], 3, 5),
        ([5, 5, 0], 2, 5),
        ([5], 1, 5),
        ([5], 2, 0),
        ([], 1, 0),
    ],
)
def test_p09_a_frontier_is_the_wth_largest_count(
    counts: list[int], write_quorum: int, held: int
) -> None:
    assert frontier(counts, write_quorum=write_quorum) == held


@pytest.mark.parametrize(
    ("last", "now", "spans"),
    [
        ({}, {}, ()),
        ({}, {2: 4, 1: 5}, (CutSpan(1, 0, 5), CutSpan(2, 0, 4))),
        ({1: 3, 2: 4}, {1: 5, 2: 4}, (CutSpan(1, 3, 5),)),
        ({1: 5}, {1: 3}, ()),
        ({1: 5}, {}, ()),
    ],
)
def test_a_cut_lists_what_moved_by_shard(
    last: dict[int, int], now: dict[int, int], spans: tuple[CutSpan, ...]
) -> None:
    assert advance(last, now) == spans


def test_seqnums_follow_each_other_over_the_spans() -> None:
    assert first_seqnums(100, SPANS) == [(100, SPANS[0]), (102, SPANS[1]), (106, SPANS[2])]
    assert record_count(SPANS) == 7
    assert (first_seqnums(100, ()), record_count(())) == ([], 0)
