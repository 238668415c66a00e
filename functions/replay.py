"""The fold-and-snapshot loop: what every library on the log stands on.

Decides how a fold gets from the newest snapshot to the tail of a tag and stays there: which record
is folded next, when a snapshot is worth its bytes, what of the tag may be let go, and how it goes
on when records are gone (trimmed, or lost on every replica). A snapshot is a record of a tag of its
own: msgpack `[version, first seqnum that is not in it, bytes of the fold]`.

Invariants: every record of the tag is folded once and in order, unless a `Gap` says which are not;
of two that write snapshots at once, one appends it (its condition names the last one known) and
both know it then; snapshots take a quarter of the bytes of the records they stand for, at most; a
trim leaves the snapshot before the newest one usable, for whoever cannot read the newest.

Does not know what is folded. The same loop is for folds that live long (`steps`) and for those who
only want to know how things stand (`to_tail`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from bokilog.client.follow import Turn
from bokilog.codec import natural, octets, pack, row, unpack
from bokilog.errors import (
    BokilogError,
    ConditionFailed,
    CorruptRecord,
    DataLost,
    FormatTooNew,
    RemoteProtocolError,
    Trimmed,
)
from bokilog.logbook import LogBook
from bokilog.record import CaughtUp, Record

SNAPSHOT_VERSION: Final = 1
EVERY_RECORDS: Final = 1_000
WORTH: Final = 4
"""A snapshot is written for so many times its bytes of records: whoever begins later reads so much
more than the fold's size, and a large fold does not write itself again and again under load.
"""
AGAIN_S: Final = 0.5
"""Before it is asked again, when the log cannot be reached for so long that reads give up."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Fold(Protocol[T_co]):
    """What is folded: pure, and the same for everybody who folds the same records."""

    def apply(self, record: Record) -> T_co:
        """Take in the next record; what it returns comes with the step."""
        ...

    def snapshot(self) -> bytes:
        """Everything folded so far."""
        ...

    def restore(self, snapshot: bytes | None) -> None:
        """Become what `snapshot` gave; None: what it is before the first record."""
        ...


class PagedBook(LogBook, Protocol):
    """A LogBook that is followed page by page: a step per record costs more than folding it."""

    def follow_pages(
        self, *, tag: str | None = None, min_seqnum: int = 0
    ) -> AsyncGenerator[Turn, None]:
        """`follow`, a page at a time."""
        ...


class Restored(NamedTuple):
    """The fold is at a snapshot, or at the beginning: forget what was known of it before."""

    position: int


class Folded(NamedTuple, Generic[T]):
    """Records were folded: those that came together."""

    records: Sequence[Record]
    changes: Sequence[T]
    """What the fold made of each."""


class Gap(NamedTuple):
    """Records that the fold has not seen are gone: `error` says which; it goes on behind them."""

    error: BokilogError


Step: TypeAlias = Restored | Folded[T] | Gap | CaughtUp


