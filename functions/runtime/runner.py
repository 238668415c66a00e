"""What durable calls and the gateway need of whoever runs calls: the host, or a test.

Decides nothing. Errors of a call are in its `Done`; nothing here raises for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from bokilog.functions.runtime.messages import Done, Encoding, FunctionRows, Item, Start

END_OF_STREAM: Final = (Encoding.MSGPACK, b"\xc0")
"""What a generator ends with once its values have been sent; no other function that was asked for
its values gives this, so that a reader of them can tell a result from the end."""


class RunningCall(Protocol):
    """A call under way."""

    @property
    def done(self) -> asyncio.Future[Done]:
        """What came of it; the future of a call never has an exception."""
        ...

    def credit(self, count: int) -> None:
        """Of a stream: so many more items may come."""
        ...

    def cancel(self, reason: str) -> None:
        """It is not wanted any more; `done` is set all the same, and soon."""
        ...


class CallRunner(Protocol):
    """Whoever runs calls."""

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> RunningCall:
        """Run a call here or on another node; `start.call` is not looked at."""
        ...

    def functions(self) -> FunctionRows:
        """What can be called now."""
        ...
