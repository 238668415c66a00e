"""The metalog of a `flush` log space is lost on every sequencer's machine; storage nodes still hold
its entries, and bring them (P11)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest

import bokilog
from bokilog.io.directory import LOCK
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(120)]

COUNT = 40


def kept_out(directory: Path) -> int:
    """Keeps the next process of that directory from starting, until it is closed."""
    deadline_s = time.monotonic() + 10
    descriptor = os.open(directory / LOCK, os.O_RDWR)
    while time.monotonic() < deadline_s:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        else:
            return descriptor
    raise AssertionError(f"{directory} is in use for 10 s")


def lose_power(cluster: LocalCluster, images: dict[Path, Path]) -> None:
    """Every sequencer dies, and its metalog is as it was when the image was taken."""
    for directory in images:
        cluster.kill(directory.name)
    locks = [kept_out(directory) for directory in images]
    for directory, image in images.items():
        shutil.rmtree(directory / "metalog-1")
        shutil.copytree(image, directory / "metalog-1")
    for lock in locks:
        os.close(lock)


@pytest.mark.parametrize("sequencers", [1, 3])
def test_p11_acknowledged_records_survive_all_sequencers_that_lost_their_metalog(
    tmp_path: Path, sequencers: int
) -> None:
    datas = [b"%d" % number for number in range(COUNT)]

    async def append(some: list[bytes]) -> list[int]:
        async with bokilog.connect(cluster.url) as log:
            await log.create_book("flushed", durability="flush")
            return [await log.book("flushed").append(data, "t") for data in some]

    async def look() -> None:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("flushed")
            assert await book.append(b"fresh", "t") > last
            found = [record.data async for record in book.scan(tag="t")]
            assert found == [*datas, b"fresh"]

    with new_cluster(tmp_path / "d", sequencers=sequencers) as cluster:
        asyncio.run(append(datas[: COUNT // 2]))
        names = [f"sequencer-{number}" for number in range(1, sequencers + 1)]
        images = {cluster.layout.data_dir / name: tmp_path / name for name in names}
        for directory, image in images.items():
            shutil.copytree(directory / "metalog-1", image)
        last = asyncio.run(append(datas[COUNT // 2 :]))[-1]
        lose_power(cluster, images)
        asyncio.run(look())
        logs = [(cluster.layout.logs_dir / f"{name}.log").read_text() for name in names]
        assert any("were lost here; storage-" in log for log in logs)
