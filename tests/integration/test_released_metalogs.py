"""Three sequencers in real processes let go of metalog, and one that was away goes on (P16)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import bokilog
from bokilog.cli.status import ask_status
from bokilog.errors import NotReady
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.verification import Verification
from tests.integration.cluster import small_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(180)]

SEQUENCERS = ("sequencer-1", "sequencer-2", "sequencer-3")
AWAY = "sequencer-3"
WAIT_S = 60.0
NAME = "h" * 120
"""Entries are to be long, so that few of them fill a segment."""


async def begins_at(cluster: LocalCluster, node: str) -> int:
    """As the process says."""
    plan = next(each for each in cluster.layout.nodes if each.id == node)
    try:
        facts: Any = await ask_status(plan.addresses[0])
    except NotReady:
        return 0
    found: int = facts["spaces"][0]["begins_at"]
    return found


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not await what():
        assert time.monotonic() < deadline_s, f"not within {WAIT_S} s"
        await asyncio.sleep(0.1)


def test_metalog_is_let_go_and_who_was_away_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    datas: list[bytes] = []

    async def fill(cluster: LocalCluster, rounds: int) -> None:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("b")
            for number in range(rounds):
                datas.append(b"%d" % len(datas))
                await book.append(datas[-1], "t")
                await asyncio.gather(
                    *(book.hold(f"{NAME}{number % 50}", 1, ttl_s=60.0) for _ in range(500))
                )

    async def use(cluster: LocalCluster) -> None:
        await fill(cluster, 2)
        cluster.kill(AWAY, signal.SIGSTOP)
        held = 0
        for _ in range(20):
            await fill(cluster, 10)
            held = max([await begins_at(cluster, node) for node in SEQUENCERS if node != AWAY])
            if held:
                break
        assert held > 0, "nothing was let go"
        cluster.kill(AWAY)
        cluster.wait_ready(AWAY, restarts=1)
        await fill(cluster, 1)

        async def goes_on() -> bool:
            return await begins_at(cluster, AWAY) > 0

        await until(goes_on)

    with small_cluster(directory, sequencers=3) as cluster:
        asyncio.run(use(cluster))
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]

    async def look(cluster: LocalCluster) -> None:
        async with bokilog.connect(cluster.url) as log:
            found = [record.data async for record in log.book("b").scan(tag="t")]
            assert found == datas
            await log.book("b").append(b"fresh")

    with LocalCluster(directory) as cluster:
        asyncio.run(look(cluster))
