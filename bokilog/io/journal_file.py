"""A journal in a directory: staging, group commit, sync, reads, and what happens when a disk fails.

Decides where items lie (at staging, so that a location is final), when a new segment begins, and
what a failed write or sync means. One owner stages and commits; a sync may run in the journal's own
thread meanwhile.

Invariants:
- At most one group is written and not yet synced. So what a crash leaves in doubt is one group.
- A failed sync is final for its file (P7): the group is written again, from memory, to a new
  segment. Locations handed out before stay right: bytes past a segment's end stand in the segment
  that continues it, at the same distance.
- A refused group leaves nothing that a restart could find: its header is wiped and the wipe is
  synced before the refusal is called definite; its number and offset are used again.
- Segment numbers and generations are never used twice.

Does not know what items mean: they carry their own checksums (`Verify`). Source: P7, P11, P30,
P31; LIMITS C and points 5-9.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bokilog.errors import CorruptJournal, InvalidSettings, ReadOnly
from bokilog.io.journal_recovery import (
    KnownSegment,
    Recovery,
    Run,
    Scanner,
    items_of,
    rewrite_tail,
)
from bokilog.io.segment_files import Background, OpenFile, OpenFiles, SegmentFiles
from bokilog.io.sync import SyncPolicy, Write, write_all, write_at
from bokilog.journal import (
    GROUP_HEADER_BYTES,
    ITEM_BYTES_MAX,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    Buffer,
    Damage,
    GroupHeader,
    Location,
    Moved,
    Place,
    Refused,
    SegmentHeader,
    SegmentInfo,
    SegmentReleased,
    SyncResult,
    Verify,
    Written,
    checksum,
    encode_group_header,
    encode_segment_header,
    encode_word,
)

# 30 ms of the fastest stream here, and a fraction of a second to rewrite or fetch from a peer.
SEGMENT_BYTES = 64 << 20
SEGMENT_BYTES_MIN = 2 * SEGMENT_HEADER_BYTES
FIRST_SEGMENT_BYTES = 1 << 20  # of a new journal; later ones double up to `segment_bytes`
# A steady trim frees one segment as one is filled; a few more take up the jitter.
RECYCLE_MAX = 4
OPEN_FILES_MAX = 64
# A process numbers its generations from a random start above all that it sees. It does not see
# them all: a header that never got to the disk hides what the groups behind it carry, and such
# groups must not fit into the file when it is used again.
_GENERATION_STEP_BYTES = 4


class _Pending(NamedTuple):
    """The group that is written and not yet synced, with what it takes to write it again."""

    header: GroupHeader
    segment: int
    staged_in: int
    """The segment that its items' locations name; another one if that failed meanwhile."""
    parts: list[Buffer]
    file: OpenFile
    new_name: bool


class Sealed(NamedTuple):
    """A segment that no group will be added to. The file stays readable, but once the segment is
    released it may be written to for another one."""

    file: OpenFile
    path: str
    end: int
    generation: int
    first_group: int


class JournalStats(NamedTuple):
    """Counts since the start, and what there is now."""

    group_count: int
    written_bytes: int
    sync_count: int
    failed_sync_count: int
    refused_count: int
    segment_count: int
    free_file_count: int
    recycled_count: int
    failed_background_count: int


