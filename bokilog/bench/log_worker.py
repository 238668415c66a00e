"""A process that uses a log through its public calls, as an application would, and times them.

Decides how each kind of work is done: appends, one task each; a follower that reads along; reads of
what was read before, and of what only the node's engine has; a scan. One process is one client; in
the embedded shape it is the whole log.

Invariants: nothing but public calls is timed; what is said to need no message is checked by
counting what the client sends.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from time import perf_counter, perf_counter_ns
from typing import Final

import bokilog
from bokilog.bench.load import Load, closed_loop, summary, tag_of
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve
from bokilog.client.admin import ClientLog
from bokilog.client.logbook import ClientLogBook
from bokilog.client.port import Port
from bokilog.messages import Message
from bokilog.record import Buffer, CaughtUp, Durability, Entry

STAMPED: Final = "stamped"
"""Flag: the first bytes of each record are the time of its append."""
_STAMP: Final = struct.Struct("<Q")
_SETTLE_TIMEOUT_S: Final = 30.0
_BATCH_BYTES_MAX: Final = 8 << 20  # of the units that fill a log for a test

Book = ClientLogBook[Buffer]


class CountingPort:
    """A client's port that counts what is sent."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self.sent_count = 0

    def send(self, message: Message) -> bool:
        """As the port."""
        self.sent_count += 1
        return self._port.send(message)

    def flush(self) -> None:
        """As the port."""
        self._port.flush()

    def leave(self) -> None:
        """As the port."""
        self._port.leave()

    def close(self) -> None:
        """As the port."""
        self._port.close()


class Follower:
    """Reads along: how far it is, and how long records took to get here."""

    def __init__(self, book: Book, *, stamped: bool) -> None:
        self.count = 0
        self.seqnum = 0
        self.latencies_s: list[float] = []
        self.caught_up = asyncio.Event()
        self._moved = asyncio.Event()
        self._stamped = stamped
        self.task = asyncio.create_task(self._follow(book))

    async def _follow(self, book: Book) -> None:
        async for record in book.follow(caught_up=True):
            if isinstance(record, CaughtUp):
                self.caught_up.set()
                self._moved.set()
                continue
            self.seqnum = record.seqnum
            self.count += 1
            if self._stamped:
                sent_ns = _STAMP.unpack_from(record.data)[0]
                self.latencies_s.append((perf_counter_ns() - sent_ns) / 1e9)

    async def reach(self, seqnum: int) -> None:
        """Wait until it has read that record."""
        async with asyncio.timeout(_SETTLE_TIMEOUT_S):
            while self.seqnum < seqnum:
                if self.task.done():
                    self.task.result()
                self._moved.clear()
                if self.seqnum < seqnum:
                    await self._moved.wait()

    async def stop(self) -> None:
        """Follow no more."""
        self.task.cancel()
        await asyncio.wait([self.task])


