"""Durable calls for those who make them: spawn, wait, cancel, list, drive again.

Decides how a call is accepted (one append; nothing is read) and how its handle waits: by a blocking
read of the tag that only its last step has, never by asking again and again. A call with an
idempotency key has an id made from the key, so that everybody who uses it means the same call;
other arguments under the same key are refused.

Does not know hosts: whether somebody runs the call shows in its records. Payloads are bytes with an
encoding here; whoever knows the function gives `decode`.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple

from bokilog.call_errors import CallCancelled, CallTimeout, UnknownCall
from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.codec import unpack
from bokilog.errors import (
    AppendUnknown,
    ConditionFailed,
    KeyReused,
    LogBookConflict,
    NotSupported,
    Trimmed,
    from_wire,
    to_wire,
)
from bokilog.functions.calls.records import (
    CALLS,
    DEAD,
    RETENTION_S,
    SNAPSHOT,
    CallRecord,
    Cancelled,
    Claimed,
    DeadLettered,
    End,
    Expired,
    Extended,
    Finished,
    ItemYielded,
    Retried,
    Spawned,
    WireError,
    book_name,
    call_tag,
    data_tag,
    decode,
    encode,
    encode_reference,
    end_tag,
    is_large,
    items_tag,
    keyed_call_id,
    tags_of,
)
from bokilog.functions.calls.state import CallsState, OpenCall, Phase
from bokilog.functions.replay import Replay
from bokilog.functions.runtime import references
from bokilog.functions.runtime.caller import error_of
from bokilog.functions.runtime.messages import Done, Encoding, Flag
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.logbook import LogBook
from bokilog.record import Buffer, Record, check_key

WAIT_S: Final = 60.0
"""Of one blocking read; a waiter without a limit asks again after it."""
_DEFAULTS: Final = FunctionOptions()


class CallStatus(NamedTuple):
    """How a call stands."""

    id: str
    function: str
    state: str
    """waiting, running, finished, failed (dead-lettered, or an error no retry would help) or
    cancelled."""
    attempt: int
    """How often it was started again."""
    host: str
    """That runs it, or ran it last."""
    error: str
    """Why it failed, or why it is tried again."""
    changed_ms: int
    """When that began, by the time of the log."""


class CallItem(NamedTuple):
    """One value of a stream. To go on behind it, ask from `seqnum` + 1."""

    seqnum: int
    place: int
    encoding: int
    payload: bytes
    value: object
    """As the call's `decode` gives it."""


# --- making calls ---------------------------------------------------------------------------------


async def ensure_book(log: ClientLog, app: str) -> None:
    """Have the LogBook of an app's calls: `sync`, a week of retention; once per connection."""
    name = book_name(app)
    if log.client.core.book(name).route is not None:
        return
    try:
        await log.create_book(name, durability="sync", retention_s=RETENTION_S)
    except LogBookConflict:
        pass  # somebody made it with other properties, on purpose


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
    check_key(key)
    call_id = os.urandom(8).hex() if key is None else keyed_call_id(function, key)
    book: LogBook = log.book(book_name(app), session=session)
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


# --- a call ---------------------------------------------------------------------------------------


