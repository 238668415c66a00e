"""The calls that a host's own process starts: those of the gateway and of durable calls.

Decides how such calls are numbered, and whom an answer is for. They reach the scheduler as a link's
would, from an address that no link has.

Invariants: whoever started a call gets its `Done` once; what it gets is a copy, since what came
over a link is a slice of all that was read with it. Does not know where calls run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bokilog.functions.runtime.effects import Address
from bokilog.functions.runtime.messages import (
    CallMessage,
    Cancel,
    Credit,
    Done,
    FunctionRows,
    Item,
    Start,
)

LOCAL: Final[Address] = ("local", 0)


class LocalCall:
    """A call that was started in this process; a `RunningCall`."""

    __slots__ = ("_done", "_number", "_on_item", "_tell")

    def __init__(
        self,
        number: int,
        *,
        tell: Callable[[CallMessage], None],
        on_item: Callable[[Item], None] | None,
    ) -> None:
        self._number = number
        self._tell = tell
        self._on_item = on_item
        self._done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()

    @property
    def done(self) -> asyncio.Future[Done]:
        """What came of it."""
        return self._done

    def credit(self, count: int) -> None:
        """So many more items may come."""
        self._tell(Credit(self._number, count))

    def cancel(self, reason: str) -> None:
        """It is not wanted any more."""
        self._tell(Cancel(self._number, reason))

    def on_message(self, message: Done | Item) -> None:
        """Its answer, or an item of its stream."""
        if isinstance(message, Item):
            if self._on_item is not None:
                self._on_item(message)
        elif not self._done.done():
            self._done.set_result(message)


class LocalCalls:
    """They, and what starts them: a `CallRunner`.

    Args:
        tell: takes what their callers say to the host.
        functions: what can be called now.
    """

    __slots__ = ("_functions", "_numbers", "_open", "_tell")

    def __init__(
        self, *, tell: Callable[[CallMessage], None], functions: Callable[[], FunctionRows]
    ) -> None:
        self._tell = tell
        self._functions = functions
        self._open: dict[int, LocalCall] = {}
        self._numbers = 0

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> LocalCall:
        """Run a call here or on another node; `start.call` is not looked at."""
        self._numbers += 1
        number = self._numbers
        call = self._open[number] = LocalCall(number, tell=self._tell, on_item=on_item)
        self._tell(Start(number, *start[1:]))  # `_replace` takes four times as long
        return call

    def functions(self) -> FunctionRows:
        """What can be called now."""
        return self._functions()

    def answer(self, message: CallMessage) -> None:
        """What the host says to one of them."""
        assert isinstance(message, (Done, Item))
        done = isinstance(message, Done)
        call = self._open.pop(message.call, None) if done else self._open.get(message.call)
        if call is not None:
            # Slices keep the whole read alive that they came with.
            call.on_message(message._replace(payload=bytes(message.payload)))

    def cancel_all(self) -> None:
        """The host is gone: whoever waits is cancelled."""
        for call in self._open.values():
            call.done.cancel()
