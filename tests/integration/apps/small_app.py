"""Functions for tests of hosts: they do what functions of users do, good and bad."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator

import bokilog
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.context import Context

app = App("small")


@app.function
async def double(x: int) -> int:
    print(f"doubling {x}")
    return 2 * x


@app.function(idle_s=1.0)
async def twice(x: int) -> int:
    """Calls another function, through its host."""
    return await double.remote(x) + await double.remote(x)


@app.function(max_workers=2)
def slow(s: float) -> int:
    time.sleep(s)
    return os.getpid()


@app.function(retries=1)
def pid_after(s: float) -> int:
    time.sleep(s)
    return os.getpid()


@app.function(max_concurrency=100)
async def naps(s: float) -> int:
    await asyncio.sleep(s)
    return os.getpid()


@app.function(timeout_s=0.5)
def forever() -> None:
    while True:
        pass


@app.function(timeout_s=0.5)
async def forever_async() -> None:
    while True:
        pass


@app.function(memory_bytes=64 << 20, timeout_s=20)
def hog(s: float) -> int:
    kept = []
    for _ in range(40):
        kept.append(bytearray(os.urandom(8)) * (1 << 20))
        time.sleep(s)
    return len(kept)


@app.function(fresh=True, max_workers=3)
def fresh_pid() -> int:
    return os.getpid()


@app.function
def leave_behind() -> int:
    """Starts a process that nobody waits for."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


@app.function
def leave(code: int) -> None:
    os._exit(code)


@app.function(timeout_s=10)
async def deeper(n: int) -> int:
    return await deeper.remote(n + 1)


@app.function(timeout_s=20, max_workers=1)
def queued(n: int) -> int:
    return n


@app.function(timeout_s=20, queue_limit=20_000)
async def queued_many(n: int) -> int:
    return n


@app.function
async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


@app.function
async def repeat(text: str, count: int) -> str:
    return text * count


@app.function
async def fails() -> None:
    print("about to fail", file=sys.stderr)
    raise ValueError("as asked")


@app.function
async def append(ctx: Context, text: str) -> int:
    return await ctx.book("notes").append(text.encode())


@app.function
async def read_back(ctx: Context, text: str) -> str:
    await append.remote(text)
    record = await ctx.book("notes").read_prev()
    assert record is not None
    return bytes(record.data).decode()


assert bokilog.__name__ == "bokilog"
