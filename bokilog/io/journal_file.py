"""A journal in a directory: staging, group commit, sync, reads, and what happens when a disk fails.

Decides when a group is closed, what a failed write or sync means to whoever waits for it, and when
the journal takes nothing any more. A location is final at staging. One owner stages and commits; a
sync may run in the journal's own thread meanwhile.

Invariants:
- At most one group is written and not yet synced. So what a crash leaves in doubt is one group.
- A refused group stays staged, with its locations, for as long as nothing of it can be found by a
  restart; else it is dropped, and the journal is read-only.
- A group whose sync failed counts once it is synced elsewhere, or never (P7).

Where a group goes, and how, is the end's (`journal_end.py`); where earlier bytes stand, and which
segments are let go, `known_segments.py` says. Does not know what items mean: they carry their own
checksums (`Verify`). Source: P7, P11, P30, P31; LIMITS C and points 5-9.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bokilog.errors import CorruptJournal, InvalidSettings, ReadOnly
from bokilog.io.journal_end import JournalEnd, NotTakenBack, WrittenGroup
from bokilog.io.journal_recovery import Recovery, Scanner, items_of
from bokilog.io.known_segments import KnownSegments, Sealed
from bokilog.io.segment_files import Background, SegmentFiles
from bokilog.io.sync import SyncPolicy, Write, write_at
from bokilog.journal import (
    Damage,
    Location,
    Refused,
    SegmentInfo,
    SyncResult,
    Written,
)
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    Verify,
    encode_word,
)

# 30 ms of the fastest stream here, and a fraction of a second to rewrite or fetch from a peer.
SEGMENT_BYTES = 64 << 20
SEGMENT_BYTES_MIN = 2 * SEGMENT_HEADER_BYTES
# A steady trim frees one segment as one is filled; a few more take up the jitter.
RECYCLE_MAX = 4
OPEN_FILES_MAX = 64
# A process numbers its generations from a random start above all that it sees. It does not see
# them all: a header that never got to the disk hides what the groups behind it carry, and such
# groups must not fit into the file when it is used again.
_GENERATION_STEP_BYTES = 4


_new = tuple.__new__  # twice as fast as a named tuple's own


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
    filled_count: int
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
            fills=sync.durable,
        )
        self._policy = sync
        self._verify = verify
        self._segments = KnownSegments(
            self._files,
            open_files_max=open_files_max,
            keeps_something=keeps_something and not sync.durable,
        )
        self._end = JournalEnd(
            self._files, self._segments, segment_bytes=segment_bytes, policy=sync, write=write
        )
        self._sync_thread = Background("journal-sync")
        self._recovery: Recovery | None = None
        self._broken: str | None = None
        self._synced_from = 0  # segments before it are on the disk, whatever the policy does
        self._durable_group = 0
        self._pending: WrittenGroup | None = None
        self._syncing = False
        # The staged group: header, then word and buffers of each item.
        self._parts: list[Buffer] = []
        self._words: list[bytes] = []
        self._staged_at = NOWHERE
        self._staged_end = 0
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
        self._end.start(found)
        self._recovery = found
        self._durable_group = found.last_group
        self._segments.tidy(found)
        if not self._policy.durable:
            self._files.left_unsynced({each.number: each.until for each in self.segments()})
        return items_of(found, self._files, from_segment)

    def items(self, from_segment: int = 0) -> Iterator[tuple[int, Location, memoryview]]:
        """Everything committed in segments >= `from_segment`, as `recover` yields it.

        For whoever has to begin again without a new start. What does not verify any more is left
        out, with what follows it in its segment.
        """
        runs = self._segments.runs(self._end.tip)
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
            if result.failed is None and not self._end.mark_stop():
                self._failed_sync_count += 1
        self._files.close()
        self._segments.open_files.clear()
        self._end.close()
        self._broken = self._broken or "the journal is closed"

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
        return _new(Location, (self._staged_at.segment, start, length))

    def _open_group(self, length: int) -> None:
        """The first item chooses the place of its group."""
        if self._recovery is None:
            raise RuntimeError("recover() comes before the first append")
        self._staged_at = self._end.place_for(length, unsynced=self._pending is not None)
        self._staged_end = self._staged_at.offset + GROUP_HEADER_BYTES
        self._parts.append(b"")  # the header's place

    def _check_room(self, length: int) -> None:
        """Refuse an item for which the reserve would have to be used."""
        place, start, first = self._staged_at, self._staged_end, not self._parts
        if first:
            place = self._end.place_for(length, unsynced=self._pending is not None)
            start = place.offset + GROUP_HEADER_BYTES
        self._end.check_room(place, start, length, first=first)

    def short(self) -> str:
        """See `Journal.short`."""
        return self._end.short()

    def commit(self, *, use_headroom: bool = False) -> Written | Refused:
        """See `Journal.commit`."""
        if not self._parts:
            return Written(self._end.last_group, 0, 0)
        if self._broken is not None:
            return self._refuse(self._broken)
        if self._pending is not None:
            raise RuntimeError("a group is written and not synced: one at a time")
        byte_count = self._staged_end - self._staged_at.offset
        try:
            self._pending = self._end.write(
                self._staged_at,
                self._parts,
                self._words,
                byte_count=byte_count,
                use_headroom=use_headroom,
            )
        except NotTakenBack as error:
            self._broken = str(error)
            return self._refuse(self._refused_by(error.__cause__))
        except OSError as error:
            return self._refuse(self._refused_by(error))
        written = Written(self._pending.header.number, len(self._words), byte_count)
        self._drop_staged()
        self._group_count += 1
        self._written_bytes += byte_count
        return written

    def _refused_by(self, error: BaseException | None) -> str:
        said = error.strerror if isinstance(error, OSError) else None
        return f"the disk of {self._files.directory} refused it: {said or error}"

    def _refuse(self, reason: str) -> Refused:
        self._refused_count += 1
        if self._broken is not None:
            self._drop_staged()
        return Refused(reason, definite=self._broken is None)

    def _drop_staged(self) -> None:
        self._parts, self._words = [], []
        if self._segments.deferred:
            self._segments.release_deferred(meant=self._meant())

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

    def sync_written(self, on_done: Callable[[str], None]) -> None:
        """See `Journal.sync_written`. The files that may be unsynced, oldest first."""
        numbers = [each.number for each in self.segments() if each.number >= self._synced_from]

        def done(problem: str) -> None:
            if problem:
                self._broken = self._broken or f"what was written did not sync: {problem}"
            else:
                self._synced_from = max([self._synced_from, *numbers])
            on_done(self._broken or "")

        self._files.sync_all(sorted(numbers), done)

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
        moved = None
        try:
            self._end.sync(pending)
        except OSError as error:
            self._failed_sync_count += 1
            try:
                moved = self._end.write_elsewhere(pending)
            except OSError as second:
                self._broken = f"a sync failed ({error}), and so did writing elsewhere ({second})"
                return SyncResult(self._durable_group, failed=self._broken)
        self._durable_group = pending.header.number
        self._pending = None
        return SyncResult(self._durable_group, moved)

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
        segments = self._segments
        known = segments.known.get(segment)
        if known is None or (known.end is not None and offset >= known.end):
            segment, offset = segments.moved_to(segment, offset)
        file = segments.open_files.get(segment) or segments.open(segment)
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
        resolve = self._segments.resolve
        staged_in, begin = resolve(*self._staged_at)
        segment, offset = resolve(segment, offset)
        if segment != staged_in or offset < begin:
            return None
        return offset - begin - GROUP_HEADER_BYTES

    def resolve(self, location: Location) -> Location:
        """See `Journal.resolve`."""
        named = location[:2]
        stands = self._segments.resolve(*named)
        if stands == named:  # nearly always: this is once per frame that is folded
            return location
        return Location(*stands, location.length)

    # --- segments ---

    def segments(self) -> tuple[SegmentInfo, ...]:
        """See `Journal.segments`."""
        return self._segments.infos(self._end.tip, self._end.last_group)

    def sealed(self, segment: int) -> Sealed | None:
        """The file of a segment whose bytes are all its own, to be read by anybody at any time.

        None: it is not sealed, or is gone, or other segments' locations lead through it (P7).
        """
        return self._segments.sealed(segment, meant=self._meant())

    def release(self, segment: int) -> None:
        """See `Journal.release`."""
        self._segments.release(segment, meant=self._meant())

    def _meant(self) -> list[int]:
        """Segments that locations of staged and of unsynced items name."""
        pending = self._pending
        meant = [self._staged_at.segment] if self._parts else []
        return meant if pending is None else [*meant, pending.staged_in]

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
            segment_count=len(self._segments.known),
            free_file_count=self._files.free_count(),
            recycled_count=self._files.recycled_count,
            filled_count=self._files.filled_count,
            failed_background_count=self._files.failed_count,
        )
