"""The executable specification: a whole log of LogBooks in plain synchronous code.

Decides nothing of its own: it is the LogBook contract and those rules (P5, P10, P22, P25, P27) that
a user can observe, written to be read and run. Implementations are compared with it.

It has one copy of everything, no frames, no replicas and no failures, and takes arguments that went
through the checks of `bokilog/record.py`. Two things differ between right implementations, so they
are arguments here: `seqnum`, where a unit landed (seqnums have gaps; None: the next free one), and
`now_ms`, the timestamp of the cut, trim or hold. A read with a session's token P may be answered by
the log as it was at any position from P to now (P27): compare with the copies (`copy`) in between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

from bokilog.errors import (
    ConditionFailed,
    KeyReused,
    LogBookConflict,
    TagsEnded,
    Trimmed,
    UnknownLogBook,
)
from bokilog.limits import KEY_HORIZON_S, PAGE_BYTES_DEFAULT, PAGE_RECORDS_DEFAULT
from bokilog.record import BookInfo, Conditions, Durability, Page, Record, Trim, Unit


class KeyUse(NamedTuple):
    """What a key's verdict stores: where its unit stands, what it was, and when it was ordered."""

    span: range
    content: tuple[object, ...]  # an implementation keeps a 128-bit hash of it
    ordered_ms: int


class Hold(NamedTuple):
    """Trims stop at `seqnum` while the log's time is below `expires_ms`."""

    seqnum: int
    expires_ms: int


