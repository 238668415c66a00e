"""The engine's record cache: record bytes by seqnum, within a byte budget.

Two parts. *Own frames*, which passed through this engine on their way to the replicas, are kept
whole: they arrive in seqnum order per log space, so a frame is found by bisection, nothing is done
per record, and the oldest go first. *Single records*, which readers asked for, go by least recent
use. Aux data has a small part of its own.

Invariants: bytes never exceed the budget; what is handed out as visible was decided to be: of a
frame with conditions, keys or a library's tags only once its verdicts are in (P22).

Does not know: trims (callers do not ask below them), nodes. Bytes of a seqnum never change, so
nothing is invalidated.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence, Set as AbstractSet
from functools import partial
from itertools import accumulate, repeat

from bokilog.frame import Frame
from bokilog.named import NamedTuple
from bokilog.record import Buffer

Tags = None | str | list[str]

FRAME_BYTES = 400
"""What a kept frame costs beside its bytes."""
RECORD_BYTES = 300
"""What a kept record costs beside its data."""
TAGS_BYTES = 64
"""What a record's tags cost in a kept frame."""
SHARES = 16
"""The budget is cut into so many parts: 8 for own frames, 7 for single records, 1 for aux data."""


class CachedRecord(NamedTuple):
    """A record's bytes and what a reply says beside them."""

    book: int
    data: Buffer
    tags: Tags
    timestamp_ms: int


_record: Callable[[tuple[int, Buffer, Tags, int]], CachedRecord] = partial(
    tuple.__new__, CachedRecord
)


def cached_records(
    book: int, data: Sequence[Buffer], tags: Sequence[Tags], timestamps_ms: Sequence[int]
) -> list[CachedRecord]:
    """The records of a page; without a Python frame per record, since a follower's engine makes one
    of every record there is: 0.2 us instead of 0.7."""
    return list(map(_record, zip(repeat(book, len(data)), data, tags, timestamps_ms, strict=True)))


class CachedFrame:
    """An ordered frame of this engine."""

    __slots__ = ("first", "frame", "starts", "timestamp_ms", "unit_starts", "void")

    def __init__(self, first: int, frame: Frame, timestamp_ms: int) -> None:
        self.first = first
        """Seqnum of its first record."""
        self.frame = frame
        self.timestamp_ms = timestamp_ms
        self.starts: list[int] | None = None
        """Where each record starts in the payload; made when the first is read."""
        self.unit_starts: list[int] | None = None
        self.void: AbstractSet[object] | None = None if frame.columns.needs_verdict else frozenset()
        """Void units; None while verdicts are to come."""

    @property
    def cost_bytes(self) -> int:
        return FRAME_BYTES + self.frame.size_bytes + TAGS_BYTES * self.frame.records

    def record(self, seqnum: int) -> CachedRecord:
        """One record, whether visible or not."""
        index = seqnum - self.first
        frame = self.frame
        columns = frame.columns
        if self.starts is None:
            self.starts = list(accumulate(columns.lengths, initial=0))
        data = frame.record(index, self.starts[index])
        books = columns.books
        book = books if isinstance(books, int) else books[self._unit(index)]
        return CachedRecord(book, data, columns.tags[index], self.timestamp_ms)

    def visible(self, seqnum: int) -> bool:
        """Whether the record is known to be visible; False also when that is not known."""
        return self.void is not None and self._unit(seqnum - self.first) not in self.void

    def _unit(self, index: int) -> int:
        unit_records = self.frame.columns.unit_records
        if unit_records is None:
            return index
        if self.unit_starts is None:
            self.unit_starts = list(accumulate(unit_records, initial=0))
        return bisect_right(self.unit_starts, index) - 1


class _Frames:
    """Own frames of one log space, by first seqnum; the ones before `start` are evicted."""

    __slots__ = ("firsts", "frames", "start")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.frames: list[CachedFrame | None] = []
        self.start = 0

    def find(self, seqnum: int) -> CachedFrame | None:
        place = bisect_right(self.firsts, seqnum) - 1
        if place < self.start:
            return None
        found = self.frames[place]
        assert found is not None, "only evicted frames are gone"
        return found if seqnum < found.first + found.frame.records else None

    def evict(self) -> CachedFrame:
        """Takes out the oldest; the lists are cut once half of them is gone."""
        oldest = self.frames[self.start]
        assert oldest is not None, "only evicted frames are gone"
        self.frames[self.start] = None
        self.start += 1
        if self.start * 2 > len(self.frames):
            del self.firsts[: self.start], self.frames[: self.start]
            self.start = 0
        return oldest


