"""A storage node that stands still, its connections with it, keeps no reader waiting for long."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

import bokilog
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(120)]

STORAGE = ("storage-1", "storage-2", "storage-3")


async def _use(cluster: LocalCluster) -> None:
    """Readers that are there already, and clients that come while one node stands still."""
    async with bokilog.connect(cluster.url) as log:
        book = log.book("orders")
        appended = [await book.append(b"first", "t")]
        follow = book.follow(tag="t")
        assert (await anext(follow)).seqnum == appended[0]
        for node in STORAGE:
            cluster.kill(node, signal.SIGSTOP)
            async with bokilog.connect(cluster.url) as fresh:
                await fresh.book(f"of-{node}").append(b"new", "t")
                appended.append(await fresh.book("orders").append(b"more", "t"))
            assert (await anext(follow)).seqnum == appended[-1]
            assert [record.seqnum async for record in book.scan(tag="t")] == appended
            cluster.kill(node, signal.SIGCONT)
        await follow.aclose()


def test_reads_follows_and_new_logbooks_go_past_a_node_that_stands_still(tmp_path: Path) -> None:
    with new_cluster(tmp_path / "d") as cluster:
        asyncio.run(_use(cluster))
