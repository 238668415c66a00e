"""Idempotency keys and verdicts: what became of units that were decided, until that is forgotten.

A key is remembered from its unit's cut until a `ForgetKeys` entry at or after its expiry (P22), so
one number, `forgotten_ms`, decides whether a remembered key still counts. Verdicts are kept per
frame for the longest horizon, so that an engine that lost its link gets them again (P23). Rows are
removed from the store by lists of what expires in one hour, written with them.

Invariant: a row is removed only when a position is stored at which it was forgotten already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bokilog.conditions import KeyUse
from bokilog.limits import KEY_HORIZON_S
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore

STEP_ROWS = 300
"""About 1 ms of work between two turns of the loop."""
FORGET_ROWS_MAX = 20_000
"""Forgotten rows removed per checkpoint."""
EXPIRING_ROWS_MAX = 512
"""Keys in one list of what expires."""
HOUR_MS = 3_600_000
EXPIRY_MS_MAX = 2**63 - 1
_ROW_BYTES = 200
"""Estimate of what one key costs in RAM beside its text."""


class KeyUses:
    """Used keys by LogBook, verdicts by first seqnum of their frame."""

    __slots__ = (
        "_active",
        "_forgotten_frozen_ms",
        "_frozen",
        "_frozen_verdicts",
        "_store",
        "_verdicts",
        "forgotten_ms",
        "size_bytes",
    )

    def __init__(self, store: IndexStore, forgotten_ms: int) -> None:
        self._store = store
        self._active: defaultdict[int, dict[str, KeyUse]] = defaultdict(dict)
        self._frozen: dict[int, dict[str, KeyUse]] = {}
        self._verdicts: dict[int, tuple[int, list[list[object]]]] = {}
        """first seqnum -> (timestamp in ms, verdicts)"""
        self._frozen_verdicts: dict[int, tuple[int, list[list[object]]]] = {}
        self.forgotten_ms = forgotten_ms
        """Keys whose expiry is at or before it are forgotten."""
        self._forgotten_frozen_ms = forgotten_ms
        self.size_bytes = 0
        """Estimate of what was added since the last freeze."""

    # --- the fold ---

    def use(self, book: int, key: str) -> KeyUse | None:
        """What is remembered of a key."""
        use = self._active[book].get(key) if book in self._active else None
        if use is None and book in self._frozen:
            use = self._frozen[book].get(key)
        if use is None:
            value = self._store.get(keys.named(keys.KEYS, book, key))
            use = None if value is None else keys.decode_key_use(value)
        return use if use is not None and use.expiry_ms > self.forgotten_ms else None

    def add(self, book: int, key: str, use: KeyUse) -> None:
        self._active[book][key] = use
        self.size_bytes += _ROW_BYTES + len(key)

    def add_verdicts(
        self, first_seqnum: int, verdicts: list[list[object]], timestamp_ms: int
    ) -> None:
        self._verdicts[first_seqnum] = (timestamp_ms, verdicts)
        self.size_bytes += _ROW_BYTES * len(verdicts)

    def forget(self, timestamp_ms: int) -> None:
        self.forgotten_ms = max(self.forgotten_ms, timestamp_ms)

    def delete_book(self, book: int) -> None:
        self._active.pop(book, None)

    # --- reads ---

    def verdicts(self, first_seqnum: int) -> list[list[object]]:
        """Verdicts on the units of the frame at `first_seqnum`; none if none was needed."""
        for generation in (self._verdicts, self._frozen_verdicts):
            if first_seqnum in generation:
                return generation[first_seqnum][1]
        value = self._store.get(keys.numbered(keys.VERDICTS, first_seqnum))
        return [] if value is None else keys.decode_verdicts(value)

    # --- checkpoints ---

    def freeze(self) -> None:
        self._frozen, self._active = self._active, defaultdict(dict)
        self._frozen_verdicts, self._verdicts = self._verdicts, {}
        self._forgotten_frozen_ms = self.forgotten_ms
        self.size_bytes = 0

    def steps(self, batch: Batch, *, count: int) -> Iterator[None]:
        """Remove what is forgotten, then put what is new; `count` is the frozen position's."""
        yield from self._forget_steps(batch)
        expiring: defaultdict[int, list[bytes]] = defaultdict(list)
        lists = 0
        for done, (expiry_ms, key, value) in enumerate(self._rows(), 1):
            batch.put(key, value)
            hour_ms = (expiry_ms // HOUR_MS + 1) * HOUR_MS
            expiring[hour_ms].append(key)
            if len(expiring[hour_ms]) == EXPIRING_ROWS_MAX:
                lists += 1
                value = keys.encode_expiring(expiring.pop(hour_ms))
                batch.put(keys.expiry_key(hour_ms, count, lists), value)
            if done % STEP_ROWS == 0:
                yield
        for hour_ms, listed in expiring.items():
            lists += 1
            batch.put(keys.expiry_key(hour_ms, count, lists), keys.encode_expiring(listed))

    def done(self) -> None:
        """The frozen rows are in the store."""
        self._frozen, self._frozen_verdicts = {}, {}

    def _rows(self) -> Iterator[tuple[int, bytes, bytes]]:
        for book, uses in self._frozen.items():
            for key, use in uses.items():
                yield use.expiry_ms, keys.named(keys.KEYS, book, key), keys.encode_key_use(use)
        for first_seqnum, (timestamp_ms, verdicts) in self._frozen_verdicts.items():
            expiry_ms = timestamp_ms + KEY_HORIZON_S * 1000
            row = keys.numbered(keys.VERDICTS, first_seqnum)
            yield expiry_ms, row, keys.encode_verdicts(verdicts)

    def _forget_steps(self, batch: Batch) -> Iterator[None]:
        forgotten_ms = self._forgotten_frozen_ms
        removed = 0
        expired = self._store.scan(keys.EXPIRIES, keys.expiry_key(forgotten_ms + 1, 0, 0))
        for expiry_key, listed in expired:
            for key in keys.decode_expiring(listed):
                if key.startswith(keys.KEYS):
                    value = self._store.get(key)
                    # The key may have been used again since, and count again.
                    if value is None or keys.decode_key_use(value).expiry_ms > forgotten_ms:
                        continue
                batch.delete(key)
            batch.delete(expiry_key)
            removed += EXPIRING_ROWS_MAX
            yield
            if removed >= FORGET_ROWS_MAX:
                return


def expiry_ms(timestamp_ms: int, horizon_s: int) -> int:
    """When a key used at `timestamp_ms` expires; whatever the client asked for fits its column."""
    return min(timestamp_ms + max(0, horizon_s) * 1000, EXPIRY_MS_MAX)
