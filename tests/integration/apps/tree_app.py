"""Calls within calls that append and read: for the session guarantees along a chain of calls."""

from __future__ import annotations

import asyncio

from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.context import Context

app = App("trees")
Tree = list[list[object]]
"""Steps: ["append", NAME], ["read"], ["call", TREE], ["both", TREE, TREE]."""
Events = list[list[object]]
"""The same steps, as they went: a read with the names it saw, calls with their own events."""


@app.function(max_concurrency=4, max_workers=4, timeout_s=30)
async def grow(ctx: Context, book: str, tree: Tree) -> Events:
    """Do all steps of a tree, in order."""
    records = ctx.book(book)
    events: Events = []
    for step in tree:
        match step:
            case ["append", str() as name]:
                await records.append(name.encode())
                events.append(["append", name])
            case ["read"]:
                seen = [bytes(record.data).decode() async for record in records.scan()]
                events.append(["read", seen])
            case ["call", list() as below]:
                events.append(["call", await grow.remote(book, below)])
            case ["both", list() as left, list() as right]:
                both = await asyncio.gather(grow.remote(book, left), grow.remote(book, right))
                events.append(["both", *both])
            case _:
                raise ValueError(f"{step} is no step")
    return events


@app.function
async def stumble(ctx: Context, book: str, name: str) -> None:
    """Append, then fail: the caller has seen it all the same."""
    await ctx.book(book).append(name.encode())
    raise ValueError(name)


@app.function
async def after_a_failure(ctx: Context, book: str) -> list[str]:
    """What is there after a call that failed."""
    try:
        await stumble.remote(book, "before the fall")
    except ValueError:
        pass
    return [bytes(record.data).decode() async for record in ctx.book(book).scan()]