class JournalFile:
    """A `Journal` in a directory."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        sync: SyncPolicy,
        verify: Verify,
        segment_bytes: int = SEGMENT_BYTES,
        recycle_max: int = RECYCLE_MAX,
        headroom_bytes: int = 0,
        open_files_max: int = OPEN_FILES_MAX,
        write: Write = write_at,
        keeps_something: bool = False,
    ) -> None:
        """Name a journal; nothing is read or created before `recover`.

        Args:
            directory: its own, locked by the caller (P3); made if it does not exist.
            sync: what makes a group durable.
            verify: whether an item is whole; asked at recovery.
            segment_bytes: allocated per segment; a group may end past it.
            recycle_max: files kept to be used again.
            headroom_bytes: space on the disk that only `commit(use_headroom=True)` uses (P32).
            open_files_max: descriptors kept open for reads.
            write: writes to the disk, for tests.
            keeps_something: what follows a released segment is synced before that one goes, also
                where nothing else is: the machine's power never takes all that is left.
        """
        if segment_bytes < SEGMENT_BYTES_MIN:
            problem = f"is less than {SEGMENT_BYTES_MIN}"
            raise InvalidSettings("segment_bytes", str(segment_bytes), problem)
        self._files = SegmentFiles(
            os.fspath(directory),
            segment_bytes=segment_bytes,
            recycle_max=recycle_max,
            headroom_bytes=headroom_bytes,
        )
        self._segment_bytes = segment_bytes
        self._policy = sync
        self._verify = verify
        self._write = write
        self._keeps_something = keeps_something and not sync.durable
        self._open_files = OpenFiles(open_files_max)
        self._sync_thread = Background("journal-sync")
        self._recovery: Recovery | None = None
        self._known: dict[int, KnownSegment] = {}
        self._deferred: set[int] = set()  # released, but locations may still lead through them
        self._broken: str | None = None
        # The end of the journal. One tuple, because the sync thread may replace it.
        self._tip = NOWHERE
        self._file: OpenFile | None = None  # of the tip; None: the next group begins a segment
        self._limit = 0  # a group whose first item would end behind it begins a segment
        self._allocated = 0  # bytes that the tip's file is sure to have
        self._prepare_at = ITEM_BYTES_MAX  # end of a group from which on a next file is allocated
        self._last_group = 0
        self._durable_group = 0
        self._synced = NOWHERE
        self._generation = 0
        self._next_segment = 1
        self._pending: _Pending | None = None
        self._syncing = False
        # The staged group: header, then word and buffers of each item.
        self._parts: list[Buffer] = []
        self._words: list[bytes] = []
        self._staged_at = NOWHERE
        self._staged_end = 0
        self._lacking = 0  # bytes of an item that was refused, until there is room for it
        self._untold = ""  # why, until somebody asked
        self._group_count = self._written_bytes = 0
        self._sync_count = self._failed_sync_count = self._refused_count = 0

    # --- start and stop ---

    def recover(
        self, from_segment: int = 0, *, salvage: Callable[[Damage], None] | None = None
    ) -> Iterator[tuple[int, Location, memoryview]]:
        """See `Journal.recover`. Everything is judged and durable before this returns."""
        if self._recovery is not None:
            raise RuntimeError("recover() was called before: a journal starts once")
        scanner = Scanner(
            self._files, durable=self._policy.durable, verify=self._verify, salvage=salvage
        )
        found = scanner.scan(from_segment)
        found.generation += 1 + int.from_bytes(os.urandom(_GENERATION_STEP_BYTES), "little")
        self._next_segment = found.newest_file + 1
        if self._policy.durable and not found.clean:
            self._rewrite(found)
        elif found.clean and found.known:
            self._file = self._files.open(found.tip.segment, to_write=True)
        self._adopt(found)
        return items_of(found, self._files, from_segment)

    def items(self, from_segment: int = 0) -> Iterator[tuple[int, Location, memoryview]]:
        """Everything committed in segments >= `from_segment`, as `recover` yields it.

        For whoever has to begin again without a new start. What does not verify any more is left
        out, with what follows it in its segment.
        """
        runs = [
            Run(
                *(number, known.header.generation, SEGMENT_HEADER_BYTES),
                known.end if known.end is not None else self._tip.offset,
                known.header.previous_group + 1,
            )
            for number, known in sorted(self._known.items())
        ]
        return items_of(Recovery(runs=runs), self._files, from_segment)

    @property
    def recovery(self) -> Recovery:
        """What `recover` found: how the last stop was, and what moved."""
        if self._recovery is None:
            raise RuntimeError("recover() comes first")
        return self._recovery

    def close(self, *, clean: bool = True) -> None:
        """See `Journal.close`. Waits for a sync in its thread."""
        self._sync_thread.stop()
        self._drop_staged()
        if clean and self._recovery is not None and self._broken is None:
            result = self.sync_now()
            if result.failed is None and self._file is not None:
                self._mark_stop()
        self._files.close()
        self._open_files.clear()
        self._file = None
        self._broken = self._broken or "the journal is closed"

    def _rewrite(self, found: Recovery) -> None:
        number = self._next_segment
        try:
            self._file = rewrite_tail(
                found, self._files, number=number, policy=self._policy, write=self._write
            )
        except OSError as error:
            raise ReadOnly(f"what may be unsynced cannot be written anew: {error}") from error
        if self._file is not None:
            self._next_segment += 1

    def _adopt(self, found: Recovery) -> None:
        self._recovery = found
        self._known = found.known
        self._tip, self._synced = found.tip, found.synced
        self._last_group = self._durable_group = found.last_group
        self._generation = found.generation
        if self._file is not None:
            self._known[self._tip.segment].end = None
            self._limit = max(self._next_size(), self._tip.offset)
            self._prepare_at = self._limit // 2
            self._allocated = os.fstat(self._file.fd).st_size
            self._open_files.put(self._tip.segment, self._file)
        for number in found.superseded:
            self._files.drop(number)
        for number, known in self._known.items():
            if known.end is not None:
                self._files.shrink(number, known.end)

    def _mark_stop(self) -> None:
        """An empty group says that all before it is synced; the next start writes over it."""
        assert self._file is not None
        generation = self._known[self._tip.segment].header.generation
        header = GroupHeader(
            generation=generation,
            offset=self._tip.offset,
            number=self._last_group + 1,
            synced=self._synced,
            item_count=0,
            body_bytes=0,
            framing=checksum(b""),
        )
        try:
            data = encode_group_header(header)
            write_all(
                self._write, self._file.fd, [data], offset=self._tip.offset, byte_count=len(data)
            )
            self._policy.sync(self._file.fd)
        except OSError:  # then the next start finds a crash, which is as good
            self._failed_sync_count += 1

    # --- append ---

    def append(
        self, kind: int, buffers: Sequence[Buffer], *, keep_headroom: bool = False
    ) -> Location:
        """See `Journal.append`."""
        if self._broken is not None:
            raise ReadOnly(self._broken)
        length = sum(map(len, buffers))
        if keep_headroom:
            self._check_room(length)
        word = encode_word(kind, length)
        if not self._parts:
            self._open_group(length)
        self._words.append(word)
        self._parts.append(word)
        self._parts += buffers
        start = self._staged_end + WORD_BYTES
        self._staged_end = start + length
        return Location(self._staged_at.segment, start, length)

    def _open_group(self, length: int) -> None:
        """Choose the place of a group by its first item; the rest of it may pass the limit.

        While a sync is under way, the next number is left to the segment that its failure takes.
        """
        if self._recovery is None:
            raise RuntimeError("recover() comes before the first append")
        self._staged_at = self._place_for(length)
        self._staged_end = self._staged_at.offset + GROUP_HEADER_BYTES
        self._parts.append(b"")  # the header's place

    def _place_for(self, length: int) -> Place:
        """Where a group goes that begins with an item of `length` bytes."""
        tip = self._tip
        end = tip.offset + GROUP_HEADER_BYTES + WORD_BYTES + length
        if self._file is None or end > self._limit:
            return Place(self._next_segment + (self._pending is not None), SEGMENT_HEADER_BYTES)
        return tip

    def _check_room(self, length: int) -> None:
        """Refuse an item for which the reserve would have to be used.

        What its group takes by then is allocated already, or is free. Whoever takes that room
        until the group is written costs the reserve one group.
        """
        place, start = self._staged_at, self._staged_end
        if not self._parts:
            place = self._place_for(length)
            start = place.offset + GROUP_HEADER_BYTES
        end = start + WORD_BYTES + length
        new = place.segment not in self._known
        lacking = end if new else end - max(self._allocated, self._tip.offset)
        if lacking <= 0 or not (reason := self._files.lacking(lacking, new=new)):
            return
        alone = SEGMENT_HEADER_BYTES + GROUP_HEADER_BYTES + WORD_BYTES + length
        if not (new or self._parts or self._files.lacking(alone, new=True)):
            self._limit = self._tip.offset  # there is a file for it, though not in this segment
            return
        self._lacking, self._untold = alone, reason
        raise ReadOnly(reason)

    def short(self) -> str:
        """See `Journal.short`."""
        if not self._lacking:
            return ""
        reason, self._untold = self._untold, ""
        reason = reason or self._files.lacking(self._lacking, new=True)
        if not reason:
            self._lacking = 0
        return reason

    def commit(self, *, use_headroom: bool = False) -> Written | Refused:
        """See `Journal.commit`."""
        if not self._parts:
            return Written(self._last_group, 0, 0)
        if self._broken is not None:
            return self._refuse(self._broken)
        if self._pending is not None:
            raise RuntimeError("a group is written and not synced: one at a time")
        segment, offset = self._resolve(*self._staged_at)
        byte_count = self._staged_end - self._staged_at.offset
        try:
            if segment in self._known:
                self._write_here(offset, byte_count)
            else:
                self._write_new(segment, byte_count, use_headroom=use_headroom)
        except OSError as error:
            return self._refuse(f"the disk refused it: {error}")
        written = Written(self._last_group, len(self._words), byte_count)
        self._drop_staged()
        self._group_count += 1
        self._written_bytes += byte_count
        return written

    def _write_here(self, offset: int, byte_count: int) -> None:
        """Write the staged group at the tip."""
        file, segment = self._file, self._tip.segment
        assert file is not None and Place(segment, offset) == self._tip
        header = self._header(self._known[segment].header.generation, offset, byte_count)
        self._parts[0] = encode_group_header(header)
        try:
            write_all(self._write, file.fd, self._parts, offset=offset, byte_count=byte_count)
        except OSError:
            self._wipe(file, offset)
            raise
        self._wrote(segment, header, file, new_name=False)

    def _write_new(self, segment: int, byte_count: int, *, use_headroom: bool) -> None:
        """Write the staged group as the first of a new segment."""
        size = SEGMENT_HEADER_BYTES + byte_count
        self._files.segment_bytes = self._next_size()
        file = self._files.create(segment, size, use_headroom=use_headroom)
        self._generation += 1
        self._next_segment = max(self._next_segment, segment + 1)
        page = SegmentHeader(
            *(self._generation, segment, self._tip, self._last_group, self._synced, False)
        )
        header = self._header(self._generation, SEGMENT_HEADER_BYTES, byte_count)
        self._parts[0] = encode_group_header(header)
        try:
            parts = [encode_segment_header(page), *self._parts]
            write_all(self._write, file.fd, parts, offset=0, byte_count=size)
        except OSError:
            self._give_back(segment)
            raise
        before = self._known.get(self._tip.segment)
        if before is not None:
            before.end, before.last_group = self._tip.offset, self._last_group
        self._begin(page, file, size)
        self._wrote(segment, header, file, new_name=True)

    def _header(self, generation: int, offset: int, byte_count: int) -> GroupHeader:
        words = self._words
        return GroupHeader(
            *(generation, offset, self._last_group + 1, self._synced, len(words)),
            *(byte_count - GROUP_HEADER_BYTES, checksum(b"".join(words))),
        )

    def _begin(self, page: SegmentHeader, file: OpenFile, size: int) -> None:
        """Let a segment, whose first `size` bytes are written, be the last one."""
        number = page.number
        self._known[number] = KnownSegment(page, None, page.previous_group)
        self._open_files.put(number, file)
        self._limit = max(self._files.segment_bytes, size)
        self._prepare_at = self._limit // 2
        self._allocated = os.fstat(file.fd).st_size
        self._file = file
        self._tip = Place(number, size)

    def _wrote(self, segment: int, header: GroupHeader, file: OpenFile, *, new_name: bool) -> None:
        self._last_group = header.number
        self._tip = Place(segment, header.end)
        staged_in = self._staged_at.segment
        self._pending = _Pending(header, segment, staged_in, self._parts, file, new_name)
        if header.end > self._prepare_at:
            self._prepare_at = ITEM_BYTES_MAX  # once per segment, also where there is no room
            self._files.segment_bytes = self._next_size()
            self._files.prepare()

    def _next_size(self) -> int:
        """What the next segment is given: as much as the journal has already, within bounds.

        So a small log is a small directory, and a large one soon has segments of full size.
        """
        held = self._tip.offset + sum(known.end or 0 for known in self._known.values())
        return min(self._segment_bytes, max(FIRST_SEGMENT_BYTES, held))

    def _wipe(self, file: OpenFile, offset: int) -> None:
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
            self._broken = f"a refused group cannot be taken back: {error}"

    def _give_back(self, segment: int) -> None:
        try:
            self._files.give_back(segment)
        except OSError as error:
            self._broken = f"a refused segment cannot be taken back: {error}"

    def _refuse(self, reason: str) -> Refused:
        self._refused_count += 1
        if self._broken is not None:
            self._drop_staged()
        return Refused(reason, definite=self._broken is None)

    def _drop_staged(self) -> None:
        self._parts, self._words = [], []
        if self._deferred:
            self._release_deferred()

    # --- sync ---

    def sync_now(self) -> SyncResult:
        """See `Journal.sync_now`."""
        if self._syncing:
            raise RuntimeError("a sync is under way in its thread")
        return self._sync()

    def sync_in_thread(self, on_done: Callable[[SyncResult], None]) -> None:
        """See `Journal.sync_in_thread`."""
        if self._syncing:
            raise RuntimeError("a sync is under way in its thread")

        def job() -> None:
            result = self._sync()
            self._syncing = False
            on_done(result)

        self._syncing = True
        self._sync_thread.submit(job)

    @property
    def syncing(self) -> bool:
        """See `Journal.syncing`."""
        return self._syncing

    @property
    def read_only(self) -> str | None:
        """See `Journal.read_only`."""
        return self._broken

    def _sync(self) -> SyncResult:
        pending = self._pending
        if pending is None or self._broken is not None:
            return SyncResult(self._durable_group, failed=self._broken)
        self._sync_count += 1
        try:
            self._policy.sync(pending.file.fd)
            if pending.new_name:
                self._files.sync_directory()
        except OSError as error:
            self._failed_sync_count += 1
            return self._write_again(pending, error)
        return self._count(pending, None)

    def _count(self, pending: _Pending, moved: Moved | None) -> SyncResult:
        """The pending group is durable; the journal ends with it."""
        if self._policy.durable:
            self._synced = self._tip
        self._durable_group = pending.header.number
        self._pending = None
        return SyncResult(self._durable_group, moved)

    def _write_again(self, pending: _Pending, error: OSError) -> SyncResult:
        """P7: a failed sync is final for its file; its group goes to a new segment, from memory."""
        start, until = pending.header.offset, pending.header.end
        size = SEGMENT_HEADER_BYTES + until - start
        page = self._page_after(pending)
        header = pending.header._replace(
            generation=page.generation, offset=SEGMENT_HEADER_BYTES, synced=self._synced
        )
        parts = [encode_segment_header(page), encode_group_header(header), *pending.parts[1:]]
        try:
            file = self._files.create(page.number, size, use_headroom=True)
            write_all(self._write, file.fd, parts, offset=0, byte_count=size)
            self._policy.sync(file.fd)
            self._files.sync_directory()
        except OSError as second:
            self._broken = f"a sync failed ({error}), and so did writing elsewhere ({second})"
            return SyncResult(self._durable_group, failed=self._broken)
        source = self._known[pending.segment]
        self._begin(page, file, size)
        # The owner may resolve a location now: first where to, then from where on.
        source.last_group, source.following = page.previous_group, page.number
        source.end = start
        moved = Moved(pending.segment, start, until, page.number, SEGMENT_HEADER_BYTES)
        return self._count(pending, moved)

    def _page_after(self, pending: _Pending) -> SegmentHeader:
        """Header of the segment that takes a group whose sync failed.

        If it was the first group of its segment, that segment's header was not synced either:
        nothing may ever depend on it, so the new segment follows the one before.
        """
        self._generation += 1
        number = self._next_segment
        self._next_segment += 1
        start = pending.header.offset
        bare = start == SEGMENT_HEADER_BYTES
        failed = self._known[pending.segment].header
        previous_end = failed.previous_end if bare else Place(pending.segment, start)
        return SegmentHeader(
            *(self._generation, number, previous_end, pending.header.number - 1, self._synced),
            continues=not bare,
        )

    # --- read ---

    def read(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        """See `Journal.read`. May be called from any thread."""
        segment, offset, item_bytes = location
        if length is None:
            length = item_bytes - start
        if start < 0 or length < 0 or start + length > item_bytes:
            raise ValueError(f"[{start}, {start + length}) of an item of {item_bytes} bytes")
        staged = self._staged_offset(segment, offset) if self._parts else None
        if staged is not None:
            return b"".join(self._parts[1:])[staged + start : staged + start + length]
        known = self._known.get(segment)
        if known is None or (known.end is not None and offset >= known.end):
            segment, offset = self._moved_to(segment, offset)
        file = self._open_files.get(segment) or self._open(segment)
        try:
            data = os.pread(file.fd, length, offset + start)
        except OSError as error:
            problem = f"the disk does not read it: {error}"
            raise CorruptJournal(self._files.path(segment), offset + start, problem) from error
        if len(data) != length:
            end = offset + start + len(data)
            raise CorruptJournal(self._files.path(segment), end, "the file ends in an item")
        return data

    def _staged_offset(self, segment: int, offset: int) -> int | None:
        """Where an item lies in the body of the staged group: that one is in no file yet, but waits
        for the group before it, or for room."""
        staged_in, begin = self._resolve(*self._staged_at)
        segment, offset = self._resolve(segment, offset)
        if segment != staged_in or offset < begin:
            return None
        return offset - begin - GROUP_HEADER_BYTES

    def resolve(self, location: Location) -> Location:
        """See `Journal.resolve`."""
        segment, offset = self._resolve(location.segment, location.offset)
        return location._replace(segment=segment, offset=offset)

    def _resolve(self, segment: int, offset: int) -> tuple[int, int]:
        while known := self._known.get(segment):
            if known.end is None or offset < known.end or known.following is None:
                break
            offset += SEGMENT_HEADER_BYTES - known.end
            segment = known.following
        return segment, offset

    def _moved_to(self, segment: int, offset: int) -> tuple[int, int]:
        """Where bytes stand now that are not where they were; somebody must hold them."""
        to_segment, to_offset = self._resolve(segment, offset)
        known = self._known.get(to_segment)
        if known is None or (known.end is not None and to_offset >= known.end):
            raise SegmentReleased(f"nothing is at offset {offset} of segment {segment}")
        return to_segment, to_offset

    def _open(self, segment: int) -> OpenFile:
        try:
            file = self._files.open(segment)
        except FileNotFoundError as error:
            raise SegmentReleased(f"segment {segment} is gone") from error
        self._open_files.put(segment, file)
        return file

    # --- segments ---

    def segments(self) -> tuple[SegmentInfo, ...]:
        """See `Journal.segments`."""
        tip, last_group = self._tip, self._last_group
        return tuple(
            SegmentInfo(number, tip.offset, known.header.previous_group + 1, last_group, True)
            if known.end is None
            else SegmentInfo(
                *(number, known.end, known.header.previous_group + 1, known.last_group, False)
            )
            for number, known in list(self._known.items())
        )

    def sealed(self, segment: int) -> Sealed | None:
        """The file of a segment whose bytes are all its own, to be read by anybody at any time.

        None: it is not sealed, or is gone, or other segments' locations lead through it (P7).
        """
        known = self._known.get(segment)
        if known is None or known.end is None or known.following is not None:
            return None
        if known.header.continues or self._is_meant_elsewhere(segment):
            return None
        return Sealed(
            *(self._open_files.get(segment) or self._open(segment), self._files.path(segment)),
            *(known.end, known.header.generation, known.header.previous_group + 1),
        )

    def release(self, segment: int) -> None:
        """See `Journal.release`."""
        known = self._known.get(segment)
        if known is None:
            return
        if known.end is None:
            raise ValueError(f"segment {segment} is the open one: groups go there")
        if self._is_meant_elsewhere(segment):
            self._deferred.add(segment)
            return
        del self._known[segment]
        self._open_files.drop(segment)
        self._files.recycle(
            segment,
            previous_end=known.header.previous_end,
            previous_group=known.header.previous_group,
            synced_before=self._following(segment) if self._keeps_something else None,
        )
        self._release_deferred()

    def _following(self, segment: int) -> int | None:
        return min((number for number in self._known if number > segment), default=None)

    def _is_meant_elsewhere(self, segment: int) -> bool:
        """Whether locations that somebody may count by another segment lead through this one.

        Bytes that moved are meant by locations in the segment they left: whoever keeps that one
        alive counts on them. A group that is not yet synced may have been given its place there.
        """
        pending = self._pending
        if self._parts and self._staged_at.segment == segment:
            return True
        if pending is not None and pending.staged_in == segment:
            return True
        return any(each.following == segment for each in list(self._known.values()))

    def _release_deferred(self) -> None:
        waiting, self._deferred = self._deferred, set()
        for segment in waiting:
            self.release(segment)

    def free_bytes(self) -> int:
        """See `Journal.free_bytes`."""
        return self._files.free_bytes()

    def stats(self) -> JournalStats:
        """What was done so far."""
        return JournalStats(
            group_count=self._group_count,
            written_bytes=self._written_bytes,
            sync_count=self._sync_count,
            failed_sync_count=self._failed_sync_count,
            refused_count=self._refused_count,
            segment_count=len(self._known),
            free_file_count=self._files.free_count(),
            recycled_count=self._files.recycled_count,
            failed_background_count=self._files.failed_count,
        )
