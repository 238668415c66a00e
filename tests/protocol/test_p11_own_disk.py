"""P11 with several sequencers: a primary whose own disk hangs goes on by its backups, for a while.

1. The primary's disk takes nothing any more; its backups make a majority without it.
2. What it has not written gathers in its memory. Past a limit it ends, and another one goes on.
"""

from __future__ import annotations

import pytest

from bokilog.sequencer import primary as module
from tests.unit.sequencer.trio import S1, S2, S3, SPACE, Trio, started


def order_without_own_disk(trio: Trio, runs: int) -> None:
    for _ in range(runs):
        trio.order(S1)
        trio.fire(S1, ("backups", SPACE))
        for node in (S2, S3):
            while trio.deliver(S1, node):
                pass
            trio.sync(node)
            while trio.deliver(node, S1):
                pass


def test_p11_a_primary_whose_disk_hangs_goes_on_by_its_backups() -> None:
    trio = started()
    before = trio.core(S1).primaries[SPACE].published.count
    order_without_own_disk(trio, 10)
    assert trio.core(S1).primaries[SPACE].published.count == before + 10
    assert not trio.processes[S1].ended


def test_p11_what_its_disk_does_not_take_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS_UNWRITTEN_MAX", 5)
    trio = started()
    before = trio.core(S1).primaries[SPACE].count
    order_without_own_disk(trio, 20)
    primary = trio.core(S1).primaries[SPACE]
    assert (primary.count, primary.standing.pending_count) == (before + 5, 5)
    assert "its disk has taken none of the last 5 runs" in trio.processes[S1].ended
    trio.crash(S1)
    trio.change(S2, among=(S2, S3))
    trio.settle()
    assert trio.count(S2) == before + 5
