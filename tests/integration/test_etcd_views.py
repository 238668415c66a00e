"""A cluster whose views are in etcd: it orders without etcd, and changes its view with it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.main import main
from bokilog.cli.status import collect
from bokilog.errors import InvalidSettings
from bokilog.io.free_ports import free_ports
from bokilog.io.places import Folder
from bokilog.logbook import Log
from bokilog.shapes.backup import backup
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.restore import restore
from tests.etcd import EtcdServer

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
        directory, storage_nodes=1, function_nodes=1, port=free_ports(2), views_url=url
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


def test_views_in_etcd_are_verified_and_a_restore_stores_them_there(
    tmp_path: Path, etcd: EtcdServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_cluster(tmp_path / "d", etcd.url("c1")) as cluster:
        asyncio.run(_append_and_back_up(cluster, tmp_path / "copy"))
    assert main(["verify", str(tmp_path / "d")]) == 0
    assert "terms 0 to 1" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "d" / "data" / "storage-1")]) == 0

    copy, taken = Folder(tmp_path / "copy"), etcd.url("c1")
    with pytest.raises(InvalidSettings, match="cluster already"):
        restore(copy, tmp_path / "new", views_url=taken)
    assert not (tmp_path / "new").exists()
    restore(copy, tmp_path / "new", views_url=etcd.url("c2"), port=free_ports(2))
    with LocalCluster(tmp_path / "new") as cluster:
        asyncio.run(_read(cluster))
    etcd.kill()
    assert main(["verify", str(tmp_path / "new")]) == 2
    assert etcd.endpoint in capsys.readouterr().err


async def _append_and_back_up(cluster: LocalCluster, folder: Path) -> None:
    async with bokilog.connect(cluster.url) as log:
        await log.book("orders").append(b"one")
        await backup(cluster.layout.directory, Folder(folder))


async def _read(cluster: LocalCluster) -> None:
    async with bokilog.connect(cluster.url) as log:
        assert [bytes(each.data) async for each in log.book("orders").scan()] == [b"one"]
