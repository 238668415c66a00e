"""The two clocks of a node: a monotonic one to measure by, and the wall clock to stamp cuts with.

Decides nothing. Invariant: `now_s` never goes back; `wall_ms` may jump either way, and only a
primary looks at it, once per batch (P10). Cores get the time as an argument and never see a clock.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a shell reads the time."""

    def now_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the operating system believes; it may jump."""


class SystemClock:
    """The clocks of the operating system."""

    __slots__ = ()

    now_s = staticmethod(time.monotonic)
    """Seconds of the monotonic clock, the one event loops use too."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that stands until it is moved: for tests and simulations.

    >>> clock = ManualClock(wall_ms=1_000)
    >>> clock.advance(0.25)
    >>> clock.now_s(), clock.wall_ms()
    (0.25, 1250)
    """

    __slots__ = ("_ahead_ms", "_now_s")

    def __init__(self, *, now_s: float = 0.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._now_s = now_s
        # How far the wall clock is ahead of the monotonic one.
        self._ahead_ms = wall_ms - round(now_s * 1_000)

    def now_s(self) -> float:
        """Seconds this clock was moved to."""
        return self._now_s

    def wall_ms(self) -> int:
        """The wall clock: it moves with `advance` and jumps with `jump_wall`."""
        return self._ahead_ms + round(self._now_s * 1_000)

    def advance(self, delta_s: float) -> None:
        """Let `delta_s` >= 0 seconds pass on both clocks."""
        if delta_s < 0:
            raise ValueError(f"delta_s={delta_s}: a monotonic clock does not go back")
        self._now_s += delta_s

    def jump_wall(self, delta_ms: int) -> None:
        """Set the wall clock forward or back, as an operator or a time server does."""
        self._ahead_ms += delta_ms
