"""A cluster whose views are in etcd: it orders without etcd, and changes its view with it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.status import collect
from bokilog.logbook import Log
from bokilog.shapes.local_cluster import LocalCluster
from tests.etcd import EtcdServer
from tests.integration.cluster import free_port

pytestmark = [
    pytest.mark.service("etcd"),
    pytest.mark.slow,
    pytest.mark.kill,
    pytest.mark.timeout(90),
]
# Longer than a node takes between two questions for the term, so that questions fall into the time
# without etcd; and than the first of them needs to fail.
QUIET_S = 1.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


def new_cluster(directory: Path, url: str) -> LocalCluster:
    return LocalCluster(
        directory, storage_nodes=1, function_nodes=1, port=free_port(), views_url=url
    )


def test_appends_go_on_while_etcd_is_paused_dead_and_back(tmp_path: Path, etcd: EtcdServer) -> None:
    with new_cluster(tmp_path / "d", etcd.url("c1")) as cluster:
        asyncio.run(_outlive(cluster, etcd))


async def _outlive(cluster: LocalCluster, etcd: EtcdServer) -> None:
    async with await bokilog.connect(cluster.url) as log:
        writer = _Writer(log)
        await writer.append_for(0.1)
        assert await _views(cluster) == {"problem": None, "term": 1}

        etcd.signal(signal.SIGSTOP)
        await writer.append_for(QUIET_S)
        found = await _views(cluster)
        assert f"cannot reach the view store etcd://{etcd.endpoint}/c1" in str(found["problem"])
        etcd.signal(signal.SIGCONT)
        await writer.append_for(0.1)

        etcd.kill()
        await writer.append_for(QUIET_S)
        assert "Connection refused" in str((await _views(cluster))["problem"])

        # Without etcd there is no next term: the sequencer asks until there is one again.
        cluster.kill("sequencer-1")
        stuck = asyncio.ensure_future(writer.append_one(timeout_s=60))
        await asyncio.sleep(QUIET_S)
        assert not stuck.done()
        etcd.start()
        await stuck
        await writer.append_for(0.1)
        assert await _views(cluster) == {"problem": None, "term": 2}
        assert await log.book("b").tail() == writer.last + 1


class _Writer:
    """Appends one record at a time; none may fail, each comes after the one before."""

    def __init__(self, log: Log) -> None:
        self._book = log.book("b")
        self._count = 0
        self.last = 0

    async def append_for(self, duration_s: float) -> None:
        until_s = time.monotonic() + duration_s
        while time.monotonic() < until_s:
            await self.append_one(timeout_s=5)

    async def append_one(self, *, timeout_s: float) -> None:
        self._count += 1
        seqnum = await self._book.append(b"x", key=f"k{self._count}", timeout_s=timeout_s)
        assert seqnum > self.last
        self.last = seqnum


async def _views(cluster: LocalCluster) -> dict[str, object]:
    facts = await collect(cluster.layout)
    views, view = facts["views"], facts["view"]
    assert isinstance(views, dict)
    return {"problem": views["problem"]} | (
        {"term": view["term"]} if isinstance(view, dict) else {}
    )
