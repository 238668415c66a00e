"""Drives an index in tests: units to frames to cuts, and what to fold again after a crash."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bokilog.columns import Columns, Tags
from bokilog.cut import CutSpan
from bokilog.errors import BokilogError
from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.journal import Location
from bokilog.limits import NO_END
from bokilog.metalog import (
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    ForgetKeys,
    Hold,
    OpenShard,
    Proposer,
    Release,
    Trim,
)
from bokilog.storage_nodes import fold
from bokilog.storage_nodes.fold import FrameOutcome
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore

SPACE = LogSpaceId(3)
TERM = Term(1)
SHARD = 7
ME = Proposer(SHARD, 1)
BOOK = 5
FAR = NO_END


@dataclass(frozen=True)
class U:
    """A unit: one item of `tags` per record."""

    tags: Sequence[Tags] = (None,)
    book: int = BOOK
    unless: Sequence[tuple[str | None, int]] = ()
    key: str | None = None
    digest: bytes = b"d" * 16
    horizon_s: int = 100


def frame_of(units: Sequence[U], *, first: int, number: int = SHARD, term: int = TERM) -> Frame:
    tags = [tag for unit in units for tag in unit.tags]
    books = [unit.book for unit in units]
    counts = [len(unit.tags) for unit in units]
    columns = Columns(
        books=books[0] if len(set(books)) == 1 else books,
        unit_records=None if set(counts) == {1} else counts,
        tags=tags,
        lengths=array("I", [1] * len(tags)),
        sums=array("Q", [9] * len(tags)),
        blocks=array("Q"),
        unless=[(n, list(unit.unless)) for n, unit in enumerate(units) if unit.unless],
        keys=[
            (n, unit.key, unit.digest, unit.horizon_s)
            for n, unit in enumerate(units)
            if unit.key is not None
        ],
    )
    shard = Shard(SPACE, Term(term), number)
    return Frame(shard=shard, first=first, columns=columns, payload=[b"x" * len(tags)])


@dataclass
class Fold:
    """An index and everything that was applied to it."""

    index: Index
    now_ms: int = 1000
    counts: dict[int, int] = field(default_factory=dict)
    history: list[tuple[Position, Entry, list[tuple[int, Frame, Location]]]] = field(
        default_factory=list
    )

    def open(self, number: int = SHARD) -> None:
        self.counts[number] = 0
        self.apply(OpenShard(self.now_ms, number, f"engine-{number}", ("s-1",)))

    def append(self, *units: U, at_ms: int | None = None) -> FrameOutcome:
        """One frame of these units, cut at once."""
        return self.cut([list(units)], at_ms=at_ms)[0]

    def cut(
        self, frames: Sequence[Sequence[U]], *, at_ms: int | None = None, gap: int = 0
    ) -> list[FrameOutcome]:
        self.now_ms = max(self.now_ms + 1, at_ms or 0)
        if not self.counts:
            self.open()
        start = self.counts[SHARD]
        seqnum = first_seqnum = self.index.tail + gap
        placed = []
        for units in frames:
            frame = frame_of(units, first=self.counts[SHARD])
            segment, offset = divmod(seqnum, 1000)
            placed.append((seqnum, frame, Location(segment, offset, frame.records)))
            self.counts[SHARD] += frame.records
            seqnum += frame.records
        span = CutSpan(SHARD, start, self.counts[SHARD])
        cut = Cut(self.now_ms, first_seqnum, (span,))
        position = self._next()
        self.history.append((position, cut, placed))
        return fold.Fold(self.index).apply_cut(position, cut, placed)

    def apply(self, entry: Entry) -> list[object] | BokilogError:
        position = self._next()
        self.history.append((position, entry, []))
        return fold.Fold(self.index).apply(position, entry)

    def trim(
        self, until: int, tag: str | None = None, book: int = BOOK
    ) -> list[object] | BokilogError:
        return self.apply(Trim(self.now_ms, book, tag, until, ME))

    def hold(
        self, name: str, seqnum: int, ttl_ms: int = 1000, book: int = BOOK
    ) -> list[object] | BokilogError:
        return self.apply(Hold(self.now_ms, book, name, seqnum, ttl_ms, ME))

    def release(self, name: str) -> list[object] | BokilogError:
        return self.apply(Release(self.now_ms, BOOK, name, ME))

    def delete(self, book: int = BOOK) -> list[object] | BokilogError:
        return self.apply(DeleteBook(self.now_ms, book, ME))

    def end_tags(self, prefix: str, book: int = BOOK) -> list[object] | BokilogError:
        return self.apply(EndTags(self.now_ms, book, prefix, ME))

    def forget_keys(self, at_ms: int) -> list[object] | BokilogError:
        self.now_ms = max(self.now_ms, at_ms)
        return self.apply(ForgetKeys(at_ms))

    def refold(self, index: Index) -> None:
        """After a crash: `index` was loaded from the store and folds what the journal has."""
        self.index = index
        refolded = fold.Fold(index)
        for position, entry, frames in self.history:
            if position.count > index.position.count:
                if isinstance(entry, Cut):
                    refolded.apply_cut(position, entry, frames)
                else:
                    refolded.apply(position, entry)

    def visible(self, tag: str | None = None, book: int = BOOK) -> list[int]:
        return self.index.seqnums(book, tag, 0, FAR, limit=10**6)

    def _next(self) -> Position:
        return Position(self.index.position.term or TERM, self.index.position.count + 1)


def restarted(fold: Fold, store: MemoryStore) -> Index:
    """As after a crash, before the journal is folded again."""
    store.crash()
    return Index(SPACE, store)


def through(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def finish(index: Index) -> None:
    """The rest of a checkpoint that was frozen."""
    through(index.generations.steps())
    index.generations.write()
    index.generations.done()
