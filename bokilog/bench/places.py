"""Where benchmarks keep their data, and the clusters that they start.

Decides on which disk: one that is a disk, since a sync in memory costs nothing and compares with
nothing. A cluster gets ports that are free now; its processes end with this one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bokilog.bench.processes import in_memory
from bokilog.bench.workers import BenchFailed
from bokilog.io.free_ports import free_ports
from bokilog.shapes.cluster_layout import HOST
from bokilog.shapes.local_cluster import LocalCluster

_VAR_TMP: Final = Path("/var/tmp")


@contextmanager
def scratch(parent: Path | None, *, tell: Callable[[str], None]) -> Iterator[Path]:
    """A directory for one run, gone afterwards."""
    if parent is None:
        parent = disk()
    parent.mkdir(parents=True, exist_ok=True)
    if in_memory(parent.absolute()):
        tell(f"{parent} lies in memory: what is synced there costs nothing and proves nothing")
    made = Path(tempfile.mkdtemp(prefix="bokilog-bench-", dir=parent)).absolute()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def disk() -> Path:
    """The usual temporary directory that is on a disk."""
    usual = Path(tempfile.gettempdir()).absolute()
    places = (usual, _VAR_TMP, Path.cwd())
    return next((each for each in places if each.is_dir() and not in_memory(each)), usual)


class Cluster:
    """A local cluster with two engines, for benchmarks."""

    def __init__(self, running: LocalCluster) -> None:
        self._running = running
        ports = running.layout.ports
        self.urls: tuple[str, ...] = tuple(f"bokilog://{HOST}:{port}" for port in ports)
        """One per engine."""
        engines = (node for node in running.layout.nodes if node.role == "engine")
        self.node_urls: tuple[str, ...] = tuple(
            f"bokilog+unix://{node.addresses[0].removeprefix('unix:')}" for node in engines
        )
        """The same for programs on the engine's own machine, as its workers have them."""
        self.quorum = running.layout.settings.storage_nodes // 2 + 1

    def pids(self) -> Mapping[str, int]:
        """Of every process."""
        found = {str(node.id): self._running.pid(node.id) for node in self._running.layout.nodes}
        dead = [name for name, pid in found.items() if pid is None]
        if dead:
            raise BenchFailed(f"{', '.join(dead)} died while it was measured")
        return {name: pid for name, pid in found.items() if pid is not None}

    def restarts_count(self) -> int:
        """How often any process was started again: figures of a run with restarts mean nothing."""
        return sum(self._running.restarts(node.id) for node in self._running.layout.nodes)


@contextmanager
def cluster(
    directory: Path, *, storage_nodes: int = 3, sequencers: int = 1, sync_delay_ms: float = 0.0
) -> Iterator[Cluster]:
    """Start a cluster with two engines; stop it at the end."""
    running = LocalCluster(
        directory,
        storage_nodes=storage_nodes,
        sequencers=sequencers,
        function_nodes=2,
        port=free_ports(2),
        sync_delay_ms=sync_delay_ms,
    )
    with running:
        yield Cluster(running)
