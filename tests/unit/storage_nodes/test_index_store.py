"""One contract for every store under the fold."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bokilog.storage_nodes.index_store import IndexStore, prefix_end
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.rocks_store import RocksStore


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    made: IndexStore = MemoryStore() if request.param == "memory" else RocksStore(tmp_path)
    yield made
    made.close()


def put(store: IndexStore, **rows: str) -> None:
    batch = store.batch()
    for key, value in rows.items():
        batch.put(key.encode(), value.encode())
    store.write(batch)


def test_what_was_written_is_read_at_once(store: IndexStore) -> None:
    put(store, a1="one", a3="three")
    assert store.get(b"a1") == b"one"
    assert store.get(b"a2") is None


def test_seeks_stay_inside_their_prefix(store: IndexStore) -> None:
    put(store, a1="one", a3="three", b1="other")
    assert store.seek_prev(b"a2", b"a") == (b"a1", b"one")
    assert store.seek_prev(b"a3", b"a") == (b"a3", b"three")
    assert store.seek_prev(b"b0", b"b") is None
    assert store.seek_prev(b"a0", b"a") is None
    assert store.seek_next(b"a2", b"a") == (b"a3", b"three")
    assert store.seek_next(b"a4", b"a") is None
    assert store.seek_next(b"c", b"c") is None


def test_seeks_see_the_latest_write(store: IndexStore) -> None:
    put(store, a1="one")
    assert store.seek_prev(b"a9", b"a") == (b"a1", b"one")
    put(store, a5="five")
    assert store.seek_prev(b"a9", b"a") == (b"a5", b"five")
    assert store.seek_next(b"a2", b"a") == (b"a5", b"five")


def test_scans_are_half_open_and_ordered(store: IndexStore) -> None:
    put(store, a3="three", a1="one", a2="two", b1="other")
    assert list(store.scan(b"a1", b"a3")) == [(b"a1", b"one"), (b"a2", b"two")]
    assert list(store.keys(b"a", prefix_end(b"a"))) == [b"a1", b"a2", b"a3"]
    assert list(store.keys(b"c", b"d")) == []


def test_a_scan_shows_the_store_as_it_was_when_it_began(store: IndexStore) -> None:
    put(store, a1="one", a2="two")
    scan = store.scan(b"a", b"b")
    first = next(scan)
    batch = store.batch()
    batch.delete(b"a2")
    store.write(batch)
    assert [first, *scan] == [(b"a1", b"one"), (b"a2", b"two")]


def test_later_operations_of_a_batch_win(store: IndexStore) -> None:
    put(store, a1="old", a2="old", a3="old")
    batch = store.batch()
    batch.delete_range(b"a1", b"a3")
    batch.put(b"a1", b"new")
    batch.delete(b"a3")
    batch.put(b"a4", b"gone")
    batch.delete_range(b"a4", b"a5")
    store.write(batch)
    assert list(store.scan(b"a", b"b")) == [(b"a1", b"new")]


def test_the_end_of_a_prefix_is_past_all_that_start_with_it() -> None:
    assert prefix_end(b"a\x00") == b"a\x01"
    assert prefix_end(b"a" + b"\xff" * 8) == b"b"
