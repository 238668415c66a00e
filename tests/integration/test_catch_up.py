"""Nodes that were away come back and count again, appends going on meanwhile.

Nothing is restarted here unless a test says so: the supervisor's steps are only taken inside of
`healing`. A record's data names its append, so each is found at most once, and every one that was
acknowledged at its seqnum, through both engines.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

import bokilog
from bokilog.cli.status import collect
from bokilog.errors import AppendUnknown
from bokilog.logbook import Log
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import small_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(90)]

BOOK = "orders"
SENDERS = 6
PER_SENDER = 8
"""Appends that one sender has under way."""
HEAL_TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = small_cluster(tmp_path_factory.mktemp("catch-up") / "cluster")
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(started: LocalCluster) -> LocalCluster:
    """All of it serves, whatever the test before killed."""
    with healing(started):
        for node in started.layout.nodes:
            started.wait_ready(node.id)
    return started


@contextmanager
def healing(cluster: LocalCluster) -> Iterator[None]:
    """What is dead, or dies in here, is started again."""
    stop = threading.Event()
    thread = threading.Thread(target=cluster.watch, args=(stop.is_set,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


async def restart(cluster: LocalCluster, *nodes: str) -> None:
    """Have dead nodes started again; returns once they serve."""

    def serve() -> None:
        before = {node: cluster.restarts(node) for node in nodes}
        with healing(cluster):
            for node in nodes:
                cluster.wait_ready(node, restarts=before[node] + 1, timeout_s=HEAL_TIMEOUT_S)

    await asyncio.to_thread(serve)


class Load:
    """Appends that go on in the background, and what became of each."""

    _made = 0

    def __init__(self, log: Log, *, keyed: bool = False) -> None:
        self.acked: dict[int, bytes] = {}
        self.unknown: set[bytes] = set()
        self._book = log.book(BOOK)
        self._keyed = keyed
        self._stopping = False
        self._more = asyncio.Event()

    async def reach(self, count: int) -> None:
        """Until that many more are acknowledged."""
        goal = len(self.acked) + count
        async with asyncio.timeout(HEAL_TIMEOUT_S):
            while len(self.acked) < goal:
                self._more.clear()
                await self._more.wait()

    async def send(self) -> None:
        while not self._stopping:
            await asyncio.gather(*(self._append() for _ in range(PER_SENDER)))

    def stop(self) -> None:
        self._stopping = True

    async def _append(self) -> None:
        Load._made += 1
        name = f"append {Load._made}"
        data = name.encode() + bytes(200)
        try:
            seqnum = await self._book.append(data, "t", key=name if self._keyed else None)
        except AppendUnknown:
            self.unknown.add(data)
            return
        assert seqnum not in self.acked
        self.acked[seqnum] = data
        self._more.set()


@asynccontextmanager
async def load(url: str, *, keyed: bool = False) -> AsyncIterator[Load]:
    """Appends from several senders; any error but `AppendUnknown` fails the test."""
    async with bokilog.connect(url) as log:
        running = Load(log, keyed=keyed)
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(running.send())
            try:
                yield running
            finally:
                running.stop()


async def check(cluster: LocalCluster, *loads: Load) -> None:
    """What stands is what was acknowledged, and what is unknown at most once."""
    acked = {seqnum: data for each in loads for seqnum, data in each.acked.items()}
    unknown = {data for each in loads for data in each.unknown}
    for port in cluster.layout.ports:
        if cluster.pid(f"engine-{port - cluster.layout.ports[0] + 1}") is None:
            continue
        async with bokilog.connect(f"bokilog://127.0.0.1:{port}") as log:
            first = min(acked)
            scan = log.book(BOOK).scan(tag="t", min_seqnum=first, consistency="linearizable")
            found = {record.seqnum: record.data async for record in scan}
        others = {data for seqnum, data in found.items() if seqnum not in acked}
        assert {seqnum: found.get(seqnum) for seqnum in acked} == acked
        assert others <= unknown and len(set(found.values())) == len(found)


async def positions(cluster: LocalCluster) -> dict[str, tuple[list[int], str]]:
    """Position of the log space of class `sync` and hash of its history, by storage node; the
    primary's published position by its own name."""
    facts = await collect(cluster.layout)
    processes = facts["processes"]
    assert isinstance(processes, list)
    found = {}
    for process in processes:
        if process["facts"] is not None and process["role"] != "engine":
            space = process["facts"]["spaces"][0]
            found[process["id"]] = (
                space.get("published", space["position"]),
                space.get("chained_hash", ""),
            )
    return found


async def caught_up(cluster: LocalCluster, node: str) -> None:
    """Until the node's fold is where the primary was when this was asked."""
    goal = (await positions(cluster))["sequencer-1"][0]
    async with asyncio.timeout(HEAL_TIMEOUT_S):
        while (await positions(cluster)).get(node, ([0, 0], ""))[0] < goal:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def facts_of(cluster: LocalCluster, node: str) -> dict[str, object]:
    """What a storage node says of the log space of class `sync`."""
    processes = (await collect(cluster.layout))["processes"]
    assert isinstance(processes, list)
    facts = next(each["facts"] for each in processes if each["id"] == node)
    found: dict[str, object] = {} if facts is None else facts["spaces"][0]
    return found


