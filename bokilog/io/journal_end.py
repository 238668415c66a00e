"""The end of a journal: where the next group goes, and how its bytes get there.

Decides when a new segment begins and how large it is, what numbers a group's header has, what is
done about a group that the disk did not take, and where one goes whose sync failed. All of it is
about one place, `tip`, behind everything that is written.

Invariants:
- A refused group leaves nothing that a restart could find: its header is wiped and the wipe is
  synced before the refusal is called definite; its number and offset are used again.
- A failed sync is final for its file (P7): the group is written again, from memory, to a new
  segment, which continues the one where it lay.
- Segment numbers and generations are never used twice.
- What keeps the headroom takes no room that is not allocated, or free beside it (P32).

Does not know what is staged when, and who waits (`journal_file.py`); where earlier bytes stand
(`known_segments.py`). The sync's thread may move the end while the owner looks at it: so a place is
one tuple. Source: P7, P11, P30 to P32; LIMITS C and points 5-9.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from bokilog.errors import ReadOnly
from bokilog.io.journal_recovery import Recovery, rewrite_tail
from bokilog.io.known_segments import KnownSegments
from bokilog.io.segment_files import OpenFile, SegmentFiles
from bokilog.io.sync import SyncPolicy, Write, write_all
from bokilog.journal import Moved
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    ITEM_BYTES_MAX,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    GroupHeader,
    Place,
    SegmentHeader,
    checksum,
    encode_group_header,
    encode_segment_header,
)

FIRST_SEGMENT_BYTES = 256 << 10  # of a new journal; later ones double up to `segment_bytes`


class WrittenGroup(NamedTuple):
    """A group that is written and not yet synced, with what it takes to write it again."""

    header: GroupHeader
    segment: int
    staged_in: int
    """The segment that its items' locations name; another one if that failed meanwhile."""
    parts: list[Buffer]
    file: OpenFile
    new_name: bool


class NotTakenBack(OSError):
    """A group was refused, and a restart may find something of it; the cause says why."""


