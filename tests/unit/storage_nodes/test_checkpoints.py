"""What a graceful stop stores, so that the next start has little to fold again (P19)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bokilog.effects import Checkpoint, CheckpointStored, TimerFired
from bokilog.errors import ReadOnly
from bokilog.storage_nodes import checkpoints as module
from bokilog.storage_nodes.checkpoints import Checkpoints
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import Batch
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.protocol.storage_rig import SPACE, StorageRig, cut, frame


class HeldStore(MemoryStore):
    """A disk that takes a batch when the test says so, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.full = False

    def write(self, batch: Batch) -> None:
        assert self.go.wait(10)
        if self.full:
            raise ReadOnly("no space")
        super().write(batch)


def rig_over(store: HeldStore) -> StorageRig:
    rig = StorageRig()
    rig.store = store
    rig.core = rig._start()
    return rig.begin()


def folds(rig: StorageRig, *places: int) -> None:
    for place in places:
        rig.hold(frame(place))
        rig.order(cut(place + 1, place, place + 1))


def begin_checkpoint(rig: StorageRig, checkpoints: Checkpoints) -> None:
    """As a shell does: what the task tells is an event of a later turn."""
    assert Checkpoint(SPACE) in rig.do(TimerFired("checkpoint"))
    loop = asyncio.get_running_loop()
    checkpoints.start(rig.index, lambda: loop.call_soon(rig.do, CheckpointStored(SPACE)))  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_p19_a_stop_during_a_checkpoint_finishes_it_and_stores_what_came_since() -> None:
    store, checkpoints = HeldStore(), Checkpoints()
    rig = rig_over(store)
    folds(rig, 0)
    begin_checkpoint(rig, checkpoints)
    folds(rig, 1, 2)
    stop = asyncio.create_task(checkpoints.store_last([rig.replica]))
    await asyncio.sleep(0)
    assert rig.index.generations.frozen and not stop.done()
    store.go.set()
    await stop
    store.crash()
    assert (
        Index(SPACE, store).position == rig.index.position == rig.index.generations.stored_position
    )


@pytest.mark.asyncio
async def test_a_stop_without_a_checkpoint_under_way_stores_one() -> None:
    store = HeldStore()
    store.go.set()
    rig = rig_over(store)
    folds(rig, 0, 1)
    await Checkpoints().store_last([rig.replica])
    assert Index(SPACE, store).position == rig.index.position


@pytest.mark.asyncio
async def test_p19_a_stop_stores_nothing_ahead_of_frames_that_are_not_durable() -> None:
    store = HeldStore()
    store.go.set()
    rig = rig_over(store)
    rig.take(frame(0))
    rig.order(cut(1, 0, 1))
    await Checkpoints().store_last([rig.replica])
    assert Index(SPACE, store).position.count == 0


@pytest.mark.asyncio
async def test_a_stop_does_not_wait_for_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISH_TIMEOUT_S", 0.01)
    store, checkpoints = HeldStore(), Checkpoints()
    store.full = True
    store.go.set()
    rig = rig_over(store)
    folds(rig, 0)
    begin_checkpoint(rig, checkpoints)
    await checkpoints.store_last([rig.replica])
    checkpoints.cancel()
    assert Index(SPACE, store).position.count == 0
