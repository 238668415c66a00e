from __future__ import annotations

from collections.abc import Mapping

from bokilog.storage_nodes import keys
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.retention import Blocker, SegmentBooks, blocker


class Trims:
    def __init__(self, **trims: int) -> None:
        self.trims = {int(book[1:]): until for book, until in trims.items()}
        self.asked = 0

    def trim_until(self, book: int, tag: str | None = None) -> int:
        self.asked += 1
        return self.trims.get(book, 0)


def test_p21_a_segment_is_dead_once_every_logbook_is_trimmed_past_it() -> None:
    assert blocker({5: 10, 6: 12}, Trims(b5=11, b6=13)) is None
    assert blocker({5: 10, 6: 12}, Trims(b5=11, b6=12)) == Blocker(6, 12)
    assert blocker({}, Trims()) is None


def test_p21_only_segments_below_the_replay_are_asked_for() -> None:
    segments = SegmentBooks()
    for segment in (1, 2, 3):
        segments.ordered(segment, 5, segment * 10)
    assert segments.newest == 3
    assert segments.dead(Trims(b5=100), before=3) == [1, 2]
    assert segments.dead(Trims(b5=100), before=3) == []
    assert 3 in segments
    assert 1 not in segments


def test_the_last_seqnum_of_a_logbook_counts() -> None:
    segments = SegmentBooks()
    segments.ordered(1, [5, 6, 5], 10)
    segments.ordered(1, 5, 20)
    assert segments.books_of(1) == {5: 20, 6: 10}
    assert segments.dead(Trims(b5=20, b6=11), before=2) == []
    assert segments.dead(Trims(b5=21, b6=11), before=2) == [1]


def test_a_segment_without_records_is_dead() -> None:
    segments = SegmentBooks()
    segments.frame(1)
    segments.frame(2)
    assert segments.dead(Trims(), before=2) == [1]


def test_one_record_is_looked_at_while_it_keeps_a_segment_alive() -> None:
    segments = SegmentBooks()
    for book in range(5, 25):
        segments.ordered(1, book, 10)
    trims = Trims()
    assert segments.dead(trims, before=2) == []
    trims.asked = 0
    assert segments.dead(trims, before=2) == []
    assert trims.asked == 1


def test_numbers_outlive_a_restart() -> None:
    store = MemoryStore()

    def load(segment: int) -> Mapping[int, int]:
        value = store.get(keys.numbered(keys.SEGMENTS, segment))
        return {} if value is None else keys.decode_segment(value)

    def checkpoint(segments: SegmentBooks) -> None:
        segments.freeze()
        batch = store.batch()
        for _ in segments.steps(batch):
            pass
        store.write(batch)
        segments.done()

    segments = SegmentBooks(load)
    segments.ordered(1, 5, 10)
    checkpoint(segments)
    segments.ordered(1, 6, 12)
    segments.ordered(2, 5, 14)
    segments.frame(3)
    checkpoint(segments)
    stored = [keys.number_of(key) for key in store.keys(b"G", b"H")]
    again = SegmentBooks(load, stored)
    assert again.books_of(1) == {5: 10, 6: 12}
    assert again.newest == 3
    assert again.dead(Trims(b5=11, b6=13), before=3) == [1]
    assert again.dirty
    checkpoint(again)
    assert [keys.number_of(key) for key in store.keys(b"G", b"H")] == [2, 3]
    assert again.dead(Trims(b5=15), before=4) == [2, 3]  # 3 holds nothing that was ordered
