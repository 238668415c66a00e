"""P11: a ceiling that a disk did not take is asked for again; a core does so only once."""

from __future__ import annotations

import asyncio
import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from bokilog.effects import CeilingRaised, RaiseCeiling
from bokilog.io import ceiling_calls
from bokilog.io.ceiling_calls import CeilingCalls

WAIT_S = 10.0


class FullDisk:
    """It takes nothing so many times."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.calls: list[tuple[int, int]] = []

    def raise_to(self, space: int, seqnum: int) -> None:
        self.calls.append((space, seqnum))
        if len(self.calls) <= self.refusals:
            raise OSError(errno.ENOSPC, "No space left on device")


async def handled(thread: ThreadPoolExecutor) -> None:
    """What the thread was given before is done, and told."""
    await asyncio.get_running_loop().run_in_executor(thread, int)


@pytest.mark.asyncio
async def test_a_ceiling_is_told_once_there_is_room_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ceiling_calls, "RETRY_S", 0.0)
    disk, told = FullDisk(3), asyncio.Queue[CeilingRaised]()
    with ThreadPoolExecutor(1) as thread:
        calls = CeilingCalls(thread, disk.raise_to, deliver=told.put_nowait)
        calls.perform(RaiseCeiling(2, 100))
        assert await asyncio.wait_for(told.get(), WAIT_S) == CeilingRaised(2, 100)
        calls.close()
    assert disk.calls == [(2, 100)] * 4
    assert told.empty()
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warned) == 1, "said once"
    assert "No space left on device" in warned[0]


@pytest.mark.asyncio
async def test_after_its_end_nothing_is_tried_again() -> None:
    disk, told = FullDisk(2), asyncio.Queue[CeilingRaised]()
    with ThreadPoolExecutor(1) as thread:
        calls = CeilingCalls(thread, disk.raise_to, deliver=told.put_nowait)
        calls.perform(RaiseCeiling(2, 100))
        await handled(thread)
        (timer,) = calls._timers.values()
        calls.perform(RaiseCeiling(2, 200))
        calls.close()
        await handled(thread)
        assert timer.cancelled()
        assert not calls._timers


@pytest.mark.asyncio
async def test_a_higher_ceiling_takes_the_place_of_one_that_is_to_be_tried_again() -> None:
    disk, told = FullDisk(1), asyncio.Queue[CeilingRaised]()
    with ThreadPoolExecutor(1) as thread:
        calls = CeilingCalls(thread, disk.raise_to, deliver=told.put_nowait)
        calls.perform(RaiseCeiling(2, 100))
        await handled(thread)
        calls.perform(RaiseCeiling(2, 200))
        assert await asyncio.wait_for(told.get(), WAIT_S) == CeilingRaised(2, 200)
        calls.close()
    assert disk.calls == [(2, 100), (2, 200)]


@pytest.mark.asyncio
async def test_a_ceiling_is_not_tried_again_behind_a_higher_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some stores keep what they are told last."""
    monkeypatch.setattr(ceiling_calls, "RETRY_S", 0.0)
    disk, told = FullDisk(1), asyncio.Queue[CeilingRaised]()
    with ThreadPoolExecutor(1) as thread:
        calls = CeilingCalls(thread, disk.raise_to, deliver=told.put_nowait)
        calls.perform(RaiseCeiling(2, 100))
        calls.perform(RaiseCeiling(2, 200))
        await handled(thread)
        assert not calls._timers
        calls.close()
    assert disk.calls == [(2, 100), (2, 200)]
    assert told.get_nowait() == CeilingRaised(2, 200)
