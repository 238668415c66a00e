"""What every entry does at its place in the order.

Whole histories are compared with the specification in tests/property/test_index_properties.py.
"""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.errors import InvalidRange, InvalidTag, Trimmed
from bokilog.ids import Position, Term
from bokilog.journal import Location
from bokilog.messages import VERDICT_BOOK_DELETED
from bokilog.metalog import Cut, ForgetKeys, Trim
from bokilog.storage_nodes import fold as product, keys
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.unit.storage_nodes.folds import (
    BOOK,
    FAR,
    ME,
    SHARD,
    SPACE,
    Fold,
    U,
    finish,
    frame_of,
    restarted,
)


def test_a_cut_gives_seqnums_in_order_and_leaves_gaps_alone(fold: Fold) -> None:
    fold.cut([[U(["a"]), U(["b", "a"])], [U([["a", "c"]])]])
    fold.cut([[U(["a"])]], gap=10)
    assert fold.visible("a") == [1, 3, 4, 15]
    assert fold.visible("c") == [4]
    assert fold.visible() == [1, 2, 3, 4, 15]
    assert fold.index.tail == 16
    assert not fold.index.contains(BOOK, 5)
    fold.index.check()


def test_logbooks_in_one_frame_do_not_mix(fold: Fold) -> None:
    fold.append(U(["a"]), U(["a", "b"], book=6), U(["b"]))
    assert fold.visible("a") == [1]
    assert fold.visible("b") == [4]
    assert fold.visible("a", book=6) == [2]
    assert fold.index.book_state(6) == (0, 2, 3, [])


def test_p13_a_new_term_closes_shards_and_starts_above_its_end(fold: Fold) -> None:
    fold.append(U())
    product.Fold(fold.index).begin_term(Term(2), tail=50)
    assert fold.index.position == Position(Term(2), 2)
    assert fold.index.shards.opened == {}
    assert fold.index.tail == 50
    fold.counts.clear()
    assert fold.append(U()).first_seqnum == 50


def test_p25_a_trim_is_clamped_to_the_tail_and_never_goes_back(fold: Fold) -> None:
    fold.append(*[U(["a"])] * 9)
    assert fold.trim(5) == [5, None]
    assert fold.trim(3) == [5, None]
    assert fold.trim(-1) == [5, None]
    assert fold.visible("a") == [5, 6, 7, 8, 9]
    assert fold.trim(FAR) == [10, None]
    assert fold.visible() == []
    assert fold.index.book_state(BOOK) == (10, 0, 9, [])


def test_p25_a_trim_stops_at_the_lowest_live_hold(fold: Fold) -> None:
    fold.append(*[U()] * 9)
    assert fold.hold("late", 6, ttl_ms=10**6) == []
    assert fold.hold("report", 4, ttl_ms=50) == []
    assert fold.trim(8) == [4, "report"]
    assert fold.trim(8, tag="a") == [4, "report"]
    assert fold.trim(4) == [4, None]
    refused = fold.hold("low", 3)
    assert isinstance(refused, Trimmed)
    assert refused.trim_until == 4
    holds = fold.index.book_state(BOOK)[3]
    assert [hold[:2] for hold in holds] == [["late", 6], ["report", 4]]
    fold.append(U(), at_ms=fold.now_ms + 100)  # the report's hold expires by the log's time
    assert fold.trim(8) == [6, "late"]
    assert fold.release("late") == []
    assert fold.release("nobody") == []
    assert fold.trim(8) == [8, None]


def test_the_same_hold_again_moves_and_renews_it(fold: Fold) -> None:
    fold.append(*[U()] * 9)
    fold.hold("h", 2)
    fold.hold("h", 5)
    assert fold.trim(8) == [5, "h"]


@pytest.mark.parametrize(
    "entry",
    [
        Trim(1, -1, None, 5, ME),
        Trim(1, BOOK, "", 5, ME),
        Trim(1, BOOK, "x" * 300, 5, ME),
        Trim(1, BOOK, 7, 5, ME),  # type: ignore[arg-type]
        Trim(1, BOOK, None, "5", ME),  # type: ignore[arg-type]
    ],
)
def test_p34_a_proposal_that_makes_no_sense_does_nothing(fold: Fold, entry: Trim) -> None:
    fold.append(U())
    assert isinstance(fold.apply(entry), InvalidRange | InvalidTag)
    assert fold.index.position.count == 3
    assert fold.visible() == [1]


