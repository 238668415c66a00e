"""The time that cuts carry.

Decides how a wall clock that somebody sets is followed: at a bounded rate, by the monotonic clock.

Invariant: what is read never goes back, not even from one term to the next (P10).

Does not know: log spaces, who reads the clocks.
"""

from __future__ import annotations

from typing import Final

TIME_RATE_MAX: Final = 2.0
"""How much faster than the monotonic clock cuts' timestamps may follow a wall clock that was set
forward, and how much slower one that was set back: no time to live ends in under half its time."""


class CutClock:
    """The time that cuts carry: the wall clock, followed at a bounded rate (P10)."""

    __slots__ = ("_last_s", "_ms")

    def __init__(self, least_ms: int) -> None:
        self._ms = float(least_ms)
        self._last_s: float | None = None

    def read(self, now_s: float, wall_ms: int) -> int:
        """Milliseconds at `now_s` of the monotonic clock; never less than before."""
        last_s, last_ms = self._last_s, self._ms
        if last_s is None:
            self._ms = max(last_ms, float(wall_ms))
        elif now_s > last_s:
            passed_ms = (now_s - last_s) * 1000
            fastest = last_ms + passed_ms * TIME_RATE_MAX
            if wall_ms > fastest:
                self._ms = fastest
            else:
                slowest = last_ms + passed_ms / TIME_RATE_MAX
                self._ms = slowest if wall_ms < slowest else float(wall_ms)
        self._last_s = now_s
        return int(self._ms)

    def at_least(self, least_ms: int) -> None:
        """A term begins that ended nowhere later than this."""
        self._ms = max(self._ms, float(least_ms))
