"""What an engine can say of a read without asking anybody, and what it keeps for that.

Decides whether facts and cached bytes say enough at a position that the read allows: then the
answer is made here. If only bytes are missing, or nothing has been appended yet, that is said
instead; the reader fetches them, or waits. Replies of storage nodes become facts and cached
records, and what is asked for by message is published to workers that share memory.

Invariants:
- A record inside a fact is answered at any known position; "none", "newest" and "nothing more yet"
  only at a position that the read allows (P27). A reply's (position, tail) belong together.
- Nothing below a trim seen here is answered.
- That one seqnum has no record is not said here: whether it is lost only storage nodes know (P24).
- An empty answer that waited is never a fact (P28): facts come from replies and the stream alone.

Does not know: clients, links, who is asked for what is missing; when what is known may be lost
(`following.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from bokilog.errors import Trimmed, to_wire
from bokilog.facts import UNKNOWN, Facts, Known
from bokilog.functions.engine.cache import CachedRecord, RecordCache, cached_records
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.published import Published
from bokilog.ids import START
from bokilog.messages import Read, ReadReply, RequestFailed, SetAux
from bokilog.named import NamedTuple
from bokilog.record import Buffer


class Missing(NamedTuple):
    """Which records answer a read is known here; their bytes are not."""

    seqnums: Sequence[int]
    """The first that lacks its bytes, and all after it, in the asked order."""
    budget_bytes: int
    """What the records before them leave of the read's limit."""


class NothingYet(Enum):
    """There is no record, and the read would wait for one."""

    NOTHING_YET = "nothing yet"


NOTHING_YET: Final = NothingYet.NOTHING_YET


