"""One LogBook over the network or in this process: the public calls.

Decides for each call of the contract (`bokilog/logbook.py`) what its arguments may be, and which
way it goes: the short one, an append straight into this tick's batch or a record that was read
before, or the one by messages (`lane`, `reads`, `changes`, `follow`). What the short ways need is
kept as attributes of the handle itself: on them one more look into another object can be measured.

Invariants: arguments are checked, and mutable data is copied, before anything else happens; an
append takes its place in the order in its first step, before it waits for anything.

Does not know: messages and how they travel, where LogBooks live, what an answer means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from threading import get_ident
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, overload

from bokilog.client import changes, reads
from bokilog.client.books import Route
from bokilog.client.core import Book
from bokilog.client.follow import Turn, follow_turns, scan_pages
from bokilog.client.lane import Lane
from bokilog.client.living import Asker
from bokilog.client.node import Client
from bokilog.client.reads import read_page
from bokilog.client.replies import refuse_trimmed
from bokilog.client.session import Session
from bokilog.client.spans import bytes_of, first_of, last_of, one, page_of
from bokilog.client.units import NEVER, Unit, Waiter, in_column, unit_digest
from bokilog.columns import Tags as ColumnTags
from bokilog.ids import SYSTEM_SPACE
from bokilog.limits import (
    PAGE_BYTES_DEFAULT,
    PAGE_RECORDS_DEFAULT,
    RECORD_BYTES_MAX,
    TAG_BYTES_MAX,
)
from bokilog.record import (
    BookInfo,
    Buffer,
    CaughtUp,
    Consistency,
    Entry,
    Page,
    Record,
    Tags,
    Trim,
    Unless,
    check_aux,
    check_byte_range,
    check_conditions,
    check_consistency,
    check_data,
    check_duration,
    check_hold_name,
    check_hold_ttl,
    check_key,
    check_page,
    check_range,
    check_seqnum,
    check_tag,
    check_tags,
    check_timestamp_ms,
    check_unit,
    check_wait,
)

if TYPE_CHECKING:
    from bokilog.client.codecs import Codec

T = TypeVar("T")


class ClientLogBook(Generic[T]):
    """One totally ordered log of records, seen through one session.

    The calls, their arguments and errors are those of `bokilog.LogBook`. `T` is what is appended:
    bytes-like data, or with a codec the values of its type.
    """

    __slots__ = (
        "_book",
        "_checked_tags",
        "_client",
        "_codec",
        "_column",
        "_lane",
        "_new_waiter",
        "_plain",
        "_route",
        "_session",
        "_system_tags",
        "_thread",
    )

    def __init__(
        self,
        client: Client,
        book: Book,
        session: Session,
        *,
        codec: Codec[T] | None = None,
        system_tags: bool = False,
    ) -> None:
        self._client = client
        self._book = book
        self._session = session
        self._codec = codec
        self._system_tags = system_tags
        self._route: Route | None = None
        """The one used last: `session` has seen that it exists."""
        self._plain: Route | None = None
        """The same, where data needs no encoding and the usual append can go its short way."""
        self._lane: Lane | None = None
        """Of `_plain`."""
        self._thread = client.thread
        """Where alone it may be used. The running loop would say the same, but takes a system call
        to find (0.2 us); what a look at the thread leaves open, the wake of a tick finds.
        """
        self._checked_tags: Tags = ()
        self._column: ColumnTags = None
        """What `_checked_tags` are in a column."""
        self._new_waiter: Callable[[], asyncio.Future[int]] = client.create_future

    def __repr__(self) -> str:
        return f"<LogBook {self._book.name!r}>"

    @property
    def name(self) -> str:
        """The name given to `Log.book`."""
        return self._book.name

    # --- append -----------------------------------------------------------------------------------

    async def append(
        self,
        data: T,
        tags: Tags = (),
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append one record and return its seqnum, once it is durable in the LogBook's class.

        See `bokilog.LogBook.append`. If cancelled, the append may still be ordered.
        """
        route, lane = self._plain or self._found(), self._lane
        if (
            route is None
            or lane is None
            or not route.live
            or unless is not None
            or key is not None
            or timeout_s is not None
            or not isinstance(data, bytes)
            or len(data) > RECORD_BYTES_MAX
            or get_ident() != self._thread
        ):
            return await self._append(data, tags, unless=unless, key=key, timeout_s=timeout_s)
        column = self._column if tags is self._checked_tags else self._check_tags(tags)
        waiter = self._new_waiter()
        lane.append(route, self._session, data, column, waiter)
        return await waiter

    def _found(self) -> Route | None:
        """Where the LogBook lives, if another handle has found that out: then this one's first
        append goes the short way too."""
        route = self._book.route
        if route is None or not route.live or self._codec is not None:
            return None
        self._check(None)
        self._use(route)
        return self._plain

    def _check_tags(self, tags: Tags) -> ColumnTags:
        """Tags as they stand in a column; the same object is not checked twice in a row."""
        if (
            type(tags) is str
            and tags.isascii()
            and 0 < len(tags) <= TAG_BYTES_MAX
            and tags[0] != "$"
        ):
            column: ColumnTags = tags
        else:
            column = in_column(check_tags(tags, allow_system=self._system_tags))
        if type(tags) is str or type(tags) is tuple:  # a list may have changed by the next time
            self._checked_tags, self._column = tags, column
        return column

    async def _append(
        self,
        data: T,
        tags: Tags,
        *,
        unless: Unless | None,
        key: str | None,
        timeout_s: float | None,
    ) -> int:
        """Any append of one record."""
        self._check(timeout_s)
        encoded = self._encoded(data)
        column = self._check_tags(tags)
        waiter = self._new_waiter()
        self._send([encoded], [column], unless=unless, key=key, timeout_s=timeout_s, waiter=waiter)
        return await waiter

    def append_for(
        self,
        waiter: Waiter,
        data: T,
        tags: Tags = (),
        *,
        unless: Unless | None = None,
        key: str | None = None,
    ) -> None:
        """`append` for those who append many at once, without a future and a task for each.

        What becomes of it is told to `waiter`, as soon as it is known here.

        Raises:
            BokilogError: the arguments are not what `append` takes, or the log is closed.
        """
        self._check(None)
        encoded = self._encoded(data)
        column = self._check_tags(tags)
        self._send([encoded], [column], unless=unless, key=key, timeout_s=None, waiter=waiter)

    async def append_batch(
        self,
        entries: Iterable[Entry[T]],
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> range:
        """Append one unit: contiguous seqnums, all visible or none. Returns them as a `range`.

        See `bokilog.LogBook.append_batch`. If cancelled, the unit may still be ordered.
        """
        self._check(timeout_s)
        unit = check_unit(entries, encode=self._encoded, allow_system=self._system_tags)
        columns = [in_column(tags) for tags in unit.tags]
        waiter = self._new_waiter()
        self._send(unit.datas, columns, unless=unless, key=key, timeout_s=timeout_s, waiter=waiter)
        first = await waiter
        return range(first, first + len(unit.datas))

    def _send(
        self,
        datas: list[bytes],
        tags: list[ColumnTags],
        *,
        unless: Unless | None,
        key: str | None,
        timeout_s: float | None,
        waiter: Waiter,
    ) -> None:
        conditions = check_conditions(unless)
        key = check_key(key)
        unit = Unit(
            datas=datas,
            tags=tags,
            conditions=conditions,
            key=None if key is None else (key, unit_digest(datas, tags)),
            session=self._session,
            waiter=waiter,
            deadline_s=NEVER if timeout_s is None else self._client.deadline(timeout_s)[0],
        )
        route = self._book.route
        if route is not None and route.live:
            self._use(route)
        self._client.append(self._book, unit)

    def _encoded(self, value: object) -> bytes:
        if self._codec is not None:
            return check_data(self._codec.encode(value))  # type: ignore[arg-type]  # user's value
        return check_data(value)

    # --- read -------------------------------------------------------------------------------------

    async def read_next(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The first visible record of `tag` at or after `min_seqnum`, or None."""
        if (
            consistency == "session"
            and not wait_s
            and timeout_s is None
            and type(min_seqnum) is int
            and min_seqnum >= 0
            and (tag is None or type(tag) is str)
        ):
            found = self._known_next(tag, min_seqnum)
            if found is not None:
                return found
        self._check_read(wait_s, timeout_s, consistency)
        tag = check_tag(tag)
        check_seqnum("min_seqnum", min_seqnum)
        if wait_s and consistency == "session":
            found = self._known_next(tag, min_seqnum)
            if found is not None:
                return found
        _, records = await read_page(
            self._asker(),
            first_of(tag, min_seqnum),
            wait_s=wait_s,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        return self._typed(records[0]) if records else None

    def _known_next(self, tag: str | None, min_seqnum: int) -> Record | None:
        route, client = self._route, self._client
        if route is None or not route.live or get_ident() != self._thread:
            return None
        if route.durability != "sync" and not self._counts(route):
            return None
        trim_until = self._session.trim_until(route.number)
        found = client.core.cache.next(route.number, tag, min_seqnum, trim_until)
        return found if found is None or self._codec is None else self._typed(found)

    async def read_prev(
        self,
        *,
        tag: str | None = None,
        max_seqnum: int | None = None,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The last visible record of `tag` at or before `max_seqnum` (None: the newest)."""
        self._check_read(wait_s, timeout_s, consistency)
        tag = check_tag(tag)
        if max_seqnum is not None:
            check_seqnum("max_seqnum", max_seqnum)
        reply, records = await read_page(
            self._asker(),
            last_of(tag, max_seqnum),
            wait_s=wait_s,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        if reply is not None:
            refuse_trimmed(reply.trim_until, max_seqnum)
        return self._typed(records[0]) if records else None

    async def read(
        self,
        seqnum: int,
        *,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        """The record at `seqnum` (from 1); None when no visible record of this LogBook is there.

        Past the known tail it waits up to `wait_s` for that position to be ordered (P28).
        """
        if (
            consistency == "session"
            and not wait_s
            and timeout_s is None
            and type(seqnum) is int
            and (found := self._known(seqnum)) is not None
        ):
            return found
        self._check_read(wait_s, timeout_s, consistency)
        check_seqnum("seqnum", seqnum, least=1)
        if wait_s and consistency == "session" and (found := self._known(seqnum)) is not None:
            return found
        _, records = await read_page(
            self._asker(),
            one(seqnum),
            wait_s=wait_s,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        return self._typed(records[0]) if records else None

    def _known(self, seqnum: int) -> Record | None:
        route, client = self._route, self._client
        if route is None or not route.live or get_ident() != self._thread:
            return None
        if route.durability != "sync" and not self._counts(route):
            return None
        trim_until = self._session.trim_until(route.number)
        core = client.core
        found = core.cache.record(
            route.number, seqnum, trim_until, memory=core.shared, space=route.space
        )
        return found if found is None or self._codec is None else self._typed(found)

    def _counts(self, route: Route) -> bool:
        """Whether what is known here is not lost by now, as the class may (P11, P20)."""
        term = self._session.position(route.space).term
        return self._client.core.cache.counts(route.space, term)

    async def read_bytes(
        self,
        seqnum: int,
        start: int = 0,
        until: int | None = None,
        *,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> bytes | None:
        """The bytes `[start, until)` of one record, cut off at its end; None as in `read`."""
        self._check_read(0, timeout_s, consistency)
        check_seqnum("seqnum", seqnum, least=1)
        check_byte_range(start, until)
        known = self._known(seqnum) if consistency == "session" else None
        if known is not None:
            return known.data[start:until]
        _, records = await read_page(
            self._asker(),
            bytes_of(seqnum, start, until),
            timeout_s=timeout_s,
            consistency=consistency,
        )
        return records[0].data if records else None

    async def read_range(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        limit: int = PAGE_RECORDS_DEFAULT,
        max_bytes: int = PAGE_BYTES_DEFAULT,
        reverse: bool = False,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Page:
        """Some of the visible records of `tag` in `[min_seqnum, until)`, from one of its ends."""
        self._check_read(wait_s, timeout_s, consistency)
        tag = check_tag(tag)
        check_range(min_seqnum, until)
        check_page(limit, max_bytes)
        reply, records = await read_page(
            self._asker(),
            page_of(tag, min_seqnum, until, limit=limit, max_bytes=max_bytes, reverse=reverse),
            wait_s=wait_s,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        if reply is None:
            return Page([], min_seqnum, False)
        refuse_trimmed(reply.trim_until, min_seqnum, until)
        return Page(self._typed_all(records), reply.next_seqnum, reply.more)

    async def scan(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        reverse: bool = False,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> AsyncGenerator[Record, None]:
        """Every visible record of `tag` in `[min_seqnum, until)`, then the end."""
        pages = self.scan_pages(
            tag=tag,
            min_seqnum=min_seqnum,
            until=until,
            reverse=reverse,
            timeout_s=timeout_s,
            consistency=consistency,
        )
        async with aclosing(pages):
            async for records in pages:
                for record in records:
                    yield record

    async def scan_pages(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        until: int | None = None,
        reverse: bool = False,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> AsyncGenerator[list[Record], None]:
        """`scan`, a page at a time."""
        self._check_read(0, timeout_s, consistency)
        tag = check_tag(tag)
        check_range(min_seqnum, until)
        pages = scan_pages(
            self._client,
            self._book,
            self._session,
            tag=tag,
            min_seqnum=min_seqnum,
            until=until,
            reverse=reverse,
            timeout_s=timeout_s,
            linearizable=consistency == "linearizable",
        )
        async with aclosing(pages):
            async for records in pages:
                yield self._typed_all(records)

    @overload
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: Literal[False] = False
    ) -> AsyncGenerator[Record, None]: ...
    @overload
    def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: Literal[True]
    ) -> AsyncGenerator[Record | CaughtUp, None]: ...
    async def follow(
        self, *, tag: str | None = None, min_seqnum: int = 0, caught_up: bool = False
    ) -> AsyncGenerator[Record | CaughtUp, None]:
        """Every visible record of `tag` from `min_seqnum` on, for ever, in order, without gaps."""
        pages = self.follow_pages(tag=tag, min_seqnum=min_seqnum)
        async with aclosing(pages):
            async for records, seqnum in pages:
                for record in records:
                    yield record
                if caught_up and seqnum is not None:
                    yield CaughtUp(seqnum)

    async def follow_pages(
        self, *, tag: str | None = None, min_seqnum: int = 0
    ) -> AsyncGenerator[Turn, None]:
        """`follow`, a page at a time."""
        self._check(None)
        tag = check_tag(tag)
        check_seqnum("min_seqnum", min_seqnum)
        turns = follow_turns(
            self._client, self._book, self._session, tag=tag, min_seqnum=min_seqnum
        )
        async with aclosing(turns):
            async for turn in turns:
                if self._codec is None:
                    yield turn
                else:
                    yield turn._replace(records=self._typed_all(turn.records))

    # --- the rest ---------------------------------------------------------------------------------

    async def tail(self, *, timeout_s: float | None = None) -> int:
        """The first seqnum not yet ordered: greater than that of every acknowledged record."""
        self._check(timeout_s)
        return await reads.tail(self._asker(), timeout_s=timeout_s)

    async def trim(
        self, until: int, tag: str | None = None, *, timeout_s: float | None = None
    ) -> Trim:
        """Let go of what lies below `until`, for the whole LogBook or for one tag."""
        check_seqnum("until", until)
        tag = check_tag(tag)
        self._check(timeout_s)
        return await changes.trim(self._asker(), until, tag, timeout_s=timeout_s)

    async def hold(
        self, name: str, seqnum: int, ttl_s: float, *, timeout_s: float | None = None
    ) -> None:
        """Keep trims from passing `seqnum` for `ttl_s` seconds of the log's own time."""
        name = check_hold_name(name)
        check_seqnum("seqnum", seqnum, least=1)
        check_hold_ttl(ttl_s)
        self._check(timeout_s)
        await changes.hold(self._asker(), name, seqnum, ttl_s, timeout_s=timeout_s)

    async def release(self, name: str, *, timeout_s: float | None = None) -> None:
        """End a hold; one that does not exist is no error."""
        name = check_hold_name(name)
        self._check(timeout_s)
        await changes.release(self._asker(), name, timeout_s=timeout_s)

    async def set_aux(self, seqnum: int, aux: Buffer, *, timeout_s: float | None = None) -> None:
        """Keep up to 64 KiB of derived bytes beside a record, best effort; the last set stays."""
        check_seqnum("seqnum", seqnum, least=1)
        kept = check_aux(aux)
        self._check(timeout_s)
        await changes.set_aux(self._asker(), seqnum, kept, timeout_s=timeout_s)

    async def seqnum_at(self, timestamp_ms: int, *, timeout_s: float | None = None) -> int:
        """The first kept record ordered at or after that time; the tail when there is none."""
        check_timestamp_ms(timestamp_ms)
        self._check(timeout_s)
        return await reads.seqnum_at(self._asker(), timestamp_ms, timeout_s=timeout_s)

    async def info(self, *, timeout_s: float | None = None) -> BookInfo:
        """What is known of the LogBook now.

        Raises:
            UnknownLogBook: there is none of that name.
        """
        self._check(timeout_s)
        return await reads.info(self._asker(), timeout_s=timeout_s)

    # --- pieces -----------------------------------------------------------------------------------

    def _asker(self) -> Asker:
        """For a question that only the engine can answer."""
        return Asker(self._client, self._book, self._session, self._route, self._use)

    def _use(self, route: Route) -> None:
        """From now on this handle's session has seen that the LogBook exists."""
        if self._client.refused:
            return  # a call that came before the end; the short ways stay closed to later ones
        if route is not self._route:
            self._session.observe(SYSTEM_SPACE, route.seen_at)
            self._route = route
        if self._codec is None and route is self._book.route and route is not self._plain:
            self._plain, self._lane = route, self._client.core.lane(route.space)

    def _typed(self, record: Record) -> Record:
        """A copy that decodes its value: the cached one is shared with other handles."""
        codec = self._codec
        if codec is None:
            return record
        copied = Record(record.seqnum, record.data, record.tags, record.timestamp_ms, record.aux)
        return copied.typed(codec.decode)

    def _typed_all(self, records: list[Record]) -> list[Record]:
        return records if self._codec is None else [self._typed(record) for record in records]

    def _check(self, timeout_s: float | None) -> None:
        check_duration("timeout_s", timeout_s)
        self._client.check()
        self._client.core.check(self._session)

    def _check_read(self, wait_s: float, timeout_s: float | None, consistency: Consistency) -> None:
        check_wait(wait_s)
        check_consistency(consistency)
        self._check(timeout_s)
