"""The system LogBook at work: finding, creating, deleting and listing LogBooks (P5).

Decides in which order records are read and appended there. A LogBook is created and deleted by a
conditional append on its name's tag, so of several at once one wins and the others read the winner.
Invariants: a lost answer is settled by reading again, since an attempt that came through late fails
its own condition; nobody is told that a LogBook is deleted before its log space knows.

Does not know: names' handles, caches, callers.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Protocol

from bokilog.client.books import (
    BOOKS_TAG,
    SYSTEM_ROUTE,
    Created,
    Deleted,
    Route,
    decode,
    encode_created,
    encode_deleted,
    name_tag,
    space_of,
)
from bokilog.client.requests import Query, wait_ms
from bokilog.client.session import Session
from bokilog.client.units import Unit
from bokilog.columns import Tags
from bokilog.errors import (
    AppendUnknown,
    ConditionFailed,
    NotReady,
    RemoteProtocolError,
    UnknownLogBook,
)
from bokilog.ids import SYSTEM_BOOK, SYSTEM_SPACE
from bokilog.limits import PAGE_BYTES_DEFAULT, SEQNUM_MAX
from bokilog.messages import BookState, Propose, Read, ReadReply, TailRequest
from bokilog.metalog import DeleteBook, Proposer, Retain
from bokilog.named import NamedTuple
from bokilog.record import BookInfo, Conditions

PAGE_RECORDS = 1_000
NOBODY = Proposer(0, 0)
"""The engine puts its own name here."""


class Asker(Protocol):
    """What is needed of a client: its node is one."""

    @property
    def spaces(self) -> Sequence[Sequence[object]]: ...
    @property
    def system_session(self) -> Session: ...
    def now_s(self) -> float: ...
    def new_number(self) -> int: ...
    def new_waiter(self) -> Future[int]: ...
    def deadline(self, timeout_s: float | None) -> tuple[float, float]: ...
    def deletion_met(self, number: int) -> None: ...
    def deletion_told(self, number: int) -> None: ...
    async def append_to(self, route: Route, unit: Unit, waiter: Future[int]) -> int: ...
    async def read(
        self,
        read: Read,
        session: Session,
        *,
        deadline_s: float,
        timeout_s: float,
        wait_until_s: float = 0.0,
    ) -> ReadReply: ...
    async def values(
        self, query: Query, session: Session, *, deadline_s: float, timeout_s: float
    ) -> list[object]: ...
    async def tail(
        self, query: Query, session: Session, *, deadline_s: float, timeout_s: float
    ) -> int: ...


class Newest(NamedTuple):
    """The newest record of a name."""

    seqnum: int
    """0: there never was one."""
    said: Created | Deleted | None


async def find(
    client: Asker,
    name: str,
    session: Session,
    *,
    deadline_s: float,
    timeout_s: float,
    wait_until_s: float,
    linearizable: bool,
) -> Route | None:
    """The LogBook's route; None if there is none, also by `wait_until_s`."""
    while True:
        newest = await _newest(
            client,
            name,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            linearizable=linearizable,
        )
        if isinstance(newest.said, Created):
            return _route(client, newest.seqnum, newest.said, session)
        if wait_until_s <= client.now_s():
            return None
        read = _read(client, name_tag(name), session, start=newest.seqnum + 1)
        read = read._replace(wait_ms=wait_ms(wait_until_s, client.now_s()))
        await client.read(
            read, session, deadline_s=deadline_s, timeout_s=timeout_s, wait_until_s=wait_until_s
        )


async def lives(
    client: Asker, route: Route, session: Session, *, deadline_s: float, timeout_s: float
) -> bool:
    """Whether this incarnation is still the LogBook of its name, linearizably."""
    newest = await _newest(
        client,
        route.name,
        session,
        deadline_s=deadline_s,
        timeout_s=timeout_s,
        linearizable=True,
    )
    return isinstance(newest.said, Created) and newest.seqnum == route.number


