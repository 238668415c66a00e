"""Aux data: best-effort bytes beside a record, in RAM until the next checkpoint, then in the store.

Losing any of it costs time, never truth: so what is pending is bounded by dropping the oldest, and
counted. Does not know which records are visible: who sets and gets it does.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore

PENDING_BYTES_MAX = 16 << 20
STEP_ROWS = 100
"""At 64 KiB each still only some milliseconds."""


class AuxData:
    """Aux data by seqnum."""

    __slots__ = ("_active", "_frozen", "_store", "any", "dropped_count", "size_bytes")

    def __init__(self, store: IndexStore) -> None:
        self._store = store
        self._active: dict[int, bytes] = {}
        self._frozen: dict[int, bytes] = {}
        self.any = store.seek_next(keys.AUX, keys.AUX) is not None
        """Whether there may be any: readers save themselves the look-ups."""
        self.size_bytes = 0
        """Of what was set since the last freeze."""
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._active)

    def set(self, seqnum: int, aux: bytes) -> None:
        self.any = True
        self.size_bytes += len(aux) - len(self._active.pop(seqnum, b""))
        self._active[seqnum] = aux
        while self.size_bytes > PENDING_BYTES_MAX:
            self.size_bytes -= len(self._active.pop(next(iter(self._active))))
            self.dropped_count += 1

    def get(self, seqnum: int) -> bytes | None:
        for generation in (self._active, self._frozen):
            if seqnum in generation:
                return generation[seqnum]
        return self._store.get(keys.numbered(keys.AUX, seqnum))

    def freeze(self) -> None:
        self._frozen, self._active = self._active, {}
        self.size_bytes = 0

    def steps(self, batch: Batch, *, forgotten_below: int) -> Iterator[None]:
        """Put what was set; drop what stands beside frames that are gone."""
        if forgotten_below and self.any:
            batch.delete_range(keys.AUX, keys.numbered(keys.AUX, forgotten_below))
        for done, (seqnum, aux) in enumerate(self._frozen.items(), 1):
            batch.put(keys.numbered(keys.AUX, seqnum), aux)
            if done % STEP_ROWS == 0:
                yield

    def done(self) -> None:
        self._frozen = {}
