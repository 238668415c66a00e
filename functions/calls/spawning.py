"""How a durable call begins: it is accepted, or driven again after it was given up.

Decides how a call is accepted: by one append, and nothing is read. A call with an idempotency key
has an id made from the key, so that everybody who uses it means the same call; other arguments
under the same key are refused. A dead call is driven again by the step that began it, appended once
more unless somebody else was first.

Invariants: who is told that a call is accepted finds it in the log; of attempts to make the same
call one counts, whoever makes them and however often.

Does not know hosts, and which functions there are: that shows when a host looks at the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from bokilog.call_errors import UnknownCall
from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.errors import AppendUnknown, KeyReused, NotSupported, Trimmed
from bokilog.functions.books import app_book
from bokilog.functions.calls.call import Call, first_step, last_step
from bokilog.functions.calls.records import (
    DEAD,
    DeadLettered,
    Spawned,
    call_tag,
    data_tag,
    decode,
    encode,
    encode_reference,
    is_large,
    keyed_call_id,
    tags_of,
)
from bokilog.functions.calls.status import status_of
from bokilog.functions.runtime import references
from bokilog.functions.runtime.messages import Encoding, Flag
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.logbook import LogBook
from bokilog.record import Buffer, check_key

_DEFAULTS: Final = FunctionOptions()


async def spawn(
    log: ClientLog,
    app: str,
    function: str,
    payload: Buffer,
    encoding: int,
    *,
    options: FunctionOptions | None = None,
    timeout_s: float | None = None,
    retries: int | None = None,
    retry_delay_s: float | None = None,
    key: str | None = None,
    session: Session | None = None,
    token: str = "",
    trace: str = "",
    stream: bool = False,
    depth: int = 0,
    decode: Callable[[int, Buffer], object] | None = None,
) -> Call:
    """Accept a call: when this returns, it is in the log, and will be run even if all here dies.

    Args:
        log: where the app's calls are.
        app: whose function it is.
        function: by name; whether there is one shows when a host looks at it.
        payload: its arguments; large ones become a record of their own first.
        encoding: of the payload.
        options: of the function: `timeout_s` (of each attempt), `retries`, `retry_delay_s`.
        timeout_s: instead of the option.
        retries: instead of the option.
        retry_delay_s: instead of the option.
        key: makes it idempotent for a week: the same key gives the first call of this function.
        session: whose writes the call has to see; what the call saw is merged into it.
        token: instead of a session.
        trace: a W3C traceparent.
        stream: the function yields; each value becomes a record.
        depth: of calls within calls.
        decode: what `Call.result` makes of (encoding, payload); None: plain values.

    Raises:
        InvalidKey: definite; the key is empty, too long or no text.
        KeyReused: definite; the key is known with other arguments.
        AppendUnknown: indefinite; it may yet be accepted, unless a key settles that.
        Others as `LogBook.append`.

    If cancelled, the call may still be accepted.
    """
    chosen = options or _DEFAULTS
    key = check_key(key)
    call_id = os.urandom(8).hex() if key is None else keyed_call_id(function, key)
    book: LogBook = log.book(app_book(app), session=session)
    data = bytes(payload)
    if is_large(data):
        encoding, data = await keep(book, call_id, data, encoding=encoding, keyed=key is not None)
    spawned = Spawned(
        call_id=call_id,
        function=function,
        encoding=encoding,
        payload=data,
        timeout_ms=int((chosen.timeout_s if timeout_s is None else timeout_s) * 1_000),
        retries=chosen.retries if retries is None else retries,
        retry_delay_ms=int(
            (chosen.retry_delay_s if retry_delay_s is None else retry_delay_s) * 1_000
        ),
        flags=Flag.STREAM if stream else 0,
        depth=depth,
        key=key or "",
        schedule="",
        due_ms=0,
        prefer=references.host_of(data) if encoding == Encoding.REFERENCE else "",
        token=token if session is None else session.token,
        trace=trace,
    )
    if key is None:
        seqnum = await _append_once(book, spawned)
    else:
        seqnum = await _append_keyed(book, spawned)
    return Call(
        log,
        book,
        call_id,
        function=function,
        since=seqnum,
        stream=stream,
        session=session,
        decode=decode,
    )


async def _append_once(book: LogBook, spawned: Spawned) -> int:
    """Without a key, since a key's verdict takes a way of its own: half as many a second."""
    try:
        return await book.append(encode(spawned), tags_of(spawned))
    except AppendUnknown:
        # Nobody else has the id: what is there is ours. What is not may still come.
        record = await book.read_next(tag=call_tag(spawned.call_id), consistency="linearizable")
        if record is None:
            raise
        return record.seqnum


async def _append_keyed(book: LogBook, spawned: Spawned) -> int:
    try:
        return await book.append(encode(spawned), tags_of(spawned), key=spawned.call_id)
    except KeyReused as known:
        # The first one may have come with another token, trace or timeout: that is the same call.
        if await _is_same(book, spawned, known.seqnum):
            return known.seqnum
        raise KeyReused(spawned.key, known.seqnum) from known


async def _is_same(book: LogBook, spawned: Spawned, seqnum: int) -> bool:
    try:
        record = await book.read(seqnum)
    except Trimmed:
        return False
    first = None if record is None else decode(record.data)
    return isinstance(first, Spawned) and (
        (first.function, first.encoding, first.payload, first.key)
        == (spawned.function, spawned.encoding, spawned.payload, spawned.key)
    )


async def keep(
    book: LogBook,
    call_id: str,
    payload: bytes,
    *,
    encoding: int,
    host: str = "",
    keyed: bool = False,
) -> tuple[int, bytes]:
    """A large payload becomes a record beside the call's: what stands for it.

    It is as durable as the call itself and kept as long, unlike those of calls that somebody
    waits for.
    """
    key = f"{call_id}/data" if keyed else None
    seqnum = await book.append(payload, data_tag(call_id), key=key)
    return Encoding.REFERENCE, encode_reference(book.name, seqnum, encoding=encoding, host=host)


async def redrive(log: ClientLog, app: str, call_id: str) -> Call:
    """Run a dead call again, with the same id, arguments and number of retries.

    Raises:
        UnknownCall: it is not known, or its arguments are not kept any more.
        NotSupported: it is not dead.
        ConditionFailed: somebody else does it at the same moment.
    """
    book: LogBook = log.book(app_book(app))
    record, step = await last_step(book, call_id)
    if not isinstance(step, DeadLettered):
        state = status_of(call_id, "", step, 0).state
        raise NotSupported(f"to drive call {call_id} again", f"it is {state}, not dead")
    spawned = await first_step(book, call_id)
    if spawned is None:
        raise UnknownCall(call_id)
    seqnum = await book.append(
        encode(spawned),
        (*tags_of(spawned), DEAD),
        unless={call_tag(call_id): record.seqnum},
        key=f"{call_id}/{record.seqnum}",
    )
    return Call(
        log,
        book,
        call_id,
        function=spawned.function,
        since=seqnum,
        stream=bool(spawned.flags & Flag.STREAM),
    )
