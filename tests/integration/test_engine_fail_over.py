"""A client with several seeds outlives its engine: `kill -9` of a real one, the next takes over.

Nothing is restarted here. A record's data names its append, so each is found at most once.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bokilog
from bokilog.errors import AppendUnknown
from bokilog.io.free_ports import free_ports
from bokilog.logbook import LogBook
from bokilog.record import Record
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.asyncio, pytest.mark.timeout(60)]

SENDERS = 16
SILENCE_S_MAX = 5.0
"""Far above the usual few milliseconds: the machine may be busy."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    made = new_cluster(tmp_path / "cluster")
    made.start()
    try:
        yield made
    finally:
        made.stop()


class Sender:
    """Appends one after another, every second one with a key."""

    def __init__(self, book: LogBook, number: int) -> None:
        self.acked: dict[bytes, int] = {}
        self.unknown: list[bytes] = []
        self.times_s: list[float] = []
        self.stopping = False
        self._book = book
        self._number = number

    async def run(self) -> None:
        count = 0
        while not self.stopping:
            count += 1
            data = b"%d:%d" % (self._number, count)
            key = data.decode() if count % 2 else None
            try:
                self.acked[data] = await self._book.append(data, "t", key=key, timeout_s=20)
                self.times_s.append(time.monotonic())
            except AppendUnknown:
                assert key is None, "the next engine settles what has a key"
                self.unknown.append(data)


async def follow(book: LogBook, found: list[Record]) -> None:
    async for record in book.follow(tag="t"):
        found.append(record)  # noqa: PERF401 - it never ends, and is looked at meanwhile


async def until(count: int, found: list[Record]) -> None:
    async with asyncio.timeout(20):
        while len(found) < count:  # noqa: ASYNC110 - the follower's list is all there is
            await asyncio.sleep(0.01)


async def test_a_killed_engine_costs_its_clients_no_more_than_a_moment(
    cluster: LocalCluster,
) -> None:
    async with bokilog.connect(cluster.url) as log:
        book = log.book("orders")
        followed: list[Record] = []
        follower = asyncio.create_task(follow(book, followed))
        senders = [Sender(book, number) for number in range(SENDERS)]
        tasks = [asyncio.create_task(sender.run()) for sender in senders]
        await until(200, followed)

        killed_s = time.monotonic()
        cluster.kill("engine-1")  # the first seed, so the one in use
        last = len(followed)
        await until(last + 400, followed)
        for sender in senders:
            sender.stopping = True
        await asyncio.gather(*tasks)
        after_s = min(t for sender in senders for t in sender.times_s if t > killed_s + 0.05)
        assert after_s - killed_s < SILENCE_S_MAX

        acked = {data: seqnum for sender in senders for data, seqnum in sender.acked.items()}
        unknown = {data for sender in senders for data in sender.unknown}
        assert len(unknown) <= SENDERS, "only what was under way when it died"
        token = log.session().token
        records = {record.data: record.seqnum async for record in book.scan(tag="t")}
        assert len(records) == len([record async for record in book.scan(tag="t")]), "one twice"
        assert {data: records.get(data) for data in acked} == acked
        assert records.keys() - acked.keys() <= unknown

        read_s = time.monotonic()
        await until(len(records), followed)
        assert time.monotonic() - read_s < SILENCE_S_MAX, "a wait was forgotten"
        follower.cancel()
        assert [record.seqnum for record in followed] == sorted(records.values())
        newest = max(acked.values())
        seen = log.book("orders", session=log.session(token))
        found = await seen.read(newest)
        assert found is not None and acked[found.data] == newest


async def test_seeds_that_are_not_there_are_passed_over(cluster: LocalCluster) -> None:
    nobody = free_ports()
    url = f"bokilog://127.0.0.1:{nobody},127.0.0.1:{cluster.layout.ports[1]}"
    started_s = time.monotonic()
    async with bokilog.connect(url) as log:
        assert await log.book("orders").append(b"x") > 0
    assert time.monotonic() - started_s < SILENCE_S_MAX


async def test_an_engine_that_hangs_later_is_left(cluster: LocalCluster) -> None:
    """What has a key is settled at the next seed, and whoever waits for a record waits there."""
    async with bokilog.connect(cluster.url) as log:
        book = log.book("orders")
        follow = book.follow(tag="t")
        seqnum = await book.append(b"before", "t")
        assert (await anext(follow)).seqnum == seqnum
        waiting = asyncio.ensure_future(anext(follow))
        cluster.kill("engine-1", signal.SIGSTOP)
        try:
            seqnum = await book.append(b"after", "t", key="k")
            assert (await waiting).seqnum == seqnum
            found = await book.read(seqnum)
            assert found is not None and found.data == b"after"
        finally:
            cluster.kill("engine-1", signal.SIGCONT)
        await follow.aclose()


async def test_an_engine_that_hangs_at_the_start_is_passed_over(cluster: LocalCluster) -> None:
    """It is stopped, not dead: its socket takes connections, and nobody ever answers."""
    cluster.kill("engine-1", signal.SIGSTOP)
    try:
        async with bokilog.connect(cluster.url) as log:
            assert await log.book("orders").append(b"x") > 0
    finally:
        cluster.kill("engine-1", signal.SIGCONT)