class RecordCache:
    """Record bytes of all log spaces of an engine."""

    __slots__ = (
        "_ages",
        "_aux_bytes",
        "_aux_max",
        "_auxes",
        "_frames",
        "_frames_bytes",
        "_frames_max",
        "_records",
        "_records_bytes",
        "_records_max",
        "bytes_max",
        "hit_count",
        "miss_count",
    )

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._frames_max = bytes_max * 8 // SHARES
        self._records_max = bytes_max * 7 // SHARES
        self._aux_max = bytes_max // SHARES
        self.hit_count = 0
        self.miss_count = 0
        self._frames: dict[int, _Frames] = {}
        self._ages: OrderedDict[tuple[int, int], None] = OrderedDict()
        """(log space, first seqnum) of own frames, oldest first."""
        self._frames_bytes = 0
        self._records: OrderedDict[tuple[int, int], CachedRecord] = OrderedDict()
        self._records_bytes = 0
        self._auxes: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        """By (log space, LogBook, seqnum): whoever sets it may name a record of another LogBook."""
        self._aux_bytes = 0

    @property
    def bytes_used(self) -> int:
        return self._frames_bytes + self._records_bytes + self._aux_bytes

    # --- own frames -------------------------------------------------------------------------------

    def add_frame(self, space: int, first: int, frame: Frame, timestamp_ms: int) -> None:
        """A frame of this engine was ordered; they come in seqnum order."""
        if not self.bytes_max:
            return
        frames = self._frames.get(space)
        if frames is None:
            frames = self._frames[space] = _Frames()
        if frames.firsts and first <= frames.firsts[-1]:
            return  # after a loss that the class allows (P11) seqnums may repeat: keep neither
        cached = CachedFrame(first, frame, timestamp_ms)
        frames.firsts.append(first)
        frames.frames.append(cached)
        self._ages[space, first] = None
        self._frames_bytes += cached.cost_bytes
        while self._frames_bytes > self._frames_max:
            (oldest, _), _ = self._ages.popitem(last=False)
            self._frames_bytes -= self._frames[oldest].evict().cost_bytes

    def decide(self, space: int, first: int, void_units: AbstractSet[object]) -> None:
        """Which units of an own frame are void, now that it is known."""
        frames = self._frames.get(space)
        found = frames.find(first) if frames is not None else None
        if found is not None and found.first == first:
            found.void = void_units

    # --- single records ---------------------------------------------------------------------------

    def add_records(
        self, space: int, seqnums: Sequence[int], records: Sequence[CachedRecord]
    ) -> None:
        """Visible records that a reader asked for."""
        keys = zip(repeat(space, len(seqnums)), seqnums, strict=True)
        added = dict(zip(keys, records, strict=True))
        bytes_added = sum([len(record.data) for record in records]) + RECORD_BYTES * len(records)
        fits = bytes_added <= self._records_max and len(added) == len(records)
        if fits and self._records.keys().isdisjoint(added):
            self._records.update(added)
            self._records_bytes += bytes_added
            self._evict_records()
            return
        for key, record in added.items():
            self._add_record(key, record)

    def _add_record(self, key: tuple[int, int], record: CachedRecord) -> None:
        cost_bytes = len(record.data) + RECORD_BYTES
        if cost_bytes > self._records_max or key in self._records:
            return
        self._records[key] = record
        self._records_bytes += cost_bytes
        self._evict_records()

    def _evict_records(self) -> None:
        while self._records_bytes > self._records_max:
            _, oldest = self._records.popitem(last=False)
            self._records_bytes -= len(oldest.data) + RECORD_BYTES

    def find(self, space: int, seqnum: int) -> CachedRecord | None:
        """A record's bytes; that it is visible the caller knows from facts."""
        record = self._records.get((space, seqnum))
        if record is not None:
            self._records.move_to_end((space, seqnum))
            self.hit_count += 1
            return record
        frames = self._frames.get(space)
        frame = frames.find(seqnum) if frames is not None else None
        if frame is None:
            self.miss_count += 1
            return None
        self.hit_count += 1
        return frame.record(seqnum)

    def find_visible(self, space: int, book: int, seqnum: int) -> CachedRecord | None:
        """A record that is known here, without facts, to be visible in this LogBook."""
        record = self._records.get((space, seqnum))
        if record is not None:
            self._records.move_to_end((space, seqnum))
        else:
            frames = self._frames.get(space)
            frame = frames.find(seqnum) if frames is not None else None
            if frame is None or not frame.visible(seqnum):
                return None
            record = frame.record(seqnum)
        return record if record.book == book else None

    # --- aux data ---------------------------------------------------------------------------------

    def set_aux(self, space: int, book: int, seqnum: int, aux: bytes) -> None:
        """Aux data that passed by: newer than what is known."""
        known = self._auxes.pop((space, book, seqnum), None)
        if known is not None:
            self._aux_bytes -= len(known) + RECORD_BYTES
        if len(aux) + RECORD_BYTES > self._aux_max:
            return
        self._auxes[space, book, seqnum] = aux
        self._aux_bytes += len(aux) + RECORD_BYTES
        while self._aux_bytes > self._aux_max:
            _, oldest = self._auxes.popitem(last=False)
            self._aux_bytes -= len(oldest) + RECORD_BYTES

    def auxes(self, space: int, book: int, seqnums: list[int]) -> list[bytes | None] | None:
        """Aux data of these records as far as known; None if there is none at all."""
        if not self._auxes:
            return None
        found = [self._auxes.get((space, book, seqnum)) for seqnum in seqnums]
        return found if any(aux is not None for aux in found) else None

    def forget(self, space: int) -> None:
        """Records of this log space were lost (P11): none of it is handed out any more."""
        frames = self._frames.pop(space, None)
        if frames is not None:
            self._frames_bytes -= sum(each.cost_bytes for each in frames.frames if each)
            for key in [key for key in self._ages if key[0] == space]:
                del self._ages[key]
        for key in [key for key in self._records if key[0] == space]:
            self._records_bytes -= len(self._records.pop(key).data) + RECORD_BYTES
        for name in [name for name in self._auxes if name[0] == space]:
            self._aux_bytes -= len(self._auxes.pop(name)) + RECORD_BYTES

    def check(self) -> None:
        """Asserts the invariants."""
        frames = [each for known in self._frames.values() for each in known.frames if each]
        assert self._frames_bytes == sum(each.cost_bytes for each in frames)
        assert len(self._ages) == len(frames)
        records = self._records.values()
        assert self._records_bytes == sum(len(each.data) + RECORD_BYTES for each in records)
        assert self._aux_bytes == sum(len(aux) + RECORD_BYTES for aux in self._auxes.values())
        assert self._frames_bytes <= self._frames_max
        assert self._records_bytes <= self._records_max
        assert self._aux_bytes <= self._aux_max
        for known in self._frames.values():
            assert known.firsts == sorted(known.firsts)
