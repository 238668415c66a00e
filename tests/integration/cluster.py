"""Local clusters for tests: real processes on free ports."""

from __future__ import annotations

from pathlib import Path

from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster

FUNCTION_NODES = 2
SMALL = """\
[storage]
segment_bytes = "1 MiB"
checkpoint_s = 0.3
[sequencer]
segment_bytes = "1 MiB"
"""


def new_cluster(directory: Path, *, sequencers: int = 1) -> LocalCluster:
    """Enter it to start it."""
    return LocalCluster(
        directory, sequencers=sequencers, function_nodes=FUNCTION_NODES, port=free_ports(2)
    )


def small_cluster(directory: Path, *, sequencers: int = 1) -> LocalCluster:
    """One that a few seconds of appends take through checkpoints and many journal segments."""
    cluster = new_cluster(directory, sequencers=sequencers)
    file = cluster.layout.settings_file
    if SMALL not in file.read_text():
        file.write_text(SMALL + file.read_text())
    return cluster
