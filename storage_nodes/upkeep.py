"""What a replica does that nobody waits for, a bounded part at a time (P21, P30, P31).

Decides when trims for retention are proposed, which frames are journalled again (copies of
compaction, records that stay at hand while their segment moves away, frames that a peer sent in
place of damaged ones), and from when on such a copy is what is read: once its group is durable.

Invariants: a copy is read only after it is durable, and only if the index still names the place it
was copied from; the old place is forgotten by a checkpoint, never before; what the journal did not
take is dropped as a whole, and has its turn later.

Does not know when it may work: whether there is a fold, whether the disk is full and who may let
something go is the replica's to say. Which frames are worth it is decided by `expiry.py`,
`compaction.py`, `scrub.py` and `cold.py`; here they share one journal.
"""

from __future__ import annotations

from collections.abc import Mapping

from bokilog.effects import Effect, Send
from bokilog.errors import ReadOnly
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import SYSTEM_BOOK, NodeId, Shard, Term
from bokilog.journal import Journal
from bokilog.messages import FetchFrames, Propose
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.compaction import Compactor, Moved
from bokilog.storage_nodes.expiry import Expiry
from bokilog.storage_nodes.index import Index, Row
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.scrub import Scrubber
from bokilog.view import LogSpace

KEEP_RECORDS_MAX = 200
"""Records of the system LogBook copied per turn out of a segment that moves away."""