class Call:
    """A durable call. Costs nothing to keep, and another process may find it by its id."""

    __slots__ = ("_book", "_decode", "_log", "_session", "_since", "_stream", "function", "id")

    def __init__(
        self,
        log: ClientLog,
        book: LogBook,
        call_id: str,
        *,
        function: str,
        since: int,
        stream: bool = False,
        session: Session | None = None,
        decode: Callable[[int, Buffer], object] | None = None,
    ) -> None:
        self.id = call_id
        self.function = function
        self._log = log
        self._book = book
        self._since = since
        """The first end at or after it is the one."""
        self._stream = stream
        self._session = session
        self._decode = decode or decode_plain

    def __repr__(self) -> str:
        return f"<Call {self.id} of {self.function}>"

    async def result(self, timeout_s: float | None = None) -> object:
        """Wait for the end of the call and return its result.

        Raises:
            CallTimeout: it was not over after `timeout_s`; it goes on all the same.
            CallCancelled: somebody cancelled it.
            UnknownCall: it is over for longer than calls are kept.
            BokilogError: why it failed; for Python callers the function's own exception.
        """
        done = await self.outcome(wait_s=timeout_s)
        if done is None:
            raise CallTimeout(self.function, timeout_s or 0.0)
        if done.error:
            raise self._error(done)
        return self._decode(done.encoding, done.payload)

    def _error(self, done: Done) -> Exception:
        # Only who knows the function unpickles what it raised.
        return from_wire(done.error) if self._decode is decode_plain else error_of(done)

    async def outcome(self, wait_s: float | None = None) -> Done | None:
        """How the call ended: its result, or its error in the form of the wire.

        Args:
            wait_s: how long to wait for that; 0: not at all, None: without limit.

        Returns:
            None when it is not over by then. A result that was kept by reference is fetched.
        """
        end = await self._end(wait_s)
        if end is None:
            return None
        encoding, payload, token = 0, b"", ""
        if isinstance(end, (Finished, DeadLettered)):
            encoding, payload, token = end.encoding, end.payload, end.token
        if self._session is not None and token:
            self._session.merge(token)
        if encoding == Encoding.REFERENCE:
            session = self._session or self._log.session(token or None)
            encoding, payload = await references.fetch(self._log, payload, session)
        error: WireError = (
            to_wire(CallCancelled(self.function, end.reason))
            if isinstance(end, Cancelled)
            else end.error
        )
        ran_us = end.ran_ms * 1_000 if isinstance(end, Finished) else 0
        return Done(0, encoding, token, error, 0, ran_us, False, payload)

    async def status(self) -> CallStatus:
        """How it stands now. Raises `UnknownCall`."""
        record, step = await _last(self._book, self.id)
        return _status(self.id, self.function, step, record.timestamp_ms)

    async def cancel(self, reason: str = "") -> bool:
        """Not wanted any more: it is not started again, and stopped where it runs.

        Returns:
            False when it was over already.

        Raises:
            UnknownCall: it is not known, or not any more.
        """
        while True:
            record, step = await _last(self._book, self.id)
            if isinstance(step, (Finished, DeadLettered, Cancelled)):
                return False
            cancelled = Cancelled(self.id, reason)
            tags = tags_of(cancelled, stream=self._stream)
            try:
                await self._book.append(
                    encode(cancelled), tags, unless={call_tag(self.id): record.seqnum}
                )
                return True
            except (ConditionFailed, AppendUnknown):
                continue  # it has moved on, perhaps by this very record

    async def items(self, from_seqnum: int = 0) -> AsyncGenerator[CallItem, None]:
        """What the function yields, each value once, also when it was started again meanwhile.

        Args:
            from_seqnum: 0 for all that is kept; to go on after an item, its seqnum + 1.

        Ends when the call has; raises as `result`, and `NotSupported` if it yields nothing.
        """
        if not self._stream:
            raise NotSupported(f"items of call {self.id}", f"{self.function} was not spawned so")
        tag, expected = items_tag(self.id), await self._place_at(from_seqnum)
        follow = self._book.follow(tag=tag, min_seqnum=from_seqnum)
        async with aclosing(follow) as records:
            async for record in records:
                step = decode(record.data)
                if isinstance(step, ItemYielded):
                    # A second attempt begins anew: what was yielded already is not said twice.
                    if step.place >= expected:
                        expected = step.place + 1
                        yield await self._item(record.seqnum, step)
                elif record.seqnum >= self._since:
                    break
        done = await self.outcome()
        if done is not None and done.error:
            raise self._error(done)

    async def _place_at(self, seqnum: int) -> int:
        if not seqnum:
            return 0
        before = await self._book.read_prev(tag=items_tag(self.id), max_seqnum=seqnum - 1)
        step = None if before is None else decode(before.data)
        return step.place + 1 if isinstance(step, ItemYielded) else 0

    async def _item(self, seqnum: int, item: ItemYielded) -> CallItem:
        encoding, payload = item.encoding, item.payload
        if encoding == Encoding.REFERENCE:
            session = self._session or self._log.session()
            encoding, payload = await references.fetch(self._log, payload, session)
        return CallItem(seqnum, item.place, encoding, payload, self._decode(encoding, payload))

    async def _end(self, wait_s: float | None) -> End | None:
        while True:
            step_s = WAIT_S if wait_s is None else wait_s
            try:
                record = await self._book.read_next(
                    tag=end_tag(self.id),
                    min_seqnum=self._since,
                    wait_s=step_s,
                    consistency="session" if step_s else "linearizable",
                )
            except Trimmed:
                # It began longer ago than records are kept: is there anything of it left?
                self._since = (await _last(self._book, self.id))[0].seqnum
                continue
            if record is not None:
                step = decode(record.data)
                if isinstance(step, (Finished, DeadLettered, Cancelled)):
                    return step
                raise UnknownCall(self.id)  # somebody else's bytes under our tag
            if wait_s is not None:
                return None


