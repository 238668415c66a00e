"""The child's side: a process that does what it is told, one order after another.

Decides how such a process lives: orders come in on standard input, outcomes leave on standard
output, anything else printed goes to standard error, and the end of the input is its own end, so
that none outlives whoever started it. An order that fails is an outcome with an error.

Does not know any order: whoever calls `serve` does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from bokilog.bench.orders import Order, Outcome, order_of, to_line
from bokilog.io.process import new_loop

Handler = Callable[[Order], Awaitable[Outcome]]
Handlers = Callable[[AsyncExitStack], Mapping[str, Handler]]
"""Makes the handlers; what the stack is given is closed at the end."""


def serve(make: Handlers) -> int:
    """Do orders until there are no more; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then ends us
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(make, out))
    return 0


async def _serve(make: Handlers, out: int) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    async with AsyncExitStack() as stack:
        handlers = make(stack)
        while line := await reader.readline():
            os.write(out, to_line(await _done(handlers, order_of(line))))


async def _done(handlers: Mapping[str, Handler], order: Order) -> Outcome:
    try:
        return await handlers[order.do](order)
    except Exception as error:
        return Outcome(error=f"{type(error).__name__}: {error}")
