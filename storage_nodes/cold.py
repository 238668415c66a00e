"""Which journal segments lie in an object store, and which goes there next.

Decides when a segment moves: it is sealed, lies wholly behind the stored checkpoint (so that no
start and no fold ever needs it), most of it is live (else compaction takes it), and it is older
than `after_s`, or the journal is larger than `hot_bytes`, or the disk is full. The oldest goes
first, one at a time:

0. Records of the system LogBook in it are copied, as compaction copies: who opens a LogBook must
   not depend on the store.
1. The list notes its upload, synced. A crash before leaves nothing.
2. It is verified, uploaded whole, read back and compared. A crash before leaves an object that the
   list knows: the next start uploads it again, or deletes it.
3. The list notes it as cold, synced (P31); only then is it read from there, and let go here. A
   crash before leaves both; the next start lets the file go.
4. Once nothing in it is needed (P21) the list notes that it is to be deleted, then it is, then the
   list forgets it.

Invariants: no step is taken before the list that allows it is synced; a segment is never read from
the store before that either; whatever fails is tried again later, and readers of what is here never
notice. Does not know files, threads or the store: they are jobs (`bokilog/cold.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from bokilog.cold import (
    ColdOutcome,
    ColdSegment,
    ColdState,
    Remove,
    StoreList,
    Upload,
)
from bokilog.effects import Effect, StartCold
from bokilog.journal import SegmentInfo
from bokilog.storage_nodes.cold_reads import ColdReads
from bokilog.storage_nodes.compaction import is_worth, live_bytes
from bokilog.storage_nodes.locations import Row
from bokilog.storage_nodes.retention import SegmentBooks

CHOOSE_S: Final = 1.0
"""Between two looks for a segment to move."""
RETRY_S: Final = 10.0
"""A job that failed is tried again after so long."""
CANDIDATES_MAX: Final = 64
"""Segments looked at per look, the oldest first."""
CACHE_BYTES: Final = 32 << 20
"""Ranges read from the store that are kept at hand, per log space."""


class Fold(Protocol):
    """What is asked of the fold."""

    timestamp_ms: int

    @property
    def segments(self) -> SegmentBooks:
        """What lies in which segment."""

    def locate(self, seqnum: int) -> Row | None:
        """The ordered frame that holds a seqnum."""

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum."""