class Upkeep:
    """Retention, compaction, scrubbing and the way to the object store of one replica.

    Args:
        journal: of the log space.
        index: the fold.
        reader: of that fold.
        cold: segments in the object store.
        compaction_bytes_s: copied per second at most; 0: nothing.
        scrub_bytes_s: read again per second at most; 0: nothing.
    """

    __slots__ = (
        "_cold",
        "_compactor",
        "_copying",
        "_expiry",
        "_index",
        "_journal",
        "_reader",
        "copies",
        "scrubber",
    )

    def __init__(
        self,
        *,
        journal: Journal,
        index: Index,
        reader: Reader,
        cold: Cold,
        compaction_bytes_s: int,
        scrub_bytes_s: int,
    ) -> None:
        self._journal = journal
        self._index = index
        self._reader = reader
        self._cold = cold
        self._expiry = Expiry()
        self._compactor = Compactor(compaction_bytes_s)
        self.scrubber = Scrubber(scrub_bytes_s)
        self.copies: list[Moved] = []
        """Staged by compaction, and frames that peers sent in place of damaged ones."""
        self._copying: dict[int, list[Moved]] = {}
        """The same, committed, by token."""

    def stand_on(self, index: Index, reader: Reader) -> None:
        """Another fold took the place of the one before."""
        self._index, self._reader = index, reader

    # --- copies -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether copies are not durable yet: their places would be lost with the fold."""
        return bool(self.copies or self._copying)

    @property
    def committing(self) -> bool:
        """Whether copies were committed that are not durable yet."""
        return bool(self._copying)

    def commit(self, token: int) -> None:
        """What was staged becomes durable with this token."""
        self._copying[token], self.copies = self.copies, []

    def persisted(self, token: int) -> None:
        """What was committed under this token, and earlier, is durable."""
        for copied in [known for known in self._copying if known <= token]:
            self._relocate(self._copying.pop(copied))

    def persist_failed(self) -> None:
        """Nothing of what was staged or committed counts."""
        self.copies, self._copying = [], {}
        self._compactor.failed()

    def fold_ended(self) -> None:
        """The fold that copies were made for is not there any more: the segment stays."""
        self._compactor.failed()

    def _copy(self, row: Row, frame: Frame, *, repairs: bool = False, kept: bool = False) -> None:
        """Journals a frame again; it is read from there once that is durable.

        Raises:
            ReadOnly: the journal does not take it.
        """
        location = self._journal.append(ITEM_FRAME, frame.buffers())
        self._index.segments.frame(location.segment)
        books = frame.columns.books
        moved = Moved(row.first_seqnum, row.location, location, books, repairs, kept)
        self.copies.append(moved)

    def _relocate(self, moves: list[Moved]) -> None:
        """Copies are durable: from here on they are what is read."""
        for move in moves:
            row = self._index.locate(move.first_seqnum)
            if row is not None and row.location == move.old:
                new = self._journal.resolve(move.new)
                self._index.relocate(move.first_seqnum, new, books=move.books)
            if move.repairs:
                self._reader.forget(move.first_seqnum)
                self.scrubber.repaired(move.first_seqnum)
                self._compactor.repaired(move.old.segment)
        self._compactor.moved(sum(not (move.repairs or move.kept) for move in moves))

    # --- retention --------------------------------------------------------------------------------

    def retention(
        self, space: LogSpace, node: NodeId, *, now_s: float
    ) -> tuple[list[Effect], bool]:
        """Trims that retention asks for; and whether to look again soon."""
        rank = space.replicas.index(node)
        trims, behind = self._expiry.look(self._index, self._reader, rank=rank, now_s=now_s)
        return [Send(space.primary, Propose(0, space.id, trim)) for trim in trims], behind

    # --- compaction -------------------------------------------------------------------------------

    def compact(self, *, before: int, now_s: float) -> bool:
        """Copies some live frames out of a segment that is mostly dead; whether to look again soon.

        Args:
            before: segments from here on are needed by a start.
            now_s: monotonic.
        """
        copies = self._compactor.turn(
            self._index,
            before=before,
            sizes=self._segment_sizes,
            cold=self._cold.sizes,
            is_live=self._reader.is_live,
            read=self._reader.whole_frame,
            now_s=now_s,
        )
        for first_seqnum, frame in copies:
            row = self._index.locate(first_seqnum)
            assert row is not None, f"the frame at {first_seqnum} was read just now"
            try:
                self._copy(row, frame)
            except ReadOnly:
                self.copies = []
                self._compactor.failed()
                return False
        miss = self._compactor.miss
        if miss is not None and self._cold.reads.fails(miss.segment):
            self._compactor.leave()
        return self._compactor.busy or bool(copies)

    def _segment_sizes(self) -> dict[int, int]:
        return {
            each.number: each.until
            for each in self._journal.segments()
            if not each.open and not self._cold.is_chosen(each.number)
        }

    def freeze(self) -> None:
        """A checkpoint begins that holds every move so far."""
        for segment in self._compactor.frozen():
            self._index.segments.emptied(segment)

    def stored(self) -> list[int]:
        """The checkpoint is on disk: segments that nothing leads to any more."""
        return self._compactor.stored()

    # --- cold segments ----------------------------------------------------------------------------

    def move_cold(self, *, before: int, full: bool, may_move: bool, now_s: float) -> list[Effect]:
        """Sends old segments to the object store, and lets those go that lie there.

        Args:
            before: segments from here on are needed by a start.
            full: the disk takes no more appends.
            may_move: the fold is here, and the journal takes copies.
            now_s: monotonic.
        """
        if self._cold.idle:
            return []
        effects, there = self._cold.turn(
            self._index,
            self._journal.segments(),
            before=before,
            is_taken=self._compactor.has,
            keep=self._keep_at_hand,
            short=full,
            may_move=may_move,
            now_s=now_s,
        )
        for segment in there:
            self._journal.release(segment)
        if self._compactor.miss is not None:
            effects += self._cold.reads.prefetch(self._compactor.miss)
        return effects

    def _keep_at_hand(self, segment: int, cursor: int) -> int | None:
        """Copies records of the system LogBook out of a segment that moves, some at a time."""
        last = self._index.segments.books_of(segment).get(SYSTEM_BOOK, 0)
        seqnums = self._index.seqnums(SYSTEM_BOOK, None, cursor, last + 1, limit=KEEP_RECORDS_MAX)
        done = -1
        for seqnum in seqnums:
            row = self._index.locate(seqnum)
            if row is None or row.location.segment != segment or row.first_seqnum == done:
                continue
            frame = self._reader.whole_frame(row)
            if frame is None:
                continue  # then the segment does not move
            try:
                self._copy(row, frame, kept=True)
            except ReadOnly:
                return seqnum
            done = row.first_seqnum
        return seqnums[-1] + 1 if len(seqnums) == KEEP_RECORDS_MAX else None

    # --- scrubbing --------------------------------------------------------------------------------

    def scrub(
        self, space: LogSpace, peers: list[NodeId], *, full: bool, now_s: float
    ) -> list[Effect]:
        """Reads some frames, whether their bytes are as they were; asks a peer for one that is not.

        Args:
            space: the log space.
            peers: replicas that are connected.
            full: the disk takes no more appends, so none is asked for.
            now_s: monotonic.
        """
        reader = self._reader
        self.scrubber.turn(
            self._index,
            whole=lambda row: reader.whole_frame(row) is not None,
            elsewhere=reader.lies_cold,
            identity=reader.identity_of,
            now_s=now_s,
        )
        if full or not self.scrubber.waiting_count:
            return []
        asked = self.scrubber.ask(self._index, peers, now_s)
        if asked is None:
            return []
        peer, row = asked
        first, nobodys = row.first_seqnum, Shard(space.id, Term(0), 0)
        return [Send(peer, FetchFrames(nobodys, 0, 1, first, first + row.records))]

    def suspect(self, seqnum: int) -> None:
        """A cold frame is not what was put there: a peer's takes its place."""
        row = self._index.locate(seqnum)
        if row is not None and self._reader.lies_cold(row):
            self.scrubber.suspect(row.first_seqnum)

    def mend(self, row: Row, frame: Frame) -> bool:
        """Stages the whole frame that a peer sent in place of the damaged one of that row."""
        if any(each.first_seqnum == row.first_seqnum for each in self.copies):
            return False
        try:
            self._copy(row, frame, repairs=True)
        except ReadOnly:
            return False  # asked for again
        return True

    # --- for people -------------------------------------------------------------------------------

    def facts(self) -> Mapping[str, object]:
        """For `bokilog status`."""
        return {
            "segments_compacted": self._compactor.emptied_count,
            "compacted_bytes": self._compactor.copied_bytes,
            "scrubbed_bytes": self.scrubber.scrubbed_bytes,
            "frames_damaged": self.scrubber.damaged_count,
            "frames_repaired": self.scrubber.repaired_count,
        }

    def check(self) -> None:
        """Asserts the invariants."""
        self._compactor.check()
        self._cold.check()
