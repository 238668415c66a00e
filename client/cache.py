"""What this process has read before: records by seqnum, and facts about which seqnums a tag has.

Decides what may be answered without asking: only a record that stands inside a closed fact, or one
asked for by its seqnum; never "none", never "the newest" (P27). Invariants: both halves are bounded
in bytes; nothing below a trim that was heard of is answered. Log spaces below class `sync` may lose
records where a term begins (P11, P20): what is kept of one counts in the term it was told in.

Does not know: sessions, messages under way. Records leave in the order they came, page by page:
what is read again and again costs one more request after that, and a hit costs no bookkeeping.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bokilog.facts import Facts
from bokilog.limits import MIB, SEQNUM_MAX
from bokilog.messages import Read, ReadReply
from bokilog.named import NamedTuple
from bokilog.record import Record

if TYPE_CHECKING:
    from bokilog.shared_records import SharedReader  # a log in this process needs none

RECORDS_BYTES_DEFAULT: Final = 32 * MIB
FACTS_BYTES_DEFAULT: Final = 8 * MIB
RECORD_COST_BYTES: Final = 400  # what a kept record takes beside its data and its tags, about


class CacheStats(NamedTuple):
    """What is kept now."""

    records: int
    records_bytes: int
    facts_bytes: int


class Cache:
    """Records and facts of all LogBooks of one client."""

    __slots__ = ("_books", "_bytes", "_bytes_max", "_facts", "_kept_in", "_pages", "_told")

    def __init__(
        self,
        *,
        records_bytes_max: int = RECORDS_BYTES_DEFAULT,
        facts_bytes_max: int = FACTS_BYTES_DEFAULT,
    ) -> None:
        self._bytes_max = records_bytes_max
        self._facts = Facts(facts_bytes_max)
        self._books: dict[int, dict[int, Record]] = {}
        self._pages: deque[tuple[int, Sequence[int], int]] = deque()
        """(LogBook, seqnums, bytes) of each reply that is kept, oldest first."""
        self._bytes = 0
        self._told: dict[int, int] = {}
        """By log space, the newest term that the present engine has told of."""
        self._kept_in: dict[int, int] = {}
        """By log space below class `sync`, the term in which all that is kept of it was told."""

    def engine_stands(self, space: int, term: int) -> None:
        """An engine that is asked from now on says how far it has come."""
        self._told[space] = term

    def counts(self, space: int, term: int) -> bool:
        """Whether what is known of a log space below class `sync`, here or in the engine's memory,
        counts for a session that has seen this term: else it may be lost since."""
        told = self._told.get(space, 0)
        if self._kept_in.get(space) != told:
            self.clear()
            self._kept_in[space] = told
        return term <= told

    def record(
        self,
        book: int,
        seqnum: int,
        trim_until: int,
        *,
        memory: SharedReader | None = None,
        space: int = 0,
    ) -> Record | None:
        """The record at `seqnum`, if it was read before or is in the engine's memory, and stands
        at or past both known trims.

        What is found there is not kept: reading it there again costs little more than here.
        """
        facts = self._facts
        if seqnum < trim_until or seqnum < facts.trim_until(book, None):
            return None
        records = self._books.get(book)
        kept = records.get(seqnum) if records is not None else None
        if kept is not None or memory is None or not 0 < seqnum <= SEQNUM_MAX:
            return kept
        found = memory.find(space, book, seqnum)
        if found is None:
            return None
        data, tags, timestamp_ms = found
        if tags is None:
            return Record(seqnum, data, (), timestamp_ms, None)
        if seqnum < facts.tags_trimmed_until(book):
            return None  # perhaps all its tags are trimmed
        names = (tags,) if type(tags) is str else tuple(tags)
        return Record(seqnum, data, names, timestamp_ms, None)

    def trim_until(self, book: int, tag: str | None) -> int:
        """First kept seqnum, as far as this process has heard."""
        return self._facts.trim_until(book, tag)

    def next(self, book: int, tag: str | None, start: int, trim_until: int) -> Record | None:
        """The first record of `tag` at or after `start`, if that is known for ever."""
        records = self._books.get(book)
        if records is None:
            return None
        known_trim = max(trim_until, self._facts.trim_until(book, tag))
        if 0 < start < known_trim:
            return None  # an explicit position behind a trim: the engine says so
        seqnum = self._facts.next(book, tag, max(start, known_trim))
        return records.get(seqnum) if isinstance(seqnum, int) else None

    def keep(self, read: Read, reply: ReadReply, records: list[Record]) -> None:
        """Learn from a reply; `records` are those in it."""
        term = reply.position.term
        if term > self._told.get(read.space, 0):
            self._told[read.space] = term
        if read.bytes_start >= 0 or term < self._kept_in.get(read.space, 0):
            return
        facts = self._facts
        if reply.trim_until:
            facts.trim(read.book, read.tag, reply.trim_until)
        if read.reverse:
            lo, hi = reply.next_seqnum, min(read.until, reply.tail)
            facts.learn(read.book, read.tag, lo, hi, reply.seqnums[::-1])
        else:
            facts.learn(read.book, read.tag, read.start, reply.next_seqnum, reply.seqnums)
        if reply.trim_until:  # of a tag it is kept with the line, which may be new
            facts.trim(read.book, read.tag, reply.trim_until)
        if records:
            self._keep_records(read.book, reply, records)

    def _keep_records(self, book: int, reply: ReadReply, records: list[Record]) -> None:
        size_bytes = sum(map(len, reply.payload)) + RECORD_COST_BYTES * len(records)
        if size_bytes > self._bytes_max:
            return
        self._books.setdefault(book, {}).update(zip(reply.seqnums, records, strict=True))
        self._pages.append((book, reply.seqnums, size_bytes))
        self._bytes += size_bytes
        while self._bytes > self._bytes_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        book, seqnums, size_bytes = self._pages.popleft()
        self._bytes -= size_bytes
        records = self._books.get(book)
        if records is None:
            return
        for seqnum in seqnums:
            records.pop(seqnum, None)
        if not records:
            del self._books[book]

    def trimmed(self, book: int, tag: str | None, until: int) -> None:
        """Records below `until` are gone, of the LogBook or of a tag: none of them is answered."""
        self._facts.trim(book, tag, until)
        if tag is not None:  # which of them have other tags is not looked up: ask again
            records = self._books.get(book, {})
            for seqnum in [seqnum for seqnum in records if seqnum < until]:
                del records[seqnum]

    def forget(self, book: int, seqnum: int) -> None:
        """Something beside the record has changed: its aux data."""
        self._books.get(book, {}).pop(seqnum, None)

    def drop(self, book: int) -> None:
        """The LogBook is gone."""
        self._facts.drop(book)
        self._books.pop(book, None)

    def clear(self) -> None:
        """Nothing that was known holds: the log's history is another one."""
        self._facts = Facts(self._facts.bytes_max)
        self._books.clear()
        self._pages.clear()
        self._bytes = 0

    def stats(self) -> CacheStats:
        """What is kept now."""
        return CacheStats(
            records=sum(map(len, self._books.values())),
            records_bytes=self._bytes,
            facts_bytes=self._facts.bytes_used,
        )
