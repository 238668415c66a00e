"""What the fold needs of the store under it: ordered bytes, one atomic batch at a time.

Decides nothing. The contract both stores are tested against:
- A batch is all or nothing, also across a crash: after one, the store is as some flush left it
  (P19).
- What was written is read at once; it survives a crash once `flush` has returned.
- `write` and `flush` may run in another thread than the reads, one at a time. What is read while a
  `write` runs may or may not show the batch; the fold ignores what it has not been told is
  complete (`Generations.done`).
- Later operations of a batch win over earlier ones.

Keys and values are `bytes`, ordered as bytes. Does not know what they mean (`keys.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Batch(Protocol):
    """Changes that are written together or not at all; used once."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...

    def delete_range(self, start: bytes, until: bytes) -> None:
        """Delete all keys in `[start, until)`."""
        ...


class IndexStore(Protocol):
    """An ordered map from bytes to bytes."""

    def get(self, key: bytes) -> bytes | None: ...

    def seek_prev(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The largest key at or before `key` that starts with `prefix`, with its value."""
        ...

    def seek_next(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The smallest key at or after `key` that starts with `prefix`, with its value."""
        ...

    def scan(self, start: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys in `[start, until)` with their values, in order, as they were when it began."""
        ...

    def keys(self, start: bytes, until: bytes) -> Iterator[bytes]:
        """Keys in `[start, until)`, in order; cheaper than `scan` where values are large."""
        ...

    def batch(self) -> Batch: ...

    def write(self, batch: Batch) -> None:
        """Apply a batch made by this store's `batch()`."""
        ...

    def flush(self) -> None:
        """Return once everything written is on disk."""
        ...

    def close(self) -> None: ...


def clear(store: IndexStore) -> None:
    """Drop everything in a store, at once and for good.

    Raises:
        ReadOnly: the disk does not take it; then everything is as it was.
    """
    batch = store.batch()
    batch.delete_range(b"", b"\xff")  # keys begin with a letter
    store.write(batch)
    store.flush()


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that start with `prefix`.

    >>> prefix_end(b"ab"), prefix_end(b"a" + bytes([255]))
    (b'ac', b'b')
    """
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))