def decode_plain(encoding: int, payload: Buffer) -> object:
    """A result as whoever does not know the function can read it."""
    if encoding == Encoding.MSGPACK:
        value: object = unpack(payload)
        return value
    if encoding == Encoding.JSON:
        value = json.loads(bytes(payload))
        return value
    if encoding == Encoding.RAW:
        return bytes(payload)
    raise NotSupported("this result", "it is a Python object: wait for it through its function")


# --- finding calls --------------------------------------------------------------------------------


async def find_call(
    log: ClientLog,
    app: str,
    call_id: str,
    *,
    session: Session | None = None,
    decode: Callable[[int, Buffer], object] | None = None,
) -> Call:
    """The call of that id. Raises `UnknownCall`: there is none, or not any more."""
    book: LogBook = log.book(book_name(app), session=session)
    record, _ = await _last(book, call_id)
    spawned = await _spawned(book, call_id)
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
    book = log.book(book_name(app))
    if dead:
        return [status async for status in _dead(book)]
    state = CallsState()
    replay = Replay(book, state, tag=CALLS, snapshot_tag=SNAPSHOT, every_records=0)
    await replay.to_tail()
    return [_open_status(call) for call in state.calls.values()]


async def _dead(book: LogBook) -> AsyncGenerator[CallStatus, None]:
    found: dict[str, CallStatus] = {}
    async for record in book.scan(tag=DEAD, consistency="linearizable"):
        step = decode(record.data)
        if isinstance(step, DeadLettered):
            function = ""
            found[step.call_id] = _status(step.call_id, function, step, record.timestamp_ms)
        elif isinstance(step, Spawned):
            found.pop(step.call_id, None)
    for call_id, status in found.items():
        spawned = await _spawned(book, call_id)
        yield status if spawned is None else status._replace(function=spawned.function)


async def redrive(log: ClientLog, app: str, call_id: str) -> Call:
    """Run a dead call again, with the same id, arguments and number of retries.

    Raises:
        UnknownCall: it is not known, or its arguments are not kept any more.
        NotSupported: it is not dead.
        ConditionFailed: somebody else does it at the same moment.
    """
    book: LogBook = log.book(book_name(app))
    record, step = await _last(book, call_id)
    if not isinstance(step, DeadLettered):
        state = _status(call_id, "", step, 0).state
        raise NotSupported(f"to drive call {call_id} again", f"it is {state}, not dead")
    spawned = await _spawned(book, call_id)
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


async def _last(book: LogBook, call_id: str) -> tuple[Record, CallRecord]:
    """The last step of a call."""
    if len(call_id) > 64:
        raise UnknownCall(call_id)
    record = await book.read_prev(tag=call_tag(call_id), consistency="linearizable")
    step = None if record is None else decode(record.data)
    if record is None or step is None:
        raise UnknownCall(call_id)
    return record, step


async def _spawned(book: LogBook, call_id: str) -> Spawned | None:
    """How it was spawned, unless that is not kept any more."""
    record = await book.read_next(tag=call_tag(call_id))
    step = None if record is None else decode(record.data)
    return step if isinstance(step, Spawned) else None


def _status(call_id: str, function: str, step: CallRecord, changed_ms: int) -> CallStatus:
    """What the last step says."""
    state, attempt, host, error = "waiting", 0, "", ""
    match step:
        case Claimed(host=host, attempt=attempt) | Extended(host=host, attempt=attempt):
            state = "running"
        case Expired(host=host, attempt=attempt):
            attempt, error = attempt + 1, "its host is gone"
        case Retried(host=host, attempt=attempt):
            error = str(from_wire(step.error)) if step.error else ""
        case Finished(host=host, attempt=attempt):
            state = "failed" if step.error else "finished"
            error = str(from_wire(step.error)) if step.error else ""
        case DeadLettered(host=host, reason=error):
            state, attempt = "failed", max(0, step.attempts - 1)
        case Cancelled(reason=error):
            state = "cancelled"
        case _:
            pass
    host = host.partition("/")[0]
    return CallStatus(call_id, function, state, attempt, host, error, changed_ms)


def _open_status(call: OpenCall) -> CallStatus:
    state = "running" if call.phase == Phase.CLAIMED else "waiting"
    host = call.holder.partition("/")[0]
    return CallStatus(call.call_id, call.function, state, call.attempt, host, "", call.spawned_ms)
