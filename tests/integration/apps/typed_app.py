"""Functions for programs outside, who import this module too."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bokilog import App, Context

app = App("typed")


modules: set[str] = set()


@app.init
def remember() -> None:
    modules.update(sys.modules)


@app.function
async def imported_since(ctx: Context) -> list[str]:
    await ctx.book("notes").append(b"")
    await square.spawn(3)
    return sorted(set(sys.modules) - modules)


@dataclass
class Order:
    item: str
    prices: list[float]


class OutOfStock(Exception):
    """Of this module, which has another name in the workers."""


@app.function
async def total(orders: list[Order], *, discount: float = 0.0) -> Order:
    return Order("all", [sum(sum(order.prices) for order in orders) * (1 - discount)])


@app.function(max_concurrency=2, max_workers=2)
def square(number: int) -> int:
    return number * number


@app.function
async def count(until: int) -> AsyncIterator[Order]:
    for number in range(until):
        yield Order(str(number), [])


@app.function
async def buy(item: str) -> None:
    raise LookupError(item) if item == "tea" else OutOfStock(item)


@app.function
async def note(ctx: Context, text: str) -> int:
    return await ctx.book("notes", type=str).append(text)


@app.function
async def note_below(ctx: Context, text: str) -> list[object]:
    await asyncio.gather(*(note.remote(f"{text} {number}") for number in range(3)))
    return [each.value async for each in ctx.book("notes", type=str).scan()]


@app.function
def note_in_thread(ctx: Context, text: str) -> list[object]:
    book = ctx.sync.book("notes", type=str)
    book.append(text)
    note.call(f"{text} below")
    return [each.value for each in book.scan()]


@app.function
async def repeat(data: bytes, times: int) -> bytes:
    return data * times


@app.function(retries=0)
async def end_once(ctx: Context) -> int:
    if ctx.attempt == 0:
        os._exit(3)
    return ctx.attempt


@app.function
async def wait() -> None:
    await asyncio.Event().wait()
