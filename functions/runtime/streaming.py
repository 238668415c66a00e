"""Many results of one caller: streams with credit, and calls for each item of an iterable.

Decides how far ahead is read: a stream has a window of items under way, a map a window of calls,
started in slices by one message each. Invariants: whoever leaves the loop early cancels what is
under way, at once with `aclose` or `async with`, else when nothing holds the iterator any more; an
error stands where its result would. Does not know: what values mean.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

from bokilog.errors import Overloaded, from_wire
from bokilog.functions.runtime.caller import HostCalls, OpenCall
from bokilog.functions.runtime.messages import STREAM_WINDOW, Done, Item
from bokilog.limits import MIB
from bokilog.record import Buffer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

R = TypeVar("R")

CREDIT_EVERY: Final = STREAM_WINDOW // 2
"""Items taken before the function is told: half a window keeps it busy meanwhile."""
OUTSTANDING_MAX: Final = 4_096
"""Calls of one map under way; what they return is kept until it is asked for."""
SLICE_CALLS: Final = 512
"""Calls started by one message."""
SLICE_BYTES: Final = 4 * MIB
"""Of arguments in it."""


class _Arrived:
    """Items of a stream that nobody has taken yet: all that its call holds of the reader."""

    __slots__ = ("items", "more")

    def __init__(self) -> None:
        self.items: deque[Item] = deque()
        self.more = asyncio.Event()

    def on_item(self, item: Item) -> None:
        """One more."""
        self.items.append(item)
        self.more.set()

    def on_done(self, done: asyncio.Future[Done]) -> None:
        """There will be no more."""
        self.more.set()


class Stream(Generic[R]):
    """What a generator yields on a function node: iterate it once.

    Also an async context manager, which cancels the call when it is left early.
    """

    __slots__ = ("_arrived", "_calls", "_end", "_item", "_opened", "_over", "_start", "_taken")

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[OpenCall]],
        item: Callable[[int, Buffer], Awaitable[R]],
        end: Callable[[Done], Awaitable[None]],
        calls: HostCalls,
    ) -> None:
        self._start = start
        self._item = item
        self._end = end
        self._calls = calls
        self._opened: OpenCall | None = None
        self._arrived = _Arrived()
        self._taken = 0
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if self._over:
            raise StopAsyncIteration
        try:
            return await self._next()
        except BaseException:
            self._leave()
            raise

    async def _next(self) -> R:
        opened, arrived = self._opened, self._arrived
        if opened is None:
            self._opened = opened = await self._start()
            opened.on_item = arrived.on_item
            opened.done.add_done_callback(arrived.on_done)
        while not arrived.items and not opened.done.done():
            arrived.more.clear()
            await arrived.more.wait()
        if not arrived.items:
            self._over = True
            await self._end(opened.done.result())
            raise StopAsyncIteration
        found = arrived.items.popleft()
        self._taken += 1
        if self._taken >= CREDIT_EVERY:
            self._calls.credit(opened, self._taken)
            self._taken = 0
        return await self._item(found.encoding, found.payload)

    def _leave(self) -> None:
        self._over = True
        self._arrived.items.clear()
        if self._opened is not None:
            self._calls.cancel(self._opened, "its reader has left")

    def __del__(self) -> None:
        if not self._over and self._opened is not None:
            self._calls.soon(self._leave)

    async def aclose(self) -> None:
        """Cancel the call, unless it is over."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()