class JournalEnd:
    """Where one journal ends.

    Args:
        files: the journal's.
        segments: those that hold something.
        segment_bytes: allocated per segment; a group may end past it.
        policy: what makes a group durable.
        write: writes to the disk.
    """

    __slots__ = (
        "_allocated",
        "_file",
        "_files",
        "_generation",
        "_lacking",
        "_limit",
        "_next_segment",
        "_policy",
        "_prepare_at",
        "_segment_bytes",
        "_segments",
        "_synced",
        "_untold",
        "_write",
        "last_group",
        "tip",
    )

    def __init__(
        self,
        files: SegmentFiles,
        segments: KnownSegments,
        *,
        segment_bytes: int,
        policy: SyncPolicy,
        write: Write,
    ) -> None:
        self._files = files
        self._segments = segments
        self._segment_bytes = segment_bytes
        self._policy = policy
        self._write = write
        self.tip = NOWHERE
        self.last_group = 0
        self._file: OpenFile | None = None  # of the tip; None: the next group begins a segment
        self._limit = 0  # a group whose first item would end behind it begins a segment
        self._allocated = 0  # bytes that the tip's file is sure to have
        self._prepare_at = ITEM_BYTES_MAX  # end of a group from which on a next file is allocated
        self._synced = NOWHERE
        self._generation = 0
        self._next_segment = 1
        self._lacking = 0  # bytes of an item that was refused, until there is room for it
        self._untold = ""  # why, until somebody asked

    # --- start and stop ---

    def start(self, found: Recovery) -> None:
        """Go on behind what was found; what may be unsynced is written anew first (P7).

        Raises:
            ReadOnly: the disk does not take that.
        """
        self._next_segment = found.newest_file + 1
        file = None
        if self._policy.durable and not found.clean:
            file = self._rewrite(found)
        elif found.clean and found.known:
            file = self._files.open(found.tip.segment, to_write=True)
        self._segments.adopt(found)
        self.tip, self._synced = found.tip, found.synced
        self.last_group = found.last_group
        self._generation = found.generation
        self._file = file
        if file is not None:
            self._segments.known[self.tip.segment].end = None
            self._limit = max(self._next_size(), self.tip.offset)
            self._prepare_at = self._limit // 2
            self._allocated = os.fstat(file.fd).st_size
            self._segments.open_files.put(self.tip.segment, file)

    def _rewrite(self, found: Recovery) -> OpenFile | None:
        number = self._next_segment
        try:
            file = rewrite_tail(
                found, self._files, number=number, policy=self._policy, write=self._write
            )
        except OSError as error:
            raise ReadOnly(f"what may be unsynced cannot be written anew: {error}") from error
        if file is not None:
            self._next_segment += 1
        return file

    def mark_stop(self) -> bool:
        """An empty group says that all before it is synced; the next start writes over it.

        False if the disk does not take it: then the next start finds a crash, which is as good.
        """
        if self._file is None:
            return True
        header = GroupHeader(
            generation=self._segments.known[self.tip.segment].header.generation,
            offset=self.tip.offset,
            number=self.last_group + 1,
            synced=self._synced,
            item_count=0,
            body_bytes=0,
            framing=checksum(b""),
        )
        try:
            data = encode_group_header(header)
            write_all(
                self._write, self._file.fd, [data], offset=self.tip.offset, byte_count=len(data)
            )
            self._policy.sync(self._file.fd)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the last segment's file."""
        self._file = None

    # --- where a group goes ---

    def place_for(self, length: int, *, unsynced: bool) -> Place:
        """Where a group goes that begins with an item of `length` bytes; the rest of it may pass
        the limit.

        While a group is not synced, the next number is left to the segment that takes it if its
        sync fails.
        """
        tip = self.tip
        end = tip.offset + GROUP_HEADER_BYTES + WORD_BYTES + length
        if self._file is None or end > self._limit:
            return Place(self._next_segment + unsynced, SEGMENT_HEADER_BYTES)
        return tip

    def check_room(self, place: Place, start: int, length: int, *, first: bool) -> None:
        """Refuse an item for which the reserve would have to be used.

        What its group takes by then is allocated already, or is free. Whoever takes that room
        until the group is written costs the reserve one group.

        Args:
            place: of its group.
            start: where its word goes.
            length: of the item.
            first: the group begins with it, so it may begin elsewhere, too.

        Raises:
            ReadOnly: there is no room; `short` tells of it until there is.
        """
        end = start + WORD_BYTES + length
        new = place.segment not in self._segments.known
        lacking = end if new else end - max(self._allocated, self.tip.offset)
        if lacking <= 0 or not (reason := self._files.lacking(lacking, new=new)):
            return
        alone = SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES + WORD_BYTES + length
        if not new and first and not self._files.lacking(alone, new=True):
            self._limit = self.tip.offset  # there is a file for it, though not in this segment
            return
        self._lacking, self._untold = alone, reason
        raise ReadOnly(reason)

    def short(self) -> str:
        """Why there was no room for an item, until there is: at least once."""
        if not self._lacking:
            return ""
        reason, self._untold = self._untold, ""
        reason = reason or self._files.lacking(self._lacking, new=True)
        if not reason:
            self._lacking = 0
        return reason

    # --- writing ---

    def write(
        self,
        place: Place,
        parts: list[Buffer],
        words: list[bytes],
        *,
        byte_count: int,
        use_headroom: bool,
    ) -> WrittenGroup:
        """Write a group at the tip, or as the first one of a new segment.

        Args:
            place: what `place_for` gave it.
            parts: room for its header, then word and buffers of each item.
            words: of all items.
            byte_count: of all of it.
            use_headroom: whether a new segment may take the reserve.

        Raises:
            NotTakenBack: the disk refused it, and a restart may find something of it.
            OSError: the disk refused it, and nothing of it is there.
        """
        segment, offset = self._segments.resolve(*place)
        known, file = self._segments.known.get(segment), self._file
        if known is None:
            header, file = self._write_new(
                segment, parts, words, byte_count=byte_count, use_headroom=use_headroom
            )
        else:
            assert file is not None and Place(segment, offset) == self.tip
            header = self._header(words, known.header.generation, offset, byte_count)
            parts[0] = encode_group_header(header)
            try:
                write_all(self._write, file.fd, parts, offset=offset, byte_count=byte_count)
            except OSError as refused:
                self._wipe(file, offset, refused)
                raise
        self.last_group = header.number
        self.tip = Place(segment, header.end)
        if header.end > self._prepare_at:
            self._prepare_at = ITEM_BYTES_MAX  # once per segment, also where there is no room
            self._files.segment_bytes = self._next_size()
            self._files.prepare(header.end)
        return WrittenGroup(header, segment, place.segment, parts, file, known is None)

    def _write_new(
        self,
        segment: int,
        parts: list[Buffer],
        words: list[bytes],
        *,
        byte_count: int,
        use_headroom: bool,
    ) -> tuple[GroupHeader, OpenFile]:
        size = SEGMENT_HEADER_BYTES + byte_count
        self._files.segment_bytes = self._next_size()
        file = self._files.create(segment, size, use_headroom=use_headroom)
        self._generation += 1
        self._next_segment = max(self._next_segment, segment + 1)
        page = SegmentHeader(
            *(self._generation, segment, self.tip, self.last_group, self._synced, False)
        )
        header = self._header(words, self._generation, SEGMENT_HEADER_BYTES, byte_count)
        parts[0] = encode_group_header(header)
        try:
            data = [encode_segment_header(page), *parts]
            write_all(self._write, file.fd, data, offset=0, byte_count=size)
        except OSError as refused:
            self._give_back(segment, refused)
            raise
        before = self._segments.known.get(self.tip.segment)
        if before is not None:
            before.end, before.last_group = self.tip.offset, self.last_group
        self._begin(page, file, size)
        return header, file

    def _header(
        self, words: list[bytes], generation: int, offset: int, byte_count: int
    ) -> GroupHeader:
        return GroupHeader(
            *(generation, offset, self.last_group + 1, self._synced, len(words)),
            *(byte_count - GROUP_HEADER_BYTES, checksum(b"".join(words))),
        )

    def _begin(self, page: SegmentHeader, file: OpenFile, size: int) -> None:
        """Let a segment, whose first `size` bytes are written, be the last one."""
        self._segments.begin(page, file)
        self._limit = max(self._files.segment_bytes, size)
        self._prepare_at = self._limit // 2
        self._allocated = os.fstat(file.fd).st_size
        self._file = file
        self.tip = Place(page.number, size)

    def _next_size(self) -> int:
        """What the next segment is given: as much as the journal has already, within bounds.

        So a small log is a small directory, and a large one soon has segments of full size.
        """
        held = self.tip.offset + sum(known.end or 0 for known in self._segments.known.values())
        return min(self._segment_bytes, max(FIRST_SEGMENT_BYTES, held))

    def _wipe(self, file: OpenFile, offset: int, refused: OSError) -> None:
        """Take back a group of which a part was written, so that no restart finds it.

        Without this a lost end that happens to read as it should (zeros) would make it whole.
        """
        try:
            written = os.fstat(file.fd).st_size - offset
            if written > 0:
                zeros = bytes(min(written, GROUP_HEADER_BYTES))
                write_all(self._write, file.fd, [zeros], offset=offset, byte_count=len(zeros))
                self._policy.sync(file.fd)
        except OSError as error:
            raise NotTakenBack(f"a refused group cannot be taken back: {error}") from refused

    def _give_back(self, segment: int, refused: OSError) -> None:
        try:
            self._files.give_back(segment)
        except OSError as error:
            raise NotTakenBack(f"a refused segment cannot be taken back: {error}") from refused

    # --- what is durable; may run in the sync's thread ---

    def sync(self, group: WrittenGroup) -> None:
        """Make the group that was written last durable; OSError is final for its file."""
        self._policy.sync(group.file.fd)
        if group.new_name:
            self._files.sync_directory()
        if self._policy.durable:
            self._synced = self.tip

    def write_elsewhere(self, group: WrittenGroup) -> Moved:
        """P7: a failed sync is final for its file; its group goes to a new segment, synced."""
        start, until = group.header.offset, group.header.end
        size = SEGMENT_HEADER_BYTES + until - start
        page = self._page_after(group)
        header = group.header._replace(
            generation=page.generation, offset=SEGMENT_HEADER_BYTES, synced=self._synced
        )
        parts = [encode_segment_header(page), encode_group_header(header), *group.parts[1:]]
        file = self._files.create(page.number, size, use_headroom=True)
        write_all(self._write, file.fd, parts, offset=0, byte_count=size)
        self._policy.sync(file.fd)
        self._files.sync_directory()
        source = self._segments.known[group.segment]
        self._begin(page, file, size)
        # The owner may resolve a location now: first where to, then from where on.
        source.last_group, source.following = page.previous_group, page.number
        source.end = start
        if self._policy.durable:
            self._synced = self.tip
        return Moved(group.segment, start, until, page.number, SEGMENT_HEADER_BYTES)

    def _page_after(self, group: WrittenGroup) -> SegmentHeader:
        """Header of the segment that takes a group whose sync failed.

        If it was the first group of its segment, that segment's header was not synced either:
        nothing may ever depend on it, so the new segment follows the one before.
        """
        self._generation += 1
        number = self._next_segment
        self._next_segment += 1
        start = group.header.offset
        bare = start == SEGMENT_HEADER_BYTES
        failed = self._segments.known[group.segment].header
        previous_end = failed.previous_end if bare else Place(group.segment, start)
        return SegmentHeader(
            *(self._generation, number, previous_end, group.header.number - 1, self._synced),
            continues=not bare,
        )
