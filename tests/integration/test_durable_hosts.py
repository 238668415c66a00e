"""Durable calls in real processes: hosts and their workers are killed while calls run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

import bokilog
from bokilog.client.admin import ClientLog
from bokilog.codec import pack
from bokilog.functions.books import app_book
from bokilog.functions.calls.call import Call
from bokilog.functions.calls.finding import find_call, list_calls
from bokilog.functions.calls.records import (
    CALLS,
    Cancelled,
    DeadLettered,
    Finished,
    Spawned,
    decode,
)
from bokilog.functions.calls.spawning import spawn
from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster

APP = "durable"
CALLS_COUNT = 60
pytestmark = [
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.asyncio,
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(
        tmp_path_factory.mktemp("durable"),
        function_nodes=2,
        port=free_ports(2),
        http_port=free_ports(),
        app="durable_app:app",
        app_dir=Path(__file__).parent / "apps",
    ) as running:
        yield running


async def steps(log: ClientLog) -> list[object]:
    return [decode(each.data) async for each in log.book(app_book(APP)).scan(tag=CALLS)]


async def work(log: ClientLog, number: int) -> Call:
    return await spawn(log, APP, "work", pack([[number], {}]), 0, retries=10, retry_delay_s=0.05)


async def test_calls_survive_kill_9_of_every_host(cluster: LocalCluster) -> None:
    async with bokilog.connect(cluster.url) as log:
        calls = []
        restarts = cluster.restarts("host-2")
        for number in range(CALLS_COUNT):
            calls.append(await work(log, number))
            await asyncio.sleep(0.01)
            if number in (20, 40):
                cluster.kill(f"host-{number // 20}")
        results = await asyncio.gather(*(each.result(60) for each in calls))
        assert results == [number**2 for number in range(CALLS_COUNT)]
        await asyncio.to_thread(cluster.wait_ready, "host-2", restarts=restarts + 1)
        found = await steps(log)
        ends = Counter(
            step.call_id for step in found if isinstance(step, (Finished, DeadLettered, Cancelled))
        )
        assert [ends[each.id] for each in calls] == [1] * CALLS_COUNT
        again = await find_call(log, APP, calls[30].id)
        assert await again.result(1) == 900


async def test_due_times_have_one_call_each_over_both_hosts(cluster: LocalCluster) -> None:
    async with bokilog.connect(cluster.url) as log:
        await asyncio.sleep(2.5)
        dues = [
            step.due_ms
            for step in await steps(log)
            if isinstance(step, Spawned) and step.schedule == "tick"
        ]
        assert len(dues) >= 2
        assert len(set(dues)) == len(dues)
        assert dues == sorted(dues)


async def test_a_stream_goes_on_over_the_death_of_its_host(cluster: LocalCluster) -> None:
    async with bokilog.connect(cluster.url) as log:
        call = await spawn(
            log, APP, "letters", pack([[300], {}]), 0, retries=10, retry_delay_s=0.05, stream=True
        )
        values: list[object] = []
        async for item in call.items():
            values.append(item.value)
            if len(values) == 20:
                cluster.kill((await call.status()).host)
        assert "".join(map(str, values)) == "".join(chr(97 + n % 26) for n in range(300))
        status = await call.status()
        assert (status.state, status.attempt) == ("finished", 1)


async def test_a_stream_over_http_goes_on_at_another_gateway_when_its_own_is_killed(
    cluster: LocalCluster,
) -> None:
    restarts = cluster.restarts("host-1")
    first, other = (f"http://127.0.0.1:{port}" for port in cluster.layout.http_ports)
    async with aiohttp.ClientSession() as http:
        wanted = {"Accept": "text/event-stream"}
        async with http.post(f"{first}/f/letters", json=[300], headers=wanted) as answer:
            call = answer.headers["Bokilog-Call"]
            got = [event async for event in letters_of(answer, most=20)]
            cluster.kill("host-1")
        place = {"Last-Event-ID": got[-1][0]}
        async with http.get(f"{other}/calls/{call}/items", headers=place) as answer:
            got += [event async for event in letters_of(answer, most=1_000)]
    assert "".join(letter for _, letter in got) == "".join(chr(97 + n % 26) for n in range(300))
    await asyncio.to_thread(cluster.wait_ready, "host-1", restarts=restarts + 1)


async def letters_of(
    answer: aiohttp.ClientResponse, *, most: int
) -> AsyncIterator[tuple[str, str]]:
    """(id, letter) of the events of a stream, until there are `most` of them."""
    count, place = 0, ""
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            place = value
        elif name == "data" and place:
            yield place, json.loads(value)
            count, place = count + 1, ""
            if count == most:
                return


async def test_nothing_is_left_open(cluster: LocalCluster) -> None:
    async with bokilog.connect(cluster.url) as log:
        for call in await list_calls(log, APP):
            await (await find_call(log, APP, call.id)).outcome(wait_s=30)
            assert (await (await find_call(log, APP, call.id)).status()).state == "finished"
