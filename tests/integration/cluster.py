"""Local clusters for tests: real processes on free ports."""

from __future__ import annotations

import socket
from pathlib import Path

from bokilog.shapes.local_cluster import LocalCluster

FUNCTION_NODES = 2
SMALL = """\
[storage]
segment_bytes = "1 MiB"
checkpoint_s = 0.3
[sequencer]
segment_bytes = "1 MiB"
"""


def free_port() -> int:
    """The first of as many free ports in a row as a cluster has engines."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports in a row in 100 tries")


def new_cluster(directory: Path, *, sequencers: int = 1) -> LocalCluster:
    """Enter it to start it."""
    return LocalCluster(
        directory, sequencers=sequencers, function_nodes=FUNCTION_NODES, port=free_port()
    )


def small_cluster(directory: Path, *, sequencers: int = 1) -> LocalCluster:
    """One that a few seconds of appends take through checkpoints and many journal segments."""
    cluster = new_cluster(directory, sequencers=sequencers)
    file = cluster.layout.settings_file
    if SMALL not in file.read_text():
        file.write_text(SMALL + file.read_text())
    return cluster
