"""Where ordered frames lie: one row per frame, found by seqnum, and chunks found by time.

A row is the frame's first seqnum, its number of records, its place in the journal, the timestamp
of its cut and its void units. Rows since the last checkpoint lie in parallel arrays in RAM, older
ones in the store in chunks of up to 256.

Invariants: rows are ordered by seqnum and do not overlap; their timestamps never go back (P10); a
chunk never spans two checkpoints, and one at or past `stored_tail` does not count yet. A row may
outlive its frame: reads check the identity of the frame they land on (P21).

Which frames are still to be copied here, after a load from a peer, is noted beside the rows
(`lacking`), and stored with them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bokilog.journal import Location
from bokilog.named import NamedTuple
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore, prefix_end
from bokilog.storage_nodes.keys import CHUNK_ROWS_MAX, Lacking, Numbers, RowColumns

STEP_CHUNKS = 50
"""About 1 ms of work between two turns of the loop."""
FORGET_CHUNKS_MAX = 1_000
"""Chunks of dead frames removed per checkpoint."""
_ROWS_END = prefix_end(keys.ROWS)


RamRows = RowColumns["array[int]"]
LACKING: Final = Location(0, 0, 0)
"""Not in this journal, after a load from a peer: whose bytes are still to be copied (P33)."""
LOST: Final = Location(0, 1, 0)
"""Not in this journal, nor anywhere: trimmed before it was copied, or gone on every replica."""
ALL_VOID: Final = ((1 << 32) - 1,)
"""The void units of records whose index data is lost, too: nobody knows how many (P24)."""


class Row(NamedTuple):
    """An ordered frame."""

    first_seqnum: int
    records: int
    location: Location
    timestamp_ms: int
    void_units: tuple[int, ...]


def _no_rows() -> RamRows:
    return RowColumns(array("Q"), array("Q"), array("Q"), array("Q"), array("I"), array("I"), {})


class Locations:
    """Rows of ordered frames."""

    __slots__ = (
        "_active",
        "_frozen",
        "_frozen_given_up",
        "_moved",
        "_moving",
        "_store",
        "_stored_lacking",
        "forgotten_below",
        "given_up",
        "lacking",
        "stored_tail",
    )

    def __init__(self, store: IndexStore, stored_tail: int) -> None:
        self._store = store
        self._active = _no_rows()
        self._frozen = _no_rows()
        self._moved: dict[int, Location] = {}
        """Frames that were moved after their row was frozen, by first seqnum."""
        self._moving: dict[int, Location] = {}
        """Those of them that the checkpoint in hand writes."""
        self.stored_tail = stored_tail
        self.forgotten_below = 0
        """Frames below it have no rows any more."""
        value = store.get(keys.LACKING)
        self.lacking: Lacking | None = None if value is None else keys.decode_lacking(value)
        """Frames that are still to be copied here, after a load from a peer."""
        self._stored_lacking = self.lacking
        value = store.get(keys.GIVEN_UP)
        self.given_up = () if value is None else keys.decode_given_up(value)
        """Spans of seqnums that may have been of what a person has given up (P15)."""
        self._frozen_given_up = self.given_up

    @property
    def count(self) -> int:
        """Rows since the last freeze."""
        return len(self._active.first_seqnums)

    @property
    def dirty(self) -> bool:
        """Whether the store would say anything else, also if nothing was ordered since."""
        return bool(self._moved) or self.lacking != self._stored_lacking

    # --- the fold ---

    def add(self, row: Row) -> None:
        """The next ordered frame."""
        first_seqnum, frame_records, location, timestamp_ms, void_units = row
        first_seqnums, timestamps_ms, segments, offsets, lengths, records, voids = self._active
        if void_units:
            voids[len(first_seqnums)] = void_units
        first_seqnums.append(first_seqnum)
        timestamps_ms.append(timestamp_ms)
        segments.append(location[0])
        offsets.append(location[1])
        lengths.append(location[2])
        records.append(frame_records)

    def relocate(self, first_seqnum: int, location: Location) -> bool:
        """The frame at `first_seqnum` lies somewhere else now; False if there is no such frame."""
        row = self.locate(first_seqnum)
        if row is None or row.first_seqnum != first_seqnum:
            return False
        self._moved[first_seqnum] = location
        return True

    # --- reads ---

    def locate(self, seqnum: int) -> Row | None:
        """The row of the frame that holds `seqnum`, void or not."""
        found = self._chunk_at(seqnum)
        if found is None:
            return None
        rows, place = found
        row = self._row(rows, place)
        return row if seqnum < row.first_seqnum + row.records else None

    def locate_range(self, start: int, until: int, *, limit: int) -> list[Row]:
        """Rows of up to `limit` frames that hold a seqnum in `[start, until)`, in order."""
        found: list[Row] = []
        for rows in self._chunks_from(start, until):
            first = max(0, bisect_right(rows.first_seqnums, start) - 1)
            for place in range(first, bisect_left(rows.first_seqnums, until)):
                row = self._row(rows, place)
                if row.first_seqnum + row.records > start:
                    found.append(row)
                    if len(found) == limit:
                        return found
        return found

    def places(self) -> Iterator[tuple[int, Location]]:
        """First seqnum and place of every frame, in order; of those in the store as they are at
        the first step."""
        for rows in self._chunks_from(0, 1 << 63):
            for place, first_seqnum in enumerate(rows.first_seqnums):
                yield first_seqnum, self._row(rows, place).location

    def seqnum_at(self, timestamp_ms: int) -> int | None:
        """First seqnum of the first frame ordered at or after that time, if there is one."""
        if timestamp_ms <= 0:
            timestamp_ms = 0
        in_ram = [rows for rows in (self._frozen, self._active) if len(rows.first_seqnums)]
        if not in_ram or timestamp_ms <= in_ram[0].timestamps_ms[0]:
            found = self._stored_at(timestamp_ms)
            if found is not None:
                return found
        for rows in in_ram:
            place = bisect_left(rows.timestamps_ms, timestamp_ms)
            if place < len(rows.first_seqnums):
                return rows.first_seqnums[place]
        return None

    def _stored_at(self, timestamp_ms: int) -> int | None:
        """As `seqnum_at`, in the store: the last chunk that begins earlier, else the next one."""
        first_key = keys.time_key(timestamp_ms, 0)
        before = self._store.seek_prev(first_key, keys.TIMES)
        if before is not None:
            value = self._store.get(keys.numbered(keys.ROWS, keys.number_of(before[0])))
            if value is not None:
                rows = keys.decode_rows(value)
                place = bisect_left(rows.timestamps_ms, timestamp_ms)
                if place < len(rows.first_seqnums):
                    return rows.first_seqnums[place]
        after = self._store.seek_next(first_key, keys.TIMES)
        if after is None or keys.number_of(after[0]) >= self.stored_tail:
            return None
        return keys.number_of(after[0])

    def _chunk_at(self, seqnum: int) -> tuple[RowColumns[Numbers], int] | None:
        """The rows, in RAM or in the store, and the place in them of the last frame from `seqnum`
        on backwards."""
        for rows in (self._active, self._frozen):
            if len(rows.first_seqnums) and rows.first_seqnums[0] <= seqnum:
                return rows, bisect_right(rows.first_seqnums, seqnum) - 1
        before = min(seqnum, self.stored_tail - 1)
        if before < 0:
            return None
        found = self._store.seek_prev(keys.numbered(keys.ROWS, before), keys.ROWS)
        if found is None:
            return None
        stored = keys.decode_rows(found[1])
        return stored, bisect_right(stored.first_seqnums, seqnum) - 1

    def _chunks_from(self, start: int, until: int) -> Iterator[RowColumns[Numbers]]:
        start = max(start, 0)
        if start < self.stored_tail:
            first = self._store.seek_prev(keys.numbered(keys.ROWS, start), keys.ROWS)
            if first is not None:
                yield keys.decode_rows(first[1])
            end = min(until, self.stored_tail)
            if start + 1 < end:
                found = self._store.scan(
                    keys.numbered(keys.ROWS, start + 1), keys.numbered(keys.ROWS, end)
                )
                for _, value in found:
                    yield keys.decode_rows(value)
        for rows in (self._frozen, self._active):
            if len(rows.first_seqnums):
                yield rows

    def _row(self, rows: RowColumns[Numbers], place: int) -> Row:
        first_seqnum = rows.first_seqnums[place]
        location = self._moved.get(first_seqnum) or self._moving.get(first_seqnum)
        if location is None:
            location = Location(rows.segments[place], rows.offsets[place], rows.lengths[place])
        return Row(
            first_seqnum,
            rows.records[place],
            location,
            rows.timestamps_ms[place],
            rows.voids.get(place, ()),
        )

    # --- checkpoints ---

    def freeze(self) -> None:
        self._frozen, self._active = self._active, _no_rows()
        self._moving, self._moved = self._moved, {}
        self._stored_lacking = self.lacking
        self._frozen_given_up = self.given_up

    def steps(self, batch: Batch, *, known: Callable[[int], bool]) -> Iterator[None]:
        """Put the frozen rows and the chunks of moved ones, drop the oldest, a slice at a time.

        `known` says of a segment that it was not let go.
        """
        yield from self._forget_steps(batch, known)
        rows = self._frozen
        chunks = range(0, len(rows.first_seqnums), CHUNK_ROWS_MAX)
        for number, at in enumerate(chunks, 1):
            self._put(batch, _cut(rows, at, at + CHUNK_ROWS_MAX))
            if number % STEP_CHUNKS == 0:
                yield
        yield from self._moved_steps(batch)
        if self._frozen_given_up:
            batch.put(keys.GIVEN_UP, keys.encode_given_up(self._frozen_given_up))
        if self._stored_lacking is None:
            batch.delete(keys.LACKING)
        else:
            batch.put(keys.LACKING, keys.encode_lacking(self._stored_lacking))

    def done(self, stored_tail: int) -> None:
        """The frozen rows are in the store."""
        self._frozen = _no_rows()
        self._moving = {}
        self.stored_tail = stored_tail

    def _forget_steps(self, batch: Batch, known: Callable[[int], bool]) -> Iterator[None]:
        """Remove the oldest chunks, as long as all of their frames' segments were let go."""

        def is_kept(segment: int) -> bool:
            """Whether frames there may be read still; those that lie in none may come."""
            return known(segment) or (not segment and self.lacking is not None)

        for looked_at, (key, value) in enumerate(self._store.scan(keys.ROWS, _ROWS_END), 1):
            rows = keys.decode_rows(value)
            first = keys.number_of(key)
            if looked_at > FORGET_CHUNKS_MAX or any(map(is_kept, self._segments_of(rows))):
                self.forgotten_below = first
                return
            batch.delete(key)
            batch.delete(keys.time_key(rows.timestamps_ms[0], first))
            if looked_at % STEP_CHUNKS == 0:
                yield

    def _segments_of(self, rows: RowColumns[Numbers]) -> Iterable[int]:
        """Where a stored chunk's frames lie; those that moved since stand elsewhere."""
        if not self._moving and not self._moved:
            return rows.segments
        return [self._row(rows, place).location.segment for place in range(len(rows.segments))]

    def _put(self, batch: Batch, rows: RamRows) -> None:
        first = rows.first_seqnums[0]
        self._take_moves(rows)
        batch.put(keys.numbered(keys.ROWS, first), keys.encode_rows(rows))
        batch.put(keys.time_key(rows.timestamps_ms[0], first), b"")

    def _take_moves(self, rows: RamRows) -> None:
        if not self._moving:
            return
        for place, first_seqnum in enumerate(rows.first_seqnums):
            moved = self._moving.get(first_seqnum)
            if moved is not None:
                rows.segments[place] = moved.segment
                rows.offsets[place] = moved.offset
                rows.lengths[place] = moved.length

    def _moved_steps(self, batch: Batch) -> Iterator[None]:
        """Write stored chunks again whose frames have moved."""
        chunks: set[bytes] = set()
        for first_seqnum in self._moving:
            if first_seqnum < self.stored_tail:
                found = self._store.seek_prev(keys.numbered(keys.ROWS, first_seqnum), keys.ROWS)
                if found is not None and found[0] not in chunks:
                    chunks.add(found[0])
                    rows = keys.decode_rows(found[1])
                    self._put(batch, _cut(rows, 0, len(rows.first_seqnums)))
                    yield

    # --- self-inspection ---

    @property
    def frozen_count(self) -> int:
        return len(self._frozen.first_seqnums)

    def check(self, tail: int) -> None:
        """Rows follow each other, from the store's end to the tail."""
        until, time_ms = self.stored_tail, 0
        for rows in (self._frozen, self._active):
            for place, first_seqnum in enumerate(rows.first_seqnums):
                assert first_seqnum >= until, f"the frame at {first_seqnum} overlaps its neighbour"
                until = first_seqnum + rows.records[place]
                assert rows.timestamps_ms[place] >= time_ms, f"time goes back at {first_seqnum}"
                time_ms = rows.timestamps_ms[place]
        assert until <= tail, f"a frame ends at {until}, past the tail {tail}"


