"""A lone sequencer whose disk is not there when it starts: refused, and nothing is lost by it
(P14)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

import bokilog
from bokilog.errors import NotReady
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a stopped cluster that holds a record."""

    async def append(url: str) -> None:
        async with bokilog.connect(url) as log:
            await log.book("b").append(b"kept")

    with new_cluster(tmp_path / "cluster") as made:
        asyncio.run(append(made.url))
    return tmp_path / "cluster"


def refused(directory: Path, reason: str) -> None:
    views = sorted(each.name for each in (directory / "views").iterdir())
    with pytest.raises(NotReady, match=reason), LocalCluster(directory):
        pass
    assert sorted(each.name for each in (directory / "views").iterdir()) == views


def holds_its_record(directory: Path) -> None:
    async def first(url: str) -> bytes | None:
        async with bokilog.connect(url) as log:
            record = await log.book("b").read_next()
            return record.data if record is not None else None

    with LocalCluster(directory) as cluster:
        assert asyncio.run(first(cluster.url)) == b"kept"


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ("sequencer-1", "is no directory of sequencer-1.* the only sequencer"),
        ("sequencer-1/metalog-0", "metalog-0' is gone, without which sequencer-1 would deny"),
    ],
)
def test_p14_a_start_without_what_the_view_names_is_refused_and_changes_nothing(
    directory: Path, lost: str, reason: str, tmp_path: Path
) -> None:
    path = directory / "data" / lost
    shutil.move(path, tmp_path / "away")
    refused(directory, reason)
    assert not path.exists()
    shutil.move(tmp_path / "away", path)
    holds_its_record(directory)


def test_p14_another_directory_of_the_same_node_is_refused(directory: Path, tmp_path: Path) -> None:
    path = directory / "data" / "sequencer-1"
    shutil.move(path, tmp_path / "away")
    path.mkdir()
    identity = (tmp_path / "away" / "identity.json").read_text()
    named = identity.split('"disk_id": "')[1][:32]
    (path / "identity.json").write_text(identity.replace(named, "0" * 32))
    refused(directory, f"another directory of sequencer-1.* disk {named[:8]}")
    shutil.rmtree(path)
    shutil.move(tmp_path / "away", path)
    holds_its_record(directory)
