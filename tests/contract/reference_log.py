"""The reference behind the public API: what the contract suite runs against before anything else.

A thin shell: it checks arguments, gives the reference the time, and waits. A session is the number
of changes seen. Usually every read is answered from the newest state; a `lagging` log answers from
the oldest one that the session allows, so a test that passes there asks for no more than promised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

from bokilog import record as checks
from bokilog.client.follow import Turn
from bokilog.errors import Closed, InvalidToken
from bokilog.limits import PAGE_BYTES_DEFAULT, PAGE_RECORDS_DEFAULT
from bokilog.logbook import Log, LogBook, Session
from bokilog.record import (
    BookInfo,
    Buffer,
    CaughtUp,
    Consistency,
    Durability,
    Entry,
    Page,
    Record,
    Tags,
    Trim,
    Unless,
)
from bokilog.reference import ReferenceBook, ReferenceLog

T = TypeVar("T")


class ReferenceSession:
    """The number of changes seen, as a token."""

    def __init__(self, position: int) -> None:
        self.position = position

    @property
    def token(self) -> str:
        return f"reference-{self.position}"

    def merge(self, token: str) -> None:
        self.position = max(self.position, parsed(token))


def parsed(token: str) -> int:
    kind, _, position = token.partition("-") if isinstance(token, str) else ("", "", "")
    if kind != "reference" or not position.isdecimal():
        raise InvalidToken(str(token), "is no token of the reference")
    return int(position)


class AsyncReferenceBook:
    """One LogBook of an `AsyncReferenceLog`, seen through a session."""

    def __init__(self, log: AsyncReferenceLog, name: str, session: ReferenceSession) -> None:
        self._log = log
        self._name = name
        self._session = session

    @property
    def name(self) -> str:
        return self._name

    async def append(
        self,
        data: Buffer,
        tags: Tags = (),
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        entry = Entry(checks.check_data(data), checks.check_tags(tags))
        return (await self.append_batch([entry], unless=unless, key=key, timeout_s=timeout_s)).start

    async def append_batch(
        self,
        entries: Iterable[Entry],
        *,
        unless: Unless | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> range:
        unit = checks.check_unit(entries)
        conditions = checks.check_conditions(unless)
        checks.check_key(key)
        checks.check_duration("timeout_s", timeout_s)
        with self._log.change(self._session) as reference:
            return reference.append(
                self._name, unit, conditions=conditions, key=key, now_ms=now_ms()
            )

    async def read_next(
        self,
        *,
        tag: str | None = None,
        min_seqnum: int = 0,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        checks.check_tag(tag)
        checks.check_seqnum("min_seqnum", min_seqnum)
        _check_read(wait_s, timeout_s, consistency)
        return await self._read(
            lambda b: b.read_next(tag=tag, min_seqnum=min_seqnum), wait_s, consistency
        )

    async def read_prev(
        self,
        *,
        tag: str | None = None,
        max_seqnum: int | None = None,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        checks.check_tag(tag)
        if max_seqnum is not None:
            checks.check_seqnum("max_seqnum", max_seqnum)
        _check_read(wait_s, timeout_s, consistency)
        return await self._read(
            lambda b: b.read_prev(tag=tag, max_seqnum=max_seqnum), wait_s, consistency
        )

    async def read(
        self,
        seqnum: int,
        *,
        wait_s: float = 0,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> Record | None:
        checks.check_seqnum("seqnum", seqnum, least=1)
        _check_read(wait_s, timeout_s, consistency)
        # P28: what is waited for is that the seqnum is ordered, visible or not.
        await self._read(lambda b: seqnum < b.tail or None, wait_s, consistency)
        return self._book("session").read(seqnum)

    async def read_bytes(
        self,
        seqnum: int,
        start: int = 0,
        until: int | None = None,
        *,
        timeout_s: float | None = None,
        consistency: Consistency = "session",
    ) -> bytes | None:
        checks.check_byte_range(start, until)
        found = await self.read(seqnum, timeout_s=timeout_s, consistency=consistency)
        return None if found is None else found.data[start:until]

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
        checks.check_tag(tag)
        checks.check_range(min_seqnum, until)
        checks.check_page(limit, max_bytes)
        _check_read(wait_s, timeout_s, consistency)

        def page(book: ReferenceBook) -> Page:
            return book.read_range(
                tag=tag,
                min_seqnum=min_seqnum,
                until=until,
                limit=limit,
                max_bytes=max_bytes,
                reverse=reverse,
            )

        def some(book: ReferenceBook) -> Page | None:
            found = page(book)
            return found if found.records else None

        return await self._read(some, wait_s, consistency) or page(self._book("session"))

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
        checks.check_range(min_seqnum, until)
        tail = self._book(consistency).tail
        until = max(min_seqnum, tail if until is None else min(until, tail))
        more = True
        while more:
            page = await self.read_range(
                tag=tag, min_seqnum=min_seqnum, until=until, reverse=reverse, timeout_s=timeout_s
            )
            for found in page.records:
                yield found
            more = page.more
            if reverse:
                until = page.next_seqnum
            else:
                min_seqnum = page.next_seqnum

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
        while True:
            page = await self.read_range(tag=tag, min_seqnum=min_seqnum)
            for found in page.records:
                yield found
            min_seqnum = page.next_seqnum
            if not page.more:
                if caught_up:
                    yield CaughtUp(min_seqnum)
                await self.read_range(tag=tag, min_seqnum=min_seqnum, wait_s=3600)

    async def follow_pages(
        self, *, tag: str | None = None, min_seqnum: int = 0
    ) -> AsyncGenerator[Turn, None]:
        """`follow`, in pages of one record."""
        follow = self.follow(tag=tag, min_seqnum=min_seqnum, caught_up=True)
        async with aclosing(follow) as found:
            async for each in found:
                if isinstance(each, CaughtUp):
                    yield Turn([], each.seqnum)
                else:
                    yield Turn([each], None)

    async def tail(self, *, timeout_s: float | None = None) -> int:
        return self._book("linearizable").tail

    async def trim(
        self, until: int, tag: str | None = None, *, timeout_s: float | None = None
    ) -> Trim:
        checks.check_seqnum("until", until)
        checks.check_tag(tag)
        with self._log.change(self._session) as reference:
            return reference.existing(self._name).trim(until, tag=tag, now_ms=now_ms())

    async def hold(
        self, name: str, seqnum: int, ttl_s: float, *, timeout_s: float | None = None
    ) -> None:
        checks.check_hold_name(name)
        checks.check_seqnum("seqnum", seqnum, least=1)
        checks.check_hold_ttl(ttl_s)
        with self._log.change(self._session) as reference:
            reference.existing(self._name).hold(name, seqnum, ttl_s=ttl_s, now_ms=now_ms())

    async def release(self, name: str, *, timeout_s: float | None = None) -> None:
        checks.check_hold_name(name)
        with self._log.change(self._session) as reference:
            reference.existing(self._name).release(name)

    async def set_aux(self, seqnum: int, aux: Buffer, *, timeout_s: float | None = None) -> None:
        checks.check_seqnum("seqnum", seqnum, least=1)
        kept = checks.check_aux(aux)
        with self._log.change(self._session) as reference:
            reference.existing(self._name).set_aux(seqnum, kept)

    async def seqnum_at(self, timestamp_ms: int, *, timeout_s: float | None = None) -> int:
        checks.check_timestamp_ms(timestamp_ms)
        return self._book("session").seqnum_at(timestamp_ms)

    async def info(self, *, timeout_s: float | None = None) -> BookInfo:
        return self._log.newest(self._session).info(self._name)

    def _book(self, consistency: Consistency) -> ReferenceBook:
        return self._log.seen(self._session, consistency).book(self._name)

    async def _read(
        self, find: Callable[[ReferenceBook], T | None], wait_s: float, consistency: Consistency
    ) -> T | None:
        found = find(self._book(consistency))
        if found is not None or not wait_s:
            return found
        try:
            async with asyncio.timeout(wait_s):
                while (found := find(self._book("linearizable"))) is None:
                    await self._log.changed.wait()
        except TimeoutError:
            return find(self._book("linearizable"))
        return found


class AsyncReferenceLog:
    """A `Log` whose cluster is a `ReferenceLog` in memory."""

    def __init__(self, reference: ReferenceLog | None = None, *, lagging: bool = False) -> None:
        self.reference = reference or ReferenceLog()
        self.changed = asyncio.Event()
        self._states = [self.reference.copy()] if lagging else []  # one per position
        self._position = 0
        self._closed = False
        self._session = ReferenceSession(0)

    def book(self, name: str, *, session: Session | None = None) -> AsyncReferenceBook:
        checks.check_book_name(name)
        if session is not None and not isinstance(session, ReferenceSession):
            raise InvalidToken(session.token, "is of another log's session")
        return AsyncReferenceBook(self, name, session or self._session)

    def session(self, token: str | None = None) -> ReferenceSession:
        return ReferenceSession(0 if token is None else parsed(token))

    async def create_book(
        self,
        name: str,
        *,
        durability: Durability = "sync",
        retention_s: float | None = None,
        retention_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> BookInfo:
        checks.check_book_name(name)
        checks.check_durability(durability)
        checks.check_retention(retention_s, retention_bytes)
        with self.change(self._session) as reference:
            return reference.create_book(
                name,
                durability=durability,
                retention_s=retention_s,
                retention_bytes=retention_bytes,
            )

    async def delete_book(self, name: str, *, timeout_s: float | None = None) -> None:
        checks.check_book_name(name)
        with self.change(self._session) as reference:
            reference.delete_book(name)

    async def books(self, *, timeout_s: float | None = None) -> list[BookInfo]:
        return self.newest(self._session).infos()

    async def aclose(self) -> None:
        self._closed = True
        self._wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def seen(self, session: ReferenceSession, consistency: Consistency) -> ReferenceLog:
        """What a read is answered from (P27)."""
        if self._states and consistency == "session" and not self._closed:
            return self._states[session.position]
        return self.newest(session)

    def newest(self, session: ReferenceSession) -> ReferenceLog:
        """Everything up to now, which the session has seen then."""
        if self._closed:
            raise Closed("the log")
        if self.reference.retain(now_ms()):
            self._moved(session)
        session.position = self._position
        return self.reference

    def change(self, session: ReferenceSession) -> Change:
        return Change(self, session)

    def _moved(self, session: ReferenceSession) -> None:
        self._position += 1
        if self._states:
            self._states.append(self.reference.copy())
        session.position = self._position
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Change:
    """One entry of the log, seen by the session that made it also when it was refused."""

    def __init__(self, log: AsyncReferenceLog, session: ReferenceSession) -> None:
        self._log = log
        self._session = session

    def __enter__(self) -> ReferenceLog:
        return self._log.newest(self._session)

    def __exit__(self, *_: object) -> None:
        self._log._moved(self._session)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_read(wait_s: float, timeout_s: float | None, consistency: Consistency) -> None:
    checks.check_wait(wait_s)
    checks.check_duration("timeout_s", timeout_s)
    checks.check_consistency(consistency)


def _is_a_log(log: AsyncReferenceLog) -> Log:
    return log  # holds the adapter to the Protocol, for mypy


def _is_a_logbook(book: AsyncReferenceBook) -> LogBook:
    return book
