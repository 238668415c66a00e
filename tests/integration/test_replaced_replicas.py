"""Four storage nodes in real processes: one is killed for good, the spare takes its place (P33)."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import bokilog
from bokilog.cli.status import collect
from bokilog.ids import NodeId
from bokilog.io.file_views import FileViews
from bokilog.io.free_ports import free_ports
from bokilog.shapes.cluster_layout import NodePlan
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.supervisor import node_command
from bokilog.shapes.verification import Verification
from bokilog.view import LogSpace

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(180)]

SETTINGS = """\
[sequencer]
replace_after_s = 3.0
[storage]
checkpoint_s = 0.5
"""
WAIT_S = 60.0
COUNT = 300


class Mortal:
    """Starts processes, but for the one that is gone for good."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def __call__(self, node: NodePlan, settings: Path) -> Sequence[str]:
        if node.id in self.gone:
            return ["sleep", "1000"]
        return node_command(node, settings)


def space_of(directory: Path) -> LogSpace:
    view = FileViews(directory / "views").latest()
    assert view is not None
    return view.spaces[0]


def wait_for(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline_s, f"not within {WAIT_S} s"
        time.sleep(0.1)


def remarks(cluster: LocalCluster, node: str) -> dict[Any, Any]:
    facts: Any = asyncio.run(collect(cluster.layout))
    found = next(each for each in facts["processes"] if each["id"] == node)["facts"]
    return {} if found is None else dict(found["spaces"])


def test_a_storage_node_that_is_gone_for_good_is_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    mortal = Mortal()
    cluster = LocalCluster(
        directory,
        storage_nodes=4,
        sequencers=3,
        function_nodes=1,
        port=free_ports(2),
        command=mortal,
    )
    file = cluster.layout.settings_file
    file.write_text(SETTINGS + file.read_text())
    acked: dict[bytes, int] = {}

    async def append(start: int) -> None:
        async with bokilog.connect(cluster.url) as log:
            datas = [b"%d" % number for number in range(start, start + COUNT)]
            seqnums = await asyncio.gather(*(log.book("b").append(data, "t") for data in datas))
            acked.update(zip(datas, seqnums, strict=True))

    async def read_back() -> None:
        async with bokilog.connect(cluster.url) as log:
            found = {record.data: record.seqnum async for record in log.book("b").scan(tag="t")}
            assert found == acked

    with cluster:
        asyncio.run(append(0))
        before = space_of(directory)
        lost = before.replicas[1]
        kept = directory / "data" / lost / "journal-0"
        wait_for(lambda: list(kept.glob("*.seg")))  # what was acknowledged is on two of the three
        (spare,) = {NodeId(f"storage-{n}") for n in (1, 2, 3, 4)} - set(before.replicas)
        mortal.gone.add(lost)
        cluster.kill(lost)
        wait_for(lambda: spare in space_of(directory).replicas)
        after = space_of(directory)
        assert lost not in after.replicas
        assert after.write_quorum == before.write_quorum
        asyncio.run(append(COUNT))
        wait_for(lambda: (said := remarks(cluster, spare)) and not said[0]["rebuilding"])
        wait_for(lambda: remarks(cluster, spare)[0]["position"] == _furthest(cluster, after))
        asyncio.run(read_back())

    mortal.gone.clear()
    file.write_text(file.read_text().replace("replace_after_s = 3.0", "replace_after_s = 0"))
    shutil.rmtree(directory / "data" / after.replicas[0])  # now the spare's copy counts
    with LocalCluster(directory) as cluster:
        asyncio.run(read_back())
        wait_for(lambda: remarks(cluster, lost))
        assert remarks(cluster, lost)[0]["replica"] is False
        assert list(kept.glob("*.seg")), "it keeps its files"
        wait_for(lambda: not remarks(cluster, after.replicas[0])[0]["rebuilding"])
        asyncio.run(append(2 * COUNT))
        asyncio.run(read_back())
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


def _furthest(cluster: LocalCluster, space: LogSpace) -> object:
    return max(remarks(cluster, node)[0]["position"] for node in space.replicas)
