"""A generator that is not asynchronous, run to its end in one thread, as an asynchronous one.

Decides how far the thread is ahead of whoever takes its items, and how it is told to end. Its code
runs in that one thread from its first line to its last, `finally` included, since what it opened
there may belong to the thread.

Invariants: at most `AHEAD` items that nobody has taken yet; whoever leaves waits until the thread
is done with it, since nothing can end a thread. Does not know: calls, messages.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Final

from bokilog.functions.runtime.forked import end_if_forked

AHEAD: Final = 16
"""Items made and not yet taken: so that the thread need not wait for the loop at each."""

Body = Callable[[], Generator[object, None, object]]


class _Handover:
    """Between the thread and the loop."""

    __slots__ = ("asleep", "items", "left", "loop", "more", "room")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.items: deque[object] = deque()
        self.room = threading.Semaphore(AHEAD)
        self.more = asyncio.Event()
        self.asleep = False
        """The loop waits, or is about to look once more and then wait: it wants to be woken."""
        self.left = threading.Event()
        """Nobody takes anything any more."""

    def leave(self) -> None:
        """The thread ends the generator where it yields next, or yields now."""
        self.left.set()
        self.room.release()

    def run(self, body: Body) -> BaseException | None:
        """All of the generator, in this thread; what it raised, to be raised on the loop."""
        if self.left.is_set():
            return None
        pid, name = os.getpid(), "a generator"
        try:
            generator = body()
            name = getattr(generator, "__name__", name)
            try:
                for item in generator:
                    end_if_forked(pid, name)
                    self.room.acquire()
                    if self.left.is_set():
                        break
                    self.items.append(item)
                    if self.asleep:
                        self.asleep = False
                        self.loop.call_soon_threadsafe(self.more.set)
            finally:
                generator.close()
        except BaseException as error:  # whatever it is, it belongs to the call
            end_if_forked(pid, name, error)
            return error
        end_if_forked(pid, name)
        return None


async def items_of(executor: Executor, body: Body) -> AsyncGenerator[object, None]:
    """What the generator that `body` makes yields; it runs in a thread of `executor`."""
    loop = asyncio.get_running_loop()
    handover = _Handover(loop)
    running = loop.run_in_executor(executor, copy_context().run, handover.run, body)
    running.add_done_callback(lambda _: handover.more.set())
    try:
        while handover.items or not running.done():
            if not handover.items:
                handover.more.clear()
                handover.asleep = True  # first: what comes after the look wakes this
                if not handover.items:
                    await handover.more.wait()
                continue
            item = handover.items.popleft()
            handover.room.release()
            yield item
    finally:
        handover.leave()
        await asyncio.wait([running])
    error = running.result()
    if error is not None:
        raise error