def test_p5_units_of_a_deleted_logbook_are_void(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(["a"], key="k"), U(["a"], book=6))
    fold.index.checkpoint()
    fold.append(U(["a"]))
    assert fold.delete() == []
    assert fold.delete() == []
    outcome = fold.append(U(["a"]), U(["a"], key="k"), U(["b"], book=6))
    assert outcome.verdicts == [
        [0, VERDICT_BOOK_DELETED, None, None],
        [1, VERDICT_BOOK_DELETED, None, None],
    ]
    assert fold.visible("a") == []
    assert fold.visible("b", book=6) == [6]
    assert fold.index.trim_until(BOOK) == fold.index.tail == 7
    assert fold.trim(3) == [7, None]
    assert isinstance(fold.hold("h", 3), Trimmed)
    assert fold.index.deleted_books == {BOOK}
    assert fold.index.book_state(BOOK) == (7, 0, 0, [])
    fold.index.checkpoint()
    assert [key for key, _ in store.scan(b"", b"\xff") if keys.book_of(key) == BOOK] == [
        keys.numbered(keys.BOOKS, BOOK)
    ]
    assert restarted(fold, store).deleted_books == {BOOK}


def test_the_system_logbook_stays(fold: Fold) -> None:
    assert isinstance(fold.delete(0), InvalidRange)
    assert fold.index.deleted_books == set()


def test_p24_the_chained_hash_covers_entries_frames_and_void_units() -> None:
    def chained(*units: U, trim: int = 1) -> int:
        fold = Fold(Index(SPACE, MemoryStore()))
        fold.append(*units)
        fold.trim(trim)
        return fold.index.chained_hash

    assert chained(U(["a"])) == chained(U(["a"]))
    distinct = [
        chained(U(["a"])),
        chained(U(["b"])),
        chained(U(["a"]), trim=2),
        chained(U(["a"]), U(["a"])),
    ]
    assert len(set(distinct)) == len(distinct)


def test_golden_chained_hash(fold: Fold) -> None:
    """Replicas of two releases must hash alike: a change here needs a new fold version (P25)."""
    fold.append(U(["a"]), U(["a", None], unless=[("a", 0)]), U(["b"], key="k"))
    fold.trim(2)
    assert f"{fold.index.chained_hash:016x}" == "818f3ebc34f0cbd8"


def test_an_entry_is_applied_once_and_in_order(fold: Fold) -> None:
    fold.append(U())
    before = fold.index.position, fold.index.chained_hash
    for count in (1, 2, 4):
        with pytest.raises(AssertionError, match="does not follow"):
            product.Fold(fold.index).apply(Position(Term(1), count), ForgetKeys(1))
    assert (fold.index.position, fold.index.chained_hash) == before


def test_p24_records_that_nobody_has_keep_their_seqnums(fold: Fold) -> None:
    fold.open()
    frame = frame_of([U(["a"])], first=2)
    cut = Cut(1001, 1, (CutSpan(SHARD, 0, 3),))
    applied = product.Fold(fold.index)
    position = Position(Term(1), 2)
    applied.apply_cut(position, cut, [(3, frame, Location(1, 8, 1))], gaps=[(1, 2)])
    assert fold.visible("a") == [3]
    assert [fold.index.is_lost(seqnum) for seqnum in (1, 2, 3)] == [True, True, False]
    assert fold.index.tail == 4


def test_p20_only_an_empty_fold_starts_over(fold: Fold) -> None:
    there = Position(Term(3), 70)
    product.Fold(fold.index).start_over(there, tail=500)
    assert (fold.index.position, fold.index.tail) == (there, 500)
    assert fold.index.generations.stored_position == there
    with pytest.raises(AssertionError, match="cannot start over"):
        product.Fold(fold.index).start_over(there, tail=600)
    assert fold.index.locations.given_up == ((1, 500),), "kept for whoever loads this fold"
    assert [fold.index.is_lost(seqnum) for seqnum in (1, 499, 500)] == [True, True, False]


def test_p20_where_a_fold_started_over_is_stored_with_it(fold: Fold, store: MemoryStore) -> None:
    product.Fold(fold.index).start_over(Position(Term(3), 70), tail=500)
    fold.open()
    fold.index.freeze()
    finish(fold.index)
    assert restarted(fold, store).locations.given_up == ((1, 500),)