class ReferenceBook:
    """One incarnation of a LogBook; number 0 stands for one that does not exist, and is empty."""

    def __init__(
        self,
        number: int = 0,
        durability: Durability = "sync",
        tail: int = 1,
        *,
        retention_s: float | None = None,
        retention_bytes: int | None = None,
    ) -> None:
        self.number = number
        self.durability: Durability = durability
        self.retention_s = retention_s
        self.retention_bytes = retention_bytes
        self.tail = tail  # first seqnum not yet ordered; grows by appends to other LogBooks too
        self.records: list[Record] = []  # all that were ever visible, by seqnum
        self.last: dict[
            str | None, int
        ] = {}  # last visible seqnum per tag (None: of all); survives
        self.keys: dict[str, KeyUse] = {}
        self.trims: dict[
            str | None, int
        ] = {}  # first kept seqnum, of the LogBook (None) and by tag
        self.holds: dict[str, Hold] = {}
        self.ended: list[str] = []  # prefixes of tags that their library has ended
        self.time_ms = 0

    # --- append (P22) ---

    def append(
        self,
        unit: Unit,
        *,
        conditions: Conditions = (),
        key: str | None = None,
        now_ms: int = 0,
        seqnum: int | None = None,
    ) -> range:
        """Order one unit and decide it: its span, or the error that says why it is void."""
        span = self._order(len(unit.datas), now_ms, seqnum)
        content = (*unit.datas, *unit.tags)  # of what a key remembers, conditions are no part
        if key is not None and key in self.keys:  # the key is decided first
            first = self.keys[key]
            if first.content != content:
                raise KeyReused(key, first.span.start)
            return first.span
        self._decide(unit, conditions)
        if key is not None:  # only here: a void unit does not use up its key
            self.keys[key] = KeyUse(span, content, self.time_ms)
        for number, data, tags in zip(span, unit.datas, unit.tags, strict=True):
            self.records.append(Record(number, data, tags, self.time_ms, None))
            self.last.update(dict.fromkeys((None, *tags), number))
        return span

    def _order(self, count: int, now_ms: int, seqnum: int | None) -> range:
        """Give a unit its contiguous seqnums; it keeps them if it is void, and nobody sees them."""
        start = self.tail if seqnum is None else seqnum
        assert start >= self.tail, f"seqnum {start} is ordered already, the tail is {self.tail}"
        self.tail = start + count
        self.time_ms = max(self.time_ms, now_ms)  # P10: timestamps never go back
        return range(start, start + count)

    def _decide(self, unit: Unit, conditions: Conditions) -> None:
        """Void or visible, from the state before the unit's first record (P22)."""
        named = [tag for tags in unit.tags for tag in tags] + [tag for tag, _ in conditions if tag]
        for prefix in self.ended:
            if any(tag.startswith(prefix) for tag in named):
                raise TagsEnded(prefix)
        for tag, after in conditions:
            winner = self.last.get(tag, 0)
            if winner > after:
                raise ConditionFailed(tag, winner)

    def forget_keys(self, now_ms: int, *, horizon_s: float = KEY_HORIZON_S) -> None:
        """Forget the keys whose horizon has passed by the log's time (P22)."""
        kept = {
            k: use for k, use in self.keys.items() if now_ms < use.ordered_ms + horizon_s * 1000
        }
        self.keys = kept

    def end_tags(self, prefix: str) -> None:
        """From here on, units that write or test a tag under `prefix` are void (P22)."""
        self.ended.append(prefix)

    # --- trims and holds (P25) ---

    def trim(self, until: int, *, tag: str | None = None, now_ms: int = 0) -> Trim:
        """Move a trim forward, as far as the tail and the lowest live hold let it."""
        self.time_ms = max(self.time_ms, now_ms)
        until = min(until, self.tail)
        if until <= self.trim_until(tag):
            return Trim(self.trim_until(tag), None)
        live = [(h.seqnum, name) for name, h in self.holds.items() if h.expires_ms > self.time_ms]
        lowest, held_by = min(live, default=(until, None))
        if lowest >= until:
            lowest, held_by = until, None
        self.trims[tag] = max(self.trims.get(tag, 0), lowest)
        return Trim(self.trim_until(tag), held_by)

    def retain(self, now_ms: int) -> None:
        """Let go of what retention covers: a trim by the service, like any other.

        An implementation may do it later, and keep a 256th more bytes; never earlier, nor fewer.
        """
        due = 0
        if self.retention_s is not None:
            due = self.seqnum_at(now_ms - int(self.retention_s * 1000))
        if self.retention_bytes is not None:
            kept_bytes = 0
            for record in reversed(self.visible(None, 0, self.tail)):
                if kept_bytes >= self.retention_bytes:
                    due = max(due, record.seqnum + 1)
                    break
                kept_bytes += len(record.data)
        self.trim(due, now_ms=now_ms)

    def hold(self, name: str, seqnum: int, *, ttl_s: float, now_ms: int = 0) -> None:
        """Keep trims from passing `seqnum`; the same name again moves and renews the hold."""
        self.time_ms = max(self.time_ms, now_ms)
        if seqnum < self.trim_until(None):
            raise Trimmed(self.trim_until(None))
        self.holds[name] = Hold(seqnum, self.time_ms + int(ttl_s * 1000))

    def release(self, name: str) -> None:
        """End a hold, if there is one of that name."""
        self.holds.pop(name, None)

    def trim_until(self, tag: str | None) -> int:
        """What readers of `tag` (None: of every record) see as the first kept seqnum."""
        return max(self.trims.get(None, 0), self.trims.get(tag, 0))

    def _gone(self, record: Record) -> bool:
        """Covered by the LogBook's trim, or it has tags and every one is trimmed past it."""
        if record.seqnum < self.trims.get(None, 0):
            return True
        return bool(record.tags) and all(record.seqnum < self.trims.get(t, 0) for t in record.tags)

    def _refuse_trimmed(self, tag: str | None, *positions: int | None) -> None:
        """An explicit position behind a trim is an error; 0 and None are not explicit."""
        for position in positions:
            if position and position < self.trim_until(tag):
                raise Trimmed(self.trim_until(tag))

    # --- reads ---

    def visible(self, tag: str | None, start: int, until: int) -> list[Record]:
        """The records that readers of `tag` find in `[start, until)`."""
        start = max(start, self.trim_until(tag))
        first = bisect_left(self.records, start, key=lambda record: record.seqnum)
        after = bisect_left(self.records, until, key=lambda record: record.seqnum)
        return [
            record
            for record in self.records[first:after]
            if (tag is None or tag in record.tags) and not self._gone(record)
        ]

    def read_next(self, *, tag: str | None = None, min_seqnum: int = 0) -> Record | None:
        """First visible record at or after `min_seqnum`; 0: the first kept one."""
        self._refuse_trimmed(tag, min_seqnum)
        return next(iter(self.visible(tag, min_seqnum, self.tail)), None)

    def read_prev(self, *, tag: str | None = None, max_seqnum: int | None = None) -> Record | None:
        """Last visible record at or before `max_seqnum`; None: the newest one."""
        self._refuse_trimmed(tag, max_seqnum)
        until = self.tail if max_seqnum is None else max_seqnum + 1
        return next(reversed(self.visible(tag, 0, until)), None)

    def read(self, seqnum: int) -> Record | None:
        """The visible record at `seqnum`, if one stands there."""
        self._refuse_trimmed(None, seqnum)
        return next(iter(self.visible(None, seqnum, seqnum + 1)), None)

    def read_range(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        limit: int = PAGE_RECORDS_DEFAULT,
        max_bytes: int = PAGE_BYTES_DEFAULT,
        reverse: bool = False,
    ) -> Page:
        """The longest page that fits; others may be shorter, even empty, with `more`."""
        self._refuse_trimmed(tag, min_seqnum, until)
        end = self.tail if until is None else min(until, self.tail)
        found = self.visible(tag, min_seqnum, end)
        if reverse:
            found.reverse()
        taken = _fitting(found, limit, max_bytes)
        more = len(taken) < len(found)
        if more:
            next_seqnum = taken[-1].seqnum + (0 if reverse else 1)
        else:
            next_seqnum = min_seqnum if reverse else max(min_seqnum, end)
        return Page(taken, next_seqnum, more)

    def seqnum_at(self, timestamp_ms: int) -> int:
        """First kept record ordered at or after that time; the tail when there is none."""
        late = (
            r.seqnum for r in self.visible(None, 0, self.tail) if r.timestamp_ms >= timestamp_ms
        )
        return next(late, self.tail)

    def set_aux(self, seqnum: int, aux: bytes) -> None:
        """Keep derived bytes beside a visible record."""
        for index, record in enumerate(self.records):
            if record.seqnum == seqnum and not self._gone(record):
                self.records[index] = Record(
                    seqnum, record.data, record.tags, record.timestamp_ms, aux
                )

    def copy(self) -> ReferenceBook:
        """The LogBook as it is now, untouched by what happens later."""
        copied = ReferenceBook(
            self.number,
            self.durability,
            self.tail,
            retention_s=self.retention_s,
            retention_bytes=self.retention_bytes,
        )
        copied.records, copied.ended = list(self.records), list(self.ended)
        copied.last, copied.keys = dict(self.last), dict(self.keys)
        copied.trims, copied.holds = dict(self.trims), dict(self.holds)
        copied.time_ms = self.time_ms
        return copied


