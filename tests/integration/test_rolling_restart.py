"""`bokilog restart` takes every process of a cluster in turn, and callers see nothing but latency.

Clients with all seeds append, with and without keys, read and follow throughout; a single error of
any of them fails the test, `AppendUnknown` included.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.restart import Restart
from bokilog.errors import InvalidSettings, NotReady
from bokilog.io.free_ports import free_ports
from bokilog.logbook import Log
from bokilog.shapes.cluster_layout import lay_out
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(180)]

CLIENTS = 3
SENDERS = 4
STEP_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with new_cluster(tmp_path / "cluster", sequencers=3) as made:
        yield made


class Load:
    """What goes on while processes are restarted; any error of it ends the test."""

    def __init__(self) -> None:
        self.acked: dict[bytes, int] = {}
        self.followed: list[int] = []
        self.trims = 0
        self._stopping = False

    async def run(self, url: str, work: Coroutine[None, None, None]) -> None:
        """Load from several clients for as long as `work` takes."""
        async with contextlib.AsyncExitStack() as stack:
            logs = [await stack.enter_async_context(_connect(url)) for _ in range(CLIENTS)]
            tasks = [
                asyncio.create_task(task)
                for number, log in enumerate(logs)
                for task in self._tasks(log, number)
            ]
            worker = asyncio.ensure_future(work)
            done, _ = await asyncio.wait([worker, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self._stopping = True
            for task in done:
                task.result()
            await asyncio.gather(worker, *tasks)

    def _tasks(self, log: Log, number: int) -> list[Coroutine[None, None, None]]:
        senders = [self._append(log, f"{number}/{sender}") for sender in range(SENDERS)]
        return [*senders, self._read(log), self._follow(log, number), self._trim(log, number)]

    async def _append(self, log: Log, name: str) -> None:
        book, count = log.book("orders"), 0
        while not self._stopping:
            data = f"{name}/{count}".encode()
            key = data.decode() if count % 2 else None
            self.acked[data] = await book.append(data, f"by-{name}", key=key)
            count += 1

    async def _read(self, log: Log) -> None:
        book = log.book("orders")
        while not self._stopping:
            newest = await book.read_prev()
            assert newest is None or newest.seqnum <= await book.tail()

    async def _follow(self, log: Log, number: int) -> None:
        if number:
            return
        async for record in log.book("orders").follow():
            self.followed.append(record.seqnum)
            if self._stopping:
                return

    async def _trim(self, log: Log, number: int) -> None:
        """Trims and holds are asked for again when their engine goes: they must be done once."""
        book = log.book(f"trimmed-{number}")
        while not self._stopping:
            at = await book.append(b"x", "t")
            await book.hold("reader", at, 60.0)
            done = await book.trim(at)
            assert done.until == at
            self.trims += 1


def _connect(url: str) -> contextlib.AbstractAsyncContextManager[Log]:
    return bokilog.connect(url, timeout_s=STEP_S)


def test_every_process_is_restarted_in_turn_under_load_without_an_error(
    cluster: LocalCluster,
) -> None:
    pids = {node.id: cluster.pid(node.id) for node in cluster.layout.nodes}
    load = Load()

    async def main() -> None:
        async def restart() -> None:
            done = await Restart(cluster.layout, timeout_s=STEP_S).run((), rolling=True)
            assert sorted(done) == sorted(pids)
            assert [name.partition("-")[0] for name in done[::3]] == [
                "storage",
                "sequencer",
                "engine",
            ]

        await load.run(cluster.url, restart())
        async with bokilog.connect(cluster.url) as log:
            records = {record.data: record.seqnum async for record in log.book("orders").scan()}
        assert records == load.acked
        assert load.followed == sorted(load.acked.values())[: len(load.followed)]

    asyncio.run(main())
    assert load.acked and load.trims
    for node, pid in pids.items():
        assert cluster.restarts(node) == 1, node
        assert cluster.pid(node) != pid


def test_a_restart_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    restart = Restart(lay_out(tmp_path / "d", port=free_ports(2)), timeout_s=1.0)
    with pytest.raises(InvalidSettings, match=r"storage-9.*is none of sequencer-1"):
        asyncio.run(restart.run(["storage-9"], rolling=True))
    with pytest.raises(NotReady, match="nothing runs in"):
        asyncio.run(restart.run([], rolling=True))
