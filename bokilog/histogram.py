"""How long something took, counted in buckets: what a core can keep of latencies without a clock.

Decides the buckets: about two per doubling, from 100 us to 10 s, so that a median read off them is
wrong by less than half. Memory is constant; one observation is a bisection of 16 numbers. Source:
the cumulative buckets that Prometheus wants.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS_S: Final = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds, inclusive; what is beyond them falls into a last bucket without one."""


class Moment:
    """What time it is, as a core was told last: its parts look here, to time what takes several
    events."""

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0


class Histogram:
    """Counts by bucket, and the sum."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, took_s: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.sum_s += took_s

    def plain(self) -> list[object]:
        """As a fact of `bokilog status`: [sum in s, count of each bucket]."""
        return [self.sum_s, *self.counts]
