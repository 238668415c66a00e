"""Which records of the engine's cache lie in the memory that it shares with its workers.

Decides what is published and what is taken back. A LogBook takes part once one of its records was
asked for by message: that record is published, the cached ones after it too, and what the stream
brings of it from then on, so that the next ones are read without a message. It does so only while
it is followed, since trims of others are not told; a trim, a deletion or aux data takes back what
it is about, as far as this engine has heard, which is as far as an answer by message would go.

Invariants: every entry that readers can find is known here, so that it can be taken back; there are
at most `ENTRIES_MAX`. Nothing is published once nobody has looked for anything for long. Does not
know: how entries lie in memory (`bokilog/shared_records.py`), files, sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from bokilog.facts import Facts
from bokilog.functions.engine.cache import CachedRecord, RecordCache
from bokilog.shared_records import SharedWriter

ENTRIES_MAX: Final = 65_536
AHEAD_COUNT: Final = 64
"""Cached records after one that was asked for are published with it: who reads one reads on."""
UNUSED_MAX: Final = 4_096
"""Published in a row without anybody looking: then the stream's records are not, any more."""


class Published:
    """What of an engine's records is published."""

    __slots__ = ("_books", "_cache", "_facts", "_order", "_unused", "_uses", "_writer")

    def __init__(self, writer: SharedWriter, cache: RecordCache, facts: Facts) -> None:
        self._writer = writer
        self._cache = cache
        self._facts = facts
        self._books: dict[int, dict[int, int]] = {}
        """LogBook -> seqnum -> log space, of every entry; a LogBook that is here takes part."""
        self._order: deque[tuple[int, int]] = deque()
        """(LogBook, seqnum) in the order of publication; some were taken back since."""
        self._uses = 0
        self._unused = 0

    def answered(
        self, space: int, book: int, seqnums: Iterable[int], records: Iterable[CachedRecord]
    ) -> None:
        """Records that somebody asked for by message; the LogBook takes part from now on."""
        entries = self._books.setdefault(book, {})
        last = 0
        for seqnum, record in zip(seqnums, records, strict=True):
            self._publish(space, book, seqnum, record, entries)
            last = seqnum
        for seqnum in range(last + 1, last + 1 + AHEAD_COUNT if last else 0):
            ahead = self._cache.find_visible(space, book, seqnum)
            if ahead is None:
                break
            if ahead.tags is not None and seqnum < self._facts.tags_trimmed_until(book):
                continue  # perhaps all its tags are trimmed: then it is gone
            self._publish(space, book, seqnum, ahead, entries)
        self._unused = 0

    def streamed(self, space: int, book: int, seqnums: Iterable[int]) -> None:
        """The stream has told of visible records of a followed LogBook."""
        entries = self._books.get(book)
        if entries is None or not self._wanted():
            return
        for seqnum in seqnums:
            record = self._cache.find_visible(space, book, seqnum)
            if record is not None:
                self._publish(space, book, seqnum, record, entries)

    def trimmed(self, book: int, until: int) -> None:
        """Records below `until` are gone, all of them or those with a certain tag."""
        entries = self._books.get(book)
        if entries is not None:
            for seqnum in [seqnum for seqnum in entries if seqnum < until]:
                self._writer.drop(entries.pop(seqnum), seqnum)

    def leave(self, book: int) -> None:
        """The LogBook is deleted, or not followed any more."""
        for seqnum, space in self._books.pop(book, {}).items():
            self._writer.drop(space, seqnum)

    def has_aux(self, book: int, seqnum: int) -> None:
        """A record has aux data now, which is not kept in shared memory."""
        space = self._books.get(book, {}).pop(seqnum, None)
        if space is not None:
            self._writer.drop(space, seqnum)

    def forget(self) -> None:
        """What was known may not be true any more (P11)."""
        self._books.clear()
        self._order.clear()
        self._writer.forget()

    def _wanted(self) -> bool:
        uses = self._writer.hits + self._writer.misses
        if uses != self._uses:
            self._uses, self._unused = uses, 0
        return self._unused < UNUSED_MAX

    def _publish(
        self, space: int, book: int, seqnum: int, record: CachedRecord, entries: dict[int, int]
    ) -> None:
        if self._cache.auxes(space, book, [seqnum]) is not None:
            return
        self._writer.add(
            space,
            seqnum,
            book=book,
            data=record.data,
            tags=record.tags,
            timestamp_ms=record.timestamp_ms,
        )
        self._unused += 1
        if seqnum in entries:
            return
        entries[seqnum] = space
        self._order.append((book, seqnum))
        if len(self._order) > ENTRIES_MAX:
            self._take_back_oldest()

    def _take_back_oldest(self) -> None:
        book, seqnum = self._order.popleft()
        space = self._books.get(book, {}).pop(seqnum, None)
        if space is not None:
            self._writer.drop(space, seqnum)

    def check(self) -> None:
        """Asserts the invariants."""
        assert len(self._order) <= ENTRIES_MAX
        known = set(self._order)
        for book, entries in self._books.items():
            assert all((book, seqnum) in known for seqnum in entries)
