"""Which journal segments nobody needs any more (P21).

A segment is dead once it lies below the segment that a replay of the stored position starts in
(so it holds no unordered frame of an open shard, and no entry that is still to be folded), and
every LogBook with records in it is trimmed past the last of them there. A deleted LogBook counts
as trimmed to its end. Records gone by trims of all their tags do not count as dead here: their
bytes go with their neighbours.

Per segment and LogBook one number is kept, the last seqnum; older segments' numbers only in the
index store. In RAM a segment has one *blocker*: a LogBook and seqnum known to keep it alive.

Invariant: numbers only grow, so a segment is never called dead too early. Compaction of segments
that are mostly dead follows the same rule and is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch


class Trims(Protocol):
    """What retention asks the fold."""

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum of the LogBook."""
        ...


class Blocker(NamedTuple):
    """A record that keeps a segment alive while it is not trimmed."""

    book: int
    seqnum: int


def blocker(books: Mapping[int, int], trims: Trims) -> Blocker | None:
    """A LogBook whose last record in a segment is kept, given `{book: last seqnum}`."""
    for book, seqnum in books.items():
        if trims.trim_until(book) <= seqnum:
            return Blocker(book, seqnum)
    return None


def _nothing_stored(segment: int) -> Mapping[int, int]:
    return {}


class SegmentBooks:
    """Per segment the last seqnum of each LogBook in it.

    Args:
        load: the stored numbers of a segment.
        stored: segments that have stored numbers.
    """

    __slots__ = ("_blockers", "_frozen", "_gone", "_gone_frozen", "_load", "_recent", "newest")

    def __init__(
        self,
        load: Callable[[int], Mapping[int, int]] = _nothing_stored,
        stored: Iterable[int] = (),
    ) -> None:
        self._load = load
        self._blockers: dict[int, Blocker | None] = dict.fromkeys(stored)
        self._recent: dict[int, dict[int, int]] = {}
        self._frozen: dict[int, dict[int, int]] = {}
        self._gone: set[int] = set()
        """Let go since the last freeze."""
        self._gone_frozen: set[int] = set()
        self.newest = max(self._blockers, default=0)

    def __contains__(self, segment: int) -> bool:
        return segment in self._blockers

    def frame(self, segment: int) -> None:
        """Something was journalled in the segment."""
        if segment not in self._blockers:
            self._blockers[segment] = None
            self._recent[segment] = {}  # to be stored too: else it is never let go after a restart
            self._gone.discard(segment)
            self.newest = max(self.newest, segment)

    def ordered(self, segment: int, books: int | list[int], last_seqnum: int) -> None:
        """A frame in the segment was ordered; its last record stands at `last_seqnum`."""
        recent = self._recent.get(segment)
        if recent is None:
            self.frame(segment)
            recent = self._recent.setdefault(segment, {})
        for book in (books,) if isinstance(books, int) else books:
            if recent.get(book, 0) < last_seqnum:
                recent[book] = last_seqnum

    def books_of(self, segment: int) -> dict[int, int]:
        """`{book: last seqnum}` of a segment."""
        found = dict(self._load(segment))
        for generation in (self._frozen, self._recent):
            for book, seqnum in generation.get(segment, {}).items():
                found[book] = max(seqnum, found.get(book, 0))
        return found

    def dead(self, trims: Trims, *, before: int) -> list[int]:
        """Segments below `before` that may be recycled; they are forgotten here."""
        found = []
        for segment in sorted(segment for segment in self._blockers if segment < before):
            known = self._blockers[segment]
            if known is None or trims.trim_until(known.book) > known.seqnum:
                known = self._blockers[segment] = blocker(self.books_of(segment), trims)
                if known is None:
                    found.append(segment)
        for segment in found:
            del self._blockers[segment]
            self._recent.pop(segment, None)
            self._frozen.pop(segment, None)
        self._gone.update(found)
        return found

    # --- checkpoints ---

    @property
    def dirty(self) -> bool:
        return bool(self._gone)

    def freeze(self) -> None:
        self._frozen, self._recent = self._recent, {}
        self._gone_frozen, self._gone = self._gone, set()

    def steps(self, batch: Batch) -> Iterator[None]:
        """Put the segments that changed, drop those let go, one at a time."""
        for segment in self._gone_frozen:
            batch.delete(keys.numbered(keys.SEGMENTS, segment))
        for segment in list(self._frozen):
            if segment in self._blockers:  # numbers newer than the position only keep it longer
                value = keys.encode_segment(self.books_of(segment))
                batch.put(keys.numbered(keys.SEGMENTS, segment), value)
                yield

    def done(self) -> None:
        self._frozen = {}
        self._gone_frozen = set()
