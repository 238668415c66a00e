"""Writing one log space of a backup into the directory of one storage node.

Decides how the rows and frames of another history become the start of a new one:

- Frames get new LocalIds, of one shard of term 0, which is closed: terms begin anew with the
  cluster, and a shard's name must never be used twice (P1). Only their headers change; columns and
  payload are the client's, with their checksums (P29).
- The fold stands at the count of entries that it had, in term 0. So whoever has less asks for
  entries that no metalog of this cluster holds, and loads the fold of a peer (P16).
- Rows get the places that their frames have here. One without a frame is nowhere: trimmed before
  the backup, or lost.

Invariant: the position is written last; a store without one holds nothing (`Index`).

Does not know where rows and frames come from.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Final

from bokilog.codec import pack
from bokilog.errors import BackupUnusable, ReadOnly
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.io.journal_file import JournalFile
from bokilog.io.sync import DataSync
from bokilog.journal import Location, Refused
from bokilog.limits import MIB
from bokilog.messages import SnapshotPart, StoredFrame
from bokilog.shapes.recovery import verify_item
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.locations import LOST, place_rows
from bokilog.storage_nodes.retention import SegmentBooks
from bokilog.storage_nodes.rocks_store import RocksStore

__all__ = ["RestoredSpace"]

SHARD: Final = 0
"""The number of the shard of all restored frames; an engine's is an incarnation, from 1 on."""
GROUP_BYTES: Final = 8 * MIB
_NOT_COPIED: Final = frozenset(
    (keys.META, keys.SHARDS, keys.CLOSED, keys.SEGMENTS, keys.SPANS, keys.LACKING)
)


class RestoredSpace:
    """A journal and an index in the making: all frames, then all rows, then `finish`.

    Args:
        directory: of the storage node; it holds nothing of the log space.
        space: the log space.
    """

    def __init__(self, directory: Path, space: LogSpaceId) -> None:
        self._space = space
        self._journal = JournalFile(
            directory / f"journal-{space}", sync=DataSync(), verify=verify_item
        )
        self._journal.recover()
        self._store = RocksStore(directory / f"index-{space}")
        self._segments = SegmentBooks()
        self._firsts = array("Q")
        self._locations: tuple[array[int], array[int], array[int]] = (
            array("Q"),
            array("Q"),
            array("Q"),
        )
        self._late: dict[int, Location] = {}
        """Frames that came behind a later one."""
        self._count = 0
        self._staged_bytes = 0
        self._meta: bytes | None = None
        self.deleted_books: list[int] = []

    def frame(self, stored: StoredFrame) -> None:
        """The next frame; nearly always in the order of seqnums."""
        columns, payload = stored.frame.columns, stored.frame.payload
        shard = Shard(self._space, Term(0), SHARD)
        frame = Frame(shard=shard, first=self._count, columns=columns, payload=payload)
        self._count += frame.records
        location = self._journal.append(ITEM_FRAME, frame.buffers())
        self._staged_bytes += frame.size_bytes
        if self._staged_bytes >= GROUP_BYTES:
            self._commit()
        first = stored.first_seqnum
        if self._firsts and first <= self._firsts[-1]:
            self._late[first] = location
        else:
            self._firsts.append(first)
            for column, value in zip(self._locations, location, strict=True):
                column.append(value)
        self._segments.ordered(
            location.segment,
            columns.books,
            first + frame.records - 1,
            first_seqnum=first,
            size_bytes=location.length,
        )

    def rows(self, part: SnapshotPart) -> None:
        """The next part of the fold."""
        batch = self._store.batch()
        for key, value in part.rows:
            kind = key[:1]
            if kind == keys.ROWS:
                batch.put(key, place_rows(value, self._place_of)[0])
            elif kind == keys.META:
                self._meta = value
            elif kind not in _NOT_COPIED:
                batch.put(key, value)
                if kind == keys.BOOKS and keys.decode_book(value).deleted:
                    self.deleted_books.append(keys.number_of(key))
        self._store.write(batch)

    def frames_done(self) -> None:
        """Every frame was given: they are durable when this returns."""
        self._commit()

    def finish(self, count: int, *, where: str) -> None:
        """All of it was given: it counts from here on, at `count` entries of term 0.

        Raises:
            BackupUnusable: the rows do not say where the fold stands, or somewhere else.
        """
        if self._meta is not None:
            meta = keys.decode_meta(self._meta)
            if (meta.space, meta.position.count) != (self._space, count):
                problem = f"the fold of log space {self._space} is of another position"
                raise BackupUnusable(where, problem)
            position = Position(Term(0), count)
            newest = max((each.number for each in self._journal.segments()), default=0)
            meta = meta._replace(position=position, replay_hint=pack(newest))
            batch = self._store.batch()
            batch.put(keys.CLOSED, keys.encode_closed({SHARD}))
            self._segments.freeze()
            for _ in self._segments.steps(batch):
                pass
            batch.put(keys.META, keys.encode_meta(meta))
            self._store.write(batch)
        elif count:
            raise BackupUnusable(where, f"the fold of log space {self._space} has no end")
        self._store.flush()

    def close(self) -> None:
        """Let go of the files; before `finish` there is nothing in them that counts."""
        self._journal.close()
        self._store.close()

    def _place_of(self, first_seqnum: int) -> Location:
        place = bisect_left(self._firsts, first_seqnum)
        if place < len(self._firsts) and self._firsts[place] == first_seqnum:
            segments, offsets, lengths = self._locations
            return Location(segments[place], offsets[place], lengths[place])
        return self._late.get(first_seqnum, LOST)

    def _commit(self) -> None:
        self._staged_bytes = 0
        written = self._journal.commit(use_headroom=True)
        if isinstance(written, Refused):
            raise ReadOnly(written.reason)
        result = self._journal.sync_now()
        if result.failed is not None or result.moved is not None:
            raise ReadOnly(result.failed or "a sync failed: the disk is not to be trusted")
