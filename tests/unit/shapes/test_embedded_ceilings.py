"""P11: seqnums of log spaces that are not synced stay below a ceiling that is."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from pathlib import Path

import pytest

import bokilog
from bokilog.ids import LogSpaceId
from bokilog.io import ceiling_calls
from bokilog.shapes.embedded_disk import Disk

WAIT_S = 10.0


@pytest.mark.slow
@pytest.mark.asyncio
async def test_p11_a_log_space_goes_on_once_a_full_disk_has_room_for_its_ceiling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """1. The disk is full when the first ceilings are to be synced. 2. There is room again."""
    store, refusals = Disk.store_ceilings, [1, 1]

    def full(self: Disk, ceilings: Mapping[LogSpaceId, int]) -> None:
        if refusals:
            refusals.pop()
            raise OSError(errno.ENOSPC, "No space left on device")
        store(self, ceilings)

    monkeypatch.setattr(Disk, "store_ceilings", full)
    monkeypatch.setattr(ceiling_calls, "RETRY_S", 0.0)
    async with bokilog.open(tmp_path / "log") as log:
        await log.create_book("scratch", durability="flush")
        assert await asyncio.wait_for(log.book("scratch").append(b"x"), WAIT_S) == 1
    assert not refusals
