"""P11: a backup whose disk hangs is sent no more than it may hold in memory, however often it asks.

1. Its disk takes nothing. The primary stops feeding it: it has told too little of what it was sent.
2. It hears nothing for a while, so it asks for everything past what it has, durable or not.
"""

from __future__ import annotations

import pytest

from bokilog.sequencer import backup as module, replication
from tests.unit.sequencer.trio import S1, S2, S3, SPACE, Trio, started

LIMIT = 4


def order_while_third_hangs(trio: Trio, runs: int, *, reconnects: bool = False) -> None:
    for _ in range(runs):
        if reconnects:
            trio.cut(S1, S3)
            trio.link(S1, S3)
        trio.order(S1)
        trio.now_s += 1.0
        for _ in range(2):
            trio.fire(S1, ("backups", SPACE))
            trio.fire(S1, ("feed", SPACE, S3))
            for node in (S2, S3):
                while trio.deliver(S1, node) or trio.deliver(node, S1):
                    pass
            trio.sync(S1)
            trio.sync(S2)
        trio.fire(S3, "follow")


@pytest.mark.parametrize("reconnects", [False, True])
def test_p11_a_backup_whose_disk_hangs_is_fed_no_further(
    monkeypatch: pytest.MonkeyPatch, reconnects: bool
) -> None:
    monkeypatch.setattr(replication, "ENTRIES_UNTOLD_MAX", LIMIT)
    monkeypatch.setattr(module, "ENTRIES_UNWRITTEN_MAX", LIMIT)
    trio = started()
    backup = trio.core(S3).backups[SPACE]
    order_while_third_hangs(trio, 20 * LIMIT, reconnects=reconnects)
    assert trio.count(S1) >= 20 * LIMIT
    assert backup.count - backup.standing.count <= 3 * LIMIT
    trio.settle()
    trio.fire(S3, "follow")
    trio.settle()
    assert backup.standing.count == trio.count(S1), "its disk is back"