class Replay(Generic[T]):
    """One fold of one tag.

    Args:
        book: read and written through its session.
        fold: changed in place.
        tag: whose records are folded.
        snapshot_tag: of the snapshots; a tag of nothing else.
        every_records: a snapshot is written after so many, unless they are fewer bytes than four
            times the last snapshot; 0: never. Hosts that follow the same tag best differ in it.
        trims: after a snapshot, let go of the tag's records (and of the snapshots) that only folds
            older than the snapshot before it would need. Records with other tags stay under those.
    """

    def __init__(
        self,
        book: PagedBook,
        fold: Fold[T],
        *,
        tag: str,
        snapshot_tag: str,
        every_records: int = EVERY_RECORDS,
        trims: bool = True,
    ) -> None:
        self._book = book
        self._fold = fold
        self._tag = tag
        self._snapshot_tag = snapshot_tag
        self._every_records = every_records
        self._trims = trims
        self.position = 0
        """The first seqnum that is not folded."""
        self.kept_from = 0
        """Where the snapshot before the newest one goes on: older records are in both."""
        self._kept_next = 0
        self._snapshot_seqnum = 0
        self._snapshot_bytes = 0
        self._new_records = 0
        self._new_bytes = 0
        self.snapshots_count = 0
        """Written here."""
        self.refused_count = 0
        """Not written, since another one was there first or the log did not take it."""

    async def steps(self) -> AsyncGenerator[Step[T], None]:
        """Fold for ever: the newest snapshot, then every record as it comes, page by page.

        Ends by `aclose()`, cancellation, or an error that is for whoever runs it (`Closed`,
        `HistoryChanged`, `FormatTooNew`, what the fold raises).
        """
        yield await self._restore()
        while True:
            try:
                async with aclosing(self._follow()) as steps:
                    async for step in steps:
                        yield step
            except Trimmed as error:
                yield await self._behind_a_trim(error)
            except (DataLost, CorruptRecord) as error:
                self.position = error.seqnum + 1
                yield Gap(error)
            except BokilogError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(AGAIN_S)

    async def to_tail(self) -> None:
        """Fold up to the tail of now, and write nothing."""
        await self._restore()
        until = await self._book.tail()
        while True:
            try:
                records = self._book.scan(
                    tag=self._tag,
                    min_seqnum=self.position,
                    until=until,
                    consistency="linearizable",
                )
                async for record in records:
                    self._folded(record)
                return
            except Trimmed as error:
                await self._behind_a_trim(error)
            except (DataLost, CorruptRecord) as error:
                self.position = error.seqnum + 1
            if self.position >= until:
                return

    async def snapshot(self) -> bool:
        """Write one now, if anything was folded since the last one; whether it was written."""
        if not self._new_records:
            return False
        data = pack([SNAPSHOT_VERSION, self.position, self._fold.snapshot()])
        position, since = self.position, self._snapshot_seqnum
        self._new_records = self._new_bytes = 0
        try:
            seqnum = await self._book.append(
                data, self._snapshot_tag, unless={self._snapshot_tag: since}
            )
        except ConditionFailed as other:
            self._snapshot_seqnum = other.winner
            self.refused_count += 1
            return False
        except BokilogError:
            # Too large, no room, unknown: a snapshot only saves time, and there will be another.
            self.refused_count += 1
            return False
        self._snapshot_seqnum, self._snapshot_bytes = seqnum, len(data)
        self.snapshots_count += 1
        self.kept_from, self._kept_next = self._kept_next, position
        await self._let_go()
        return True

    # --- reading ----------------------------------------------------------------------------------

    async def _follow(self) -> AsyncGenerator[Folded[T] | CaughtUp, None]:
        follow = self._book.follow_pages(tag=self._tag, min_seqnum=self.position)
        async with aclosing(follow) as pages:
            async for records, caught_up in pages:
                if records:
                    yield Folded(records, [self._folded(record) for record in records])
                if self._is_snapshot_due():
                    await self.snapshot()
                if caught_up is not None:
                    self.position = max(self.position, caught_up)
                    yield CaughtUp(caught_up)

    def _folded(self, record: Record) -> T:
        change = self._fold.apply(record)
        self.position = record.seqnum + 1
        self._new_records += 1
        self._new_bytes += len(record.data)
        return change

    def _is_snapshot_due(self) -> bool:
        return (
            0 < self._every_records <= self._new_records
            and self._new_bytes >= WORTH * self._snapshot_bytes
        )

    async def _restore(self) -> Restored:
        """Load the newest snapshot that can be read."""
        newest: int | None = None
        while (record := await self._snapshot_before(newest)) is not None:
            try:
                position, data = _opened(record)
                self._fold.restore(data)
                self._begin_at(position, record)
                return Restored(self.position)
            except RemoteProtocolError:  # somebody else's bytes, or damaged before they came here
                newest = record.seqnum - 1
        self._fold.restore(None)
        self._begin_at(0, None)
        return Restored(0)

    async def _snapshot_before(self, newest: int | None) -> Record | None:
        """The newest snapshot up to that seqnum whose record is still there."""
        while newest != 0:
            try:
                return await self._book.read_prev(
                    tag=self._snapshot_tag, max_seqnum=newest, consistency="linearizable"
                )
            except (DataLost, CorruptRecord) as error:
                newest = error.seqnum - 1
            except Trimmed:
                return None
        return None

    def _begin_at(self, position: int, snapshot: Record | None) -> None:
        self.position = self.kept_from = self._kept_next = position
        self._snapshot_seqnum = 0 if snapshot is None else snapshot.seqnum
        self._snapshot_bytes = 0 if snapshot is None else len(snapshot.data)
        self._new_records = self._new_bytes = 0

    async def _behind_a_trim(self, error: Trimmed) -> Restored | Gap:
        """Go on from a snapshot behind the trim, or without what is gone."""
        record = await self._snapshot_before(None)
        if record is not None and _position_of(record) >= error.trim_until:
            return await self._restore()
        # Nobody wrote a snapshot in time: retention let go of records that no fold has taken in.
        self.position = error.trim_until
        return Gap(error)

    # --- letting go -------------------------------------------------------------------------------

    async def _let_go(self) -> None:
        if not self._trims or not self.kept_from:
            return
        try:
            await self._book.trim(self.kept_from, self._tag)
            await self._book.trim(self.kept_from, self._snapshot_tag)
        except BokilogError:
            return  # the next snapshot does it


def _opened(snapshot: Record) -> tuple[int, bytes]:
    """Where the fold goes on, and the fold."""
    version, position, data = row(unpack(snapshot.data), 3)
    if natural(version) > SNAPSHOT_VERSION:
        raise FormatTooNew("a snapshot", version, SNAPSHOT_VERSION)
    return natural(position), octets(data)


def _position_of(snapshot: Record) -> int:
    try:
        return _opened(snapshot)[0]
    except RemoteProtocolError:
        return 0
