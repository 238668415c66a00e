from bokilog.storage_nodes.memory_store import MemoryStore


def write(store: MemoryStore, **rows: str) -> None:
    batch = store.batch()
    for key, value in rows.items():
        batch.put(key.encode(), value.encode())
    store.write(batch)


def everything(store: MemoryStore) -> dict[bytes, bytes]:
    return dict(store.scan(b"", b"\xff"))


def test_a_crash_loses_every_batch_since_the_last_flush() -> None:
    store = MemoryStore()
    write(store, a="1", b="1")
    store.flush()
    write(store, b="2", c="2")
    batch = store.batch()
    batch.delete_range(b"a", b"z")
    batch.put(b"d", b"3")
    store.write(batch)
    assert everything(store) == {b"d": b"3"}
    store.crash()
    assert everything(store) == {b"a": b"1", b"b": b"1"}
    assert list(store.keys(b"", b"\xff")) == [b"a", b"b"]


def test_what_was_flushed_survives_crashes() -> None:
    store = MemoryStore()
    write(store, a="1")
    store.flush()
    store.crash()
    store.crash()
    assert everything(store) == {b"a": b"1"}
    write(store, a="2")
    store.flush()
    assert everything(store) == {b"a": b"2"}
