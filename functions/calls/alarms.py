"""When a host looks at a call or a schedule again without being told to.

Decides which ticket's time has come, and when the shell has to wake this host: at the earliest time
that counts, and only if it was not asked for that already. Invariants: a ticket has one time, the
last one that was set; a time that was replaced or dropped wakes nobody. Pure; setting a time costs
the logarithm of how many there are, dropping one nothing.
"""

from __future__ import annotations

import heapq
from typing import Final

NEVER: Final = float("inf")


class Alarms:
    """One time per ticket."""

    __slots__ = ("_asked_s", "_heap", "_times")

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        """Of all that were ever set; what is no ticket's time any more is passed over."""
        self._asked_s = NEVER
        """When the shell will wake us."""

    def set(self, ticket: str, at_s: float) -> None:
        """Instead of any other time it has."""
        if self._times.get(ticket) == at_s:
            return
        self._times[ticket] = at_s
        heapq.heappush(self._heap, (at_s, ticket))

    def drop(self, ticket: str) -> None:
        """Nothing is to be done about it any more."""
        self._times.pop(ticket, None)

    def rang(self) -> None:
        """The shell has woken us, for whatever it was asked for last."""
        self._asked_s = NEVER

    def pop_due(self, now_s: float) -> str | None:
        """The next ticket whose time has come; it has none from then on."""
        while self._heap and self._heap[0][0] <= now_s:
            at_s, ticket = heapq.heappop(self._heap)
            if self._times.get(ticket) == at_s:
                del self._times[ticket]
                return ticket
        return None

    def pop_wish(self) -> float | None:
        """When to be woken, if that is earlier than the shell was asked for."""
        while self._heap and self._times.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if not self._heap or self._heap[0][0] >= self._asked_s:
            return None
        self._asked_s = self._heap[0][0]
        return self._asked_s
