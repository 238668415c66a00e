"""What can be read of a fold.

Whole histories are compared with the specification in tests/property/test_index_properties.py.
"""

from __future__ import annotations

from bokilog.journal import Location
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.unit.storage_nodes.folds import (
    BOOK,
    FAR,
    Fold,
    U,
    finish,
    restarted,
    through,
)


def test_trims_of_tags_hide_records_of_no_other_tag(fold: Fold) -> None:
    fold.append(U(["a"]), U([["a", "b"]]), U(["b"]), U([None]), U(["a"]))
    assert not fold.index.has_tag_trims(BOOK)
    assert fold.trim(4, tag="a") == [4, None]
    assert fold.visible("a") == [5]
    assert fold.visible("b") == [2, 3]
    assert fold.index.trim_until(BOOK, "a") == 4
    assert fold.index.trim_until(BOOK) == 0
    assert fold.index.has_tag_trims(BOOK)
    hidden = fold.index.hidden_by_tag_trims
    assert hidden(BOOK, 1, ["a"])
    assert not hidden(BOOK, 2, ["a", "b"])
    assert not hidden(BOOK, 4, [])
    assert fold.index.trims_of(BOOK) == [[BOOK, "a", 4]]
    fold.trim(5)
    assert fold.index.trims_of(BOOK) == [[BOOK, None, 5]]


def test_frames_are_found_by_seqnum_before_and_after_a_checkpoint(
    fold: Fold, store: MemoryStore
) -> None:
    placed = [
        (outcome.first_seqnum, outcome.frame.records)
        for _ in range(5)
        for outcome in fold.cut([[U(["a", "b", "c"])], [U(), U(unless=[(None, 0)])]], gap=2)
    ]
    for index in (fold.index, fold.index, None):
        if index is None:
            index = restarted(fold, store)
        for seqnum in range(index.tail + 2):
            row = index.locate(seqnum)
            inside = [p for p in placed if p[0] <= seqnum < p[0] + p[1]]
            assert [(row.first_seqnum, row.records)] == inside if row else not inside
        rows = index.locate_range(4, 20)
        assert [r.first_seqnum for r in rows] == [f for f, n in placed if f + n > 4 and f < 20]
        assert index.locate_range(4, 20, limit=1) == rows[:1]
        assert [row.void_units for row in rows if row.records == 2] == [(1,)] * 2
        fold.index.checkpoint()


def test_seqnum_at_is_the_first_cut_at_or_after_a_time(fold: Fold, store: MemoryStore) -> None:
    fold.now_ms = 0
    for at_ms in (100, 200, 200, 300):
        fold.append(U(), U(), at_ms=at_ms)
        fold.now_ms -= 1  # so that two cuts may carry one timestamp
    expected = {0: 1, 100: 1, 101: 3, 200: 3, 201: 7, 300: 7, 301: 9, FAR: 9}
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.index.freeze()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    through(fold.index.generations.steps())
    fold.index.generations.write()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.index.generations.done()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.append(U(), at_ms=400)
    expected |= {301: 9, 400: 9, 401: 10, FAR: 10}
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected


def test_p7_a_frame_that_moved_is_found_at_its_new_place(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U())
    fold.index.checkpoint()
    fold.append(U(), U())
    fold.index.freeze()
    fold.append(U())
    moved = {1: Location(70, 1, 2), 3: Location(70, 2, 2), 5: Location(70, 3, 1)}
    for first_seqnum, location in moved.items():
        assert fold.index.relocate(first_seqnum, location)
    assert not fold.index.relocate(2, Location(70, 9, 9))
    assert not fold.index.relocate(6, Location(70, 9, 9))

    def places(index: Index) -> dict[int, Location]:
        return {r.first_seqnum: r.location for r in index.locate_range(0, FAR)}

    assert places(fold.index) == moved
    finish(fold.index)
    assert places(fold.index) == moved
    fold.index.checkpoint()
    assert places(restarted(fold, store)) == moved
    assert fold.index.segments.books_of(70) == {BOOK: 5}


def test_aux_data_is_kept_and_the_last_one_stays(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U())
    assert not fold.index.has_aux
    assert fold.index.get_aux(1) is None
    fold.index.set_aux(1, b"one")
    fold.index.checkpoint()
    fold.index.set_aux(1, b"two")
    fold.index.freeze()
    fold.index.set_aux(2, b"three")
    assert (fold.index.get_aux(1), fold.index.get_aux(2)) == (b"two", b"three")
    finish(fold.index)
    index = restarted(fold, store)
    assert index.has_aux
    assert (index.get_aux(1), index.get_aux(2)) == (b"two", None)


def test_pending_aux_data_is_bounded_by_dropping_the_oldest(fold: Fold) -> None:
    for seqnum in range(300):
        fold.index.set_aux(seqnum, bytes(64 << 10))
    assert fold.index.stats().aux_dropped == 300 - 256
    assert fold.index.get_aux(0) is None
    assert fold.index.get_aux(299) is not None


def test_p21_rows_and_aux_data_go_with_their_segments(fold: Fold, store: MemoryStore) -> None:
    for _ in range(30):
        fold.append(*[U()] * 100)
    fold.index.set_aux(5, b"x")
    fold.index.set_aux(2900, b"x")
    fold.index.checkpoint()  # frames of 100 records, segments of 1000 seqnums
    for _ in range(3):
        fold.append(*[U()] * 100)
        fold.index.checkpoint()
    fold.trim(3150)
    assert fold.index.segments.dead(fold.index, before=3) == [0, 1, 2]
    fold.index.checkpoint()
    index = restarted(fold, store)
    assert index.locate(5) is None
    assert index.locate(3200) is not None
    assert index.get_aux(5) is None
    assert index.seqnum_at(0) == 3001
    assert list(index.segments.books_of(3)) == [BOOK]
