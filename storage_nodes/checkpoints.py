"""Writes a frozen generation of an index to its store, off the commit path (P19).

The batch is built a slice per loop turn, so that the loop keeps turning; the write and the flush
run in a thread, the flush without the GIL (LIMITS point 8).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from bokilog.errors import ReadOnly
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.replica import Replica

logger = logging.getLogger(__name__)
RETRY_S: Final = 2.0
"""A disk without room is asked again; until then the journal has all that is needed."""


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
    """A checkpoint at a graceful stop, so that the next start has little to fold again."""
    index = replica.index
    if index.frozen or not replica.everything_durable:
        return
    if index.freeze(replay_hint=replica.replay_hint()):
        try:
            await _store(index)
        except ReadOnly as error:
            logger.warning("log space %d: %s", index.space, error)
        else:
            index.checkpoint_done()


async def _store(index: Index) -> None:
    for _ in index.checkpoint_steps():
        await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, index.write_checkpoint)
