"""Which journal segments nobody needs any more (P21).

A segment is dead once it lies below the segment that a replay of the stored position starts in
(so it holds no unordered frame of an open shard, and no entry that is still to be folded), and
every LogBook with records in it is trimmed past the last of them there. A deleted LogBook counts
as trimmed to its end. Records gone by trims of all their tags do not count as dead here: their
bytes go with their neighbours.

Per segment and LogBook one number is kept, the last seqnum; older segments' numbers only in the
index store. In RAM a segment has one *blocker*: a LogBook and seqnum known to keep it alive.

Beside it stand the first seqnum and about the bytes of each LogBook in a segment, from which
compaction tells the segments that are mostly dead (`compaction.py`).

Invariant: numbers only grow, so a segment is never called dead too early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from bokilog.named import NamedTuple
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch


class Trims(Protocol):
    """What retention asks the fold."""

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum of the LogBook."""
        ...


class Span(NamedTuple):
    """A LogBook's records in a segment."""

    first: int
    last: int
    size_bytes: int
    """Of their frames; one that several LogBooks share is counted in equal parts."""


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


def _no_spans(segment: int) -> Mapping[int, tuple[int, int]]:
    return {}


_Spans = dict[int, dict[int, tuple[int, int]]]
"""`{segment: {book: (first seqnum, bytes)}}`"""


class SegmentBooks:
    """Per segment the last seqnum of each LogBook in it.

    Args:
        load: the stored numbers of a segment.
        stored: segments that have stored numbers.
        load_spans: the stored first seqnums and bytes of a segment.
    """

    __slots__ = (
        "_blockers",
        "_frozen",
        "_frozen_spans",
        "_gone",
        "_gone_frozen",
        "_load",
        "_load_spans",
        "_recent",
        "_recent_spans",
        "newest",
    )

    def __init__(
        self,
        load: Callable[[int], Mapping[int, int]] = _nothing_stored,
        stored: Iterable[int] = (),
        load_spans: Callable[[int], Mapping[int, tuple[int, int]]] = _no_spans,
    ) -> None:
        self._load = load
        self._load_spans = load_spans
        self._recent_spans: _Spans = {}
        self._frozen_spans: _Spans = {}
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

    def ordered(
        self,
        segment: int,
        books: int | list[int],
        last_seqnum: int,
        *,
        first_seqnum: int | None = None,
        size_bytes: int = 0,
    ) -> None:
        """A frame in the segment was ordered; its last record stands at `last_seqnum`."""
        recent = self._recent.get(segment)
        if recent is None:
            self.frame(segment)
            recent = self._recent.setdefault(segment, {})
        spans = self._recent_spans.get(segment)
        if spans is None:
            spans = self._recent_spans[segment] = {}
        if first_seqnum is None:
            first_seqnum = last_seqnum
        if isinstance(books, int):
            books = [books]
        else:
            size_bytes //= max(1, len(books))
        for book in books:
            if recent.get(book, 0) < last_seqnum:
                recent[book] = last_seqnum
            known = spans.get(book)
            spans[book] = (
                (first_seqnum, size_bytes)
                if known is None
                else (min(known[0], first_seqnum), known[1] + size_bytes)
            )

    def spans_of(self, segment: int) -> dict[int, Span] | None:
        """What lies in a segment; None: that was not counted, or not all of it."""
        lasts = self.books_of(segment)
        found: dict[int, tuple[int, int]] = dict(self._load_spans(segment))
        for generation in (self._frozen_spans, self._recent_spans):
            _merge(found, generation.get(segment, {}))
        if found.keys() != lasts.keys():
            return None
        return {book: Span(first, lasts[book], size) for book, (first, size) in found.items()}

    def emptied(self, segment: int) -> None:
        """Nothing leads to the segment any more (compaction): it is forgotten here."""
        if segment in self._blockers:
            self._forget(segment)
            self._gone.add(segment)

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
            self._forget(segment)
        self._gone.update(found)
        return found

    def _forget(self, segment: int) -> None:
        del self._blockers[segment]
        for generation in (self._recent, self._frozen):
            generation.pop(segment, None)
        for spans in (self._recent_spans, self._frozen_spans):
            spans.pop(segment, None)

    # --- checkpoints ---

    @property
    def dirty(self) -> bool:
        return bool(self._gone)

    def freeze(self) -> None:
        self._frozen, self._recent = self._recent, {}
        self._frozen_spans, self._recent_spans = self._recent_spans, {}
        self._gone_frozen, self._gone = self._gone, set()

    def steps(self, batch: Batch) -> Iterator[None]:
        """Put the segments that changed, drop those let go, one at a time."""
        for segment in self._gone_frozen:
            batch.delete(keys.numbered(keys.SEGMENTS, segment))
            batch.delete(keys.numbered(keys.SPANS, segment))
        for segment in list(self._frozen):
            if segment in self._blockers:  # numbers newer than the position only keep it longer
                value = keys.encode_segment(self.books_of(segment))
                batch.put(keys.numbered(keys.SEGMENTS, segment), value)
                spans = dict(self._load_spans(segment))  # bytes of later ones are added later
                _merge(spans, self._frozen_spans.get(segment, {}))
                batch.put(keys.numbered(keys.SPANS, segment), keys.encode_spans(spans))
                yield

    def done(self) -> None:
        self._frozen = {}
        self._frozen_spans = {}
        self._gone_frozen = set()


def _merge(found: dict[int, tuple[int, int]], spans: Mapping[int, tuple[int, int]]) -> None:
    for book, (first, size_bytes) in spans.items():
        known = found.get(book)
        found[book] = (
            (first, size_bytes) if known is None else (min(known[0], first), known[1] + size_bytes)
        )
