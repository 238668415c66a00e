"""Writes a frozen generation of an index to its store, off the commit path (P19).

The batch is built a slice per loop turn, so that the loop keeps turning; the write and the flush
run in a thread, the flush without the GIL (LIMITS point 8). Decides also what a graceful stop does:
it lets checkpoints that are under way end, and stores what was folded since, so that the next start
has little to fold again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from bokilog.errors import ReadOnly
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.replica import Replica

logger = logging.getLogger(__name__)
RETRY_S: Final = 2.0
"""A disk without room is asked again; until then the journal has all that is needed."""
FINISH_TIMEOUT_S: Final = 5.0
"""How long a stop waits for a checkpoint that is under way; a full disk may never take it."""


class Checkpoints:
    """The checkpoints of one process, over all its log spaces. Made inside a running loop."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Task[None]] = set()

    def start(self, index: Index, done: Callable[[], None]) -> None:
        """Store what `index.freeze` set aside; `done` delivers the `CheckpointStored`."""
        task = asyncio.get_running_loop().create_task(store_checkpoint(index, done))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def store_last(self, replicas: Iterable[Replica]) -> None:
        """At a graceful stop, once nothing is being made durable: the folds as they stand.

        A checkpoint that is under way is finished first, and is told as ever; one that the disk
        does not take in time stays unfinished, and so does the last one of its log space.
        """
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=FINISH_TIMEOUT_S)
            await asyncio.sleep(0)  # their `CheckpointStored` is handled
        for replica in replicas:
            if replica.space.durability != "memory":
                await store_last(replica)

    def cancel(self) -> None:
        """Nobody waits for those under way any more."""
        for task in self._under_way:
            task.cancel()


async def store_checkpoint(index: Index, done: Callable[[], None]) -> None:
    """Builds, writes and flushes what `index.freeze` set aside, then calls `done`.

    If cancelled, or as long as the disk refuses, the fold just stays unstored: a restart has more
    to fold again, nothing is lost.
    """
    while True:
        try:
            await _store(index)
        except ReadOnly as error:
            logger.warning("log space %d: %s", index.space, error)
            await asyncio.sleep(RETRY_S)
        else:
            done()
            return


async def store_last(replica: Replica) -> None:
    """A checkpoint of what was folded since the last one; none while that one is unfinished, or if
    what was folded may still be lost."""
    index = replica.index
    may_store = replica.everything_durable and replica.storing.may_store_all
    if index.generations.frozen or not may_store:
        return
    if index.freeze(replay_hint=replica.replay_hint(quiet=True)):
        try:
            await _store(index)
        except ReadOnly as error:
            logger.warning("log space %d: %s", index.space, error)
        else:
            index.generations.done()


async def _store(index: Index) -> None:
    generations = index.generations
    for _ in generations.steps():
        await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, generations.write)
