"""Functions for tests of durable calls: each says in the log that it ran."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.context import Context

app = App("durable")


@app.function(retries=10, retry_delay_s=0.05)
async def work(ctx: Context, number: int) -> int:
    await ctx.book("runs").append(b"%d" % number, "work")
    await asyncio.sleep(0.2)
    return number * number


@app.function(retries=10)
async def letters(count: int) -> AsyncIterator[str]:
    for number in range(count):
        await asyncio.sleep(0.005)
        yield chr(ord("a") + number % 26)


@app.function(schedule="every 1s", retries=10)
async def tick(ctx: Context) -> None:
    await ctx.book("runs").append(ctx.call_id.encode(), "tick")