class LocalAnswers:
    """Facts and record bytes of an engine, and what they say.

    Args:
        facts: of all log spaces; the stream adds to them too (`index_follower.py`).
        cache: record bytes; the producers' own frames are in it too.
        published: records shared with workers; None: there are none.
    """

    __slots__ = ("_cache", "_facts", "_published")

    def __init__(self, facts: Facts, cache: RecordCache, published: Published | None) -> None:
        self._facts = facts
        self._cache = cache
        self._published = published

    # --- answering --------------------------------------------------------------------------------

    def answer(
        self, space: IndexFollower, read: Read, extra: dict[int, CachedRecord] | None = None
    ) -> ReadReply | RequestFailed | Missing | NothingYet | None:
        """The answer, or what it lacks; None: facts do not say.

        Args:
            space: the index that the read is of, as it is followed here.
            read: the question.
            extra: bytes that were fetched for this read: what is missing still is not fetched
            again.
        """
        space.want(read.book)
        facts, book, tag = self._facts, read.book, read.tag
        trim_until = facts.trim_until(book, tag)
        if 0 < read.start < trim_until or 1 < read.until < trim_until:  # 0 and 1: not explicit
            known_at = space.position if facts.knows_trims(book, tag) else START
            if read.position > known_at:
                return None  # the session may have seen a later trim: then that one is named
            return RequestFailed(read.request, to_wire(Trimmed(trim_until)), START)
        if tag is None and read.until == read.start + 1:
            found = self._known_record(space, read)
            if found is not None:
                return found
        known = facts.range(
            book,
            tag,
            start=read.start,
            until=read.until,
            limit=read.limit,
            reverse=read.reverse,
        )
        if known is UNKNOWN or (known.at_tail and read.position > space.position):
            return None
        if not known.seqnums:
            if known.at_tail and read.wait_ms:
                return NOTHING_YET
            if not known.at_tail and read.until == read.start + 1:
                return None  # facts of a range do not say what is lost in it: storage nodes know
            return self._reply(space, read, known, [], [])
        return self._collect(space, read, known, extra)

    def _known_record(self, space: IndexFollower, read: Read) -> ReadReply | None:
        """`read(seqnum)` of a record that is known to be visible without facts."""
        if read.book not in space.following:
            return None  # its trims are not told
        record = self._cache.find_visible(read.space, read.book, read.start)
        if record is None:
            return None
        if record.tags is not None and read.start < self._facts.tags_trimmed_until(read.book):
            return None  # perhaps all its tags are trimmed: then it is gone
        known = Known([read.start], read.start if read.reverse else read.until, False, False)
        return self._reply(space, read, known, [read.start], [record])

    def _collect(
        self,
        space: IndexFollower,
        read: Read,
        known: Known,
        extra: dict[int, CachedRecord] | None,
    ) -> ReadReply | Missing | None:
        """The records of known seqnums, as many as the limit of bytes allows."""
        seqnums: list[int] = []
        records: list[CachedRecord] = []
        budget_bytes = read.max_bytes
        for place, seqnum in enumerate(known.seqnums):
            record = extra.get(seqnum) if extra is not None else None
            if record is None:
                record = self._cache.find(space.id, seqnum)
            if record is None and extra is None:
                return Missing(known.seqnums[place:], budget_bytes)
            if record is None and not records:
                return None
            if record is not None:
                budget_bytes -= len(_byte_range(record.data, read))
            if record is None or (budget_bytes < 0 and records):
                last = seqnums[-1]
                following = last if read.reverse else last + 1
                known = known._replace(next_seqnum=following, more=True)
                break
            seqnums.append(seqnum)
            records.append(record)
        return self._reply(space, read, known, seqnums, records)

    def _reply(
        self,
        space: IndexFollower,
        read: Read,
        known: Known,
        seqnums: list[int],
        records: list[CachedRecord],
    ) -> ReadReply:
        """What is known at the tail holds at the stream's position; the rest at the furthest one
        seen.
        """
        position, tail = space.position, space.tail.seqnum
        if not known.at_tail and space.horizon.position > position:
            position, tail = space.horizon.position, space.horizon.tail
        payload: list[Buffer] = [record.data for record in records]
        if (
            self._published is not None
            and records
            and read.until == read.start + 1  # pages are read by whoever reads on by message
            and read.book in space.following
        ):
            self._published.answered(read.space, read.book, seqnums, records)
        if read.bytes_start >= 0:
            payload = [_byte_range(data, read) for data in payload]
        return ReadReply(
            read.request,
            position,
            tail,
            self._facts.trim_until(read.book, read.tag),
            known.next_seqnum,
            known.more,
            seqnums,
            [record.tags for record in records],
            [record.timestamp_ms for record in records],
            self._cache.auxes(read.space, read.book, seqnums),
            payload,
        )

    # --- keeping ----------------------------------------------------------------------------------

    def learn(self, space: IndexFollower, read: Read, reply: ReadReply) -> None:
        """A reply is a fact about its range, for ever but for trims."""
        space.horizon.saw(reply.position, reply.tail)
        if space.volatile:
            space.want(read.book)  # what is known is forgotten by its LogBooks
        if reply.trim_until:
            self.trim(read.book, read.tag, reply.trim_until)
        end = min(read.until, reply.tail)
        lo, hi, seqnums = read.start, reply.next_seqnum, reply.seqnums
        above = below = None
        if read.reverse:
            lo, hi, seqnums = reply.next_seqnum, end, seqnums[::-1]
            below = read.start if reply.more else None
        elif reply.more:
            above = end
        else:
            hi = max(hi, end)
        self._facts.learn(
            read.book, read.tag, lo, min(hi, reply.tail), seqnums, above=above, below=below
        )
        if reply.trim_until:  # of a tag it is kept with the line, which may be new
            self.trim(read.book, read.tag, reply.trim_until)
        self.keep(read, reply)

    def keep(self, read: Read, reply: ReadReply) -> dict[int, CachedRecord]:
        """Caches whole records and aux data; returns the records by seqnum."""
        if read.bytes_start >= 0:
            return {}
        records = cached_records(read.book, reply.payload, reply.tags, reply.timestamps_ms)
        self._cache.add_records(read.space, reply.seqnums, records)
        for seqnum, aux in zip(reply.seqnums, reply.auxes or (), strict=False):
            if aux is not None:
                self._cache.set_aux(read.space, read.book, seqnum, aux)
        return dict(zip(reply.seqnums, records, strict=True))

    def trim(self, book: int, tag: str | None, until: int) -> None:
        """Nothing below is answered any more."""
        self._facts.trim(book, tag, until)
        if self._published is not None:
            self._published.trimmed(book, until)

    def set_aux(self, message: SetAux) -> None:
        """Aux data that a client of this engine has set."""
        self._cache.set_aux(message.space, message.book, message.seqnum, message.aux)
        if self._published is not None:
            self._published.has_aux(message.book, message.seqnum)


def _byte_range(data: Buffer, read: Read) -> Buffer:
    """What a read wants of a record's bytes."""
    if read.bytes_start < 0:
        return data
    until = len(data) if read.bytes_until < 0 else min(read.bytes_until, len(data))
    return memoryview(data)[min(read.bytes_start, until) : until]