async def find_or_create(
    client: Asker,
    created: Created,
    session: Session,
    *,
    gone: int = 0,
    deadline_s: float,
    timeout_s: float,
) -> Route:
    """The LogBook's route; if there is none, it is created with these properties.

    Args:
        client: asks.
        created: its name, and the properties that it gets.
        session: what is read has to have seen it.
        gone: an incarnation of which its log space said that it is deleted. Where records were
            given up (P15) that of the deletion may be among them: it is made again.
        deadline_s: by the client's clock.
        timeout_s: what errors say.

    Raises:
        NotSupported: there is no log space of that class.
        NotReady: it could not be done in time.
    """
    space_of(1, created.durability, client.spaces)
    while True:
        newest = await _newest(
            client,
            created.name,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            linearizable=gone > 0,
        )
        if isinstance(newest.said, Created) and newest.seqnum != gone:
            return _route(client, newest.seqnum, newest.said, session)
        unrecorded = isinstance(newest.said, Created)
        if isinstance(newest.said, Deleted):
            # Nobody meets that deletion here any more once the name is used again: so whoever reads
            # or follows that LogBook can know before (P5).
            gone = newest.said.number
            await _tell_space(client, gone, session, deadline_s=deadline_s, timeout_s=timeout_s)
        tag = name_tag(created.name)
        try:
            number = await _append(
                client,
                encode_deleted(Deleted(gone)) if unrecorded else encode_created(created),
                tag,
                session,
                conditions=((tag, newest.seqnum),),
                deadline_s=deadline_s,
            )
        except ConditionFailed:
            continue  # somebody else did: read what it is
        except AppendUnknown as error:
            if client.now_s() >= deadline_s:
                raise NotReady(f"LogBook {created.name!r} was not created: {error}") from error
            continue  # the next look tells; both attempts cannot come through
        if not unrecorded:
            return _route(client, number, created, session)


async def retain(
    client: Asker, route: Route, session: Session, *, deadline_s: float, timeout_s: float
) -> None:
    """Tell a LogBook's log space what it keeps; when this returns it knows. Idempotent."""
    entry = Retain(
        timestamp_ms=0,
        book=route.number,
        retention_ms=int((route.retention_s or 0) * 1000),
        retention_bytes=route.retention_bytes or 0,
        proposer=NOBODY,
    )
    proposal = Propose(client.new_number(), route.space, entry)
    await client.values(proposal, session, deadline_s=deadline_s, timeout_s=timeout_s)


async def retain_again(client: Asker, route: Route) -> None:
    """The same, in case whoever created the LogBook could not, or its log space started over."""
    deadline_s, timeout_s = client.deadline(None)
    session = client.system_session
    await retain(client, route, session, deadline_s=deadline_s, timeout_s=timeout_s)


async def delete(
    client: Asker, name: str, session: Session, *, deadline_s: float, timeout_s: float
) -> Route:
    """Delete the LogBook; when this returns its log space knows.

    Raises:
        UnknownLogBook: there is none.
    """
    tag, deleted = name_tag(name), 0
    while True:
        newest = await _newest(
            client, name, session, deadline_s=deadline_s, timeout_s=timeout_s, linearizable=True
        )
        if isinstance(newest.said, Deleted) and newest.said.number == deleted:
            break  # our own attempt, whose answer was lost
        if not isinstance(newest.said, Created):
            raise UnknownLogBook(name)
        if deleted and newest.seqnum != deleted:
            break  # ours came through, and the name has been used again since
        try:
            await _append(
                client,
                encode_deleted(Deleted(newest.seqnum)),
                tag,
                session,
                conditions=((tag, newest.seqnum),),
                deadline_s=deadline_s,
            )
        except ConditionFailed:
            continue
        except AppendUnknown:
            if client.now_s() >= deadline_s:
                raise
            deleted = newest.seqnum
            continue
        deleted = newest.seqnum
        break
    return await _tell_space(client, deleted, session, deadline_s=deadline_s, timeout_s=timeout_s)


async def delete_again(client: Asker, number: int) -> None:
    """Tell the log space of a deleted LogBook, in case whoever deleted it could not."""
    deadline_s, timeout_s = client.deadline(None)
    session = client.system_session
    await _tell_space(client, number, session, deadline_s=deadline_s, timeout_s=timeout_s)


async def all_routes(
    client: Asker, session: Session, *, deadline_s: float, timeout_s: float
) -> list[Route]:
    """Every LogBook there is, by name."""
    routes: dict[int, Route] = {}
    start, more = 0, True
    while more:
        read = _read(client, BOOKS_TAG, session, start=start)
        read = read._replace(
            limit=PAGE_RECORDS, max_bytes=PAGE_BYTES_DEFAULT, linearizable=not start
        )
        reply = await client.read(read, session, deadline_s=deadline_s, timeout_s=timeout_s)
        for seqnum, data in zip(reply.seqnums, reply.payload, strict=True):
            said = decode(bytes(data))
            if isinstance(said, Deleted):
                routes.pop(said.number, None)
            else:
                routes[seqnum] = _route(client, seqnum, said, session)
        start, more = reply.next_seqnum, reply.more
    return sorted(routes.values(), key=lambda route: route.name)


