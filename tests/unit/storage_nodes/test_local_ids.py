"""Spans of cuts by seqnum: in RAM, in the store, and forgotten."""

from __future__ import annotations

from bokilog.cut import CutSpan
from bokilog.ids import Term
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import prefix_end
from bokilog.storage_nodes.local_ids import LocalIds, OrderedSpan
from bokilog.storage_nodes.memory_store import MemoryStore

EVERYTHING = 1 << 53


def _store(ids: LocalIds, store: MemoryStore, *, forgotten_below: int = 0) -> None:
    ids.freeze()
    batch = store.batch()
    for _ in ids.steps(batch, forgotten_below=forgotten_below):
        pass
    store.write(batch)
    ids.done()


def _chunks(store: MemoryStore) -> list[int]:
    found = store.keys(keys.LOCAL_IDS, prefix_end(keys.LOCAL_IDS))
    return [keys.number_of(key) for key in found]


def test_spans_are_found_wherever_they_are_kept() -> None:
    store = MemoryStore()
    ids = LocalIds(store)
    ids.add(Term(1), 10, [CutSpan(7, 0, 3), CutSpan(9, 5, 6)])
    _store(ids, store)
    ids.add(Term(1), 20, [CutSpan(7, 3, 4)])
    ids.freeze()
    ids.add(Term(2), 1000, [CutSpan(8, 0, 2)])
    everything = [
        OrderedSpan(10, 1, 7, 0, 3),
        OrderedSpan(13, 1, 9, 5, 6),
        OrderedSpan(20, 1, 7, 3, 4),
        OrderedSpan(1000, 2, 8, 0, 2),
    ]
    assert list(ids.spans(0, EVERYTHING)) == everything
    assert list(ids.spans(12, 20)) == everything[:2]
    assert list(ids.spans(13, 20)) == everything[1:2]
    assert list(ids.spans(1001, EVERYTHING)) == everything[3:]
    assert list(ids.spans(14, 20)) == []
    assert list(ids.spans(0, 10)) == []


def test_another_start_finds_what_was_stored_in_chunks() -> None:
    store = MemoryStore()
    ids = LocalIds(store)
    for n in range(600):
        ids.add(Term(1), n + 1, [CutSpan(7, n, n + 1)])
    _store(ids, store)
    again = LocalIds(store)
    assert _chunks(store) == [1, 257, 513]
    assert [each.start for each in again.spans(300, 520)] == list(range(299, 519))


def test_chunks_of_frames_without_rows_go() -> None:
    store = MemoryStore()
    ids = LocalIds(store)
    for n in range(600):
        ids.add(Term(1), n + 1, [CutSpan(7, n, n + 1)])
    _store(ids, store)
    _store(ids, store, forgotten_below=512)
    assert _chunks(store) == [257, 513]


def test_golden_spans() -> None:
    ids = LocalIds(store := MemoryStore())
    ids.add(Term(2), 258, [CutSpan(7, 3, 4), CutSpan(8, 0, 1)])
    _store(ids, store)
    assert keys.numbered(keys.LOCAL_IDS, 258).hex() == "46" + "0000000000000102"
    value = store.get(keys.numbered(keys.LOCAL_IDS, 258))
    assert value is not None and value.hex() == (
        "02010000000000000301000000000000"  # first seqnums
        "02000000000000000200000000000000"  # terms
        "07000000000000000800000000000000"  # numbers of shards
        "03000000000000000000000000000000"  # first counts
        "04000000000000000100000000000000"  # past the last ones
    )
