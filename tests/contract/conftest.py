"""Every test of this folder runs once for each shape in shapes.py."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

import bokilog
from bokilog.logbook import Log, LogBook
from bokilog.shapes.local_cluster import LocalCluster
from tests.contract.shapes import SHAPES, Open

CLUSTER = "local cluster"
_NUMBERS = itertools.count(1)


@pytest_asyncio.fixture(params=[*SHAPES.values(), CLUSTER], ids=[*SHAPES.keys(), CLUSTER])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Log, None]:
    if request.param == CLUSTER:
        cluster: LocalCluster = request.getfixturevalue("shared_cluster")
        async with bokilog.connect(cluster.url) as connected:
            yield connected
        return
    open_log: Open = request.param
    async with open_log(tmp_path) as opened:
        yield opened


@pytest.fixture
def names() -> Iterator[str]:
    """Names of LogBooks that no other test uses."""
    return (f"contract-{number}" for number in _NUMBERS)


@pytest.fixture
def book(log: Log, names: Iterator[str]) -> LogBook:
    """A LogBook that does not exist yet."""
    return log.book(next(names))
