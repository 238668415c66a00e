"""Scans and follows: page after page, the next one asked for while the last one is consumed.

Decides where each page starts, when a scan ends, and when a follow has caught up. Invariants: every
visible record of the range is yielded once and in order, or an error says why not; at most one page
is ahead of the consumer; whatever ends the iteration, no request is left behind.

Does not know: typed values, who consumes. A follow is a chain of long polls, so it needs nothing of
the engine that a read does not.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import AsyncGenerator
from typing import Final

from bokilog.client.books import Route
from bokilog.client.core import Book
from bokilog.client.living import is_meant, still_lives
from bokilog.client.node import Client
from bokilog.client.reads import learned
from bokilog.client.replies import looks_deleted, refuse_trimmed
from bokilog.client.requests import Reply
from bokilog.client.session import Session
from bokilog.client.units import NEVER
from bokilog.errors import RemoteProtocolError, Trimmed, UnknownLogBook
from bokilog.limits import NO_END, PAGE_BYTES_DEFAULT
from bokilog.messages import Read, ReadReply
from bokilog.named import NamedTuple
from bokilog.record import Record

PAGE_RECORDS: Final = 1_000
POLL_S: Final = 10.0  # how long the engine is asked to wait for more; each poll moves the start on


class Turn(NamedTuple):
    """What a follow has next."""

    records: list[Record]
    caught_up: int | None
    """The tail at which there was nothing more to yield, unless that was said already."""


class Pages:
    """Asks for pages of one LogBook's range, one ahead."""

    __slots__ = ("_asked", "_client", "_linearizable", "_session", "_tag", "_timeout_s", "route")

    def __init__(
        self,
        client: Client,
        route: Route,
        session: Session,
        *,
        tag: str | None,
        timeout_s: float | None,
        linearizable: bool,
    ) -> None:
        self._client = client
        self.route = route
        self._session = session
        self._tag = tag
        self._timeout_s = timeout_s
        """None: ask until there is an answer, however long that takes."""
        self._linearizable = linearizable
        self._asked: tuple[Read, Future[Reply]] | None = None

    def ask(self, start: int, until: int, *, reverse: bool = False, wait_s: float = 0.0) -> None:
        """Ask for the next page."""
        client, route, now_s = self._client, self.route, self._client.now_s()
        read = Read(
            request=client.new_number(),
            space=route.space,
            book=route.number,
            tag=self._tag,
            start=start,
            until=until,
            limit=PAGE_RECORDS,
            max_bytes=PAGE_BYTES_DEFAULT,
            reverse=reverse,
            position=self._session.position(route.space),
            wait_ms=int(wait_s * 1_000),
            linearizable=self._linearizable,
            bytes_start=-1,
            bytes_until=-1,
        )
        self._linearizable = False  # the first page decides how far the rest goes
        timeout_s = NEVER if self._timeout_s is None else self._timeout_s
        waiter = client.ask(
            read,
            self._session,
            deadline_s=now_s + wait_s + timeout_s,
            timeout_s=timeout_s,
            wait_until_s=now_s + wait_s if wait_s else 0.0,
        )
        self._asked = read, waiter

    async def next(self) -> tuple[ReadReply, list[Record]]:
        """The page that was asked for; the cache has it then."""
        assert self._asked is not None, "a page is asked for before it is awaited"
        read, waiter = self._asked
        reply = await waiter
        self._asked = None
        if not isinstance(reply, ReadReply):
            raise RemoteProtocolError(f"a read was answered by {type(reply).__name__}")
        number, cache = self.route.number, self._client.core.cache
        # A trim that was acknowledged here after the page was answered counts for it too.
        known = max(self._session.trim_until(number), cache.trim_until(number, self._tag))
        records = learned(self._client, self._session, read, reply)
        if known > reply.trim_until:
            reply = reply._replace(trim_until=known)
            records = [record for record in records if record.seqnum >= known]
        return reply, records

    def forget(self) -> None:
        """Nobody consumes any more."""
        if self._asked is not None:
            read, waiter = self._asked
            waiter.cancel()
            self._client.forget(read)


async def scan_pages(
    client: Client,
    book: Book,
    session: Session,
    *,
    tag: str | None,
    min_seqnum: int,
    until: int | None,
    reverse: bool,
    timeout_s: float | None,
    linearizable: bool,
) -> AsyncGenerator[list[Record], None]:
    """The pages of a range, up to the tail known at the first of them."""
    timeout_s = client.timeout_s if timeout_s is None else timeout_s
    while True:
        deadline_s = client.now_s() + timeout_s
        route = await client.find(
            book, session, deadline_s=deadline_s, timeout_s=timeout_s, linearizable=linearizable
        )
        if route is None:
            return
        pages = Pages(
            client, route, session, tag=tag, timeout_s=timeout_s, linearizable=linearizable
        )
        start, end, started = min_seqnum, NO_END if until is None else until, False
        pages.ask(start, end, reverse=reverse)
        try:
            more = True
            while more:
                reply, records = await pages.next()
                refuse_trimmed(reply.trim_until, start, end if end != NO_END else None)
                if not started and looks_deleted(reply):
                    raise Trimmed(reply.trim_until)
                started, more = True, reply.more
                if reverse:
                    end = reply.next_seqnum
                else:
                    start, end = reply.next_seqnum, min(end, reply.tail)
                if more:
                    pages.ask(start, end, reverse=reverse)
                if records:
                    yield records
            return
        except (Trimmed, UnknownLogBook) as error:
            if await is_meant(error, client, book, route, session, timeout_s):
                if started or start or end != NO_END:
                    raise  # an explicit position is behind the trim, from the start or by now
                return  # nothing is kept, and from 0 on that is no error
            if started:  # deleted under way: what was still to come is gone
                raise UnknownLogBook(book.name) from None
            linearizable = True  # the name may be in use again: see whatever ended the old one
        finally:
            pages.forget()


async def follow_turns(
    client: Client, book: Book, session: Session, *, tag: str | None, min_seqnum: int
) -> AsyncGenerator[Turn, None]:
    """Page after page, for ever; of a LogBook that does not exist, from its first record on."""
    start, linearizable, said = min_seqnum, False, False
    while True:
        route = await client.find(
            book,
            session,
            deadline_s=NEVER,
            timeout_s=NEVER,
            wait_until_s=client.now_s() + POLL_S if said else 0.0,
            linearizable=linearizable,
        )
        if route is None:
            if not said:
                said = True
                yield Turn([], max(start, 1))
            continue
        pages = Pages(client, route, session, tag=tag, timeout_s=None, linearizable=linearizable)
        pages.ask(start, NO_END)
        try:
            while True:
                reply, records = await pages.next()
                refuse_trimmed(reply.trim_until, start)
                if looks_deleted(reply) and not await still_lives(
                    client, book, route, session, NEVER
                ):
                    raise UnknownLogBook(book.name)
                start = reply.next_seqnum
                pages.ask(start, NO_END, wait_s=0.0 if reply.more else POLL_S)
                said = said and not records
                caught_up = None if reply.more or said else start
                said = said or caught_up is not None
                if records or caught_up is not None:
                    yield Turn(records, caught_up)
        except (Trimmed, UnknownLogBook) as error:
            if await is_meant(error, client, book, route, session, NEVER):
                raise
            start, linearizable = 0, True  # the next LogBook of that name has its own seqnums
        finally:
            pages.forget()
