"""A program that calls functions, as those outside of a cluster do, and measures what it takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from time import perf_counter, sleep
from typing import Final

from bokilog.bench.forks import Forks, fresh
from bokilog.bench.http_load import http_load
from bokilog.bench.load import Load, closed_loop
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.sample_app import WORK_S, app, empty, read_each, relay, work
from bokilog.bench.serve import Handler, serve
from bokilog.functions.runtime.outside import AppConnection
from bokilog.functions.runtime.template import SPARE_AFTER_S

WORKERS_COUNT: Final = 2
LEFT_S: Final = 60.0
"""For the calls that are accepted and not run yet."""
PAUSE_S: Final = 3 * SPARE_AFTER_S
"""Before a worker is asked for: enough to have one forked ahead."""
_DATA: Final = bytes(1024)


class FunctionWorker:
    """Does what it is told with one app and one connection."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._connection: AppConnection | None = None
        self._forks: Forks | None = None
        self._pool: ProcessPoolExecutor | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the order."""
        return {
            "connect": self.connect,
            "relay": self.relay,
            "http": self.http,
            "map": self.map,
            "pool": self.pool,
            "spawn": self.spawn,
            "read": self.read,
            "template": self.template,
            "begin": self.begin,
            "fork": self.fork,
            "fresh": self.fresh,
            "memory": self.memory,
        }

    async def connect(self, order: Order) -> Outcome:
        """To the cluster at `place`."""
        connecting = app.connect(order.place)
        self._connection = await self._stack.enter_async_context(connecting)
        await empty.remote(1)
        return Outcome()

    async def relay(self, order: Order) -> Outcome:
        """Calls from one function to another, one at a time."""
        count, p50_us, p99_us = await relay.remote(order.seconds)
        return Outcome(count=int(count), elapsed_s=order.seconds, p50_us=p50_us, p99_us=p99_us)

    async def http(self, order: Order) -> Outcome:
        """POST to the port at `place`."""
        return _outcome(
            await http_load(
                int(order.place),
                "/f/empty",
                outstanding=order.outstanding,
                seconds=order.seconds,
            )
        )

    async def map(self, order: Order) -> Outcome:
        """`count` calls of a millisecond each, by `map` on warm workers."""
        took_s = []
        until_s = perf_counter() + order.seconds
        while (before_s := perf_counter()) < until_s:
            results = [each async for each in work.map(range(order.count))]
            took_s.append(perf_counter() - before_s)
            assert results == list(range(order.count))
        return _times(took_s)

    async def pool(self, order: Order) -> Outcome:
        """The same by a pool of processes of the standard library."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(WORKERS_COUNT)
            self._stack.callback(self._pool.shutdown)
            list(self._pool.map(_work, range(order.count)))
        took_s = []
        until_s = perf_counter() + order.seconds
        while (before_s := perf_counter()) < until_s:
            list(self._pool.map(_work, range(order.count)))
            took_s.append(perf_counter() - before_s)
        return _times(took_s)

    async def spawn(self, order: Order) -> Outcome:
        """Durable calls; accepted means that they are in the log.

        They are run meanwhile, on the same cores. What is left of them when the time is over would
        run beside the next measurement: it is waited for, and counts for nothing.
        """
        newest = await empty.spawn(0)

        async def operation(turn: int) -> None:
            nonlocal newest
            newest = await empty.spawn(turn)

        load = await closed_loop(operation, outstanding=order.outstanding, seconds=order.seconds)
        await newest.result(LEFT_S)
        return _outcome(load)

    async def read(self, order: Order) -> Outcome:
        """A worker reads `count` records that are in its engine's cache, each for the first time.

        Others of the LogBook were read before: the first has the engine follow it, the second has
        it publish what follows.
        """
        assert self._connection is not None
        book = self._connection.log.book(order.book)
        first = await book.append(_DATA)
        await read_each.remote(order.book, [first])
        second = await book.append(_DATA)
        await read_each.remote(order.book, [first, second])
        seqnums = await asyncio.gather(*(book.append(_DATA) for _ in range(order.count)))
        last = await book.append(_DATA)
        await book.read_prev(max_seqnum=last, consistency="linearizable")  # the index is there
        p50_us, p99_us, found = await read_each.remote(order.book, [second, *seqnums])
        return Outcome(
            count=order.count,
            elapsed_s=1.0,
            p50_us=p50_us,
            p99_us=p99_us,
            values={"messages_count": order.count - found},
        )

    async def template(self, order: Order) -> Outcome:
        """Start the template of `fork`; how long its parts took."""
        self._forks = Forks()
        self._stack.push_async_callback(self._forks.aclose)
        ready = await self._forks.start()
        return Outcome(values={f"{part}_ms": int(us) / 1e3 for part, us in _parts(ready.parts)})

    async def begin(self, order: Order) -> Outcome:
        """One worker at a time, each asked for when nobody has asked lately: then one was forked
        ahead."""
        return await self._workers(order, 1, PAUSE_S)

    async def fork(self, order: Order) -> Outcome:
        """`count` workers at once, again and again, without a pause: they are forked."""
        return await self._workers(order, order.count, 0.0)

    async def _workers(self, order: Order, count: int, pause_s: float) -> Outcome:
        """They end between the turns."""
        assert self._forks is not None
        took_s = []
        parts: list[tuple[str, int]] = []
        until_s = perf_counter() + order.seconds
        while perf_counter() < until_s:
            await asyncio.sleep(pause_s)
            took_s.append(await self._forks.fork(count))
            parts = _parts(self._forks.parts)
            await self._forks.end_workers()
        values = {f"{part}_ms": int(us) / 1e3 for part, us in parts}
        outcome = _times(took_s)
        return Outcome(
            count=outcome.count, elapsed_s=outcome.elapsed_s, p50_us=outcome.p50_us, values=values
        )

    async def fresh(self, order: Order) -> Outcome:
        """The same by fresh interpreters that import the same app."""
        return _times([fresh(order.count)])

    async def memory(self, order: Order) -> Outcome:
        """What idle workers have of their own."""
        assert self._forks is not None
        await self._forks.fork(order.count)
        await asyncio.sleep(0.2)
        own = sorted(self._forks.private_bytes())
        await self._forks.end_workers()
        return Outcome(values={"private_bytes": float(own[len(own) // 2])})


def _parts(rows: list[list[object]]) -> list[tuple[str, int]]:
    return [(str(part), int(str(us))) for part, us in rows]


def _work(x: int) -> int:
    sleep(WORK_S)
    return x


def _times(took_s: list[float]) -> Outcome:
    took_s.sort()
    return Outcome(count=len(took_s), elapsed_s=sum(took_s), p50_us=took_s[len(took_s) // 2] * 1e6)


def _outcome(load: Load) -> Outcome:
    return Outcome(
        count=load.count, elapsed_s=load.elapsed_s, p50_us=load.p50_us, p99_us=load.p99_us
    )


def handlers(stack: AsyncExitStack) -> Mapping[str, Handler]:
    """Of one worker."""
    return FunctionWorker(stack).handlers()


if __name__ == "__main__":
    sys.exit(serve(handlers))
