"""A durable call for whoever waits for it: its end, its items, its cancelling.

Decides how a handle waits: by a blocking read of the tag that only a call's last step has, never by
asking again and again. What the call saw its waiter has seen too, once it has the result. Several
may hold handles of one call; each of them is told the same.

Invariants: an end is an end for ever, so the first one at or after the call's beginning is it; an
item is yielded once, however often the call was started again; a call is cancelled only if it has
no newer step than the one that was looked at.

Does not know hosts: whether somebody runs the call shows in its records. Payloads are bytes with an
encoding here; whoever knows the function gives `decode`.
"""

from __future__ import annotations

import json
import secrets
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
    NotSupported,
    Trimmed,
    from_wire,
    to_wire,
)
from bokilog.functions.calls.records import (
    CallRecord,
    Cancelled,
    DeadLettered,
    End,
    Finished,
    ItemYielded,
    Spawned,
    WireError,
    call_tag,
    decode,
    encode,
    end_tag,
    items_tag,
    tags_of,
)
from bokilog.functions.calls.status import CallStatus, status_of
from bokilog.functions.runtime import references
from bokilog.functions.runtime.caller import error_of
from bokilog.functions.runtime.messages import Done, Encoding
from bokilog.logbook import LogBook
from bokilog.record import Buffer, Record, check_duration

WAIT_S: Final = 60.0
"""Of one blocking read; a waiter without a limit asks again after it."""


class CallItem(NamedTuple):
    """One value of a stream. To go on behind it, ask from `seqnum` + 1."""

    seqnum: int
    place: int
    encoding: int
    payload: bytes
    value: object
    """As the call's `decode` gives it."""


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
        check_duration("timeout_s", timeout_s)
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
        record, step = await last_step(self._book, self.id)
        return status_of(self.id, self.function, step, record.timestamp_ms)

    async def cancel(self, reason: str = "") -> bool:
        """Not wanted any more: it is not started again, and stopped where it runs.

        Returns:
            False when it was over already.

        Raises:
            UnknownCall: it is not known, or not any more.
        """
        cancelled = Cancelled(self.id, reason)
        data, tags = encode(cancelled), tags_of(cancelled, stream=self._stream)
        key, is_unknown = f"cancel:{self.id}:{secrets.token_hex(8)}", False
        while True:
            record, step = await last_step(self._book, self.id)
            is_over = isinstance(step, (Finished, DeadLettered, Cancelled))
            if is_over and not is_unknown:
                return False
            # Of a call that is over only its key can let the append through: it was this record.
            after = 0 if is_over else record.seqnum
            try:
                await self._book.append(data, tags, unless={call_tag(self.id): after}, key=key)
                return True
            except ConditionFailed:
                if is_over:
                    return False
            except AppendUnknown:
                is_unknown = True

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
                self._since = (await last_step(self._book, self.id))[0].seqnum
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


async def last_step(book: LogBook, call_id: str) -> tuple[Record, CallRecord]:
    """The last step of a call. Raises `UnknownCall`: there is none, or not any more."""
    if len(call_id) > 64:
        raise UnknownCall(call_id)
    record = await book.read_prev(tag=call_tag(call_id), consistency="linearizable")
    step = None if record is None else decode(record.data)
    if record is None or step is None:
        raise UnknownCall(call_id)
    return record, step


async def first_step(book: LogBook, call_id: str) -> Spawned | None:
    """How it was spawned, unless that is not kept any more."""
    record = await book.read_next(tag=call_tag(call_id))
    step = None if record is None else decode(record.data)
    return step if isinstance(step, Spawned) else None
