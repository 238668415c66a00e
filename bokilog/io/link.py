"""One connection: framed messages both ways, one write per turn of the loop.

Decides when queued messages are written, when the other side counts as clogged, and when and for
which counted reason a connection is given up.

Invariants: everything sent in one turn of the loop leaves in one write, in order; a link is *up*
only once the other side's preamble has arrived, `on_up` precedes its messages, and `on_lost`
follows at most once and only then; nothing queued is dropped while the link is up; what cannot be
queued is refused by `send` returning False, and counted; a side that does not read is given up once
more than `queue_bytes_max` wait for it.

Does not know: addresses, what messages mean, terms, nodes. Source: LIMITS point 1 and section A.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, cast

from bokilog.errors import FormatTooNew, InvalidSettings, RemoteProtocolError
from bokilog.framing import (
    PREAMBLE,
    MessageReader,
    WireMessage,
    append_message,
    join_small,
)
from bokilog.limits import KIB, MIB, WIRE_MESSAGE_BYTES_MAX
from bokilog.record import Buffer

CLOSE_TIMEOUT_S: Final = 1.0
# A write this small is joined and written at once; a larger one keeps its payloads apart.
_JOIN_ALL_BYTES_MAX: Final = 64 * KIB


class Loss(StrEnum):
    """Why a connection ended; the key of every count of lost connections."""

    CLOSED = "closed"  # by this side, on purpose
    PEER_CLOSED = "peer_closed"  # by the other side, between two messages
    HALF_MESSAGE = "half_message"  # by the other side, within its preamble or a message
    BROKEN = "broken"  # an error of the operating system: reset, timed out, unreachable
    GARBAGE = "garbage"  # the other side does not speak this protocol
    SILENT = "silent"  # no preamble in time
    QUEUE_FULL = "queue_full"  # the other side does not read what it is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """Bounds of one connection."""

    message_bytes_max: int = WIRE_MESSAGE_BYTES_MAX
    """The largest message accepted, header included."""
    queue_bytes_max: int = 256 * MIB
    """More than this waiting to be read by the other side ends the link. Must hold a message."""
    clogged_bytes: int = 1 * MIB
    """More than this waiting makes a link clogged; a quarter of it makes it clear again. About what
    a loopback connection carries in one scheduling delay."""
    greeting_timeout_s: float = 5.0
    """A connection whose preamble takes longer is closed: it only holds memory and a descriptor."""

    def __post_init__(self) -> None:
        if self.queue_bytes_max < self.clogged_bytes:
            raise InvalidSettings(
                "queue_bytes_max",
                str(self.queue_bytes_max),
                f"is less than clogged_bytes={self.clogged_bytes}",
            )


@dataclass(frozen=True, slots=True)
class LinkStats:
    """What one connection has done so far. Bytes are those of messages with their headers."""

    messages_in: int
    bytes_in: int
    messages_out: int
    """Messages taken by `send`; of these the last may still wait."""
    bytes_out: int
    writes: int
    """Times anything was handed to the operating system: one per turn of the loop with sends."""
    waiting_bytes: int
    """Queued here and not yet taken by the operating system."""
    clogged_count: int
    refused: int
    """Sends after the end of the connection, each of which returned False."""
    loss: Loss | None
    """Why it ended; None while it stands."""


def _ignore_link(link: Link) -> None: ...


def _ignore_lost(link: Link, error: Exception | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCallbacks:
    """What is called about a link; all on the loop's thread, none may block.

    `on_made` is called once the connection stands: what is sent then leaves with the preamble,
    before it is known who is at the other end.
    `on_messages` gets every message of one read; it may raise `RemoteProtocolError`, which ends the
    link as garbage. The slices in messages keep that whole read in memory: copy what is kept.
    `on_lost` gets None after an orderly close by either side.
    """

    on_messages: Callable[[Link, list[WireMessage]], None]
    on_made: Callable[[Link], None] = _ignore_link
    on_up: Callable[[Link], None] = _ignore_link
    on_lost: Callable[[Link, Exception | None], None] = _ignore_lost
    on_clogged: Callable[[Link], None] = _ignore_link
    on_clear: Callable[[Link], None] = _ignore_link


DEFAULT_SETTINGS: Final = LinkSettings()


@dataclass(slots=True)
class Ledger:
    """What the owner of links knows of all of them."""

    links: set[Link] = field(default_factory=set)
    losses: Counter[Loss] = field(default_factory=Counter)
    closing: bool = False


class Link(asyncio.BufferedProtocol):
    """One connection. Made by `dial` and by listeners; its owner closes it."""

    __slots__ = (
        "_bytes_in",
        "_bytes_out",
        "_callbacks",
        "_clogged_count",
        "_error",
        "_flush_due",
        "_gone",
        "_greeting_timer",
        "_ledger",
        "_loop",
        "_loss",
        "_messages_in",
        "_messages_out",
        "_messages_written",
        "_out",
        "_out_bytes",
        "_reader",
        "_refused",
        "_room_bytes",
        "_settings",
        "_started",
        "_transport",
        "_writes",
        "clogged",
        "remote",
        "up",
    )

    def __init__(
        self, callbacks: LinkCallbacks, *, settings: LinkSettings, remote: str, ledger: Ledger
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._callbacks = callbacks
        self._settings = settings
        self._ledger = ledger
        self._transport: asyncio.Transport | None = None
        self._reader = MessageReader(message_bytes_max=settings.message_bytes_max)
        self._greeting_timer: asyncio.TimerHandle | None = None
        # Both are only ever given a value, so an unread one is no error. Whether it came up:
        self._started: asyncio.Future[bool] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._flush_due = False
        # How much may be in `_out`: the bound less what the transport held at the last flush.
        self._room_bytes = settings.queue_bytes_max
        self._bytes_in = self._bytes_out = 0
        self._messages_in = self._messages_out = self._messages_written = 0
        self._writes = self._refused = self._clogged_count = 0
        self._loss: Loss | None = None
        self._error: Exception | None = None
        self.remote = remote
        """The address dialled, or the one it was accepted at: for people."""
        self.up = False
        """The other side has said that it speaks our version, and the connection stands."""
        self.clogged = False
        """The other side reads more slowly than it is sent to; still, sends are queued."""

    def __repr__(self) -> str:
        state = self._loss or ("up" if self.up else "greeting")
        return f"<Link {self.remote} {state}>"

    # --- sending ---

    def send(self, kind: int, head: Buffer, attachments: Sequence[Buffer] = ()) -> bool:
        """Queue one message; all of one turn of the loop are written together.

        The parts must not change until they are sent. False, and counted, if the connection has
        ended: then nothing was queued.

        Raises:
            LocalProtocolError: the message is over a limit of the wire; nothing was queued.
        """
        if not self._flush_due and self._loss is None:
            self._flush_due = True
            self._loop.call_soon(self._flush_in_turn)
        return self.queue(kind, head, attachments)

    def queue(self, kind: int, head: Buffer, attachments: Sequence[Buffer] = ()) -> bool:
        """`send` for an owner that calls `flush` itself before its turn of the loop is over."""
        if self._loss is not None:
            self._refused += 1
            return False
        self._out_bytes += append_message(self._out, kind, head, attachments)
        self._messages_out += 1
        if self._out_bytes > self._room_bytes:
            return self._make_room()
        return True

    def flush(self) -> None:
        """Write what is queued now, instead of at the end of this turn of the loop."""
        transport = self._transport
        if not self._out or transport is None or self._loss is not None or transport.is_closing():
            return
        self._messages_written = self._messages_out
        buffers, self._out = self._out, []
        byte_count, self._out_bytes = self._out_bytes, 0
        self._bytes_out += byte_count
        self._writes += 1
        if byte_count <= _JOIN_ALL_BYTES_MAX:
            transport.write(b"".join(buffers))
        else:
            transport.writelines(join_small(buffers))
        self._room_bytes = self._settings.queue_bytes_max - transport.get_write_buffer_size()

    @property
    def unwritten_bytes(self) -> int:
        """Flushed, but not taken by the operating system yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    @property
    def messages_out(self) -> int:
        """How many messages `send` has taken."""
        return self._messages_out

    @property
    def messages_written(self) -> int:
        """How many of these were handed to the operating system; the others certainly never left,
        also once the connection has ended."""
        return self._messages_written

    def _flush_in_turn(self) -> None:
        self._flush_due = False
        self.flush()

    def _make_room(self) -> bool:
        """Whether the queue is within its bound after all; if it is not, the link is given up."""
        waiting = self._out_bytes
        if self._transport is not None:
            waiting += self._transport.get_write_buffer_size()
        bound = self._settings.queue_bytes_max
        if waiting <= bound:
            self._room_bytes = bound - (waiting - self._out_bytes)
            return True
        problem = f"it does not read: {waiting} bytes wait for it, the limit is {bound} bytes"
        self.abort(Loss.QUEUE_FULL, RemoteProtocolError(problem))
        return False

    # --- receiving ---

    def pause_reading(self) -> None:
        """Leave what the other side sends with the operating system, so that it gets clogged."""
        if self._transport is not None and self._loss is None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again; without a pause, nothing."""
        if self._transport is not None and self._loss is None:
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        """For the event loop."""
        return self._reader.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        """For the event loop."""
        if self._loss is not None:
            return
        self._bytes_in += nbytes
        reader = self._reader
        try:
            messages = reader.buffer_updated(nbytes)
            if not self.up:
                if not reader.greeted:
                    return
                self._greet()
            if messages:
                self._messages_in += len(messages)
                self._callbacks.on_messages(self, messages)
        except (RemoteProtocolError, FormatTooNew) as error:
            self.abort(Loss.GARBAGE, error)
            return
        if reader.error is not None:
            self.abort(Loss.GARBAGE, reader.error)

    def _greet(self) -> None:
        self._bytes_in -= len(PREAMBLE)
        self._stop_greeting_timer()
        self.up = True
        if not self._started.done():
            self._started.set_result(True)
        self._callbacks.on_up(self)

    # --- the connection ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For the event loop."""
        # uvloop's transports have the methods of `asyncio.Transport` without deriving from it.
        self._transport = transport = cast(asyncio.Transport, transport)
        self._ledger.links.add(self)
        if self._ledger.closing or _is_self_connected(transport):
            self.abort(Loss.BROKEN, ConnectionError("nobody listens there any more"))
            return
        high = self._settings.clogged_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        transport.write(PREAMBLE)
        delay_s = self._settings.greeting_timeout_s
        self._greeting_timer = self._loop.call_later(delay_s, self._on_silence)
        self._callbacks.on_made(self)

    def hand_over(self, callbacks: LinkCallbacks) -> None:
        """From now on these are called; for a link that is up."""
        self._callbacks = callbacks

    def pause_writing(self) -> None:
        """For the event loop."""
        self.clogged = True
        self._clogged_count += 1
        self._callbacks.on_clogged(self)

    def resume_writing(self) -> None:
        """For the event loop."""
        self.clogged = False
        self._callbacks.on_clear(self)

    def eof_received(self) -> None:
        """For the event loop."""
        if self._loss is None:
            self._loss = Loss.HALF_MESSAGE if self._reader.mid_message else Loss.PEER_CLOSED
            if self._loss is Loss.HALF_MESSAGE:
                self._error = RemoteProtocolError("the connection ended within a message")

    def connection_lost(self, exc: Exception | None) -> None:
        """For the event loop."""
        if self._gone.done():
            return  # abandoned before
        self._stop_greeting_timer()
        if self._loss is None:
            self._loss = Loss.BROKEN if exc is not None else Loss.PEER_CLOSED
            self._error = exc
        was_up, self.up = self.up, False
        self._out = []
        self._out_bytes = 0
        self._transport = None
        self._ledger.links.discard(self)
        self._ledger.losses[self._loss] += 1
        if not self._started.done():
            self._started.set_result(False)
        self._gone.set_result(None)
        if was_up:
            self._callbacks.on_lost(self, self._error)

    def abort(self, loss: Loss = Loss.CLOSED, error: Exception | None = None) -> None:
        """End the connection at once; what is queued is lost. The first reason given counts."""
        if self._loss is None:
            self._loss = loss
            self._error = error
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """It was given up while it was made: its end is not waited for."""
        if self._transport is not None:
            self.abort()
            self.connection_lost(None)

    async def aclose(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is queued, then close; abort if that takes longer than `timeout_s`.

        If cancelled, the connection is aborted.
        """
        if self._transport is None:
            return
        self.flush()
        if self._loss is None:
            self._loss = Loss.CLOSED
        self._transport.close()
        try:
            if not await self.wait_gone(timeout_s):
                self.abort()
                # An abort waits for nobody: the loop reports the end in its next turn.
                await self.wait_gone()
        except asyncio.CancelledError:
            self.abort()
            raise

    async def wait_gone(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the connection; False if it still stands after `timeout_s`."""
        done, _ = await asyncio.wait([self._gone], timeout=timeout_s)
        return bool(done)

    async def wait_up(self) -> bool:
        """Wait until the other side has introduced itself; False if the connection ended first."""
        await asyncio.wait([self._started])
        return self._started.result()

    @property
    def error(self) -> Exception | None:
        """What ended the connection; None while it stands and after an orderly close."""
        return self._error

    def stats(self) -> LinkStats:
        """Counts so far; they stay after the end."""
        held = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return LinkStats(
            messages_in=self._messages_in,
            bytes_in=self._bytes_in,
            messages_out=self._messages_out,
            bytes_out=self._bytes_out,
            writes=self._writes,
            waiting_bytes=self._out_bytes + held,
            clogged_count=self._clogged_count,
            refused=self._refused,
            loss=self._loss,
        )

    def _on_silence(self) -> None:
        timeout_s = self._settings.greeting_timeout_s
        error = RemoteProtocolError(f"it did not introduce itself within {timeout_s} s")
        self.abort(Loss.SILENT, error)

    def _stop_greeting_timer(self) -> None:
        if self._greeting_timer is not None:
            self._greeting_timer.cancel()
            self._greeting_timer = None


def _is_self_connected(transport: asyncio.Transport) -> bool:
    # TCP allows it: dialling a dead local port, the system may choose that very port as our own.
    try:
        here: object = transport.get_extra_info("sockname")
    except OSError:
        return True  # its descriptor is closed already
    return isinstance(here, tuple) and here == transport.get_extra_info("peername")