class ReferenceLog:
    """A log space with all its LogBooks: they share one line of seqnums, hence the gaps."""

    def __init__(self) -> None:
        self.tail = 1
        self.books: dict[str, ReferenceBook] = {}
        self.numbers_given = 0  # an incarnation's number is never used again

    def book(self, name: str) -> ReferenceBook:
        """The LogBook to read from; an empty one when there is none (P5)."""
        book = self.books.get(name) or ReferenceBook()
        book.tail = self.tail
        return book

    def existing(self, name: str) -> ReferenceBook:
        """The LogBook to change, unless there is none."""
        if name not in self.books:
            raise UnknownLogBook(name)
        return self.book(name)

    def append(
        self,
        name: str,
        unit: Unit,
        *,
        conditions: Conditions = (),
        key: str | None = None,
        now_ms: int = 0,
        seqnum: int | None = None,
    ) -> range:
        """Append to a LogBook, which its first append creates."""
        if name not in self.books:
            self.create_book(name)
        book = self.book(name)
        try:
            return book.append(unit, conditions=conditions, key=key, now_ms=now_ms, seqnum=seqnum)
        finally:
            self.tail = book.tail

    def create_book(
        self,
        name: str,
        *,
        durability: Durability = "sync",
        retention_s: float | None = None,
        retention_bytes: int | None = None,
    ) -> BookInfo:
        """Create a LogBook; again with the same properties is no error."""
        wanted = ReferenceBook(
            self.numbers_given + 1,
            durability,
            retention_s=retention_s,
            retention_bytes=retention_bytes,
        )
        if name not in self.books:
            self.numbers_given += 1
            self.books[name] = wanted
        for field in ("durability", "retention_s", "retention_bytes"):
            existing, requested = getattr(self.books[name], field), getattr(wanted, field)
            if existing != requested:
                raise LogBookConflict(name, field, str(existing), str(requested))
        return self.info(name)

    def retain(self, now_ms: int) -> bool:
        """Let go of what the LogBooks' retention covers by now; whether that was anything."""
        moved = False
        for name, book in self.books.items():
            if book.retention_s is not None or book.retention_bytes is not None:
                before = book.trim_until(None)
                self.book(name).retain(now_ms)
                moved |= book.trim_until(None) > before
        return moved

    def delete_book(self, name: str) -> None:
        """Forget a LogBook and all it holds; its seqnums are never used again."""
        self.existing(name)
        del self.books[name]

    def info(self, name: str) -> BookInfo:
        """What is known of a LogBook."""
        book = self.existing(name)
        return BookInfo(
            book=name,
            number=book.number,
            durability=book.durability,
            retention_s=book.retention_s,
            retention_bytes=book.retention_bytes,
            key_horizon_s=KEY_HORIZON_S,
            trim_until=book.trim_until(None),
            tail=self.tail,
        )

    def infos(self) -> list[BookInfo]:
        """All LogBooks, by name."""
        return [self.info(name) for name in sorted(self.books)]

    def copy(self) -> ReferenceLog:
        """The log at this position, to answer for sessions that have seen no more."""
        copied = ReferenceLog()
        copied.tail, copied.numbers_given = self.tail, self.numbers_given
        copied.books = {name: book.copy() for name, book in self.books.items()}
        return copied


def _fitting(records: Iterable[Record], limit: int, max_bytes: int) -> list[Record]:
    """As many as the page holds; the first one always."""
    taken: list[Record] = []
    size_bytes = 0
    for record in records:
        size_bytes += len(record.data)
        if taken and (len(taken) == limit or size_bytes > max_bytes):
            break
        taken.append(record)
    return taken
