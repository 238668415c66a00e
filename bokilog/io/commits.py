"""Group commit: what was staged during a batch becomes one group, one sync, then `Persisted`.

Decides when a group is written (at the end of a batch, or when the group before it is durable) and
where its sync runs: inline as long as the disk is fast (`inline_syncs.py`), because a thread's
hand-over costs as much as the sync, else in the journal's thread, so that the loop goes on filling
the next group (LIMITS point 8).

A disk that is full loses nothing: what is staged stays, is tried again, and the node is told that
it is read-only meanwhile. Where one group holds frames and a metalog's entries, frames are refused
before they are staged, so that entries that let something go, which come behind them in the order,
still get to the disk (P32). A failed sync that could not be repaired is final (P7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from time import monotonic
from typing import Final

from bokilog.io.inline_syncs import InlineSyncs
from bokilog.journal import (
    Journal,
    Refused,
    SyncResult,
    Written,
)

SHALLOW_ITEMS_MAX: Final = 4
SHALLOW_BYTES_MAX: Final = 64 * 1024
DEEP_BYTES_MAX: Final = 1 << 20
"""More than that takes a while to write back on any disk."""
RETRY_S: Final = 0.5
"""How soon a refused group is tried again."""


class Committer:
    """One journal's commits on one loop."""

    def __init__(
        self,
        journal: Journal,
        *,
        persisted: Callable[[list[Hashable]], None],
        failed: Callable[[list[Hashable], str], None],
        read_only: Callable[[str], None],
        inline: bool,
        inline_deep: bool = False,
        use_headroom: bool = False,
        watch_room: bool = False,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._journal = journal
        self._persisted = persisted
        self._failed = failed
        self._read_only = read_only
        self._inline = InlineSyncs() if inline else None
        """Whether groups may be synced on the loop; a policy that sleeps may not."""
        self._inline_deep = inline_deep
        """Whether deep ones may, too; not where the loop is the user's."""
        self._use_headroom = use_headroom
        """Whether groups may take the space that is kept for trims: a metalog's entries are tiny,
        and without them nothing could be trimmed on a full disk (P32)."""
        self._watch_room = watch_room
        """Whether items may be refused when they are staged, to keep the headroom: in a group that
        is shared by a metalog and frames (embedded)."""
        self._now = now
        """The simulator's clock is its own: how long a sync took must not depend on the machine."""
        self._loop = asyncio.get_running_loop()
        self._wanted: list[Hashable] = []
        self._syncing: list[Hashable] = []
        self._told = ""
        """Why the node was told to be read-only."""
        self._retry: asyncio.TimerHandle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self._progress = asyncio.Event()

    def request(self, token: Hashable) -> None:
        """A core's `Commit`: everything staged so far is part of it."""
        self._wanted.append(token)

    @property
    def idle(self) -> bool:
        return not self._wanted and not self._syncing

    async def drained(self) -> None:
        """Until nothing is being made durable; at once when the disk is full."""
        while not self.idle and self._retry is None:
            self._progress.clear()
            await self._progress.wait()

    def flush(self) -> None:
        """Ends a batch: writes the group, unless one is being synced."""
        if self._syncing:
            return
        if self._wanted:
            if self._retry is None:
                self._write()
            if self._wanted or self._syncing:
                return
        # Of several committers most have nothing to do at the end of most batches.
        if self._watch_room:
            short = self._journal.short()
            if short or self._told:
                self._look_for_room(short)

    def _write(self) -> None:
        written = self._journal.commit(use_headroom=self._use_headroom)
        if isinstance(written, Refused):
            self._refuse(written)
            return
        if self._told and not self._journal.short():
            self._tell("")
        tokens, self._wanted = self._wanted, []
        if self._inline is not None and self._may_hold_the_loop(written, self._inline):
            self._finish(tokens, self._sync_here(self._inline))
            return
        self._syncing = tokens
        self._journal.sync_in_thread(self._synced_in_thread)

    def _may_hold_the_loop(self, written: Written, inline: InlineSyncs) -> bool:
        if written.item_count <= SHALLOW_ITEMS_MAX and written.byte_count <= SHALLOW_BYTES_MAX:
            return inline.allowed(self._now())
        small = written.byte_count <= DEEP_BYTES_MAX
        return small and self._inline_deep and inline.allowed(self._now(), deep=True)

    def _sync_here(self, inline: InlineSyncs) -> SyncResult:
        began_s = self._now()
        result = self._journal.sync_now()
        ended_s = self._now()
        inline.took(ended_s - began_s, ended_s)
        return result

    def close(self) -> None:
        """No callback follows."""
        self._closed = True
        for timer in (self._retry, self._look):
            if timer is not None:
                timer.cancel()

    def _synced_in_thread(self, result: SyncResult) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._done, result)

    def _done(self, result: SyncResult) -> None:
        tokens, self._syncing = self._syncing, []
        if not self._closed:
            self._finish(tokens, result)

    def _finish(self, tokens: list[Hashable], result: SyncResult) -> None:
        self._progress.set()
        if result.failed is None:
            self._persisted(tokens)
        else:
            self._failed(tokens, result.failed)

    def _refuse(self, refused: Refused) -> None:
        self._progress.set()
        if not refused.definite:
            tokens, self._wanted = self._wanted, []
            self._failed(tokens, refused.reason)
            return
        self._tell(refused.reason)
        self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.flush()

    def _look_for_room(self, short: str) -> None:
        """Tells that items were refused, and when there is room for them again.

        Only while nothing is under way: what was staged before the one that was refused is told to
        be durable first.
        """
        self._tell(short)
        if short and self._look is None:
            self._look = self._loop.call_later(RETRY_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        if self.idle:
            self._look_for_room(self._journal.short())

    def _tell(self, reason: str) -> None:
        """Once when it begins and once when it is over."""
        if bool(reason) != bool(self._told):
            self._told = reason
            self._read_only(reason)