class LogWorker:
    """What such a process can be told."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._log: ClientLog | None = None
        self._port: CountingPort | None = None
        self._followers: dict[str, Follower] = {}
        self._books: dict[str, Book] = {}
        stack.push_async_callback(self.close, Order(do="close"))

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the order."""
        return {
            "open": self.open,
            "create": self.create,
            "drop": self.drop,
            "append": self.append,
            "fill": self.fill,
            "follow": self.follow,
            "reach": self.reach,
            "unfollow": self.unfollow,
            "read_again": self.read_again,
            "read_once": self.read_once,
            "read_old": self.read_old,
            "scan": self.scan,
            "close": self.close,
        }

    # --- the log ----------------------------------------------------------------------------------

    async def open(self, order: Order) -> Outcome:
        """Open the directory or connect to the URL of `place`; empty: in memory."""
        await self.close(order)
        before_s = perf_counter()
        if order.place.startswith("bokilog"):
            log = await bokilog.connect(order.place)
        else:
            from bokilog.shapes.embedded import EmbeddedSettings

            settings = EmbeddedSettings(sync_delay_ms=order.sync_delay_ms)
            log = await bokilog.open(order.place or None, settings=settings)
        took_s = perf_counter() - before_s
        self._log = log
        port = log.client.core.port
        assert port is not None, "a client that is up has a port"
        log.client.core.port = self._port = CountingPort(port)
        return Outcome(values={"open_ms": took_s * 1e3})

    async def close(self, order: Order) -> Outcome:
        """Stop following and close the log, if it is open."""
        for follower in self._followers.values():
            await follower.stop()
        self._followers.clear()
        self._books.clear()
        log, self._log, self._port = self._log, None, None
        if log is not None:
            await log.aclose()
        return Outcome()

    async def create(self, order: Order) -> Outcome:
        """Create the LogBook in a durability class."""
        assert self._log is not None, "open comes first"
        durability: Durability = order.durability  # type: ignore[assignment]  # checked by the call
        await self._log.create_book(order.book, durability=durability)
        return Outcome()

    async def drop(self, order: Order) -> Outcome:
        """Delete the LogBook."""
        assert self._log is not None, "open comes first"
        self._books.pop(order.book, None)
        await self._log.delete_book(order.book)
        return Outcome()

    def _book(self, order: Order) -> Book:
        assert self._log is not None, "open comes first"
        book = self._books.get(order.book)
        if book is None:
            book = self._books[order.book] = self._log.book(order.book)
        return book

    # --- appends ----------------------------------------------------------------------------------

    async def append(self, order: Order) -> Outcome:
        """Keep so many appends under way, each in a task of its own, each with one of the tags."""
        last = _Last()
        operation = self._appends(order, last)
        load = await closed_loop(
            operation,
            outstanding=order.outstanding,
            seconds=order.seconds,
            count=order.count or None,
        )
        return _outcome(load, records_per_call=order.batch_count, seqnum=last.seqnum)

    def _appends(self, order: Order, last: _Last) -> Callable[[int], Awaitable[None]]:
        book, data = self._book(order), os.urandom(order.size_bytes)

        async def one(turn: int) -> None:
            seqnum = await book.append(data, tag_of(turn))
            if seqnum > last.seqnum:
                last.seqnum = seqnum

        async def stamped(turn: int) -> None:
            stamp = _STAMP.pack(perf_counter_ns())
            seqnum = await book.append(stamp + data[_STAMP.size :], tag_of(turn))
            if seqnum > last.seqnum:
                last.seqnum = seqnum

        async def unit(turn: int) -> None:
            entries = [Entry(data, tag_of(turn + each)) for each in range(order.batch_count)]
            seqnums = await book.append_batch(entries)
            if seqnums[-1] > last.seqnum:
                last.seqnum = seqnums[-1]

        if order.batch_count > 1:
            return unit
        return stamped if STAMPED in order.flags else one

    async def fill(self, order: Order) -> Outcome:
        """Append `count` records as units, as fast as it goes; each has one of the tags.

        The first thousand also have a tag of their own, `old-0` and on, for `read_old`.
        """
        book, data = self._book(order), os.urandom(order.size_bytes)
        per_unit = max(1, min(order.batch_count, _BATCH_BYTES_MAX // max(1, order.size_bytes)))
        last = _Last()

        async def unit(turn: int) -> None:
            start = order.seqnum + turn * per_unit
            until = min(start + per_unit, order.seqnum + order.count)
            entries = [Entry(data, _fill_tags(number)) for number in range(start, until)]
            last.seqnum = max(last.seqnum, (await book.append_batch(entries))[-1])

        units_count = -(-order.count // per_unit)
        load = await closed_loop(unit, outstanding=order.outstanding, count=units_count)
        outcome = _outcome(load, records_per_call=1, seqnum=last.seqnum)
        return Outcome(count=order.count, elapsed_s=outcome.elapsed_s, seqnum=last.seqnum)

    # --- reading along ----------------------------------------------------------------------------

    async def follow(self, order: Order) -> Outcome:
        """Follow a LogBook from its start, and answer once all there is was read."""
        before_s = perf_counter()
        follower = Follower(self._book(order), stamped=STAMPED in order.flags)
        self._followers[order.book] = follower
        waiting = asyncio.create_task(follower.caught_up.wait())
        await asyncio.wait({waiting, follower.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if follower.task.done():
            follower.task.result()
        return Outcome(count=follower.count, elapsed_s=perf_counter() - before_s)

    async def reach(self, order: Order) -> Outcome:
        """Wait until the follower has read `seqnum`; what it saw since it was asked last."""
        follower = self._followers.get(order.book)
        if follower is None:
            return Outcome()
        before_s = perf_counter()
        await follower.reach(order.seqnum)
        took_s = perf_counter() - before_s
        count, follower.count = follower.count, 0
        latencies_s, follower.latencies_s = follower.latencies_s, []
        load = summary(latencies_s, took_s)
        return Outcome(
            count=count,
            elapsed_s=took_s,
            p50_us=load.p50_us,
            p99_us=load.p99_us,
            seqnum=follower.seqnum,
        )

    async def unfollow(self, order: Order) -> Outcome:
        """Follow that LogBook no more."""
        follower = self._followers.pop(order.book, None)
        if follower is not None:
            await follower.stop()
        return Outcome()

    # --- reads ------------------------------------------------------------------------------------

    async def read_again(self, order: Order) -> Outcome:
        """Read records that this process has read once before: no message may be needed."""
        book = self._book(order)
        seqnums = range(order.seqnum, order.seqnum + order.count)
        for seqnum in seqnums:
            assert await book.read(seqnum) is not None, seqnum
        assert self._port is not None
        sent_before = self._port.sent_count

        async def operation(turn: int) -> None:
            await book.read(seqnums[turn % len(seqnums)])

        load = await closed_loop(operation, outstanding=order.outstanding, seconds=order.seconds)
        sent = self._port.sent_count - sent_before
        return _outcome(load, values={"messages_count": float(sent)})

    async def read_once(self, order: Order) -> Outcome:
        """Read `count` records from `seqnum` on, each once: this process has none of them."""
        book = self._book(order)
        missing = 0

        async def operation(turn: int) -> None:
            nonlocal missing
            if await book.read(order.seqnum + turn) is None:
                missing += 1

        assert self._port is not None
        sent_before = self._port.sent_count
        load = await closed_loop(
            operation, outstanding=order.outstanding, seconds=order.seconds, count=order.count
        )
        assert not missing, f"{missing} of {order.count} records are not there"
        sent = self._port.sent_count - sent_before
        return _outcome(load, values={"messages_count": float(sent)})

    async def read_old(self, order: Order) -> Outcome:
        """`read_next` of `count` tags that only the oldest records have."""
        book = self._book(order)

        async def operation(turn: int) -> None:
            tag = _old_tag(turn)
            record = await book.read_next(tag=tag)
            assert record is not None and tag in record.tags, tag

        load = await closed_loop(operation, outstanding=order.outstanding, count=order.count)
        return _outcome(load)

    async def scan(self, order: Order) -> Outcome:
        """Read the LogBook from `seqnum` to its end."""
        count, before_s = 0, perf_counter()
        async for _ in self._book(order).scan(min_seqnum=order.seqnum):
            count += 1
        return Outcome(count=count, elapsed_s=perf_counter() - before_s)


class _Last:
    """The largest seqnum that was acknowledged."""

    __slots__ = ("seqnum",)

    def __init__(self) -> None:
        self.seqnum = 0


OLD_TAGS_COUNT: Final = 1_000


def _old_tag(number: int) -> str:
    return f"old-{number % OLD_TAGS_COUNT}"


def _fill_tags(number: int) -> str | tuple[str, str]:
    tag = tag_of(number)
    return (tag, _old_tag(number)) if number < OLD_TAGS_COUNT else tag


def _outcome(
    load: Load,
    *,
    records_per_call: int = 1,
    seqnum: int = 0,
    values: dict[str, float] | None = None,
) -> Outcome:
    return Outcome(
        count=load.count * records_per_call,
        elapsed_s=load.elapsed_s,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        seqnum=seqnum,
        values=values or {},
    )


if __name__ == "__main__":
    sys.exit(serve(lambda stack: LogWorker(stack).handlers()))
