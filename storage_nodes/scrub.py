"""Looks for flipped bits before a reader meets them, and has damaged frames sent by a peer (P30).

Decides which frame is read next (in the order of seqnums, round after round, within a byte rate),
when a peer is asked for one that does not verify, and whether what arrives is that frame: by its
identity where header and columns are whole, else by the answer's place in the order and by what
the index says of its records.

A frame that came is journalled like a copy of compaction; its old segment is compacted then,
however much of it is live, so that no group with flipped bits stays in the journal. Without a peer
the damage is counted, and readers get `CorruptRecord`.

Invariants: one frame is asked for at a time; only a whole frame that the index agrees with takes
the place of a damaged one. Does not know the journal or links; the replica does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from bokilog.frame import Frame
from bokilog.ids import NodeId
from bokilog.storage_nodes.locations import Row
from bokilog.storage_nodes.reader import is_whole
from bokilog.storage_nodes.retention import SegmentBooks

SCRUB_BYTES_S: Final = 4 << 20
"""A terabyte in three days, at a few per cent of a disk and of a core."""
TURN_BYTES_MAX: Final = 1 << 20
TURN_ROWS_MAX: Final = 50
"""About 3 ms four times a second: of small frames it is this that bounds the rate."""
FIRST_ROUND_S: Final = 60.0
"""After a start, whose own work comes first."""
ROUND_S: Final = 3600.0
"""Between two rounds: a small log is not read over and over."""
ASK_S: Final = 2.0
"""Without an answer the next peer is asked."""
DAMAGED_MAX: Final = 1_000
"""Frames that wait for their repair; the next round finds what is beyond that."""


class Fold(Protocol):
    """What is asked of the fold."""

    tail: int

    @property
    def segments(self) -> SegmentBooks:
        """What lies in which segment."""

    def locate_range(self, start: int, until: int, *, limit: int = 1000) -> list[Row]:
        """Ordered frames of a range."""

    def contains(self, book: int, seqnum: int) -> bool:
        """Whether a visible record stands there."""

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum."""


class Scrubber:
    """The scrubbing of one log space at one replica."""

    __slots__ = (
        "_allowance",
        "_asked",
        "_cursor",
        "_damaged",
        "_next_ask_s",
        "_next_round_s",
        "_now_s",
        "_rate",
        "_turn",
        "damaged_count",
        "repaired_count",
        "rounds_count",
        "scrubbed_bytes",
    )

    def __init__(self, bytes_s: int) -> None:
        self._rate = bytes_s
        """0: nothing is read."""
        self._allowance = 0.0
        self._now_s: float | None = None
        self._cursor = 0
        self._next_round_s: float | None = None
        self._damaged: dict[int, int | None] = {}
        """First seqnum to the frame's identity; None where that cannot be told any more."""
        self._asked: tuple[NodeId, int] | None = None
        """The peer, and the first seqnum of what it was asked for."""
        self._next_ask_s = 0.0
        self._turn = 0
        self.damaged_count = self.repaired_count = self.rounds_count = self.scrubbed_bytes = 0

    @property
    def waiting_count(self) -> int:
        """Damaged frames that are not repaired yet."""
        return len(self._damaged)

    def turn(
        self,
        fold: Fold,
        *,
        whole: Callable[[Row], bool],
        identity: Callable[[Row], int | None],
        elsewhere: Callable[[Row], bool] = lambda _: False,
        now_s: float,
    ) -> None:
        """Read some frames.

        Args:
            fold: of the log space.
            whole: reads a frame and verifies all of it.
            identity: of a frame whose header and columns are whole, else None.
            elsewhere: whether a frame lies in an object store, which looks after its own bits.
            now_s: monotonic.
        """
        if not self._rate:
            return
        if self._next_round_s is None:
            self._next_round_s = now_s + FIRST_ROUND_S
        passed_s = now_s - self._now_s if self._now_s is not None else 0.0
        self._now_s = now_s
        self._allowance = min(self._allowance + passed_s * self._rate, float(TURN_BYTES_MAX))
        if self._allowance <= 0 or now_s < self._next_round_s:
            return
        rows = fold.locate_range(self._cursor, fold.tail, limit=TURN_ROWS_MAX)
        for row in rows:
            if self._allowance <= 0:
                return
            self._cursor = row.first_seqnum + row.records
            if row.location.segment not in fold.segments or elsewhere(row):
                continue  # nobody reads it any more, for its segment was let go; or not from here
            self._allowance -= row.location.length
            self.scrubbed_bytes += row.location.length
            known = row.first_seqnum in self._damaged
            if not whole(row) and not known and len(self._damaged) < DAMAGED_MAX:
                self.damaged_count += 1
                self._damaged[row.first_seqnum] = identity(row)
        if len(rows) < TURN_ROWS_MAX:
            self._cursor = 0
            self.rounds_count += 1
            self._next_round_s = now_s + ROUND_S

    def suspect(self, first_seqnum: int) -> None:
        """A reader found a frame damaged that is not looked at here."""
        if first_seqnum not in self._damaged and len(self._damaged) < DAMAGED_MAX:
            self.damaged_count += 1
            self._damaged[first_seqnum] = None

    def ask(self, fold: Fold, peers: list[NodeId], now_s: float) -> tuple[NodeId, Row] | None:
        """A damaged frame, and the peer to ask for it now."""
        if not self._damaged or not peers or now_s < self._next_ask_s:
            return None
        self._next_ask_s = now_s + ASK_S
        self._turn += 1
        wanted = sorted(self._damaged)
        first_seqnum = wanted[self._turn // len(peers) % len(wanted)]
        found = fold.locate_range(first_seqnum, first_seqnum + 1, limit=1)
        if not found or found[0].location.segment not in fold.segments:
            del self._damaged[first_seqnum]  # trimmed meanwhile
            return None
        peer = peers[self._turn % len(peers)]
        self._asked = peer, first_seqnum
        return peer, found[0]

    def answered(self, source: object, frame: Frame, fold: Fold) -> Row | None:
        """The row of the damaged frame that this is; None: it is not asked for, or not it."""
        if self._asked is None or source != self._asked[0]:
            return None
        first_seqnum = self._asked[1]
        found = fold.locate_range(first_seqnum, first_seqnum + 1, limit=1)
        if not found or not self._fits(found[0], frame, fold):
            return None
        return found[0]

    def repaired(self, first_seqnum: int) -> None:
        """The frame that came is durable, and is what is read."""
        if self._damaged.pop(first_seqnum, 0) != 0:
            self.repaired_count += 1
        if self._asked is not None and self._asked[1] == first_seqnum:
            self._asked = None
            self._next_ask_s = 0.0

    def _fits(self, row: Row, frame: Frame, fold: Fold) -> bool:
        identity = self._damaged.get(row.first_seqnum)
        if frame.records != row.records or not _is_whole(frame):
            return False
        if identity is not None:
            return frame.checksum == identity
        void = set(row.void_units)
        for unit, (start, until) in enumerate(frame.columns.unit_bounds()):
            book = frame.columns.book_of(unit)
            kept = fold.trim_until(book)
            for seqnum in range(row.first_seqnum + start, row.first_seqnum + until):
                if seqnum >= kept and fold.contains(book, seqnum) == (unit in void):
                    return False
        return True


def _is_whole(frame: Frame) -> bool:
    """What comes over a link is one buffer; from a core in the same process it may be several."""
    return is_whole(frame) if len(frame.payload) == 1 else frame.columns.payload_bytes == 0
