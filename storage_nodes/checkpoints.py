"""Writes a frozen generation of an index to its store, off the commit path (P19).

The batch is built a slice per loop turn, so that the loop keeps turning; the write and the flush
run in a thread, the flush without the GIL (LIMITS point 8).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.replica import Replica


async def store_checkpoint(index: Index, done: Callable[[], None]) -> None:
    """Builds, writes and flushes what `index.freeze` set aside, then calls `done`."""
    for _ in index.checkpoint_steps():
        await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, index.write_checkpoint)
    done()


async def store_last(replica: Replica) -> None:
    """A checkpoint at a graceful stop, so that the next start has little to fold again."""
    index = replica.index
    if index.frozen or not replica.everything_durable:
        return
    if index.freeze(replay_hint=replica.replay_hint()):
        await store_checkpoint(index, index.checkpoint_done)
