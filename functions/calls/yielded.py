"""What runs of durable calls yield, from the run to the log.

Decides which values go into one append (all there are, up to some bytes), until when a run's values
are recorded, and when the run may go on: its credit grows by what is in the log. An append that
lost against a newer step of the call waits until that step is folded here, since the step may be
this host's own extension of its lease.

Invariants: what a run yields is recorded in order, and only while this host holds the call in that
attempt. A value may stand twice (an append whose answer was lost is made again): readers leave out
what comes twice. Does not know how runs start and end (`running.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from bokilog.errors import AppendUnknown, BokilogError, ConditionFailed
from bokilog.functions.calls.records import ItemYielded, call_tag, encode, items_tag
from bokilog.functions.runtime.messages import Item
from bokilog.functions.runtime.runner import RunningCall
from bokilog.limits import MIB
from bokilog.logbook import LogBook
from bokilog.record import Entry

ITEM_BATCH_BYTES: Final = 8 * MIB


class Yielded:
    """What a run has yielded and is not recorded yet; the stream's window bounds it."""

    __slots__ = ("_closed", "_items", "_there")

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._there = asyncio.Event()
        self._closed = False

    def put(self, item: Item) -> None:
        """The next one; its payload is copied, since it is a slice of what was read."""
        self._items.append(item._replace(payload=bytes(item.payload)))
        self._there.set()

    def close(self) -> None:
        """There will be no more."""
        self._closed = True
        self._there.set()

    async def take(self) -> list[Item]:
        """All there are, up to some bytes; empty: there will be no more."""
        while not self._items and not self._closed:
            self._there.clear()
            await self._there.wait()
        batch: list[Item] = []
        size_bytes = 0
        while self._items and size_bytes < ITEM_BATCH_BYTES:
            item = self._items.popleft()
            size_bytes += len(item.payload)
            batch.append(item)
        return batch


class ItemRecords:
    """Appends what the runs of one host yield.

    Args:
        book: of the app's calls.
        held_at: the seqnum of the last step of a call that this host holds in that attempt; None:
            it does not.
        folded_until: the state has taken in all records below it.
    """

    __slots__ = ("_book", "_folded_until", "_held_at", "_waiting")

    def __init__(
        self,
        book: LogBook,
        *,
        held_at: Callable[[str, int], int | None],
        folded_until: Callable[[], int],
    ) -> None:
        self._book = book
        self._held_at = held_at
        self._folded_until = folded_until
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        """(seqnum, who waits until it is folded)"""

    async def record(self, call_id: str, attempt: int, items: Yielded, run: RunningCall) -> None:
        """Append what the run yields, as units of what there is, until it is over or not ours."""
        while batch := await items.take():
            entries = [
                Entry(
                    encode(
                        ItemYielded(
                            call_id, attempt, item.place, item.encoding, bytes(item.payload)
                        )
                    ),
                    items_tag(call_id),
                )
                for item in batch
            ]
            try:
                is_ours = await self._append(call_id, attempt, entries)
            except BokilogError:
                run.cancel("what it yields cannot be recorded")
                raise
            if not is_ours:
                run.cancel("its lease is over: another host may run it")
                return
            run.credit(len(batch))

    async def _append(self, call_id: str, attempt: int, entries: list[Entry[bytes]]) -> bool:
        """Append them while this host holds the call; False: it does not any more."""
        while (after := self._held_at(call_id, attempt)) is not None:
            try:
                await self._book.append_batch(entries, unless={call_tag(call_id): after})
                return True
            except ConditionFailed as error:
                # Our own extension of the lease may have come between: the state will tell.
                await self._until_folded(error.winner)
            except AppendUnknown:
                continue  # readers leave out what comes twice
        return False

    async def _until_folded(self, seqnum: int) -> None:
        if self._folded_until() <= seqnum:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((seqnum, waiter))
            await waiter

    def on_folded(self) -> None:
        """The state has moved."""
        if not self._waiting:
            return
        until = self._folded_until()
        for seqnum, waiter in self._waiting:
            if seqnum < until and not waiter.done():
                waiter.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]
