"""Which LocalIds were ordered where: one row per span of a cut, found by seqnum.

A loaded fold names frames by seqnum, the journal here by LocalId: this leads from one to the other
when no peer has a frame's bytes any more, and nobody else knows which one it was (P1, P33).

Rows since the last checkpoint lie in parallel arrays in RAM, older ones in the store in chunks; a
peer's fold brings its own. Records that are lost have rows, too: a span is ordered as a whole.

Invariants: rows are ordered by seqnum; those of frames that have no rows any more may go.

Does not know: frames, journals. A store that an earlier version wrote has no rows for what it had
ordered.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from bokilog.cut import CutSpan
from bokilog.ids import Term
from bokilog.named import NamedTuple
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore
from bokilog.storage_nodes.keys import CHUNK_ROWS_MAX, Numbers, SpanColumns

STEP_CHUNKS = 50
"""About 1 ms of work between two turns of the loop."""


class OrderedSpan(NamedTuple):
    """Records of one shard that a cut ordered one behind the other."""

    first_seqnum: int
    term: int
    number: int
    start: int
    until: int


def _none() -> SpanColumns[array[int]]:
    return SpanColumns(array("Q"), array("Q"), array("Q"), array("Q"), array("Q"))


class LocalIds:
    """LocalIds by seqnum."""

    __slots__ = ("_active", "_frozen", "_store")

    def __init__(self, store: IndexStore) -> None:
        self._store = store
        self._active = _none()
        self._frozen = _none()

    def add(self, term: Term, first_seqnum: int, spans: Sequence[CutSpan]) -> None:
        """What the next cut orders."""
        seqnums, terms, numbers, starts, untils = self._active
        for number, start, until in spans:
            seqnums.append(first_seqnum)
            terms.append(term)
            numbers.append(number)
            starts.append(start)
            untils.append(until)
            first_seqnum += until - start

    def spans(self, start: int, until: int) -> Iterator[OrderedSpan]:
        """Those that hold a seqnum in `[start, until)`, in order."""
        for columns in self._chunks(start, until):
            first = max(0, bisect_right(columns.first_seqnums, start) - 1)
            for place in range(first, bisect_left(columns.first_seqnums, until)):
                span = OrderedSpan(*(column[place] for column in columns))
                if span.first_seqnum + span.until - span.start > start:
                    yield span

    def _chunks(self, start: int, until: int) -> Iterator[SpanColumns[Numbers]]:
        first = self._store.seek_prev(keys.numbered(keys.LOCAL_IDS, start), keys.LOCAL_IDS)
        begin = keys.numbered(keys.LOCAL_IDS, start) if first is None else first[0]
        for _, value in self._store.scan(begin, keys.numbered(keys.LOCAL_IDS, until)):
            yield keys.decode_ordered_spans(value)
        for columns in (self._frozen, self._active):
            if len(columns.first_seqnums):
                yield columns

    # --- checkpoints ------------------------------------------------------------------------------

    def freeze(self) -> None:
        self._frozen, self._active = self._active, _none()

    def steps(self, batch: Batch, *, forgotten_below: int) -> Iterator[None]:
        """Put the frozen rows, drop chunks whose frames have no rows any more."""
        forgotten = keys.numbered(keys.LOCAL_IDS, forgotten_below)
        first = self._store.seek_prev(forgotten, keys.LOCAL_IDS) if forgotten_below else None
        if first is not None:
            batch.delete_range(keys.LOCAL_IDS, first[0])
        frozen = self._frozen
        for done, at in enumerate(range(0, len(frozen.first_seqnums), CHUNK_ROWS_MAX), 1):
            chunk = SpanColumns(*(column[at : at + CHUNK_ROWS_MAX] for column in frozen))
            key = keys.numbered(keys.LOCAL_IDS, chunk.first_seqnums[0])
            batch.put(key, keys.encode_ordered_spans(chunk))
            if done % STEP_CHUNKS == 0:
                yield

    def done(self) -> None:
        """The frozen rows are in the store."""
        self._frozen = _none()
