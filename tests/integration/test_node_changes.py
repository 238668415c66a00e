"""`bokilog up` with other numbers of nodes than the directory was made with: data stays (P13)."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

import bokilog
from bokilog.errors import DirectoryInUse, InvalidSettings, NotReady
from bokilog.io.file_views import FileViews
from bokilog.shapes.cluster_layout import lay_out
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.node_changes import change_nodes
from bokilog.shapes.verification import Verification
from bokilog.view import View
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(180)]

COUNT = 100


class Log:
    """What was acknowledged, by LogBook."""

    def __init__(self) -> None:
        self.acked: dict[str, dict[bytes, int]] = {"sync": {}, "flush": {}}

    async def use(self, cluster: LocalCluster) -> None:
        """All that was acknowledged is there, and more is."""
        async with bokilog.connect(cluster.url) as log:
            for durability, acked in self.acked.items():
                if not acked:
                    await log.create_book(durability, durability=durability)  # type: ignore[arg-type]  # one of the two
                book = log.book(durability)
                found = {each.data: each.seqnum async for each in book.scan(tag="t")}
                assert found == acked
                datas = [b"%d" % n for n in range(len(acked), len(acked) + COUNT)]
                seqnums = await asyncio.gather(*(book.append(data, "t") for data in datas))
                assert min(seqnums) > max(acked.values(), default=0)
                acked |= dict(zip(datas, seqnums, strict=True))


def latest(directory: Path) -> View:
    view = FileViews(directory / "views").latest()
    assert view is not None
    return view


def test_one_sequencer_becomes_three_and_then_five(tmp_path: Path) -> None:
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory) as cluster:
        asyncio.run(log.use(cluster))
        with pytest.raises(DirectoryInUse):
            LocalCluster(directory, sequencers=3)
    for count in (3, 5):
        with LocalCluster(directory, sequencers=count) as cluster:
            asyncio.run(log.use(cluster))
            assert len(latest(directory).spaces[0].sequencers) == count
    primary = latest(directory).spaces[0].primary
    shutil.rmtree(directory / "data" / "sequencer-1")  # now the others' copies count
    with LocalCluster(directory) as cluster:
        if primary != "sequencer-1":
            cluster.kill(primary)
        asyncio.run(log.use(cluster))
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


def test_five_sequencers_become_three_and_one_and_three_again(tmp_path: Path) -> None:
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory, sequencers=5) as cluster:
        asyncio.run(log.use(cluster))
    for count in (3, 1, 3):
        with LocalCluster(directory, sequencers=count) as cluster:
            asyncio.run(log.use(cluster))
            view = latest(directory)
            assert all(len(space.sequencers) == count for space in view.spaces)
            assert sum(node.role == "sequencer" for node in view.nodes) == count
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


def test_those_that_stay_get_what_only_those_that_go_had(tmp_path: Path) -> None:
    """1. The first of three is away, and the others go on without it. 2. It alone is to stay."""
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory, sequencers=3) as cluster:
        asyncio.run(log.use(cluster))
        cluster.kill("sequencer-1", signal.SIGSTOP)
        asyncio.run(log.use(cluster))
        cluster.kill("sequencer-1", signal.SIGKILL)
    with LocalCluster(directory, sequencers=1) as cluster:
        asyncio.run(log.use(cluster))
    assert latest(directory).spaces[0].sequencers == ("sequencer-1",)


def test_storage_nodes_come_and_go_as_spares(tmp_path: Path) -> None:
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory, sequencers=3) as cluster:
        asyncio.run(log.use(cluster))
    replicas = {space.replicas for space in latest(directory).spaces}
    with LocalCluster(directory, storage_nodes=5, function_nodes=3) as cluster:
        asyncio.run(log.use(cluster))
    view = latest(directory)
    assert {space.replicas for space in view.spaces} == replicas
    assert {node.id for node in view.nodes} >= {"storage-4", "storage-5", "engine-3"}
    with LocalCluster(directory, storage_nodes=4) as cluster:
        asyncio.run(log.use(cluster))
    assert "storage-5" not in {node.id for node in latest(directory).nodes}
    before = latest(directory)
    with pytest.raises(InvalidSettings, match=r"storage_nodes=2 takes storage-3 away"):
        LocalCluster(directory, storage_nodes=2)
    assert latest(directory) == before
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


def test_a_lost_majority_is_no_time_for_a_change(tmp_path: Path) -> None:
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory, sequencers=3) as cluster:
        asyncio.run(log.use(cluster))
    before = latest(directory)
    for node in ("sequencer-2", "sequencer-3"):
        shutil.rmtree(directory / "data" / node)
    with pytest.raises(NotReady, match="a majority of sequencers is lost"):
        LocalCluster(directory, sequencers=5)
    assert latest(directory) == before


def test_a_run_that_was_killed_is_run_again(tmp_path: Path) -> None:
    """The view was stored, the settings were not."""
    directory, log = tmp_path / "d", Log()
    with new_cluster(directory) as cluster:
        asyncio.run(log.use(cluster))
    settings = (directory / "cluster.toml").read_bytes()
    lay_out(directory, sequencers=3, change=change_nodes)
    stored = latest(directory)
    (directory / "cluster.toml").write_bytes(settings)
    cluster = LocalCluster(directory, sequencers=3)
    assert latest(directory) == stored
    with cluster:
        asyncio.run(log.use(cluster))