class Window:
    """How many calls of one map are under way: as many as do not wait for long.

    It begins with no more than half of a host's queue, grows with every call that was begun
    soon, up to what a host runs at once beside that half, and shrinks with those that waited for a
    good part of their time, or were refused.
    """

    __slots__ = ("_most", "_patience_us", "size")

    def __init__(self, first: int, most: int, *, timeout_s: float) -> None:
        self._most = max(1, min(most, OUTSTANDING_MAX))
        self.size = max(1, min(first, self._most))
        self._patience_us = timeout_s * 1e6 / 8

    def over(self, queued_us: int) -> None:
        """A call is over that had waited for so long."""
        if queued_us <= self._patience_us:
            self.size = min(self.size + 1, self._most)
        elif queued_us > 2 * self._patience_us:
            self.size = max(1, self.size - max(1, self.size // 8))

    def refused(self) -> None:
        """There was no room for a call."""
        self.size = max(1, self.size // 2)


class MapResults(Generic[R]):
    """The results of one `map`: iterate it once.

    Also an async context manager, which cancels what is under way when it is left early.
    """

    __slots__ = (
        "_arguments",
        "_bar",
        "_calls",
        "_ended",
        "_finished",
        "_open",
        "_ordered",
        "_read",
        "_result",
        "_start",
        "_window",
    )

    def __init__(
        self,
        arguments: Iterator[Sequence[object]],
        *,
        start: Callable[[Sequence[Sequence[object]]], Awaitable[list[OpenCall]]],
        result: Callable[[Done], Awaitable[R]],
        calls: HostCalls,
        window: Window,
        ordered: bool,
        shown: str | None,
        total: int | None,
    ) -> None:
        self._arguments = arguments
        self._start = start
        self._result = result
        self._calls = calls
        self._window = window
        self._ordered = ordered
        self._open: dict[OpenCall, Sequence[object]] = {}
        """Under way or not yet asked for, in order, with their arguments."""
        self._finished: asyncio.Queue[OpenCall] = asyncio.Queue()
        """Not yet asked for, as they came; bounded by what is open."""
        self._read = False
        """Whether the iterables have ended."""
        self._ended = False
        self._bar: Bar | None = None
        if shown is not None:
            self._bar = Bar(shown, total)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if self._ended:
            raise StopAsyncIteration
        try:
            result = await self._next()
        except BaseException:
            self._leave()
            raise
        if self._bar is not None:
            self._bar.advance()
        return result

    async def _next(self) -> R:
        while True:
            # Half a window is kept under way while the next slices are started.
            if not self._read and len(self._open) <= self._window.size // 2:
                await self._fill()
            if not self._open:
                raise StopAsyncIteration
            opened = next(iter(self._open)) if self._ordered else await self._finished.get()
            if opened not in self._open:
                continue  # it was refused, and is started again under another number
            done = await opened.done
            no_room = _no_room(done)
            if no_room is None:
                del self._open[opened]
                self._window.over(done.queued_us)
                return await self._result(done)
            await self._start_again(opened, no_room.retry_after_s)

    async def _start_again(self, first: OpenCall, delay_s: float) -> None:
        """Nothing of refused calls has happened: they are started once more, in their places; this
        one certainly, the others as far as there may be room."""
        self._window.refused()
        await asyncio.sleep(delay_s)
        over = (each for each in self._open if each is not first and each.done.done())
        others = (each for each in over if _no_room(each.done.result()))
        refused = [first, *islice(others, self._window.size // 2)]
        opened = self._watched(await self._start([self._open[each] for each in refused]))
        instead = dict(zip(refused, opened, strict=True))
        self._open = {instead.get(each, each): said for each, said in self._open.items()}

    async def _fill(self) -> None:
        while (room := self._window.size - len(self._open)) > 0:
            arguments = list(islice(self._arguments, min(room, SLICE_CALLS)))
            if not arguments:
                self._read = True
                return
            opened = self._watched(await self._start(arguments))
            self._open.update(zip(opened, arguments, strict=True))

    def _watched(self, opened: list[OpenCall]) -> list[OpenCall]:
        if not self._ordered:
            for each in opened:
                each.done.add_done_callback(partial(_came, self._finished, each))
        return opened

    def _leave(self) -> None:
        self._ended = True
        for each in self._open:
            self._calls.cancel(each, "its map has ended")
        self._open.clear()
        if self._bar is not None:
            self._bar.stop()

    def __del__(self) -> None:
        if not self._ended:
            self._calls.soon(self._leave)

    async def aclose(self) -> None:
        """Cancel what is under way."""
        self._leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()


def _came(finished: asyncio.Queue[OpenCall], opened: OpenCall, done: asyncio.Future[Done]) -> None:
    # Not a method: what is under way must not hold a map that nobody iterates any more.
    finished.put_nowait(opened)


def _no_room(done: Done) -> Overloaded | None:
    error = from_wire(done.error) if done.error else None
    return error if isinstance(error, Overloaded) else None


class Bar:
    """How far a map is, on stderr."""

    __slots__ = ("_progress", "_task")

    def __init__(self, name: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress: Progress = Progress(console=Console(stderr=True))
        self._task: TaskID = self._progress.add_task(name, total=total)
        self._progress.start()

    def advance(self) -> None:
        """One more is there."""
        self._progress.advance(self._task)

    def stop(self) -> None:
        """Leave it as it is."""
        self._progress.stop()
