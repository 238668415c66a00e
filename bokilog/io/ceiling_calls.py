"""Seqnum ceilings are synced in the disk's thread, and told to the core once they are (P11).

A core asks once for each, and gives no seqnum past one that is not synced: so a disk that takes
nothing, since it is full, is tried again until it does.

Does not know: where ceilings lie, what they are for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bokilog.effects import CeilingRaised, RaiseCeiling

logger = logging.getLogger(__name__)
RETRY_S: Final = 0.5
"""As groups of a journal that were refused (`commits.py`)."""


class CeilingCalls:
    """`RaiseCeiling` as calls and their answers. Made inside a running loop.

    Args:
        disk: the thread in which files are synced.
        raise_to: stores a log space's ceiling; it is synced on return.
        deliver: takes the answer, on the loop.
    """

    def __init__(
        self,
        disk: ThreadPoolExecutor,
        raise_to: Callable[[int, int], None],
        *,
        deliver: Callable[[CeilingRaised], None],
    ) -> None:
        self._disk = disk
        self._raise_to = raise_to
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._failed: set[int] = set()
        """Log spaces whose ceiling is not synced, which was said."""
        self._wanted: dict[int, int] = {}
        """The highest one that was asked for, by log space."""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        """By log space: when it is tried again."""
        self._closed = False

    def perform(self, effect: RaiseCeiling) -> None:
        """Begins; it takes the place of a lower one of the log space that is to be tried again."""
        self._wanted[effect.space] = max(effect.seqnum, self._wanted.get(effect.space, 0))
        timer = self._timers.pop(effect.space, None)
        if timer is not None:
            timer.cancel()
        self._disk.submit(self._call, effect)

    def close(self) -> None:
        """Nothing is tried again; before the disk's thread is shut down."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()

    def _call(self, effect: RaiseCeiling) -> None:
        """In the disk's thread."""
        try:
            self._raise_to(effect.space, effect.seqnum)
        except OSError as error:
            self._loop.call_soon_threadsafe(self._refused, effect, str(error))
        except Exception:  # top of a job: nothing that waits for it goes on, and the log says why
            logger.exception("log space %d: its ceiling of seqnums", effect.space)
        else:
            self._loop.call_soon_threadsafe(self._done, effect)

    def _done(self, effect: RaiseCeiling) -> None:
        if effect.space in self._failed:
            self._failed.discard(effect.space)
            logger.info("log space %d: its ceiling of seqnums is synced again", effect.space)
        self._deliver(CeilingRaised(effect.space, effect.seqnum))

    def _refused(self, effect: RaiseCeiling, reason: str) -> None:
        if effect.space not in self._failed:
            self._failed.add(effect.space)
            logger.warning(
                "log space %d: its ceiling of seqnums, %d, could not be synced, so none past"
                " the one before is given; tried again every %.1f s: %s",
                effect.space,
                effect.seqnum,
                RETRY_S,
                reason,
            )
        if self._wanted[effect.space] == effect.seqnum and not self._closed:
            self._timers[effect.space] = self._loop.call_later(RETRY_S, self.perform, effect)
