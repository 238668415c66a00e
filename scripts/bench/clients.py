"""A process that is a client of other systems, at their best from Python, and of the bare log.

Decides how each is used. Redis: one `xadd` per await of redis.asyncio, with uvloop and hiredis;
256 of them in an explicit pipeline; and a client of our own that joins the commands of a loop tick
into one write, the best that a client can do. NATS: `publish` of nats-py, which waits for
JetStream's answer. sqlite3: one or 256 rows per commit, without tags or a reader, so less than what
is asked of ours.

Optional packages are imported where they are used: what is there can be measured without the rest.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bokilog.bench.load import closed_loop, tag_of
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve
from scripts.bench.bare import BareLog

if TYPE_CHECKING:
    import redis.asyncio

STREAM: Final = "bench"
_CONNECTIONS_MAX: Final = 1_100
_NATS_TIMEOUT_S: Final = 30.0

Operation = Callable[[int], Awaitable[object]]
Word = bytes | bytearray | memoryview | str | int | float
Fields = dict[Word, Word]


class Coalescing(asyncio.Protocol):
    """A Redis connection: the commands of one tick are one write, replies come back in order."""

    def __init__(self) -> None:
        import hiredis

        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[object]] = deque()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where commands go."""
        # uvloop's transports have the methods of `asyncio.Transport` without deriving from it.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole."""
        self._reader.feed(data)
        gets, waiting = self._reader.gets, self._waiting
        while (reply := gets()) is not False:
            waiting.popleft().set_result(reply)

    def command(self, packed: bytes) -> asyncio.Future[object]:
        """Send one; the future has its reply."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        future: asyncio.Future[object] = self._loop.create_future()
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        out, self._out = self._out, []
        assert self._transport is not None
        self._transport.write(b"".join(out))


class Clients:
    """What such a process can be told: to be one of the clients, and to append."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._open = stack.enter_async_context
        self._stack = stack
        self._turn = AsyncExitStack()
        self._operation: Operation | None = None
        self._per_call = 1
        stack.push_async_callback(self.close, Order(do="close"))

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the order."""
        return {
            "redis": self.redis,
            "redis-pipeline": self.redis_pipeline,
            "redis-coalescing": self.redis_coalescing,
            "nats": self.nats,
            "sqlite": self.sqlite,
            "bare": self.bare,
            "append": self.append,
            "close": self.close,
        }

    async def close(self, order: Order) -> Outcome:
        """Let go of what the last turn had."""
        turn, self._turn = self._turn, AsyncExitStack()
        self._operation = None
        await turn.aclose()
        return Outcome()

    async def append(self, order: Order) -> Outcome:
        """The same loop as every other append benchmark."""
        assert self._operation is not None, "a client comes first"
        load = await closed_loop(
            self._operation, outstanding=order.outstanding, seconds=order.seconds
        )
        return Outcome(
            count=load.count * self._per_call,
            elapsed_s=load.elapsed_s,
            p50_us=load.p50_us,
            p99_us=load.p99_us,
        )

    def _does(self, operation: Operation, *, per_call: int = 1) -> Outcome:
        self._operation, self._per_call = operation, per_call
        return Outcome()

    # --- Redis ------------------------------------------------------------------------------------

    def _redis(self, order: Order) -> redis.asyncio.Redis:
        import redis.asyncio

        client = redis.asyncio.Redis(port=int(order.place), max_connections=_CONNECTIONS_MAX)
        self._turn.push_async_callback(client.aclose)
        return client

    async def redis(self, order: Order) -> Outcome:
        """redis.asyncio, one command per await."""
        client = self._redis(order)
        fields: Fields = {"d": os.urandom(order.size_bytes)}

        async def one(turn: int) -> None:
            await client.xadd(STREAM, fields)

        return self._does(one)

    async def redis_pipeline(self, order: Order) -> Outcome:
        """redis.asyncio, `batch_count` commands per explicit pipeline."""
        client = self._redis(order)
        fields: Fields = {"d": os.urandom(order.size_bytes)}

        async def batch(turn: int) -> None:
            pipeline = client.pipeline(transaction=False)
            for _ in range(order.batch_count):
                _ = pipeline.xadd(STREAM, fields)  # only queued: `execute` sends and waits
            await pipeline.execute()

        return self._does(batch, per_call=order.batch_count)

    async def redis_coalescing(self, order: Order) -> Outcome:
        """Our own client, which joins what a tick brings."""
        from hiredis import pack_command

        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Coalescing, "127.0.0.1", int(order.place))
        self._turn.callback(client.close)
        data = os.urandom(order.size_bytes)

        async def one(turn: int) -> None:
            # The stub says a tuple of one; the function takes one of any length.
            command = pack_command(("XADD", STREAM, "*", "d", data))  # type: ignore[arg-type]
            await client.command(command)

        return self._does(one)

    # --- NATS -------------------------------------------------------------------------------------

    async def nats(self, order: Order) -> Outcome:
        """nats-py, one publish with its acknowledgement per await."""
        import nats
        from nats.js.api import StorageType, StreamConfig

        connection = await nats.connect(f"nats://127.0.0.1:{order.place}")
        self._turn.push_async_callback(connection.close)
        stream = connection.jetstream(timeout=_NATS_TIMEOUT_S)
        await stream.add_stream(
            StreamConfig(name=STREAM, subjects=[f"{STREAM}.*"], storage=StorageType.FILE)
        )
        data = os.urandom(order.size_bytes)

        async def one(turn: int) -> None:
            await stream.publish(f"{STREAM}.all", data)

        return self._does(one)

    # --- in this process --------------------------------------------------------------------------

    async def sqlite(self, order: Order) -> Outcome:
        """sqlite3 with a write-ahead log synced at each commit of `batch_count` rows."""
        database = sqlite3.connect(order.place, isolation_level=None)
        self._turn.callback(database.close)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table records (seqnum integer primary key, data blob)")
        count = order.batch_count
        rows = [(os.urandom(order.size_bytes),)] * count

        async def commit(turn: int) -> None:
            database.execute("begin immediate")
            database.executemany("insert into records (data) values (?)", rows)
            database.execute("commit")

        return self._does(commit, per_call=count)

    async def bare(self, order: Order) -> Outcome:
        """The bare log, one append per task."""
        log = BareLog(Path(order.place), sync=order.durability == "sync")
        self._turn.callback(log.close)
        data = os.urandom(order.size_bytes)

        async def one(turn: int) -> None:
            await log.append(data, tag_of(turn))

        return self._does(one)


if __name__ == "__main__":
    sys.exit(serve(lambda stack: Clients(stack).handlers()))
