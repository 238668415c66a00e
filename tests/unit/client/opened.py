"""A log over a fake engine, for the client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from bokilog.client.admin import ClientLog
from bokilog.client.logbook import ClientLogBook
from bokilog.client.node import Client
from bokilog.record import Buffer
from tests.unit.client.fake_engine import FakeEngine


@asynccontextmanager
async def opened(
    engine: FakeEngine | None = None, *, timeout_s: float = 5.0
) -> AsyncGenerator[tuple[FakeEngine, ClientLog], None]:
    """An engine and a log over it; the log is closed, whatever the test left under way."""
    engine = engine or FakeEngine()
    log = ClientLog(Client(engine.attach, timeout_s=timeout_s))
    try:
        yield engine, log
    finally:
        engine.up = False  # a test may have left answers out: closing does not wait for them
        log.client.core.up = False
        await log.aclose()


@asynccontextmanager
async def existing(
    engine: FakeEngine | None = None, *, timeout_s: float = 5.0
) -> AsyncGenerator[tuple[FakeEngine, ClientLogBook[Buffer]], None]:
    """A LogBook with one record, known to its handle; what the engine received is forgotten."""
    async with opened(engine, timeout_s=timeout_s) as (fake, log):
        book = log.book("orders")
        await book.append(b"first")
        await book.read_next()
        fake.received.clear()
        yield fake, book


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something is the case."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - it may be anything, so there is nothing to wait for
            await asyncio.sleep(0)
