"""A fold whose journal was not synced copies from peers what it lost with the power."""

from __future__ import annotations

from bokilog.journal import SegmentInfo
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.locations import is_lacking
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.missing import mark_missing
from tests.unit.storage_nodes.folds import SPACE, Fold, U

SEGMENT = 2
"""Of `Fold`, whose frames lie where their seqnums are: segment 2 holds 2000 to 2999."""


def _fold() -> tuple[Fold, list[int]]:
    fold = Fold(Index(SPACE, MemoryStore()))
    fold.cut([[U()], [U(), U()]], gap=SEGMENT * 1000 - 1)
    fold.cut([[U()]])
    return fold, [first_seqnum for first_seqnum, _ in fold.index.places()]


def _segment(until: int) -> SegmentInfo:
    return SegmentInfo(SEGMENT, until, 1, 1, open=True)


def _records_lacking(fold: Fold) -> int:
    lacking = fold.index.locations.lacking
    return 0 if lacking is None else lacking.records


def _lacking(fold: Fold) -> list[int]:
    return [first for first, location in fold.index.places() if is_lacking(location)]


def test_p11_a_fold_asks_peers_for_the_frames_that_its_journal_lost_with_the_power() -> None:
    fold, firsts = _fold()
    assert firsts == [2000, 2001, 2003]
    assert mark_missing(fold.index, [_segment(2)]) == 3
    assert _lacking(fold) == [2001, 2003]
    lacking = fold.index.locations.lacking
    assert lacking is not None and (lacking.start, lacking.until) == (2001, fold.index.tail)
    assert (lacking.records, lacking.total_records) == (3, 3)


def test_p11_a_whole_segment_may_be_gone() -> None:
    fold, firsts = _fold()
    assert mark_missing(fold.index, []) == 4
    assert _lacking(fold) == firsts


def test_p11_nothing_is_missing_where_nothing_was_lost_and_nothing_is_counted_twice() -> None:
    fold, _ = _fold()
    assert mark_missing(fold.index, [_segment(1000)]) == 0
    assert _records_lacking(fold) == 0
    mark_missing(fold.index, [_segment(2)])
    assert mark_missing(fold.index, [_segment(2)]) == 0
    assert _records_lacking(fold) == 3


def test_p11_what_lies_in_an_object_store_is_not_missing() -> None:
    """Else every start would copy it from peers, and a start of all would lose it."""
    fold, _ = _fold()
    assert mark_missing(fold.index, [], {SEGMENT: 1000}) == 0
    assert _records_lacking(fold) == 0
    assert mark_missing(fold.index, [_segment(2)], {SEGMENT: 1000}) == 3, "the file counts first"
