"""A journal without a disk: for log spaces of class `memory`, and for simulations.

Decides nothing of its own: locations, groups and segments come out as those of a `JournalFile` on
an empty directory. `crash` loses what a crash may lose; `full` and `broken` stand for a disk that
has no room and one that fails.

Invariants: at most one group is committed and not yet synced; items of a dropped group are never
read again, and their group number is used by the next one.

It has no thread, so `sync_in_thread` calls back before it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bokilog.errors import ReadOnly
from bokilog.journal import (
    Damage,
    Location,
    Refused,
    SegmentInfo,
    SegmentReleased,
    SyncResult,
    Written,
)
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    Place,
    encode_word,
)

SEGMENT_BYTES = 64 << 20


class _Segment:
    __slots__ = ("end", "first_group", "items", "last_group")

    def __init__(self, first_group: int) -> None:
        self.first_group = first_group
        self.end = SEGMENT_HEADER_BYTES
        self.last_group = 0
        self.items: dict[int, tuple[int, bytes]] = {}  # offset: kind, bytes


class MemoryJournal:
    """A `Journal` in RAM."""

    def __init__(self, *, segment_bytes: int = SEGMENT_BYTES, room_bytes: int = 1 << 40) -> None:
        """An empty journal; `room_bytes` is what `free_bytes` starts from."""
        self.full: str | None = None
        """While set, `commit` and what keeps the headroom are refused with it."""
        self.broken: str | None = None
        """Once set, syncs fail for good with it: the journal is read-only until `crash`."""
        self._segment_bytes = segment_bytes
        self._room_bytes = room_bytes
        self._used_bytes = 0
        self._segments: dict[int, _Segment] = {}
        self._open: int | None = None
        self._next_segment = 1
        self._last_group = 0
        self._durable_group = 0
        self._unsynced: tuple[int, list[int]] | None = None  # segment, offsets of its items
        self._staged: list[tuple[int, Location, bytes]] = []
        self._staged_at = Place(0, 0)
        self._staged_end = 0
        self._short = self._untold = ""

    def recover(
        self, from_segment: int = 0, *, salvage: Callable[[Damage], None] | None = None
    ) -> Iterator[tuple[int, Location, memoryview]]:
        """See `Journal.recover`; memory is never torn or damaged. May be called again."""
        for number, segment in list(self._segments.items()):
            if number < from_segment:
                continue
            for offset, (kind, data) in list(segment.items.items()):
                yield kind, Location(number, offset, len(data)), memoryview(data)

    def items(self, from_segment: int = 0) -> Iterator[tuple[int, Location, memoryview]]:
        """Everything committed in segments >= `from_segment`, as `recover` yields it."""
        return self.recover(from_segment)

    def append(
        self, kind: int, buffers: Sequence[Buffer], *, keep_headroom: bool = False
    ) -> Location:
        """See `Journal.append`; the buffers are copied, unless it is one `bytes`."""
        if self.broken is not None:
            raise ReadOnly(self.broken)
        if keep_headroom and self.full is not None:
            self._short = self._untold = self.full
            raise ReadOnly(self.full)
        data = bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)
        encode_word(kind, len(data))  # refuses what a file could not hold
        if not self._staged:
            self._open_group(len(data))
        location = Location(self._staged_at.segment, self._staged_end + WORD_BYTES, len(data))
        self._staged.append((kind, location, data))
        self._staged_end = location.offset + len(data)
        return location

    def short(self) -> str:
        """See `Journal.short`."""
        if not self._untold and not self._short:
            return ""
        untold, self._untold = self._untold, ""
        if self.full is None:
            self._short = ""
        return untold or self._short

    def _open_group(self, length: int) -> None:
        place = Place(self._next_segment, SEGMENT_HEADER_BYTES)
        if self._open is not None:
            end = self._segments[self._open].end
            if end + GROUP_HEADER_BYTES + WORD_BYTES + length <= self._segment_bytes:
                place = Place(self._open, end)
        self._staged_at = place
        self._staged_end = place.offset + GROUP_HEADER_BYTES

    def commit(self, *, use_headroom: bool = False) -> Written | Refused:
        """See `Journal.commit`."""
        if not self._staged:
            return Written(self._last_group, 0, 0)
        if self.broken is not None:
            self._staged = []
            return Refused(self.broken, definite=False)
        if self._unsynced is not None:
            raise RuntimeError("a group is written and not synced: one at a time")
        if self.full is not None and not use_headroom:
            return Refused(self.full)
        number = self._staged_at.segment
        if number not in self._segments:
            self._segments[number] = _Segment(self._last_group + 1)
            self._open, self._next_segment = number, number + 1
        return self._write(number)

    def _write(self, number: int) -> Written:
        segment = self._segments[number]
        for kind, location, data in self._staged:
            segment.items[location.offset] = kind, data
        byte_count = self._staged_end - self._staged_at.offset
        segment.end = self._staged_end
        self._last_group += 1
        segment.last_group = self._last_group
        self._used_bytes += byte_count
        self._unsynced = number, [location.offset for _, location, _ in self._staged]
        written = Written(self._last_group, len(self._staged), byte_count)
        self._staged = []
        return written

    def sync_now(self) -> SyncResult:
        """See `Journal.sync_now`."""
        if self.broken is None:
            self._durable_group = self._last_group
            self._unsynced = None
        return SyncResult(self._durable_group, failed=self.broken)

    def sync_in_thread(self, on_done: Callable[[SyncResult], None]) -> None:
        """Sync and call `on_done`, here and now."""
        on_done(self.sync_now())

    def sync_written(self, on_done: Callable[[str], None]) -> None:
        """See `Journal.sync_written`, here and now."""
        on_done(self.broken or "")

    @property
    def syncing(self) -> bool:
        """Never: there is no thread."""
        return False

    @property
    def read_only(self) -> str | None:
        """See `Journal.read_only`."""
        return self.broken

    def crash(self, *, keep_unsynced: bool = False) -> None:
        """Lose what a crash may lose: what is staged, and the unsynced group unless kept.

        The journal can be used again at once, as after a restart: `recover`, then append.
        """
        self._staged = []
        self.broken = None
        self._open = None  # as a file journal does, so that old places are not written again
        if self._unsynced is not None and not keep_unsynced:
            self._drop(*self._unsynced)
        self._unsynced = None
        self._durable_group = self._last_group

    def _drop(self, number: int, offsets: list[int]) -> None:
        segment = self._segments[number]
        for offset in offsets:
            del segment.items[offset]
        segment.end = offsets[0] - WORD_BYTES - GROUP_HEADER_BYTES
        self._last_group -= 1
        segment.last_group = self._last_group
        if not segment.items:
            del self._segments[number]

    def read(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        """See `Journal.read`."""
        segment = self._segments.get(location.segment)
        item = segment.items.get(location.offset) if segment is not None else None
        if item is None:
            item = next(((kind, data) for kind, at, data in self._staged if at == location), None)
        if item is None or len(item[1]) != location.length:
            raise SegmentReleased(f"nothing is at {location}")
        until = location.length if length is None else start + length
        if not 0 <= start <= until <= location.length:
            raise ValueError(f"[{start}, {until}) of an item of {location.length} bytes")
        return item[1][start:until]

    def resolve(self, location: Location) -> Location:
        """The same: nothing moves here."""
        return location

    def segments(self) -> tuple[SegmentInfo, ...]:
        """See `Journal.segments`."""
        return tuple(
            SegmentInfo(number, each.end, each.first_group, each.last_group, number == self._open)
            for number, each in self._segments.items()
        )

    def release(self, segment: int) -> None:
        """See `Journal.release`; done when it returns."""
        if segment == self._open:
            raise ValueError(f"segment {segment} is the open one: groups go there")
        gone = self._segments.pop(segment, None)
        if gone is not None:
            self._used_bytes -= gone.end - SEGMENT_HEADER_BYTES

    def free_bytes(self) -> int:
        """What is left of `room_bytes`."""
        return self._room_bytes - self._used_bytes

    def close(self, *, clean: bool = True) -> None:
        """Let go of what is staged; what was committed counts if `clean`."""
        if clean and self.broken is None:
            self.sync_now()
        self.crash()
