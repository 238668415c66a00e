"""Copying the frames that a loaded fold names and this node has no bytes of (P20, P33).

Decides which of them are asked for next, whom, how fast, and when one is given up for lost.

One request at a time, for neighbouring frames. What the peer sends is verified (P29), journalled
here and, once durable, found by the fold. Of the rest the peer says either that it has no bytes of
it itself (then the next peer is asked), or nothing: then no reader asks for it any more, from the
peer's position on. A frame of which no other replica has the bytes is lost: its records are
`DataLost` here, at once, and nobody waits for them.

Invariants: until a frame is here, or known to be neither needed nor anywhere, its records are not
answered for; what is stored of the progress never runs ahead of what is durable.

Does not know: the journal, links; `filling.py` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from bokilog.cold import ColdMiss
from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.frame import Frame
from bokilog.ids import NodeId, Position
from bokilog.journal import Location
from bokilog.messages import FetchStored, StoredFrame, StoredSent
from bokilog.storage_nodes.cold_reads import widened
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.keys import Lacking
from bokilog.storage_nodes.locations import LOST, Row, is_here, is_lacking
from bokilog.storage_nodes.reader import Reader, is_whole

BACKFILL_BYTES_S: Final = 32 << 20
"""Appends and reads of the other nodes come first."""
REQUEST_ROWS_MAX: Final = 256
LOOK_ROWS: Final = 1_000
"""Rows looked at at once: a few chunks of the store."""
ANSWER_BYTES_MAX: Final = 1 << 20
ANSWER_FRAMES_MAX: Final = 256
ANSWER_LOOKS_MAX: Final = 200
"""Frames of which columns are read, to see whether they are live: up to 5 ms."""
MOVED_MAX: Final = 50_000
"""Frames whose new place is in RAM only, until a checkpoint."""
RETRY_S: Final = 2.0
"""Without an answer, or with frames that no connected peer has."""


def give_stored(
    source: Address, request: FetchStored, index: Index, reader: Reader, *, dead_too: bool = False
) -> list[Send]:
    """The live frames of a range, as many as one answer holds.

    `dead_too`: also those whose records were trimmed, if they are there still: they may have been
    live at the position that the one who asks is about.

    Raises:
        ColdMiss: the first of them are to be waited for; later ones end the answer.
    """
    effects: list[Send] = []
    lacking: list[int] = []
    looked_at = size_bytes = 0
    until = request.first_seqnum
    end = min(request.until_seqnum, index.tail)
    rows = index.locate_range(until, end, limit=ANSWER_FRAMES_MAX) if until < end else []
    for row in rows:
        if size_bytes >= ANSWER_BYTES_MAX or looked_at >= ANSWER_LOOKS_MAX:
            end = row.first_seqnum
            break
        looked_at += 1
        if not is_here(row.location):
            lacking.append(row.first_seqnum)
            continue
        if row.location.segment not in index.segments:
            continue  # let go: everything in it was trimmed
        try:
            if not (dead_too or row.void_units or reader.is_live(row)):
                continue
            frame = reader.whole_frame(row)
        except ColdMiss as miss:
            if row is rows[0]:
                raise widened(miss, rows) from None
            end = row.first_seqnum
            break
        if frame is None:
            lacking.append(row.first_seqnum)
            continue
        size_bytes += frame.size_bytes
        effects.append(Send(source, StoredFrame(row.first_seqnum, frame)))
    else:
        if len(rows) == ANSWER_FRAMES_MAX:
            end = rows[-1].first_seqnum + rows[-1].records
    sent = StoredSent(index.space, request.first_seqnum, max(until, end), index.position, lacking)
    return [*effects, Send(source, sent)]


class Backfill:
    """What one log space still has to copy."""

    __slots__ = (
        "_again",
        "_asked",
        "_at",
        "_came",
        "_due_bytes",
        "_in_hand",
        "_index",
        "_moved",
        "_node",
        "_over",
        "_peer",
        "_rate",
        "_said_no",
        "_turn",
        "lost_records",
    )

    def __init__(self, node: NodeId, index: Index, *, bytes_s: int = BACKFILL_BYTES_S) -> None:
        self._node = node
        self._index = index
        self._rate = bytes_s
        self._at = 0
        """Rows before it were asked for, and are here, in hand, or were refused."""
        self._peer: NodeId | None = None
        """Who was asked."""
        self._asked: tuple[int, int] = (0, 0)
        self._turn = 0
        self._came: set[int] = set()
        """Frames of the answer on its way, taken or not."""
        self._again = False
        """Something was passed over: when the end is reached, the start is looked at again."""
        self._in_hand: dict[int, int] = {}
        """Frames that came and are not durable yet: first seqnum to records."""
        self._said_no: dict[int, set[NodeId]] = {}
        """Which peers have no bytes of a frame."""
        self._over: deque[tuple[Position, list[int]]] = deque()
        """Frames that nobody needs once this fold stands there too."""
        self._due_bytes = 0
        self._moved = 0
        self.lost_records = 0
        """Of frames that no replica has bytes of, since the start."""
        self.begin()

    def begin(self) -> None:
        """The fold is another one, or this is a start."""
        lacking = self._index.locations.lacking
        self._at = lacking.start if lacking is not None else 0
        self._peer, self._again = None, False
        self._in_hand, self._said_no = {}, {}
        self._over.clear()

    @property
    def busy(self) -> bool:
        return self._index.locations.lacking is not None

    # --- asking -----------------------------------------------------------------------------------

    def ask(self, peers: Sequence[NodeId]) -> list[Effect]:
        """The next request, or what is to be waited for; nothing once everything is here."""
        lacking = self._index.locations.lacking
        if lacking is None or self._peer is not None:
            return []
        timer = ("backfill", int(self._index.space))
        if self._moved >= MOVED_MAX:
            return [SetTimer(timer, RETRY_S)]
        if self._due_bytes > 0:
            due_bytes, self._due_bytes = self._due_bytes, 0
            return [SetTimer(timer, due_bytes / self._rate)]
        if not peers:
            return [SetTimer(timer, RETRY_S)]
        rows = self._next_rows(lacking)
        for peer in self._in_turn(peers):
            wanted = _first_run([peer not in self._no_of(row) for row in rows], rows)
            if wanted:
                self._turn += 1
                self._peer, self._came = peer, set()
                self._asked = wanted[0].first_seqnum, wanted[-1].first_seqnum + wanted[-1].records
                fetch = FetchStored(self._index.space, *self._asked)
                return [Send(peer, fetch), SetTimer(timer, RETRY_S)]
        if rows:  # nobody connected has these: the ones behind them come first
            self._at, self._again = rows[-1].first_seqnum + rows[-1].records, True
            return [SetTimer(timer, 0.0)]
        if self._again or self._in_hand or self._over or self._said_no:
            self._at, self._again = lacking.start, False
            return [SetTimer(timer, RETRY_S)]
        self._index.locations.lacking = None
        return []

    def _next_rows(self, lacking: Lacking) -> list[Row]:
        """Neighbouring frames that are lacking and not on their way, from where the last ended."""
        over = {first for _, rows in self._over for first in rows}
        while self._at < lacking.until:
            rows = self._index.locate_range(self._at, lacking.until, limit=LOOK_ROWS)
            if not rows:
                self._at = lacking.until
                break

            wanted = [
                is_lacking(row.location)
                and row.first_seqnum not in self._in_hand
                and row.first_seqnum not in over
                for row in rows
            ]
            if found := _first_run(wanted, rows):
                return found[:REQUEST_ROWS_MAX]
            self._at = rows[-1].first_seqnum + rows[-1].records
        return []

    def _in_turn(self, peers: Sequence[NodeId]) -> list[NodeId]:
        """One peer after the other, so that none bears it all."""
        place = self._turn % len(peers) if peers else 0
        return [*peers[place:], *peers[:place]]

    def _no_of(self, row: Row) -> set[NodeId]:
        return self._said_no.get(row.first_seqnum, set())

    def timer(self) -> None:
        """Whoever was asked did not answer in time, or it is time to go on."""
        self._peer = None

    def link_down(self, peer: Address) -> None:
        if peer == self._peer:
            self._peer = None

    # --- answers ----------------------------------------------------------------------------------

    def wants(self, source: Address, message: StoredFrame) -> Row | None:
        """The row of a frame that is to be journalled; None: it does not fit, or is here."""
        first = message.first_seqnum
        row = self._index.locate(first) if self.busy and source == self._peer else None
        if row is None or row.first_seqnum != first or not is_lacking(row.location):
            return None
        self._came.add(first)
        frame = message.frame
        fits = frame.records == row.records and frame.shard.space == self._index.space
        return row if fits and first not in self._in_hand and is_whole(frame) else None

    def taken(self, row: Row, frame: Frame) -> None:
        """It was appended to the journal."""
        self._in_hand[row.first_seqnum] = row.records
        self._said_no.pop(row.first_seqnum, None)
        self._due_bytes += frame.size_bytes

    def answered(self, source: Address, message: StoredSent, *, replicas: Iterable[NodeId]) -> None:
        """The end of an answer: what it left out is not needed, what it lacks is asked of others,
        until there is nobody left."""
        peer = self._peer
        if peer is None or source != peer or message.first_seqnum != self._asked[0]:
            return
        self._peer = None
        until = min(message.until_seqnum, self._asked[1])
        lacking = set(message.lacking)
        over: list[int] = []
        if until <= message.first_seqnum:  # its fold is not even there
            self._at, self._again = max(self._at, self._asked[1]), True
            return
        for row in self._index.locate_range(message.first_seqnum, until, limit=LOOK_ROWS):
            first = row.first_seqnum
            if first < message.first_seqnum or not is_lacking(row.location):
                continue
            if first in lacking:
                self._refused(row, peer, replicas)
            elif first in self._came:  # and perhaps it was not taken
                self._again |= first not in self._in_hand
            else:
                over.append(first)
        if over:
            self._over.append((message.position, over))
        self._at = max(self._at, until)

    def _refused(self, row: Row, peer: NodeId, replicas: Iterable[NodeId]) -> None:
        said_no = self._said_no.setdefault(row.first_seqnum, set())
        said_no.add(peer)
        if said_no.issuperset(each for each in replicas if each != self._node):
            del self._said_no[row.first_seqnum]
            self.lost_records += row.records
            self._settle(row.first_seqnum)

    def folded(self) -> None:
        """The fold has moved on: what nobody needed at a peer's position is over here too."""
        while self._over and self._over[0][0] <= self._index.position:
            for first in self._over.popleft()[1]:
                self._said_no.pop(first, None)
                self._settle(first)

    def _settle(self, first_seqnum: int) -> None:
        """No bytes of it will come."""
        row = self._index.locate(first_seqnum)
        if row is not None and is_lacking(row.location):
            self._index.relocate(first_seqnum, Location(*LOST[:2], row.location.length))
            self._done(row.records)

    # --- durability -------------------------------------------------------------------------------

    def arrived(self, first_seqnum: int, location: Location, *, books: int | list[int]) -> None:
        """A frame that came is durable: from here on it is read."""
        records = self._in_hand.pop(first_seqnum, None)
        row = self._index.locate(first_seqnum)
        if records is None or row is None or not is_lacking(row.location):
            return
        self._index.relocate(first_seqnum, location, books=books)
        self._done(records)

    def failed(self) -> None:
        """The journal did not take what is under way: it is asked for again."""
        self._in_hand, self._again = {}, True

    def _done(self, records: int) -> None:
        lacking = self._index.locations.lacking
        self._moved += 1
        if lacking is not None:
            self._index.locations.lacking = lacking._replace(
                records=max(0, lacking.records - records)
            )

    def freeze(self) -> None:
        """A checkpoint begins: what it stores as done has to be durable."""
        self._moved = 0
        lacking = self._index.locations.lacking
        if lacking is not None:
            waiting = (first for _, rows in self._over for first in rows)
            at = self._asked[0] if self._peer else self._at
            start = min((at, self._at, *self._in_hand, *self._said_no, *waiting))
            if not self._again:
                self._index.locations.lacking = lacking._replace(start=max(start, lacking.start))

    # --- for people -------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What is copied of what; empty: all of it."""
        lacking = self._index.locations.lacking
        if lacking is None:
            return ""
        copied = lacking.total_records - lacking.records
        return f"rebuilding: {copied:,} of {lacking.total_records:,} records"


def _first_run(wanted: Sequence[bool], rows: Sequence[Row]) -> list[Row]:
    """The first rows, one behind the other, that are wanted."""
    found: list[Row] = []
    for row, is_wanted in zip(rows, wanted, strict=True):
        if is_wanted:
            found.append(row)
        elif found:
            break
    return found
