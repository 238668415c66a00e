"""The app that `bokilog bench functions` calls: functions that do next to nothing.

It imports what apps usually import, since a fresh interpreter would have to do that again for every
worker, and a template does it once.
"""

from __future__ import annotations

import asyncio
import email.message
import http.client
import json
import sqlite3
import time
from typing import Final

import rich.console
import rich.table

from bokilog.bench.figures import percentile
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.context import Context

app: Final = App("bench")
WORK_S: Final = 0.001
MODULES: Final = (asyncio, email.message, http.client, json, sqlite3, rich.console, rich.table)


@app.function(max_concurrency=1_000, min_workers=1, max_workers=1, queue_limit=100_000)
async def empty(x: int = 0) -> int:
    """Nothing."""
    return x


@app.function(min_workers=1, max_workers=1)
async def relay(seconds: float) -> list[float]:
    """Calls another function for so long, one call at a time: how many, p50 and p99 in us."""
    took_us = []
    until_s = time.perf_counter() + seconds
    while (before_s := time.perf_counter()) < until_s:
        await empty.remote()
        took_us.append((time.perf_counter() - before_s) * 1e6)
    took_us.sort()
    return [float(len(took_us)), percentile(took_us, 0.5), percentile(took_us, 0.99)]


@app.function(max_concurrency=1, min_workers=2, max_workers=2, queue_limit=10_000)
def work(x: int) -> int:
    """A millisecond."""
    time.sleep(WORK_S)
    return x


@app.function(min_workers=1, max_workers=1)
async def read_each(ctx: Context, book: str, seqnums: list[int]) -> list[float]:
    """Reads records for the first time in this worker: p50 and p99 in us, found in its memory."""
    records = ctx.book(book)
    await records.read(seqnums[0])  # finds the LogBook
    shared = ctx.log.client.core.shared
    before_count = shared.hit_count if shared is not None else 0
    took_us = []
    for seqnum in seqnums[1:]:
        before_s = time.perf_counter()
        record = await records.read(seqnum)
        took_us.append((time.perf_counter() - before_s) * 1e6)
        assert record is not None
    found = shared.hit_count - before_count if shared is not None else 0
    took_us.sort()
    return [percentile(took_us, 0.5), percentile(took_us, 0.99), float(found)]
