"""How busy a function is: its arrival rate and service time, and how many slots that takes.

Decides by Little's law (calls under way = arrival rate x service time) with exponential averages,
plus what it takes to catch up with what waits (Nightcore, section 4.2: the same product bounds its
concurrency). Does not know workers, clocks, limits.
"""

from __future__ import annotations

from math import exp
from typing import Final

RATE_TIME_S: Final = 2.0
"""Arrivals count for about so long."""
SERVICE_SHARE: Final = 0.1
"""Of the newest call in the average."""
SERVICE_S_FIRST: Final = 0.05
"""Assumed until a call was over."""
CATCH_UP_S: Final = 0.05
"""What waits should be under way after so long."""
HEADROOM: Final = 1.25
"""Arrivals are not even."""


class Load:
    """Averages of one function on one host."""

    __slots__ = ("_at_s", "_count", "_service_s")

    def __init__(self) -> None:
        self._count = 0.0
        self._at_s = 0.0
        self._service_s: float | None = None

    @property
    def service_s(self) -> float:
        """How long a call takes, on average."""
        return SERVICE_S_FIRST if self._service_s is None else self._service_s

    def arrived(self, now_s: float) -> None:
        """A call came."""
        self._count = self._decayed(now_s) + 1.0
        self._at_s = now_s

    def finished(self, took_s: float) -> None:
        """A call was over so long after its start."""
        if self._service_s is None:
            self._service_s = took_s
        else:
            self._service_s += SERVICE_SHARE * (took_s - self._service_s)

    def rate(self, now_s: float) -> float:
        """Arrivals per second."""
        return self._decayed(now_s) / RATE_TIME_S

    def slots(self, now_s: float, *, waiting: int) -> float:
        """How many calls should be under way at once."""
        under_way = self.rate(now_s) * self.service_s * HEADROOM
        return under_way + waiting * self.service_s / CATCH_UP_S

    def retry_after_s(self, *, waiting: int, slots: int) -> float:
        """When there may be room again for a call that is refused now."""
        return min(max(waiting * self.service_s / max(slots, 1), 0.05), 30.0)

    def _decayed(self, now_s: float) -> float:
        return self._count * exp(min(self._at_s - now_s, 0.0) / RATE_TIME_S)
