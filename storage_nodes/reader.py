"""Answers reads of one log space from its index and its journal.

Decides what a `Read` returns: which seqnums the index says are visible, their bytes verified by the
checksums of what is touched (P29), as many as the limits allow, and what that says of the rest of
the range. Frames folded recently are answered from memory.

Does not know: who asks, sessions, or waiting; the core does.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import accumulate

from bokilog.cold import ColdMiss
from bokilog.columns import block_count, first_bad_record, record_sum
from bokilog.errors import (
    BokilogError,
    CorruptJournal,
    CorruptRecord,
    DataError,
    DataLost,
    NotReady,
    RemoteProtocolError,
    Trimmed,
)
from bokilog.frame import (
    HEADER_BYTES,
    Frame,
    decode_columns,
    decode_frame,
    decode_head,
)
from bokilog.ids import Position
from bokilog.journal import Journal, Location, SegmentReleased
from bokilog.limits import BLOCK_BYTES
from bokilog.messages import Read, ReadReply
from bokilog.record import Buffer
from bokilog.storage_nodes.cold_reads import RANGE_BYTES_MAX, ColdReads, widened
from bokilog.storage_nodes.hidden_spans import HiddenSpans
from bokilog.storage_nodes.index import Index, Row
from bokilog.storage_nodes.locations import is_here, is_lacking

Tags = None | str | list[str]
LENGTHS_FRAMES_MAX = 500
"""Frames whose columns are read in one turn: up to two `pread`s each, about 10 ms."""


class OpenFrame:
    """A frame at hand, with where each record starts in its payload."""

    __slots__ = ("first_seqnum", "frame", "location", "offsets", "timestamp_ms")

    def __init__(
        self,
        frame: Frame,
        *,
        first_seqnum: int,
        timestamp_ms: int,
        location: Location | None = None,
    ) -> None:
        self.frame = frame
        self.first_seqnum = first_seqnum
        self.timestamp_ms = timestamp_ms
        self.location = location
        """Set if it comes from a journal: then each record read from it is verified."""
        self.offsets: list[int] | None = None

    def data(self, seqnum: int) -> Buffer:
        """A record's bytes.

        Raises:
            CorruptRecord: they do not match their checksum.
        """
        index = seqnum - self.first_seqnum
        frame = self.frame
        if len(frame.payload) == frame.records:
            data = frame.payload[index]
        else:
            if self.offsets is None:
                self.offsets = list(accumulate(frame.columns.lengths, initial=0))
            start = self.offsets[index]
            data = memoryview(frame.payload[0])[start : self.offsets[index + 1]]
        if self.location is not None and record_sum(data)[0] != frame.columns.sums[index]:
            raise CorruptRecord(seqnum=seqnum)
        return data


def is_whole(frame: Frame) -> bool:
    """Whether the payload of a frame that comes from a journal matches its checksums."""
    return first_bad_record(frame.columns, memoryview(frame.payload[0])) is None


class Reader:
    """Reads of one log space at one storage node."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_cold",
        "_frames",
        "_hidden_spans",
        "_index",
        "_journal",
        "lost_until",
    )

    def __init__(
        self,
        *,
        index: Index,
        journal: Journal,
        cache_bytes_max: int,
        lost_until: int = 0,
        cold: ColdReads | None = None,
    ) -> None:
        self._index = index
        self._journal = journal
        self._cold = cold
        """Segments that lie in an object store: what is read of one may have to be waited for."""
        self._frames: OrderedDict[int, OpenFrame] = OrderedDict()
        self._hidden_spans = HiddenSpans()
        self._bytes = 0
        self._bytes_max = cache_bytes_max
        self.lost_until = lost_until
        """Seqnums below it were in memory only and are gone (P20)."""

    def remember(
        self,
        first_seqnum: int,
        frame: Frame,
        timestamp_ms: int,
        *,
        read_back: Location | None = None,
    ) -> None:
        """A frame that was just folded: the likeliest to be read next.

        One that was `read_back` from the journal for it is verified by every read, like any other
        that comes from there (P29).
        """
        opened = OpenFrame(
            frame, first_seqnum=first_seqnum, timestamp_ms=timestamp_ms, location=read_back
        )
        self._keep(opened)

    def read(self, read: Read, position: Position) -> ReadReply | BokilogError | ColdMiss:
        """The reply at the index's position; an empty one says that the range holds nothing.

        Or the bytes that are to be waited for: then ask again. A reply ends before cold bytes that
        are not at hand, so that there is one range to wait for at a time.
        """
        trim_until = self._index.trim_until(read.book, read.tag)
        if 0 < read.start < trim_until or 1 < read.until < trim_until:  # 0 and 1: not explicit
            return Trimmed(trim_until=trim_until)
        if 0 < read.start < self.lost_until:
            return DataLost(seqnum=self.lost_until - 1)
        tail = self._index.tail
        until = min(read.until, tail)
        try:
            found, more = self._visible(read, until)
            exact = not found and read.start and read.until == read.start + 1
            if exact and self._index.is_lost(read.start):
                return DataLost(seqnum=read.start)
            more |= len(found) > read.limit
            return self._reply(read, found[: read.limit], more=more, position=position)
        except (BokilogError, ColdMiss) as error:
            return error

    def lengths(self, seqnums: Sequence[int]) -> list[int]:
        """Bytes of records that the index found visible, by their frames' columns.

        Ends after so many frames as may be read in one turn, but never before the first; a record
        whose frame cannot be read counts as empty.
        """
        found: list[int] = []
        first = until = 0
        columns: Sequence[int] = ()
        frames = 0
        for seqnum in seqnums:
            if not first <= seqnum < until:
                frames += 1
                if frames > LENGTHS_FRAMES_MAX:
                    break
                row = self._index.locate(seqnum)
                first, until = seqnum, seqnum + 1
                columns = (0,)
                if row is not None and self.lies_cold(row):
                    # Nobody waits for the store to learn a size: the frame's average is near.
                    columns = [row.location.length // row.records] * row.records
                    first, until = row.first_seqnum, row.first_seqnum + row.records
                elif row is not None:
                    with suppress(DataError, NotReady):
                        columns = self._open(row, whole=False).frame.columns.lengths
                        first, until = row.first_seqnum, row.first_seqnum + row.records
            found.append(columns[seqnum - first])
        return found

    def lies_cold(self, row: Row) -> bool:
        """Whether a frame's bytes are in the object store only."""
        return self._cold is not None and row.location.segment in self._cold

    def is_live(self, row: Row) -> bool:
        """Whether a reader may still ask for a record of a frame; also if that cannot be told.

        Raises:
            ColdMiss: its columns are to be waited for.
        """
        try:
            columns = self._open(row, whole=False).frame.columns
        except (DataError, NotReady):
            return True
        # Who reads a whole LogBook asks the frame itself which of its records are void, or gone by
        # trims of all their tags: only the LogBook's own trim keeps readers away from it.
        return any(
            row.first_seqnum + until > self._index.trim_until(columns.book_of(unit))
            for unit, (_, until) in enumerate(columns.unit_bounds())
        )

    def whole_frame(self, row: Row) -> Frame | None:
        """A frame as the disk has it, every byte verified; None if it is not there or damaged.

        Raises:
            ColdMiss: it is to be waited for.
        """
        try:
            frame = self._from_journal(row.location, whole=True)
        except (RemoteProtocolError, CorruptJournal, SegmentReleased):
            return None
        fits = frame.records == row.records and self._was_ordered_there(row, frame)
        return frame if fits and is_whole(frame) else None

    def identity_of(self, row: Row) -> int | None:
        """The checksum of a frame whose header and columns are whole."""
        try:
            return self._from_journal(row.location, whole=False).checksum
        except (RemoteProtocolError, CorruptJournal, SegmentReleased):
            return None

    def forget(self, first_seqnum: int) -> None:
        """What is in memory of a frame came from bytes that are damaged."""
        known = self._frames.pop(first_seqnum, None)
        if known is not None:
            self._bytes -= known.frame.size_bytes

    def frame_at(self, seqnum: int) -> tuple[Frame, int] | None:
        """The ordered frame that holds a seqnum, and the seqnum it starts at: for peers and
        verdicts.

        Raises:
            ColdMiss: it is to be waited for.
        """
        row = self._index.locate(seqnum)
        if row is None:
            return None
        try:
            return self._open(row).frame, row.first_seqnum
        except (DataError, NotReady):
            return None

    def frames_between(self, start: int, until: int, *, limit: int) -> Iterator[Frame]:
        """Ordered frames that hold a seqnum of a range, in order: for peers that lack them.

        Ends before one that is damaged here: a peer would journal it as it came, and find its own
        journal corrupt at its next start (P30).

        Raises:
            ColdMiss: the first one is to be waited for; a later one ends what is given.
        """
        until = min(until, self._index.tail)
        if start < until:
            rows = self._index.locate_range(start, until, limit=limit)
            for place, row in enumerate(rows):
                try:
                    opened = self._open(row)
                except (DataError, NotReady):
                    return
                except ColdMiss as miss:
                    if place:
                        return
                    raise widened(miss, rows) from None
                if opened.location is not None and not is_whole(opened.frame):
                    return
                yield opened.frame

    def _visible(self, read: Read, until: int) -> tuple[list[int], bool]:
        """Visible seqnums of the range, one more than the limit if there are more; whether they end
        before bytes that have to be waited for."""
        index, wanted = self._index, read.limit + 1
        if read.tag is not None or not index.has_tag_trims(read.book):
            found = index.seqnums(
                read.book, read.tag, read.start, until, limit=wanted, reverse=read.reverse
            )
            return found, False
        found = []
        start, end = self._hidden_spans.without(read.book, read.start, until, reverse=read.reverse)
        begun = end if read.reverse else start
        while len(found) < wanted:
            batch = index.seqnums(read.book, None, start, end, limit=wanted, reverse=read.reverse)
            if not batch:
                break
            try:
                self._add_not_hidden(read, begun, batch, found)
            except ColdMiss:
                if found:
                    return found[:wanted], True
                raise
            if read.reverse:
                end = batch[-1]
            else:
                start = batch[-1] + 1
        return found[:wanted], False

    def _add_not_hidden(self, read: Read, begun: int, seqnums: list[int], found: list[int]) -> None:
        """Those of which not all tags are trimmed; where there are none from `begun` on is kept."""
        for place, seqnum in enumerate(seqnums):
            try:
                hidden = self._hidden(read.book, seqnum)
            except ColdMiss as miss:
                raise widened(miss, self._rows_of(seqnums[place:])) from None
            if not hidden:
                found.append(seqnum)
            elif not found:
                span = (seqnum, begun) if read.reverse else (begun, seqnum + 1)
                self._hidden_spans.add(read.book, *span)

    def _rows_of(self, seqnums: Sequence[int]) -> Iterator[Row]:
        """The frames of some seqnums, as they come."""
        for seqnum in seqnums:
            row = self._index.locate(seqnum)
            if row is not None:
                yield row

    def _hidden(self, book: int, seqnum: int) -> bool:
        row = self._index.locate(seqnum)
        if row is None:
            return False
        try:
            tags = self._open(row).frame.columns.tags[seqnum - row.first_seqnum]
        except DataLost:
            return False  # whoever reads it is told so
        names = [tags] if isinstance(tags, str) else tags or []
        return self._index.hidden_by_tag_trims(book, seqnum, names)

    def _reply(self, read: Read, found: list[int], *, more: bool, position: Position) -> ReadReply:
        index = self._index
        tags: list[Tags] = []
        timestamps: list[int] = []
        payload: list[Buffer] = []
        budget = read.max_bytes
        opened: OpenFrame | None = None
        until_seqnum = -1
        for place, seqnum in enumerate(found):
            try:
                if opened is None or not opened.first_seqnum <= seqnum < until_seqnum:
                    opened = self._frame_of(seqnum, whole=read.bytes_start < 0)
                    until_seqnum = opened.first_seqnum + opened.frame.records
                if read.bytes_start >= 0:
                    data = self._byte_range(opened, seqnum, read.bytes_start, read.bytes_until)
                else:
                    data = opened.data(seqnum)
            except ColdMiss as miss:
                if place:
                    found, more = found[:place], True
                    break
                if read.bytes_start < 0:
                    raise widened(miss, self._rows_of(found), bytes_max=_ahead(read)) from None
                raise
            except (DataError, NotReady):
                if place:  # what comes before it is here; the next read begins with it
                    found, more = found[:place], True
                    break
                raise
            budget -= len(data)
            if budget < 0 and place:
                found, more = found[:place], True
                break
            tags.append(opened.frame.columns.tags[seqnum - opened.first_seqnum])
            timestamps.append(opened.timestamp_ms)
            payload.append(data)
        auxes = [index.get_aux(seqnum) for seqnum in found] if index.has_aux else None
        return ReadReply(
            request=read.request,
            position=position,
            tail=index.tail,
            trim_until=index.trim_until(read.book, read.tag),
            next_seqnum=self._next_seqnum(read, found, more=more),
            more=more,
            seqnums=found,
            tags=tags,
            timestamps_ms=timestamps,
            auxes=auxes,
            payload=payload,
        )

    def _next_seqnum(self, read: Read, found: list[int], *, more: bool) -> int:
        """Where the answered part of the range ends: everything up to there (or from there on) is
        in the reply."""
        if more and found:
            return found[-1] if read.reverse else found[-1] + 1
        if read.reverse:
            return read.start
        return max(read.start, min(read.until, self._index.tail))

    def _frame_of(self, seqnum: int, *, whole: bool) -> OpenFrame:
        row = self._index.locate(seqnum)
        if row is None:
            raise DataLost(seqnum=seqnum)
        try:
            return self._open(row, whole=whole)
        except DataLost as error:  # of this record: a reader goes on with the next one
            raise DataLost(seqnum=seqnum) from error

    def _open(self, row: Row, *, whole: bool = True) -> OpenFrame:
        """The frame of a row, from memory or the journal; not `whole`: without its payload."""
        known = self._frames.get(row.first_seqnum)
        if known is not None:
            return known
        if not is_here(row.location):
            if is_lacking(row.location):
                raise NotReady(f"seqnum {row.first_seqnum} is still to be copied from a peer")
            raise DataLost(seqnum=row.first_seqnum)
        try:
            frame = self._from_journal(row.location, whole=whole)
        except (RemoteProtocolError, CorruptJournal) as error:
            raise CorruptRecord(seqnum=row.first_seqnum) from error
        except SegmentReleased as error:
            raise DataLost(seqnum=row.first_seqnum) from error
        if frame.records != row.records or not self._was_ordered_there(row, frame):
            raise CorruptRecord(seqnum=row.first_seqnum)
        opened = OpenFrame(
            frame,
            first_seqnum=row.first_seqnum,
            timestamp_ms=row.timestamp_ms,
            location=row.location,
        )
        if whole:
            self._keep(opened)
        return opened

    def _was_ordered_there(self, row: Row, frame: Frame) -> bool:
        """Whether a frame from the object store is the one that was ordered at its place (P21):
        objects may be mixed up by people who copy them, and each is whole in itself.

        Those of a restored log have LocalIds of their own, of term 0.
        """
        if not self.lies_cold(row) or not frame.shard.term:
            return True
        for span in self._index.spans(row.first_seqnum, row.first_seqnum + 1):
            count = span.start + row.first_seqnum - span.first_seqnum
            named = (span.term, span.number, count)
            return named == (frame.shard.term, frame.shard.number, frame.first)
        return True

    def _from_journal(self, location: Location, *, whole: bool) -> Frame:
        if whole:
            return decode_frame(self._bytes_of(location))
        header = self._bytes_of(location, 0, HEADER_BYTES)
        columns_bytes = decode_head(header).columns_bytes
        if HEADER_BYTES + columns_bytes > location.length:  # a flipped bit, not yet looked for
            raise RemoteProtocolError(problem="the columns of a frame end behind it")
        encoded = self._bytes_of(location, HEADER_BYTES, columns_bytes)
        return decode_columns(header, encoded)

    def _bytes_of(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        if self._cold is not None and location.segment in self._cold:
            return self._cold.read(location, start, length)
        return self._journal.read(location, start, length)

    def _byte_range(self, opened: OpenFrame, seqnum: int, start: int, until: int) -> Buffer:
        """Bytes of a record; of a large one only the blocks that the range touches are read and
        verified."""
        columns = opened.frame.columns
        index = seqnum - opened.first_seqnum
        length = columns.lengths[index]
        until = min(until, length) if until >= 0 else length
        start = min(start, until)
        if opened.frame.payload:
            return memoryview(opened.data(seqnum))[start:until]
        first, last = start // BLOCK_BYTES, -(-until // BLOCK_BYTES)
        if length <= BLOCK_BYTES:
            first, last = 0, 1
        offset = sum(columns.lengths[:index]) + first * BLOCK_BYTES
        size = min(length, last * BLOCK_BYTES) - first * BLOCK_BYTES
        assert opened.location is not None, "only frames of the journal come without payload"
        payload_at = HEADER_BYTES + len(columns.encoded)
        data = memoryview(self._bytes_of(opened.location, payload_at + offset, size))
        sums = columns.sums[index : index + 1]
        if length > BLOCK_BYTES:
            before = sum(block_count(size) for size in columns.lengths[:index])
            sums = columns.blocks[before + first : before + last]
        for block, expected in enumerate(sums):
            if record_sum(data[block * BLOCK_BYTES :][:BLOCK_BYTES])[0] != expected:
                raise CorruptRecord(seqnum=seqnum)
        return data[start - first * BLOCK_BYTES : until - first * BLOCK_BYTES]

    def _keep(self, opened: OpenFrame) -> None:
        frames, first_seqnum = self._frames, opened.first_seqnum
        known = frames.pop(first_seqnum, None)
        if known is not None:
            self._bytes -= known.frame.size_bytes
        frames[first_seqnum] = opened
        self._bytes += opened.frame.size_bytes
        while self._bytes > self._bytes_max and len(frames) > 1:
            _, oldest = frames.popitem(last=False)
            self._bytes -= oldest.frame.size_bytes


def _ahead(read: Read) -> int:
    """How much is fetched at once for a reader who asked for so much."""
    return min(read.max_bytes, RANGE_BYTES_MAX)
