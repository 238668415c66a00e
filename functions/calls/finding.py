"""Finding durable calls again: by id, those that are open, those that were given up.

Decides which records answer that: the fold of all steps for what is open, the tag of dead letters
for what is dead, the call's own tag for one call. Invariants: a call that was driven again is not
dead any more; a call that is not known, or not any more, is an error and no empty answer.

Does not know: how calls are made, who runs them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.functions.books import app_book
from bokilog.functions.calls.call import Call, first_step, last_step
from bokilog.functions.calls.records import (
    CALLS,
    DEAD,
    SNAPSHOT,
    DeadLettered,
    Spawned,
    decode,
)
from bokilog.functions.calls.state import CallsState
from bokilog.functions.calls.status import CallStatus, status_of, status_of_open
from bokilog.functions.replay import Replay
from bokilog.functions.runtime.messages import Flag
from bokilog.logbook import LogBook
from bokilog.record import Buffer


async def find_call(
    log: ClientLog,
    app: str,
    call_id: str,
    *,
    session: Session | None = None,
    decode: Callable[[int, Buffer], object] | None = None,
) -> Call:
    """The call of that id. Raises `UnknownCall`: there is none, or not any more."""
    book: LogBook = log.book(app_book(app), session=session)
    record, _ = await last_step(book, call_id)
    spawned = await first_step(book, call_id)
    return Call(
        log,
        book,
        call_id,
        function="" if spawned is None else spawned.function,
        since=record.seqnum,
        stream=spawned is not None and bool(spawned.flags & Flag.STREAM),
        session=session,
        decode=decode,
    )


async def list_calls(log: ClientLog, app: str, *, dead: bool = False) -> list[CallStatus]:
    """The calls that are not over, oldest first; `dead`: those given up and not driven again."""
    book = log.book(app_book(app))
    if dead:
        return [status async for status in _dead(book)]
    state = CallsState()
    replay = Replay(book, state, tag=CALLS, snapshot_tag=SNAPSHOT, every_records=0)
    await replay.to_tail()
    return [status_of_open(call) for call in state.calls.values()]


async def _dead(book: LogBook) -> AsyncGenerator[CallStatus, None]:
    found: dict[str, CallStatus] = {}
    async for record in book.scan(tag=DEAD, consistency="linearizable"):
        step = decode(record.data)
        if isinstance(step, DeadLettered):
            function = ""
            found[step.call_id] = status_of(step.call_id, function, step, record.timestamp_ms)
        elif isinstance(step, Spawned):
            found.pop(step.call_id, None)
    for call_id, status in found.items():
        spawned = await first_step(book, call_id)
        yield status if spawned is None else status._replace(function=spawned.function)
