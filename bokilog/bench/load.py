"""A closed loop of work: so many operations under way at any time, each in a task of its own.

Decides what a second of load is, and is the same for every contender: a task issues its next
operation when the last one was answered, and every operation is timed. Nothing is issued after the
end; what is under way then still counts, and so does the time it takes.

Does not know what an operation is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from bokilog.bench.figures import percentile

TAGS_COUNT: Final = 1_000
TAGS: Final = tuple(f"tag-{number}" for number in range(TAGS_COUNT))
_STRIDE: Final = 7_919  # a prime, so that tasks do not walk through the tags in step


@dataclass(frozen=True, slots=True)
class Load:
    """What a closed loop did."""

    count: int
    elapsed_s: float
    p50_us: float
    p99_us: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.count / self.elapsed_s if self.elapsed_s else 0.0


async def closed_loop(
    operation: Callable[[int], Awaitable[object]],
    *,
    outstanding: int,
    seconds: float = float("inf"),
    count: int | None = None,
) -> Load:
    """Keep `outstanding` operations under way.

    Args:
        operation: told a number that differs from task to task and from turn to turn; never twice
            the same with `count`, where they are 0, 1, ...
        outstanding: tasks.
        seconds: after which nothing is issued any more.
        count: so many operations in all; None: as many as there is time for.
    """
    latencies: list[float] = []
    issued = 0
    started_s = perf_counter()
    until_s = started_s + seconds

    async def timed(task: int) -> None:
        turn = task * _STRIDE
        while (before_s := perf_counter()) < until_s:
            await operation(turn)
            latencies.append(perf_counter() - before_s)
            turn += 1

    async def counted() -> None:
        nonlocal issued
        while issued < count and (before_s := perf_counter()) < until_s:  # type: ignore[operator]
            turn, issued = issued, issued + 1
            await operation(turn)
            latencies.append(perf_counter() - before_s)

    async with asyncio.TaskGroup() as group:
        for task in range(outstanding):
            group.create_task(timed(task) if count is None else counted())
    return summary(latencies, perf_counter() - started_s)


def summary(latencies_s: list[float], elapsed_s: float) -> Load:
    """What is said of so many operations."""
    latencies_s.sort()
    return Load(
        len(latencies_s),
        elapsed_s,
        percentile(latencies_s, 0.5) * 1e6,
        percentile(latencies_s, 0.99) * 1e6,
    )


def tag_of(turn: int) -> str:
    """One of a thousand tags."""
    return TAGS[turn % TAGS_COUNT]
