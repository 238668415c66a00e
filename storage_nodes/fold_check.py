"""Judges a stored fold against the journal it was made from: for `bokilog verify`.

Decides whether the store's rows follow each other, whether each leads to the frame it names (P21),
whether a segment is missing that holds live records, and whether the fold stands where the views
allow (P13, P19). Changes nothing.

Does not know where the bytes come from: a store that is read, and heads of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from operator import lt
from typing import NamedTuple, Protocol

from bokilog.codec import unpack
from bokilog.errors import CorruptJournal
from bokilog.frame import Head
from bokilog.ids import Position, Term
from bokilog.journal import Location
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.books import Books
from bokilog.storage_nodes.index_store import IndexStore, prefix_end
from bokilog.storage_nodes.keys import Meta
from bokilog.verify import Findings
from bokilog.view import End


class Heads(Protocol):
    """The journal, as far as the fold's rows lead into it."""

    @property
    def segments(self) -> Container[int]:
        """Those that count."""

    @property
    def newest(self) -> int:
        """The last of them, 0 without any."""

    def head(self, location: Location) -> Head | None:
        """The header of the frame there; None if there is none."""


class FoldFacts(NamedTuple):
    """What a fold says of itself, to be compared with others."""

    position: Position
    chained_hash: int
    tail: int
    frame_count: int
    posting_count: int
    segments_missed: int
    """Segments that the store knows, and that are gone."""


class FoldCheck:
    """One stored fold.

    Args:
        store: read only.
        file: the store's directory, for findings.
        heads: the journal beside it.
        later_trims: how far entries past the stored position may trim each LogBook.
        cold: bytes of each segment that lies in an object store instead.
    """

    def __init__(
        self,
        store: IndexStore,
        *,
        file: str,
        heads: Heads,
        later_trims: Mapping[int, int],
        cold: Mapping[int, int] | None = None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.findings = Findings()
        self._store = store
        self._file = file
        self._heads = heads
        self._later_trims = later_trims
        self._cold = cold if cold is not None else {}
        self._progress = progress
        self._frames = self._postings = 0

    def run(self, space: int, *, ends: Mapping[Term, End]) -> FoldFacts | None:
        """Check all of it; None if it holds nothing, or cannot be read."""
        try:
            return self._run(space, ends)
        except (CorruptJournal, ValueError, IndexError, TypeError) as error:
            self._add(f"the index store cannot be read: {error}", "all reads by this replica")
            return None

    def _run(self, space: int, ends: Mapping[Term, End]) -> FoldFacts | None:
        found = self._store.get(keys.META)
        if found is None:
            if next(iter(self._store.keys(b"", b"\xff")), None) is not None:
                self._add(
                    "the index store has rows and no position: the load of a peer's index was cut"
                    " short, and begins anew when the node starts",
                    "all reads by this replica until then",
                )
            return None
        meta = keys.decode_meta(found)
        if meta.space != space:
            self._add(f"the index store is that of log space {meta.space}", "all reads")
            return None
        self._position(meta, ends)
        missed = self._missing_segments(meta)
        self._rows(meta)
        self._postings_of_all(meta)
        counts = (self._frames, self._postings, missed)
        return FoldFacts(meta.position, meta.chained_hash, meta.tail, *counts)

    def _position(self, meta: Meta, ends: Mapping[Term, End]) -> None:
        of, count = meta.position
        since = [end.position.count for term, end in ends.items() if term > of]
        if count > min(since, default=count):
            self._add(
                f"the fold stands at {tuple(meta.position)}, past the end of its term:"
                f" {min(since)}",
                "all reads by this replica: it must be built anew",
            )
        hint = unpack(meta.replay_hint) if meta.replay_hint else 0
        if isinstance(hint, int) and hint > self._heads.newest:
            self._add(
                f"the fold goes on in segment {hint}, the journal ends in {self._heads.newest}",
                "what was journalled after the fold was stored",
            )

    def _missing_segments(self, meta: Meta) -> int:
        books = Books(self._store)
        missed = 0
        for key, value in self._store.scan(keys.SEGMENTS, prefix_end(keys.SEGMENTS)):
            segment = keys.number_of(key)
            if segment in self._heads.segments or segment in self._cold:
                continue
            missed += 1
            live = [
                f"LogBook {book} up to seqnum {seqnum}"
                for book, seqnum in keys.decode_segment(value).items()
                if books.trim_until(book, None, meta.tail) <= seqnum
                and self._later_trims.get(book, 0) <= seqnum
            ]
            if live:
                problem = f"segment {segment} is missing, and holds records that are not trimmed"
                self._add(problem, "records of " + ", ".join(live[:8]))
        return missed

    def _rows(self, meta: Meta) -> None:
        until = time_ms = 0
        for key, value in self._store.scan(keys.ROWS, prefix_end(keys.ROWS)):
            first = keys.number_of(key)
            if first >= meta.tail:
                self._add(f"frames from seqnum {first} on are past the tail", "those frames")
                return
            rows = keys.decode_rows(value)
            for place, seqnum in enumerate(rows.first_seqnums):
                if seqnum < until or rows.timestamps_ms[place] < time_ms:
                    self._add(f"the frame at seqnum {seqnum} overlaps", f"seqnums from {seqnum} on")
                until, time_ms = seqnum + rows.records[place], rows.timestamps_ms[place]
                where = Location(rows.segments[place], rows.offsets[place], rows.lengths[place])
                self._row(seqnum, rows.records[place], where)
            self._progress(len(value))
        if until > meta.tail:
            self._add(f"a frame ends at seqnum {until}, past the tail {meta.tail}", "that frame")

    def _row(self, first_seqnum: int, records: int, location: Location) -> None:
        """The row leads to a frame of as many records; one whose segment was let go is dead."""
        self._frames += 1
        last = first_seqnum + records - 1
        if location.segment not in self._heads.segments:
            end = self._cold.get(location.segment)
            if end is not None and location.offset + location.length > end:
                self._add(
                    f"the frame at seqnum {first_seqnum} lies past the end of the object of"
                    f" segment {location.segment}",
                    f"seqnums {first_seqnum} to {last}, if they are not trimmed",
                )
            return
        head = self._heads.head(location)
        if head is None or head.records != records or head.frame_bytes != location.length:
            self._add(
                f"offset {location.offset} of segment {location.segment} does not hold the frame"
                " that the index names",
                f"seqnums {first_seqnum} to {last}, if they are not trimmed",
            )

    def _postings_of_all(self, meta: Meta) -> None:
        for key, value in self._store.scan(keys.POSTINGS, prefix_end(keys.POSTINGS)):
            found = keys.decode_postings(value, whole_book=not keys.tag_of(key))
            self._postings += len(found)
            if (
                not len(found)
                or found[0] != keys.number_of(key)
                or found[-1] >= meta.tail
                or not all(map(lt, found, found[1:]))
            ):
                self._add(
                    f"the seqnums of tag {keys.tag_of(key)!r} from {keys.number_of(key)} on are"
                    " out of order",
                    f"reads by that tag in LogBook {keys.book_of(key)}",
                )
            self._progress(len(value))

    def _add(self, problem: str, affected: str) -> None:
        self.findings.add(self._file, None, problem, affected)