async def info(
    client: Asker, route: Route, session: Session, *, deadline_s: float, timeout_s: float
) -> BookInfo:
    """What is known of a LogBook now."""
    position = session.position(route.space)
    state = BookState(client.new_number(), route.space, route.number, position, False)
    values = await client.values(state, session, deadline_s=deadline_s, timeout_s=timeout_s)
    request = TailRequest(client.new_number(), route.space)
    tail = await client.tail(request, session, deadline_s=deadline_s, timeout_s=timeout_s)
    if len(values) < 3 or type(values[0]) is not int:
        raise RemoteProtocolError(f"info was answered by {values!r:.80}")
    if (
        values[0]
        and not values[2]
        and not await lives(client, route, session, deadline_s=deadline_s, timeout_s=timeout_s)
    ):
        raise UnknownLogBook(route.name)  # trimmed, but never written: perhaps it is deleted
    return BookInfo(
        book=route.name,
        number=route.number,
        durability=route.durability,
        retention_s=route.retention_s,
        retention_bytes=route.retention_bytes,
        key_horizon_s=route.key_horizon_s,
        trim_until=values[0],
        tail=tail,
    )


async def _newest(
    client: Asker,
    name: str,
    session: Session,
    *,
    deadline_s: float,
    timeout_s: float,
    linearizable: bool = False,
) -> Newest:
    read = _read(client, name_tag(name), session)
    read = read._replace(reverse=True, linearizable=linearizable)
    reply = await client.read(read, session, deadline_s=deadline_s, timeout_s=timeout_s)
    newest = _first(reply)
    if isinstance(newest.said, Deleted):
        client.deletion_met(newest.said.number)
    return newest


async def _tell_space(
    client: Asker, number: int, session: Session, *, deadline_s: float, timeout_s: float
) -> Route:
    """Propose the deletion to the log space that the creation record names; idempotent."""
    read = _read(client, None, session, start=number)._replace(until=number + 1)
    reply = await client.read(read, session, deadline_s=deadline_s, timeout_s=timeout_s)
    said = _first(reply).said
    if not isinstance(said, Created):
        raise RemoteProtocolError(f"seqnum {number} of the system LogBook is no creation")
    route = _route(client, number, said, session)
    entry = DeleteBook(0, number, NOBODY)
    proposal = Propose(client.new_number(), route.space, entry)
    await client.values(proposal, session, deadline_s=deadline_s, timeout_s=timeout_s)
    client.deletion_told(number)
    return route


async def _append(
    client: Asker,
    data: bytes,
    tag: str,
    session: Session,
    *,
    conditions: Conditions,
    deadline_s: float,
) -> int:
    tags: list[Tags] = [[tag, BOOKS_TAG]]
    waiter = client.new_waiter()
    unit = Unit(
        datas=[data],
        tags=tags,
        conditions=conditions,
        key=None,
        session=session,
        waiter=waiter,
        deadline_s=deadline_s,
    )
    return await client.append_to(SYSTEM_ROUTE, unit, waiter)


def _read(client: Asker, tag: str | None, session: Session, *, start: int = 0) -> Read:
    return Read(
        request=client.new_number(),
        space=SYSTEM_SPACE,
        book=SYSTEM_BOOK,
        tag=tag,
        start=start,
        until=SEQNUM_MAX + 1,
        limit=1,
        max_bytes=PAGE_BYTES_DEFAULT,
        reverse=False,
        position=session.position(SYSTEM_SPACE),
        wait_ms=0,
        linearizable=False,
        bytes_start=-1,
        bytes_until=-1,
    )


def _first(reply: ReadReply) -> Newest:
    if not reply.seqnums:
        return Newest(0, None)
    return Newest(reply.seqnums[0], decode(bytes(reply.payload[0])))


def _route(client: Asker, number: int, said: Created, session: Session) -> Route:
    return Route(
        name=said.name,
        number=number,
        space=space_of(number, said.durability, client.spaces),
        durability=said.durability,
        key_horizon_s=said.key_horizon_s,
        retention_s=said.retention_s,
        retention_bytes=said.retention_bytes,
        seen_at=session.position(SYSTEM_SPACE),
    )
