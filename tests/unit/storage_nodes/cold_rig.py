"""A storage node whose object store is a dictionary, and answers when a test says so."""

from __future__ import annotations

from bokilog.cold import (
    ColdJob,
    ColdOutcome,
    ColdSegment,
    ColdState,
    FetchRange,
    Remove,
    StoreList,
    Upload,
)
from bokilog.effects import ColdDone, Effect, Event, StartCold, TimerFired
from bokilog.ids import NodeId
from bokilog.messages import IndexReport
from bokilog.metalog import Entry
from bokilog.storage_nodes.cold import Cold
from tests.protocol.storage_rig import OTHER, PEER, SPACE, StorageRig, cut, frame

FRAME_BYTES = 8_000
"""Each fills a segment of the rig's journal."""
WHERE = "s3://bucket/cold"
AWAY = ColdOutcome(problem="connection refused")


class ColdRig(StorageRig):
    """One node that keeps `hot_bytes`, or `after_s`, of its journal."""

    def __init__(
        self, *, hot_bytes: int = 0, after_s: float = 0.0, cache_bytes: int = 1 << 20
    ) -> None:
        self.objects: dict[str, bytes] = {}
        self.listed: tuple[ColdSegment, ...] = ()
        """What is synced."""
        self.published: list[Entry] = []
        self.jobs: list[ColdJob] = []
        """What the core asked for, and has no answer to."""
        self._hot_bytes, self._after_s, self._ranges_bytes = hot_bytes, after_s, cache_bytes
        self._incarnation = 0
        super().__init__(cache_bytes=0, make_cold=self._new_cold)

    def _new_cold(self) -> Cold:
        self._incarnation += 1
        return Cold(
            SPACE,
            self.listed,
            where=WHERE,
            after_s=self._after_s,
            hot_bytes=self._hot_bytes,
            incarnation=self._incarnation,
            cache_bytes=self._ranges_bytes,
        )

    def do(self, event: Event) -> list[Effect]:
        effects = super().do(event)
        self.jobs += [each.job for each in effects if isinstance(each, StartCold)]
        return effects

    def order(self, *entries: Entry, first: int | None = None, term: int = 1) -> list[Effect]:
        self.published += entries
        return super().order(*entries, first=first, term=term)

    def restart(self) -> None:
        """The primary publishes again what the stored fold has not."""
        self.jobs = []
        super().restart()
        rest = self.published[self.index.position.count :]
        if rest:
            super().order(*rest)

    def fill(self, frames: int) -> None:
        """So many frames of one record each, ordered."""
        first = self.index.tail - 1
        for number in range(first, first + frames):
            self.hold(frame(number, b"%d" % number + bytes(FRAME_BYTES)))
            self.order(cut(number + 1, number, number + 1))

    def stored(self) -> None:
        """A checkpoint, which a write quorum has too."""
        self.checkpoint()
        self.report_all()

    def report_all(self) -> None:
        """The peers have stored as much as this node."""
        for peer in (PEER, OTHER):
            self.report(peer)

    def report(self, peer: NodeId) -> None:
        position = self.index.generations.stored_position
        self.get(peer, IndexReport(SPACE, position, position, 0, False))

    def look(self, passed_s: float = 1.0) -> list[Effect]:
        """Upkeep has its turn."""
        self.now_s += passed_s
        return self.do(TimerFired("upkeep"))

    # --- the store --------------------------------------------------------------------------------

    def answer(self, outcome: ColdOutcome | None = None) -> list[Effect]:
        """The oldest job ends: as it would with a store that works, or as told."""
        job = self.jobs.pop(0)
        if outcome is None:
            outcome = self._carry_out(job)
        return self.do(ColdDone(SPACE, job, outcome))

    def answer_all(self) -> list[Effect]:
        effects: list[Effect] = []
        while self.jobs:
            effects += self.answer()
        return effects

    def move_all(self) -> None:
        """Until nothing wants to move any more."""
        while True:
            self.look()
            if not self.jobs:
                return
            self.answer_all()

    def _carry_out(self, job: ColdJob) -> ColdOutcome:
        match job:
            case StoreList(segments):
                self.listed = segments
                return ColdOutcome()
            case Upload(segment):
                data = self.bytes_of(segment.segment)
                self.objects[segment.name] = data
                return ColdOutcome(size_bytes=len(data), checksum=7)
            case FetchRange(segment, start, until):
                data = self.objects[segment.name]
                return ColdOutcome(data=data[start:until])
            case Remove(segment):
                self.objects.pop(segment.name, None)
                return ColdOutcome()

    def bytes_of(self, segment: int) -> bytes:
        """A segment as its file would be; empty if it was let go."""
        data = bytearray(
            max(
                (each.until for each in self.journal.segments() if each.number == segment),
                default=0,
            )
        )
        for _, location, item in self.journal.items(segment):
            if location.segment == segment:
                data[location.offset : location.offset + location.length] = item
        return bytes(data)

    # --- what there is ----------------------------------------------------------------------------

    @property
    def here(self) -> list[int]:
        """Segments of the journal."""
        return [each.number for each in self.journal.segments()]

    def states(self) -> dict[int, ColdState]:
        """The synced list."""
        return {each.segment: each.state for each in self.listed}
