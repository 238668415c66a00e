"""A fold as a peer gets it that cannot fold from where it stands: in parts, as of one position.

Decides what a snapshot holds: every row of the store that the fold reads (P19), but for what is
about this node's own journal: segments, and frames that it lacks itself. Places of frames go along
and mean nothing to the peer. A peer asks part by part, so it sets the pace, and a part is small:
the loop is never held for long.

Invariant: all parts are of one position. A scan shows the store as it was when it began, and none
begins while a checkpoint is being written.

Does not know: what the peer does with it (`loading.py`), or whether it should have asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bokilog.effects import Address, Send
from bokilog.ids import START, Position
from bokilog.messages import FetchSnapshot, SnapshotPart
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index import Index

PART_BYTES_MAX: Final = 256 << 10
"""About 1 ms to read; one row may be larger."""
PART_ROWS_MAX: Final = 2_000
"""Small rows cost by number: a few milliseconds."""
GIVEN_MAX: Final = 4
"""Peers that are given snapshots at once: each scan keeps what it shows on disk."""
LOCAL_KINDS: Final = frozenset((keys.META, keys.SEGMENTS, keys.SPANS, keys.LACKING))
"""Rows about this node; the position goes with the last part."""


class Given:
    """A snapshot on its way to a peer."""

    __slots__ = ("meta", "number", "part", "position", "rows", "waiting")

    def __init__(
        self, number: int, *, position: Position, meta: bytes, rows: Iterator[tuple[bytes, bytes]]
    ) -> None:
        self.number = number
        self.position = position
        self.meta = meta
        self.rows = rows
        self.part = 0
        """The next one."""
        self.waiting = next(rows, None)
        """The first row of the next part; taken here, since only now the scan begins."""


class Snapshots:
    """What the fold of one log space gives to peers."""

    __slots__ = ("_given", "_index", "_later")

    def __init__(self, index: Index) -> None:
        self._index = index
        self._given: dict[Address, Given] = {}
        self._later: dict[Address, FetchSnapshot] = {}
        """Who asked while a checkpoint was being written."""

    def give(self, source: Address, request: FetchSnapshot) -> list[Send]:
        """The part asked for, once there is one; an empty last part at no position: nothing."""
        if not request.part:
            self._given.pop(source, None)
            if self._index.generations.frozen:
                self._later[source] = request
                return []
            if not self._begin(source, request.number):
                return [Send(source, _nothing(request))]
        given = self._given.get(source)
        if given is None or (given.number, given.part) != (request.number, request.part):
            return [Send(source, _nothing(request))]
        return [Send(source, self._part(source, given))]

    def wait(self, source: Address, request: FetchSnapshot) -> None:
        """The snapshot of the next checkpoint is wanted, not that of the last one."""
        self._given.pop(source, None)
        self._later[source] = request

    def checkpoint_stored(self) -> list[Send]:
        """Those who had to wait."""
        later, self._later = self._later, {}
        return [each for source, request in later.items() for each in self.give(source, request)]

    def drop(self, source: Address) -> None:
        """The link is gone; a new attempt begins anew."""
        self._given.pop(source, None)
        self._later.pop(source, None)

    def clear(self) -> None:
        """This fold is not to be given any more."""
        self._given.clear()
        self._later.clear()

    def _begin(self, source: Address, number: int) -> bool:
        meta = self._index.store.get(keys.META)
        if meta is None or len(self._given) >= GIVEN_MAX:
            return False
        position = keys.decode_meta(meta).position
        rows = self._index.store.scan(b"", b"\xff")
        self._given[source] = Given(number, position=position, meta=meta, rows=rows)
        return True

    def _part(self, source: Address, given: Given) -> SnapshotPart:
        rows: list[list[bytes]] = []
        size_bytes = 0
        row = given.waiting
        while row is not None and size_bytes < PART_BYTES_MAX and len(rows) < PART_ROWS_MAX:
            key, value = row
            if key[:1] not in LOCAL_KINDS:
                rows.append([key, value])
                size_bytes += len(key) + len(value)
            row = next(given.rows, None)
        given.waiting = row
        part, given.part = given.part, given.part + 1
        last = row is None
        if last:
            rows.append([keys.META, given.meta])
            self._given.pop(source, None)
        space = self._index.space
        return SnapshotPart(space, given.number, part, given.position, rows, last)


def _nothing(request: FetchSnapshot) -> SnapshotPart:
    return SnapshotPart(request.space, request.number, request.part, START, [], True)
