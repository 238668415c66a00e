"""What is asked of a LogBook and changes nothing: pages of records, its tail, its times, its state.

Decides how a question becomes messages, when a wait goes on although the engine has ended it, what
an answer says to a caller whose LogBook does not exist, and what is learned from it besides.
Invariants: a page is learned by the cache, and its trim by the session, before the caller has it; a
wait ends with a record, with the end of what could bring one, or with its budget.

Does not know: arguments and their checks, values of a type, which LogBook of a name answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from bokilog.client import routing
from bokilog.client.books import Route
from bokilog.client.living import Asker, ask_existing, ask_living
from bokilog.client.node import Client
from bokilog.client.replies import looks_deleted, records_of, refuse_trimmed
from bokilog.client.requests import wait_ms
from bokilog.client.session import Session
from bokilog.client.spans import Span, first_of
from bokilog.errors import RemoteProtocolError, Trimmed
from bokilog.messages import Read, ReadReply, SeqnumAt, TailRequest
from bokilog.record import BookInfo, Consistency, Record

NOTHING_YET: Final = 1
"""Tail of a LogBook that does not exist: at or below every seqnum it may ever have."""
_EARLY_S: Final = 0.01  # between two asks of an engine that ends a wait before its time


async def read_page(
    asker: Asker,
    span: Span,
    *,
    wait_s: float = 0.0,
    timeout_s: float | None = None,
    consistency: Consistency = "session",
) -> tuple[ReadReply | None, list[Record]]:
    """Ask for a page; a reply of None: there is no such LogBook.

    Raises:
        Trimmed: the span's explicit start is behind a trim.
    """
    client, session = asker.client, asker.session
    linearizable = consistency == "linearizable"
    deadline_s, timeout_s = client.deadline(timeout_s, wait_s)
    wait_until_s = client.now_s() + wait_s if wait_s else 0.0
    tag, start, until, limit, max_bytes, reverse, bytes_start, bytes_until = span

    read: Read | None = None

    def ask(route: Route) -> Awaitable[ReadReply]:
        nonlocal read
        read = Read(
            client.new_number(),
            route.space,
            route.number,
            tag,
            start,
            until,
            limit,
            max_bytes,
            reverse,
            session.position(route.space),
            wait_ms(wait_until_s, client.now_s()),
            linearizable,
            bytes_start,
            bytes_until,
        )
        return client.read(
            read,
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            wait_until_s=wait_until_s,
        )

    while True:
        found = await ask_living(
            asker,
            ask,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
            wait_until_s=wait_until_s,
            linearizable=linearizable,
            doubtful=looks_deleted,
        )
        if found is None or read is None:
            return None, []
        route, reply = found
        if reply.seqnums or reply.tail >= until or wait_until_s <= client.now_s() + _EARLY_S:
            break
        asker = asker._replace(route=route)
        await asyncio.sleep(_EARLY_S)
    refuse_trimmed(reply.trim_until, start)
    return reply, learned(client, session, read, reply)


def learned(client: Client, session: Session, read: Read, reply: ReadReply) -> list[Record]:
    """The records of a reply, once the cache and the session know what it says."""
    records = records_of(reply)
    client.core.cache.keep(read, reply, records)
    if read.tag is None and reply.trim_until:
        session.saw_trim(read.book, reply.trim_until)
    return records


async def tail(asker: Asker, *, timeout_s: float | None) -> int:
    """The first seqnum not yet ordered, linearizably."""
    client = asker.client
    deadline_s, timeout_s = client.deadline(timeout_s)

    async def ask(route: Route) -> int:
        return await client.tail(
            TailRequest(client.new_number(), route.space),
            asker.session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
        )

    found = await ask_living(
        asker, ask, deadline_s=deadline_s, timeout_s=timeout_s, linearizable=True
    )
    return NOTHING_YET if found is None else found[1]


async def seqnum_at(asker: Asker, timestamp_ms: int, *, timeout_s: float | None) -> int:
    """The first kept record ordered at or after that time; the tail when there is none.

    The log space says which seqnum that is; the first record of this LogBook from there on is read.
    """
    client, session = asker.client, asker.session
    deadline_s, timeout_s = client.deadline(timeout_s)

    async def ask(route: Route) -> list[object]:
        position = session.position(route.space)
        return await client.values(
            SeqnumAt(client.new_number(), route.space, timestamp_ms, position),
            session,
            deadline_s=deadline_s,
            timeout_s=timeout_s,
        )

    found = await ask_living(asker, ask, deadline_s=deadline_s, timeout_s=timeout_s)
    if found is None:
        return NOTHING_YET
    route, values = found
    if len(values) != 1 or type(values[0]) is not int:
        raise RemoteProtocolError(f"seqnum_at was answered by {values!r:.80}")
    asker = asker._replace(route=route)
    try:
        reply, records = await read_page(asker, first_of(None, values[0]), timeout_s=timeout_s)
    except Trimmed:
        reply, records = await read_page(asker, first_of(None, 0), timeout_s=timeout_s)
    if records:
        return records[0].seqnum
    return NOTHING_YET if reply is None else reply.tail


async def info(asker: Asker, *, timeout_s: float | None) -> BookInfo:
    """What is known of the LogBook now.

    Raises:
        UnknownLogBook: there is none of that name.
    """
    client = asker.client
    deadline_s, timeout_s = client.deadline(timeout_s)

    async def ask(route: Route) -> BookInfo:
        return await routing.info(
            client, route, asker.session, deadline_s=deadline_s, timeout_s=timeout_s
        )

    return (await ask_existing(asker, ask, deadline_s=deadline_s, timeout_s=timeout_s))[1]
