"""Which journal segments are worth copying, and how far the copy in hand has come (P21).

A segment that is mostly trimmed keeps its whole file while one record in it is live. Its live
frames are copied unchanged into new groups (P30), so that it can be used again. Decides which
segment is next, which of its frames are live, and when nothing leads to it any more.

1. `turn` reads live frames, within a byte rate, and returns them to be journalled.
2. Once they are durable the index is told where they lie now (`moved`).
3. A checkpoint stores that, all at once (P19), and that the old segment holds nothing any more
   (`frozen`). A crash before finds the old segment as it was.
4. Only then is the old segment let go (`stored`). A crash before finds a segment that nobody knows,
   which the next start lets go.

Invariants: only segments that a write quorum has stored its fold past; a frame that does not verify
is never copied: it would make a whole new group count as damaged. Its segment stays as it is.

Does not know the journal's files; how bytes are read and appended is the replica's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from bokilog.cold import ColdMiss
from bokilog.frame import Frame
from bokilog.journal import Location
from bokilog.named import NamedTuple
from bokilog.storage_nodes.cold_reads import widened
from bokilog.storage_nodes.locations import Row
from bokilog.storage_nodes.retention import SegmentBooks, Span, Trims

COMPACTION_BYTES_S: Final = 8 << 20
"""A tenth of what the slowest disk here takes: appends come first."""
TURN_BYTES_MAX: Final = 1 << 20
"""About 2 ms of reading, verifying and writing; one frame may be larger."""
TURN_ROWS_MAX: Final = 1_000
"""Rows looked at per turn."""
TURN_HEADS_MAX: Final = 200
"""Frames per turn of which columns are read, to see whether they are live: up to 5 ms."""
LIVE_PART_MAX: Final = 0.5
"""A segment is worth copying if at most this part of it is live: each byte written frees one."""
COLD_LIVE_PART_MAX: Final = 0.1
"""The same for a segment in the object store, which has to be fetched for it, and where room is
cheap: what is left of it comes back here, and its object is deleted."""
CANDIDATES_MAX: Final = 64
"""Segments judged at once."""
CHOOSE_S: Final = 1.0
"""When none is worth it, others are judged after so long."""


class Fold(Trims, Protocol):
    """What is asked of the fold."""

    @property
    def segments(self) -> SegmentBooks:
        """What lies in which segment."""

    def locate_range(self, start: int, until: int, *, limit: int = 1000) -> list[Row]:
        """Ordered frames of a range."""


class Copy(NamedTuple):
    """A live frame to be journalled again."""

    first_seqnum: int
    frame: Frame


class Moved(NamedTuple):
    """Where a frame lies now."""

    first_seqnum: int
    old: Location
    new: Location
    books: int | list[int]
    repairs: bool = False
    """It came from a peer, in place of one that is damaged."""
    kept: bool = False
    """It stays at hand while its segment moves to the object store."""


def live_bytes(spans: Mapping[int, Span], trims: Trims) -> int:
    """About how many bytes of a segment are not trimmed, taking records to be alike."""
    live = 0
    for book, (first, last, size_bytes) in spans.items():
        until = trims.trim_until(book)
        if until <= first:
            live += size_bytes
        elif until <= last:
            live += size_bytes * (last - until + 1) // (last - first + 1)
    return live


def is_worth(live: int, segment_bytes: int, part_max: float = LIVE_PART_MAX) -> bool:
    """Whether copying frees at least as much as it writes."""
    return live <= part_max * segment_bytes


class Compactor:
    """The compaction of one log space at one replica: one segment at a time."""

    __slots__ = (
        "_allowance",
        "_choose_at_s",
        "_copied",
        "_cursor",
        "_damaged",
        "_emptied",
        "_emptying",
        "_floor",
        "_in_flight",
        "_judged",
        "_now_s",
        "_passed_over",
        "_rate",
        "_segment",
        "_until",
        "copied_bytes",
        "emptied_count",
        "miss",
    )

    def __init__(self, bytes_s: int) -> None:
        self._rate = bytes_s
        """0: nothing is compacted."""
        self._allowance = 0.0
        self._now_s: float | None = None
        self._segment: int | None = None
        self._cursor = self._until = 0
        self._floor = 0
        """Every LogBook of the segment in hand is trimmed up to here."""
        self._in_flight = 0
        """Copies that are not durable yet."""
        self._choose_at_s = 0.0
        self._judged = 0
        """The segment judged last; the next turn goes on behind it."""
        self._passed_over: set[int] = set()
        """Segments with a frame that does not verify."""
        self._damaged: set[int] = set()
        """Segments with flipped bits: to be copied however much of them is live."""
        self._emptied: set[int] = set()
        """Nothing leads to them, as far as RAM knows."""
        self._emptying: set[int] = set()
        """The same, by the checkpoint in hand."""
        self.miss: ColdMiss | None = None
        """What has to be fetched before the next frame can be copied."""
        self.copied_bytes = 0
        self.emptied_count = 0

    @property
    def busy(self) -> bool:
        """A segment is in hand: look again soon."""
        return self._segment is not None

    def has(self, segment: int) -> bool:
        """Whether the segment is being copied, or is to be, or cannot be."""
        taken = self._emptied | self._emptying | self._passed_over | self._damaged
        return segment == self._segment or segment in taken

    def turn(
        self,
        fold: Fold,
        *,
        before: int,
        sizes: Callable[[], Mapping[int, int]],
        cold: Callable[[], Mapping[int, int]] = dict,
        is_live: Callable[[Row], bool],
        read: Callable[[Row], Frame | None],
        now_s: float,
    ) -> list[Copy]:
        """Frames to be journalled again now.

        Args:
            fold: of the log space.
            before: segments from here on are needed by somebody.
            sizes: bytes of each segment of the journal.
            cold: bytes of each one in the object store, where that answers.
            is_live: whether a reader may still ask for something of a frame.
            read: a whole frame that verifies, or None.
            now_s: monotonic.
        """
        self.miss = None
        if not self._rate:
            return []
        self._earn(now_s)
        if self._segment is None and now_s >= self._choose_at_s:
            self._choose(fold, before, sizes(), cold())
            self._choose_at_s = now_s + (CHOOSE_S if self._segment is None else 0.0)
        if self._segment is None or self._allowance <= 0:
            return []
        if self._segment not in fold.segments:
            self._segment = None  # all of it was trimmed meanwhile, and it was let go
            return []
        return self._copy(fold, is_live, read)

    def moved(self, count: int) -> None:
        """So many copies are durable, and the index knows where they lie."""
        self._in_flight = max(0, self._in_flight - count)
        self._finish()

    def repaired(self, segment: int) -> None:
        """A damaged frame of the segment lies elsewhere now; no group with flipped bits stays."""
        self._passed_over.discard(segment)
        self._damaged.add(segment)

    def leave(self) -> None:
        """The segment in hand cannot be read now: it has its turn later."""
        self._segment = None

    def failed(self) -> None:
        """The journal did not take copies: the segment stays, and has its turn later."""
        self._segment, self._in_flight = None, 0

    def frozen(self) -> set[int]:
        """A checkpoint begins that holds every move so far: the segments it may forget."""
        emptied, self._emptied = self._emptied, set()
        self._emptying |= emptied
        return emptied

    def stored(self) -> list[int]:
        """The checkpoint is on disk: segments that nothing leads to any more."""
        done, self._emptying = sorted(self._emptying), set()
        self.emptied_count += len(done)
        return done

    def _earn(self, now_s: float) -> None:
        passed_s = now_s - self._now_s if self._now_s is not None else 0.0
        self._now_s = now_s
        self._allowance = min(self._allowance + passed_s * self._rate, float(TURN_BYTES_MAX))

    def _choose(
        self, fold: Fold, before: int, sizes: Mapping[int, int], cold: Mapping[int, int]
    ) -> None:
        """The next segment that is worth it, from the one judged last on, round and round."""
        taken = self._emptied | self._emptying | self._passed_over
        there = {*sizes, *cold}
        known = sorted(s for s in there if s < before and s in fold.segments and s not in taken)
        later = [segment for segment in known if segment > self._judged]
        for segment in (later or known)[:CANDIDATES_MAX]:
            self._judged = segment
            spans = fold.segments.spans_of(segment)
            if spans is None:
                continue
            live = live_bytes(spans, fold)
            if segment in cold:
                worth = is_worth(live, cold[segment], COLD_LIVE_PART_MAX)
            else:
                worth = segment in self._damaged or is_worth(live, sizes[segment])
            if not worth:
                continue
            self._segment = segment
            self._cursor = min((span.first for span in spans.values()), default=0)
            self._until = 1 + max((span.last for span in spans.values()), default=-1)
            self._floor = min(map(fold.trim_until, spans), default=0)
            return

    def _copy(
        self, fold: Fold, is_live: Callable[[Row], bool], read: Callable[[Row], Frame | None]
    ) -> list[Copy]:
        copies: list[Copy] = []
        heads = 0
        rows = fold.locate_range(self._cursor, self._until, limit=TURN_ROWS_MAX)
        for place, row in enumerate(rows):
            if self._allowance <= 0 or heads == TURN_HEADS_MAX:
                break
            self._cursor = row.first_seqnum + row.records
            if row.location.segment != self._segment or self._cursor <= self._floor:
                continue
            heads += 1
            try:
                if not is_live(row):
                    continue
                frame = read(row)
            except ColdMiss as miss:
                self.miss = widened(miss, rows[place:])
                self._cursor = row.first_seqnum
                break
            if frame is None:
                self._passed_over.add(row.location.segment)
                self._segment = None  # what was copied so far lies elsewhere all the same
                break
            copies.append(Copy(row.first_seqnum, frame))
            self._allowance -= frame.size_bytes
            self.copied_bytes += frame.size_bytes
        else:
            if len(rows) < TURN_ROWS_MAX:
                self._cursor = self._until
        self._in_flight += len(copies)
        self._finish()
        return copies

    def _finish(self) -> None:
        """Everything live was copied, and is durable, and found where it lies now."""
        if self._segment is not None and self._cursor >= self._until and not self._in_flight:
            self._emptied.add(self._segment)
            self._damaged.discard(self._segment)
            self._segment = None

    def check(self) -> None:
        """Asserts the invariants."""
        assert self._in_flight >= 0
        assert self._segment not in self._emptied | self._emptying