def is_here(location: Location) -> bool:
    """Whether a frame lies in this node's journal; no journal has a segment 0."""
    return location[0] != LACKING.segment


def is_lacking(location: Location) -> bool:
    """Whether a frame is still to be copied here; its length is known."""
    return location[:2] == LACKING[:2]


def place_rows(value: bytes, place_of: Callable[[int], Location]) -> tuple[bytes, int, int]:
    """A chunk of a peer's rows with the places that `place_of` gives to first seqnums.

    Returns:
        The chunk, where its last frame ends, and how many records are still to be copied. What is
        in no journal keeps its length.
    """
    peers = keys.decode_rows(value)
    rows = _cut(peers, 0, len(peers.first_seqnums))
    lacking = until = 0
    for place, first_seqnum in enumerate(rows.first_seqnums):
        until = first_seqnum + rows.records[place]
        location = place_of(first_seqnum)
        if rows.voids.get(place) == ALL_VOID:
            location = LOST
        rows.segments[place], rows.offsets[place] = location[:2]
        if is_here(location):
            rows.lengths[place] = location.length
        elif is_lacking(location):
            lacking += rows.records[place]
    return keys.encode_rows(rows), until, lacking


def _cut(rows: RowColumns[Numbers], start: int, until: int) -> RamRows:
    """A copy of some rows, in arrays."""
    taken = slice(start, until)
    return RowColumns(
        array("Q", rows.first_seqnums[taken]),
        array("Q", rows.timestamps_ms[taken]),
        array("Q", rows.segments[taken]),
        array("Q", rows.offsets[taken]),
        array("I", rows.lengths[taken]),
        array("I", rows.records[taken]),
        {row - start: units for row, units in rows.voids.items() if start <= row < until},
    )