class Cold:
    """The cold segments of one log space at one replica.

    Args:
        space: the log space.
        segments: the list as it was found at the start.
        where: the store, for people.
        after_s: how old a segment is when it moves; 0: age moves none.
        hot_bytes: of the journal that stay here; 0: no bound.
        incarnation: of this start.
        cache_bytes: of ranges that were read from the store.
        retry_s: a job that failed is tried again after so long.
    """

    def __init__(
        self,
        space: int,
        segments: Iterable[ColdSegment] = (),
        *,
        where: str = "",
        after_s: float = 0.0,
        hot_bytes: int = 0,
        incarnation: int = 0,
        cache_bytes: int = CACHE_BYTES,
        retry_s: float = RETRY_S,
    ) -> None:
        self.problem = ""
        """Why the last job failed; empty: it did not."""
        self.moved_count = self.deleted_count = 0
        self._space = space
        self._after_s = after_s
        self._hot_bytes = hot_bytes
        self._incarnation = incarnation
        self._retry_s = retry_s
        self._segments = {each.segment: each for each in segments}
        """The list as it should be."""
        self._stored = {number: each.state for number, each in self._segments.items()}
        """The list as it is synced."""
        self._active = {n for n, each in self._segments.items() if not _is_cold(each)}
        """Segments with a next step; there may be many that just lie there."""
        self._cold = {n: each for n, each in self._segments.items() if _is_cold(each)}
        """Those that are read from the store."""
        self.reads = ColdReads(space, self._cold, where=where, cache_bytes_max=cache_bytes)
        self._storing = False
        self._dirty = False
        self._uploading: int | None = None
        self._removing: int | None = None
        self._keeping: tuple[int, int] | None = None
        """The segment that moves next, and the seqnum up to which was copied what stays."""
        self._stays: set[int] = set()
        """Segments that cannot move: they are damaged, or locations lead through them."""
        self._retry_at_s = 0.0
        self._choose_at_s = 0.0
        self._clock: tuple[int, float] | None = None
        """When which timestamp of the fold was seen first."""

    @property
    def idle(self) -> bool:
        """Whether nothing lies in a store, and nothing is to go there."""
        return not (self._after_s or self._hot_bytes or self._segments)

    # --- what is where ----------------------------------------------------------------------------

    def sizes(self) -> Mapping[int, int]:
        """Bytes of every object that may be read now."""
        fails = self.reads.fails
        return {n: each.size_bytes for n, each in self._cold.items() if not fails(n)}

    def ends(self) -> Mapping[int, int]:
        """Bytes of every object that counts, whether the store answers now or not."""
        return {number: each.size_bytes for number, each in self._cold.items()}

    def is_chosen(self, segment: int) -> bool:
        """Whether it is about to move, or lies there."""
        return segment in self._segments or (
            self._keeping is not None and self._keeping[0] == segment
        )

    def kept(self) -> list[int]:
        """Segments whose object holds, or will hold, what somebody may need."""
        return [n for n, each in self._segments.items() if each.state is not ColdState.DELETING]

    def dead(self, segment: int) -> None:
        """Nothing in the segment is needed any more, wherever it lies."""
        known = self._segments.get(segment)
        self._stays.discard(segment)
        if known is None or known.state is ColdState.DELETING:
            return
        self._set(known._replace(state=ColdState.DELETING))
        self._cold.pop(segment, None)
        self.reads.forget(segment)

    def _set(self, segment: ColdSegment) -> None:
        self._segments[segment.segment] = segment
        self._active.add(segment.segment)
        self._dirty = True

    # --- time -------------------------------------------------------------------------------------

    def turn(
        self,
        fold: Fold,
        segments: Sequence[SegmentInfo],
        *,
        before: int,
        is_taken: Callable[[int], bool],
        keep: Callable[[int, int], int | None],
        short: bool,
        may_move: bool,
        now_s: float,
    ) -> tuple[list[Effect], list[int]]:
        """The next steps; and segments of the journal that may be let go, since they lie cold.

        Args:
            fold: of the log space.
            segments: of the journal.
            before: segments from here on are needed by a start.
            is_taken: whether compaction is at work on a segment.
            keep: copies records of a segment, from a seqnum on, that are to stay at hand; where to
                go on, or None once that is all.
            short: the disk is full.
            may_move: the fold is here, and may be asked.
            now_s: monotonic.
        """
        here = {each.number for each in segments}
        for number in list(self._active):
            if self._segments[number].state is ColdState.UPLOADING and number not in here:
                self.dead(number)  # a start found it gone: it was trimmed
        if may_move and not self._moving and now_s >= self._choose_at_s:
            self._choose_at_s = now_s + CHOOSE_S
            chosen = self._choose(
                fold, segments, before=before, is_taken=is_taken, short=short, now_s=now_s
            )
            if chosen is not None:
                self._keeping = chosen, 0
        if self._keeping is not None:
            self._keep(here if may_move else set(), keep)
        return self._steps(now_s), [number for number in here if number in self._cold]

    def _keep(self, here: set[int], keep: Callable[[int, int], int | None]) -> None:
        assert self._keeping is not None
        number, cursor = self._keeping
        self._keeping = None
        if number not in here:
            return  # trimmed meanwhile, or the fold is another one
        following = keep(number, cursor)
        if following is None:
            self._set(ColdSegment(number, self._incarnation, ColdState.UPLOADING))
        else:
            self._keeping = number, following

    @property
    def _moving(self) -> bool:
        if self._keeping is not None:
            return True
        return any(self._segments[n].state is not ColdState.DELETING for n in self._active)

    def _choose(
        self,
        fold: Fold,
        segments: Sequence[SegmentInfo],
        *,
        before: int,
        is_taken: Callable[[int], bool],
        short: bool,
        now_s: float,
    ) -> int | None:
        """The oldest segment that may move, if it is time for it."""
        now_ms = self._now_ms(fold, now_s)
        if not self._after_s and not self._hot_bytes:
            return None
        hot_bytes = sum(each.until for each in segments if each.number not in self._cold)
        over = short or bool(self._hot_bytes and hot_bytes > self._hot_bytes)
        looked_at = 0
        for info in sorted(segments):
            number = info.number
            if info.open or number >= before or looked_at == CANDIDATES_MAX:
                break
            known = number in self._segments or number in self._stays
            if known or number not in fold.segments or is_taken(number):
                continue
            looked_at += 1
            spans = fold.segments.spans_of(number)
            if spans is not None and is_worth(live_bytes(spans, fold), info.until):
                continue  # compaction makes it smaller, or a trim ends it
            if over or (self._after_s and self._is_old(fold, number, now_ms)):
                return number
        return None

    def _is_old(self, fold: Fold, number: int, now_ms: int) -> bool:
        """By the cut of the last record in it; one without records is let go some other way."""
        lasts = fold.segments.books_of(number).values()
        row = fold.locate(max(lasts)) if lasts else None
        return row is not None and now_ms - row.timestamp_ms >= self._after_s * 1000

    def _now_ms(self, fold: Fold, now_s: float) -> int:
        """The time of the log, carried on while nothing is ordered (as for retention)."""
        if self._clock is None or self._clock[0] != fold.timestamp_ms:
            self._clock = fold.timestamp_ms, now_s
        return fold.timestamp_ms + int((now_s - self._clock[1]) * 1000)

    # --- jobs -------------------------------------------------------------------------------------

    def _steps(self, now_s: float) -> list[Effect]:
        """What may be begun now: nothing that the synced list does not allow."""
        effects: list[Effect] = []
        if self._dirty and not self._storing and now_s >= self._retry_at_s:
            self._storing, self._dirty = True, False
            effects.append(self._start(StoreList(tuple(self._segments.values()))))
        if now_s < self._retry_at_s:
            return effects
        for number in sorted(self._active):
            known = self._segments[number]
            if self._stored.get(number) is not known.state:
                continue
            if known.state is ColdState.UPLOADING and self._uploading is None:
                self._uploading = number
                effects.append(self._start(Upload(known)))
            elif (
                known.state is ColdState.DELETING
                and self._removing is None
                and self._uploading != number
            ):
                self._removing = number
                effects.append(self._start(Remove(known)))
        return effects

    def _start(self, job: StoreList | Upload | Remove) -> StartCold:
        return StartCold(self._space, job)

    def done(
        self, job: StoreList | Upload | Remove, outcome: ColdOutcome, now_s: float
    ) -> list[Effect]:
        """A job has ended, in whatever way."""
        self.problem = outcome.problem
        if outcome.problem and not outcome.final:
            self._retry_at_s = now_s + self._retry_s
        match job:
            case StoreList(segments):
                self._list_stored(segments, outcome)
            case Upload(segment):
                self._uploading = None
                self._uploaded(segment, outcome)
            case Remove(segment):
                self._removing = None
                if not outcome.problem:
                    del self._segments[segment.segment]
                    self._active.discard(segment.segment)
                    self._dirty = True
                    self.deleted_count += 1
        return self._steps(now_s)

    def _list_stored(self, segments: Sequence[ColdSegment], outcome: ColdOutcome) -> None:
        self._storing = False
        if outcome.problem:
            self._dirty = True
            return
        self._stored = {each.segment: each.state for each in segments}
        for number in list(self._active):
            each = self._segments[number]
            if _is_cold(each) and self._stored.get(number) is each.state:
                self._cold[each.segment] = each
                self._active.discard(each.segment)
                self._choose_at_s = 0.0  # the next one, if there is one

    def _uploaded(self, segment: ColdSegment, outcome: ColdOutcome) -> None:
        known = self._segments.get(segment.segment)
        if known is None or known.state is not ColdState.UPLOADING:
            return  # trimmed meanwhile
        if outcome.problem:
            if outcome.final:
                self.dead(segment.segment)  # of the object, not of the segment
                self._stays.add(segment.segment)
            return
        self.moved_count += 1
        self._set(
            known._replace(
                state=ColdState.COLD, size_bytes=outcome.size_bytes, checksum=outcome.checksum
            )
        )

    # --- for people -------------------------------------------------------------------------------

    def facts(self) -> Mapping[str, object]:
        """For `bokilog status`; nothing where nothing ever moved."""
        if self.idle:
            return {}
        return {
            "cold_segments": len(self._cold),
            "cold_bytes": sum(each.size_bytes for each in self._cold.values()),
            "cold_moved": self.moved_count,
            "cold_deleted": self.deleted_count,
            "cold_fetched_bytes": self.reads.fetched_bytes,
            "cold_waiting": len(self.reads),
            "cold_problem": self.problem or self.reads.problem,
        }

    def check(self) -> None:
        """Asserts the invariants."""
        for number, each in self._cold.items():
            assert self._segments[number] == each, f"segment {number} is read as it is not"
        self.reads.check()


def _is_cold(segment: ColdSegment) -> bool:
    return segment.state is ColdState.COLD
