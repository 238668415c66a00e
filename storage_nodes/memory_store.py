"""The fold's store in memory: for log spaces of class `memory`, for tests, and for the simulator.

Same contract as `rocks_store.py`. `crash()` is what power loss does to a store whose writes go to
memory first: every batch since the last flush is gone, none is gone by half.

Invariant: `_order` holds the keys of `_values` in order. A write puts values in before it shows
their keys, and hides keys before it drops their values, so that a reader in another thread never
trips over a batch in the middle.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from bokilog.storage_nodes.index_store import Batch


class MemoryBatch:
    """Operations in order; None as the value of a put deletes."""

    __slots__ = ("operations",)

    def __init__(self) -> None:
        self.operations: list[tuple[bytes, bytes | None, bytes | None]] = []
        """(key, value, end of a deleted range)"""

    def put(self, key: bytes, value: bytes) -> None:
        self.operations.append((key, value, None))

    def delete(self, key: bytes) -> None:
        self.operations.append((key, None, None))

    def delete_range(self, start: bytes, until: bytes) -> None:
        self.operations.append((start, None, until))


class MemoryStore:
    """A sorted list of keys beside a dict."""

    def __init__(self) -> None:
        self._order: list[bytes] = []
        self._values: dict[bytes, bytes] = {}
        self._undo: list[dict[bytes, bytes | None]] = []
        """Per batch since the last flush: what its keys were before."""

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def seek_prev(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        order = self._order
        place = bisect_right(order, key) - 1
        return self._at(order, place, prefix)

    def seek_next(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        order = self._order
        return self._at(order, bisect_left(order, key), prefix)

    def scan(self, start: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        values = self._values
        found = [(key, values[key]) for key in self.keys(start, until) if key in values]
        return iter(found)

    def keys(self, start: bytes, until: bytes) -> Iterator[bytes]:
        order = self._order
        return iter(order[bisect_left(order, start) : bisect_left(order, until)])

    def batch(self) -> MemoryBatch:
        return MemoryBatch()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, MemoryBatch), "a batch is written by the store that made it"
        changes = self._net(batch)
        self._undo.append({key: self._values.get(key) for key in changes})
        self._apply(changes)

    def flush(self) -> None:
        self._undo.clear()

    def crash(self) -> None:
        """Lose every batch since the last flush."""
        while self._undo:
            self._apply(self._undo.pop())

    def close(self) -> None:
        """Nothing to let go of: whoever holds the store may open it again."""

    def _at(self, order: list[bytes], place: int, prefix: bytes) -> tuple[bytes, bytes] | None:
        if not 0 <= place < len(order) or not order[place].startswith(prefix):
            return None
        value = self._values.get(order[place])
        return None if value is None else (order[place], value)

    def _net(self, batch: MemoryBatch) -> dict[bytes, bytes | None]:
        """What each key of the batch ends up as; a range is looked up once, when its turn comes."""
        changes: dict[bytes, bytes | None] = {}
        for key, value, until in batch.operations:
            if until is None:
                changes[key] = value
                continue
            for covered in self.keys(key, until):
                changes[covered] = None
            for covered in changes:
                if key <= covered < until:
                    changes[covered] = None
        return changes

    def _apply(self, changes: dict[bytes, bytes | None]) -> None:
        values = self._values
        added = sorted(
            key for key, value in changes.items() if value is not None and key not in values
        )
        dropped = {key for key, value in changes.items() if value is None and key in values}
        for key, value in changes.items():
            if value is not None:
                values[key] = value
        kept = [key for key in self._order if key not in dropped] if dropped else self._order[:]
        if added:
            kept += added
            kept.sort()  # two sorted runs: one merge
        self._order = kept
        for key in dropped:
            del values[key]
