"""Nodes that start with a directory that is not theirs, or twice: refused in one line, exit code 2
(P3).

What else of "bad input and trouble" there is has its tests where it is decided: two controllers and
clocks in `test_controller.py`, full disks in `test_p32_full_disks.py` and `test_core.py`, views in
`test_view_store_contract.py`.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bokilog
from bokilog.io.process import EXIT_USAGE
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.supervisor import node_command
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with new_cluster(tmp_path_factory.mktemp("wrong") / "cluster", sequencers=3) as made:
        yield made


def second(cluster: LocalCluster, node: str, *settings: str) -> str:
    """Start a node of the running cluster once more; what it said when it gave up."""
    plan = next(each for each in cluster.layout.nodes if each.id == node)
    command = [*node_command(plan, cluster.layout.settings_file)]
    for setting in settings:
        command += ["--set", setting]
    done = subprocess.run(
        command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == EXIT_USAGE, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def still_appends(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with bokilog.connect(cluster.url) as log:
            assert await log.book("b").append(b"x") > 0

    asyncio.run(main())


@pytest.mark.parametrize("node", ["sequencer-1", "storage-1"])
def test_a_node_that_runs_already_is_refused_its_directory(
    cluster: LocalCluster, node: str
) -> None:
    said = second(cluster, node)
    assert f"data/{node}" in said and "in use" in said
    still_appends(cluster)


@pytest.mark.parametrize("node", ["sequencer-1", "storage-1"])
def test_two_nodes_with_one_identity_cannot_have_one_address(
    cluster: LocalCluster, node: str, tmp_path: Path
) -> None:
    """The second one's directory is a copy, so it has the name, the cluster and the disk."""
    copy = tmp_path / "copy"
    shutil.copytree(
        cluster.layout.data_dir / node, copy, ignore=shutil.ignore_patterns("lock", "LOCK")
    )
    said = second(cluster, node, f"data_dir={copy}")
    assert f"{node}.sock" in said
    still_appends(cluster)


@pytest.mark.parametrize(
    ("node", "other"), [("sequencer-1", "sequencer-2"), ("storage-1", "storage-2")]
)
def test_the_directory_of_another_node_is_refused(
    cluster: LocalCluster, node: str, other: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(
        cluster.layout.data_dir / other, copy, ignore=shutil.ignore_patterns("lock", "LOCK")
    )
    said = second(cluster, node, f"data_dir={copy}")
    assert node in said and f"it is of {other!r}" in said


@pytest.mark.parametrize("node", ["sequencer-1", "storage-1"])
def test_the_directory_of_another_cluster_is_refused(
    cluster: LocalCluster, node: str, tmp_path: Path
) -> None:
    with new_cluster(tmp_path / "other", sequencers=3):
        pass
    said = second(cluster, node, f"data_dir={tmp_path / 'other' / 'data' / node}")
    assert "cluster_id" in said and "it is of" in said
    still_appends(cluster)


@pytest.mark.parametrize("node", ["sequencer-1", "storage-1"])
def test_p3_a_copied_directory_at_another_address_is_refused_while_the_node_runs(
    cluster: LocalCluster, node: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(
        cluster.layout.data_dir / node, copy, ignore=shutil.ignore_patterns("lock", "LOCK")
    )
    settings = [f"data_dir={copy}", f"address=unix:{tmp_path / 'other.sock'}"]
    if node == "storage-1":
        settings.append(f"bulk_address=unix:{tmp_path / 'bulk.sock'}")
    said = second(cluster, node, *settings)
    assert f"{node} runs already, at unix:" in said and f"{node}.sock" in said
    assert "other.sock" in said and "a copy of its data directory is no node" in said
    still_appends(cluster)


def test_p3_an_engine_runs_once(cluster: LocalCluster, tmp_path: Path) -> None:
    said = second(cluster, "engine-1", f"addresses=unix:{tmp_path / 'other.sock'}")
    assert "engine-1 runs already, at unix:" in said
    still_appends(cluster)


def test_p3_of_two_processes_of_one_node_the_one_that_started_last_counts(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    """1. A node hangs, so nobody answers at its address. 2. A copy of it starts elsewhere, and
    counts. 3. The node goes on, finds that it does not count any more, and stops; its supervisor
    starts it again. 4. So it is the copy that does not count, and stops with a line that says so.
    """
    node, copy = "storage-1", tmp_path / "copy"
    hung = cluster.pid(node)
    restarts = cluster.restarts(node)
    cluster.kill(node, signal.SIGSTOP)
    shutil.copytree(
        cluster.layout.data_dir / node, copy, ignore=shutil.ignore_patterns("lock", "LOCK")
    )
    plan = next(each for each in cluster.layout.nodes if each.id == node)
    command = [*node_command(plan, cluster.layout.settings_file)]
    bulk = f"bulk_address=unix:{tmp_path / 'bulk.sock'}"
    for setting in (f"data_dir={copy}", f"address=unix:{tmp_path / 'o.sock'}", bulk):
        command += ["--set", setting]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline_s = time.monotonic() + 20
        while not (tmp_path / "o.sock").exists():
            assert started.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.02)
        still_appends(cluster)
        assert hung == cluster.pid(node)
        cluster.kill(node, signal.SIGCONT)
        cluster.wait_ready(node, restarts=restarts + 1)
        started.wait(timeout=20)  # its standard input stays open: that would stop it, too
        _, said = started.communicate()
    finally:
        started.kill()
    assert started.returncode == EXIT_USAGE
    (line,) = said.strip().splitlines()
    assert f"another process has started as {node}" in line and "only the latest counts" in line
    log = (cluster.layout.logs_dir / f"{node}.log").read_text()
    assert log.count(f"another process has started as {node}") >= 1
    still_appends(cluster)
