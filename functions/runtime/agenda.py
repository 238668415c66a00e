"""What is due when: any number of deadlines behind one timer.

Decides nothing but the order. Deadlines are rounded up to a step, so that a call's is set and taken
back in constant time and what is left of finished calls is one number per step, not one per call.

Invariants: a key has at most one due time, the one set last; nothing is due early. Does not know
what a key means, clocks, timers.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush
from math import ceil
from typing import Final, Generic, TypeAlias, TypeVar

STEP_S: Final = 0.01
K = TypeVar("K", bound=Hashable)
Key: TypeAlias = tuple[str, int | str]
"""Of a host's agenda: what is due ("call", "worker", "pool", "template") and its number or name."""


class Agenda(Generic[K]):
    """Keys by the time they are due at."""

    __slots__ = ("_at", "_heap", "_steps")

    def __init__(self) -> None:
        self._at: dict[K, int] = {}
        self._steps: dict[int, dict[K, None]] = {}
        self._heap: list[int] = []

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: K) -> bool:
        return key in self._at

    def set(self, key: K, due_s: float) -> None:
        """`key` is due then, and not when it was before."""
        self.drop(key)
        step = ceil(due_s / STEP_S)
        keys = self._steps.get(step)
        if keys is None:
            keys = self._steps[step] = {}
            heappush(self._heap, step)
        keys[key] = None
        self._at[key] = step

    def drop(self, key: K) -> None:
        """`key` is not due any more; one that was not is no error."""
        step = self._at.pop(key, None)
        if step is not None:
            del self._steps[step][key]

    def take(self, now_s: float) -> list[K]:
        """What is due by now, in order; it is not due any more."""
        due: list[K] = []
        while self._heap and self._heap[0] * STEP_S <= now_s:
            keys = self._steps.pop(heappop(self._heap))
            for key in keys:
                del self._at[key]
            due.extend(keys)
        return due

    def next_s(self) -> float | None:
        """When something is due next; None: nothing is."""
        while self._heap and not self._steps[self._heap[0]]:
            del self._steps[heappop(self._heap)]
        return self._heap[0] * STEP_S if self._heap else None
