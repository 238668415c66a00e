"""A journal as those who keep one see it: items in groups that become durable together.

Decides what may be asked of a journal and what is said of its syncs, failures and damage; on disks
(`io/journal_file.py`) and in memory (`io/journal_memory.py`) it is the same.

Does not know: bytes and files (`segment.py`, `io/segment_files.py`), what an item means. Source:
P7, P30, P32; LIMITS point 6 (own segments against a general store).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from bokilog.named import NamedTuple
from bokilog.record import Buffer


class Location(NamedTuple):
    """Where an item's bytes lie, without their word. A NamedTuple: 150 ns, one per item."""

    segment: int
    offset: int
    length: int


class Written(NamedTuple):
    """A group was handed to the operating system; it counts once synced."""

    group: int
    item_count: int
    byte_count: int


class Refused(NamedTuple):
    """The staged group was not written; `reason` says why.

    `definite`: nothing of it is on the disk, it stays staged with its locations, and `commit` may
    be tried again, for instance once there is room. If not: the journal is read-only from now on,
    what was staged is dropped, and a restart may or may not find that group.
    """

    reason: str
    definite: bool = True


class Moved(NamedTuple):
    """Bytes of `[start, until)` stand in another segment now, from `to_offset` on."""

    segment: int
    start: int
    until: int
    to_segment: int
    to_offset: int


class SyncResult(NamedTuple):
    """Outcome of one sync.

    `durable_group`: all groups up to it hold to the policy's standard. `moved`: the sync failed,
    and its group was written again, elsewhere: `resolve` what you keep. `failed`: that failed too,
    the journal is read-only from now on and whether the groups after `durable_group` will be found
    again is unknown.
    """

    durable_group: int
    moved: Moved | None = None
    failed: str | None = None


class Damage(NamedTuple):
    """A range of a segment that was synced and does not verify any more.

    `next_group` is the first group found whole after it, so groups from `first_group` up to it are
    missing; None: none was found in this segment.
    """

    path: str
    segment: int
    start: int
    until: int
    first_group: int
    next_group: int | None


class SegmentInfo(NamedTuple):
    """A segment of the journal. `until` is where it ends so far; `open` if groups may follow."""

    number: int
    until: int
    first_group: int
    last_group: int
    open: bool


class SegmentReleased(LookupError):
    """The location lies in a segment that was released: whoever asks holds an outdated location."""


class Journal(Protocol):
    """An append-only sequence of items, in groups that become durable together.

    One owner: `append`, `commit` and the syncs are called from one thread. Call `recover` first.
    """

    def recover(
        self, from_segment: int = 0, *, salvage: Callable[[Damage], None] | None = None
    ) -> Iterator[tuple[int, Location, memoryview]]:
        """Items of segments >= `from_segment` in order: `(kind, location, bytes)`.

        What lay after the last known sync point is made durable before this returns (P7). The bytes
        stay valid while somebody holds them; they keep their whole segment in memory, so copy what
        you keep.

        Args:
            from_segment: older segments are not read or verified, and stay.
            salvage: called for each damaged range, in place of `CorruptJournal`; what follows it
                is yielded. For repair and inspection only (P30).

        Raises:
            CorruptJournal: a synced place does not verify, and there is no `salvage`.
            ReadOnly: the disk did not take what must be copied.
            FormatTooNew: a newer version wrote this journal.
        """

    def append(
        self, kind: int, buffers: Sequence[Buffer], *, keep_headroom: bool = False
    ) -> Location:
        """Stage an item, the join of `buffers`, into the open group; nothing is written yet.

        The location is final. The buffers must not change until the group is durable.

        Args:
            kind: says what it is, to whoever reads it back.
            buffers: its bytes.
            keep_headroom: it may not take of the reserved space (P32). Where a group holds items
                that may and items that may not, the group can be refused no more for those: so
                they are refused here.

        Raises:
            ReadOnly: the journal is read-only for good, or there is room in the reserve only.
        """

    def short(self) -> str:
        """Why an item was refused to keep the reserve: once after that, and then for as long as
        there is no room; else empty."""

    def commit(self, *, use_headroom: bool = False) -> Written | Refused:
        """Write the staged items as one group; the previous group must have been synced.

        Args:
            use_headroom: may use the reserved space: for trims, checkpoints and compaction (P32).
        """

    def sync_now(self) -> SyncResult:
        """Make the written group durable, here and now."""

    def sync_in_thread(self, on_done: Callable[[SyncResult], None]) -> None:
        """The same in the journal's own thread, which calls `on_done`; it must not raise.

        Meanwhile items may be staged, read and released, but not committed.
        """

    def sync_written(self, on_done: Callable[[str], None]) -> None:
        """Make all that was committed durable in the background, also where groups are left to the
        operating system; a group that is being synced meanwhile is none of it.

        `on_done` is called, perhaps in another thread, with why it failed, or an empty text; it
        must not raise. After a failure the journal is read-only: what did not get to the disk may
        be taken for written by the next sync (P7).
        """

    @property
    def syncing(self) -> bool:
        """A sync is in its thread: `commit` has to wait for its `on_done`."""

    @property
    def read_only(self) -> str | None:
        """Why no group is taken any more until the journal is opened anew, or None."""

    def read(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        """Bytes `[start, start + length)` of an item, committed or not; None: to its end.

        Nothing is verified: the item's own checksums are the reader's (P29, P21). Raises
        `SegmentReleased`, or `CorruptJournal` if the file ends before.
        """

    def resolve(self, location: Location) -> Location:
        """Where the item stands now: elsewhere after a failed sync or a recovery (P7).

        What is to outlive this process is the location resolved once the item is durable: a
        segment whose first sync failed leaves no trace of where its items went.
        """

    def segments(self) -> tuple[SegmentInfo, ...]:
        """All segments, oldest first."""

    def release(self, segment: int) -> None:
        """Give a segment back, in the background; one that is gone is no error (P21).

        Until that is done a restart brings the segment back: release it again. One through which
        locations in another segment lead stays until that one is released as well.
        """

    def free_bytes(self) -> int:
        """Space left on the disk."""

    def close(self, *, clean: bool = True) -> None:
        """Stop; staged items are dropped.

        If `clean`, what was written is synced and an empty group marks the stop, so that the next
        start has nothing to write anew. Else it just lets go, as a crash would.
        """