async def rebuilt(cluster: LocalCluster, node: str) -> dict[str, object]:
    """Once the node has loaded a fold and copied what it names: what it says then."""
    async with asyncio.timeout(HEAL_TIMEOUT_S):
        while True:
            facts = await facts_of(cluster, node)
            if facts.get("indexes_loaded") and not facts["rebuilding"]:
                return facts
            await asyncio.sleep(0.05)


async def agree(cluster: LocalCluster) -> None:
    """Once nothing is appended, all live replicas come to stand at one place with one history."""
    async with asyncio.timeout(HEAL_TIMEOUT_S):
        while True:
            found = await positions(cluster)
            position = found.pop("sequencer-1")[0]
            if all(each[0] == position for each in found.values()):
                break
            await asyncio.sleep(0.05)
    assert len({hashed for _, hashed in found.values()}) == 1, found


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_node_that_was_away_counts_again_and_another_may_go(cluster: LocalCluster) -> None:
    async with load(cluster.url) as running:
        await running.reach(300)
        cluster.kill("storage-1")
        await running.reach(3_000)
        await restart(cluster, "storage-1")
        await caught_up(cluster, "storage-1")
        cluster.kill("storage-2")  # for good: storage-1 has to count from here on
        await running.reach(1_000)
    assert not running.unknown
    await agree(cluster)
    await check(cluster, running)


@pytest.mark.asyncio
async def test_two_nodes_away_in_turn_lose_nothing(cluster: LocalCluster) -> None:
    async with load(cluster.url) as running:
        for away in ("storage-1", "storage-2", "storage-3"):
            cluster.kill(away)
            await running.reach(500)
            await restart(cluster, away)
            await caught_up(cluster, away)
    assert not running.unknown
    await agree(cluster)
    await check(cluster, running)


@pytest.mark.asyncio
async def test_node_that_dies_while_it_catches_up_catches_up_later(cluster: LocalCluster) -> None:
    async with load(cluster.url) as running:
        cluster.kill("storage-3")
        await running.reach(1_500)
        await restart(cluster, "storage-3")
        cluster.kill("storage-3")
        await running.reach(500)
        await restart(cluster, "storage-3")
        await caught_up(cluster, "storage-3")
        cluster.kill("storage-1")
        await running.reach(500)
    assert not running.unknown
    await agree(cluster)
    await check(cluster, running)


@pytest.mark.asyncio
async def test_restart_of_the_sequencer_costs_callers_only_time(cluster: LocalCluster) -> None:
    before = (await positions(cluster))["sequencer-1"][0]
    async with load(cluster.url) as running:
        for _ in range(2):
            await running.reach(500)
            cluster.kill("sequencer-1")
            await restart(cluster, "sequencer-1")
        await running.reach(500)
    assert not running.unknown
    await agree(cluster)
    assert (await positions(cluster))["sequencer-1"][0][0] == before[0] + 2, (
        "a term per start (P12)"
    )
    await check(cluster, running)


@pytest.mark.asyncio
async def test_client_moves_on_to_the_next_engine(cluster: LocalCluster) -> None:
    """What was under way without a key is unknown; with a key nobody notices anything."""
    async with load(cluster.url) as plain, load(cluster.url, keyed=True) as keyed:
        await plain.reach(300)
        await keyed.reach(300)
        cluster.kill("engine-1")  # the first seed of both
        await plain.reach(500)
        await keyed.reach(500)
    assert len(plain.unknown) <= SENDERS * PER_SENDER
    assert not keyed.unknown
    await agree(cluster)
    await check(cluster, plain, keyed)


@pytest.mark.asyncio
async def test_everything_killed_at_once_comes_back(cluster: LocalCluster) -> None:
    nodes = [node.id for node in cluster.layout.nodes]
    async with load(cluster.url) as plain, load(cluster.url, keyed=True) as keyed:
        for _ in range(2):
            await plain.reach(500)
            await keyed.reach(500)
            for node in nodes:
                cluster.kill(node)
            await restart(cluster, *nodes)
        await plain.reach(100)
        await keyed.reach(100)
    assert not keyed.unknown
    await agree(cluster)
    await check(cluster, plain, keyed)


@pytest.mark.asyncio
async def test_node_whose_disk_was_lost_is_rebuilt_and_counts(cluster: LocalCluster) -> None:
    """1. A disk is wiped under load. 2. The node loads an index from a peer and copies the records.
    3. Another node dies for good: the rebuilt one has to count. 4. The third dies too: every record
    is read from the rebuilt node alone."""
    async with load(cluster.url) as running:
        while (await positions(cluster))["sequencer-1"][0][1] < 1_300:
            await running.reach(500)
        cluster.kill("storage-2")
        data_dir = next(each.data_dir for each in cluster.layout.nodes if each.id == "storage-2")
        assert data_dir is not None
        await asyncio.to_thread(shutil.rmtree, data_dir)
        await restart(cluster, "storage-2")
        facts = await rebuilt(cluster, "storage-2")
        assert facts["records_lost"] == 0
        await caught_up(cluster, "storage-2")
        cluster.kill("storage-3")
        await running.reach(500)
    assert not running.unknown
    await agree(cluster)
    await check(cluster, running)
    cluster.kill("storage-1")
    await check(cluster, running)
