"""The calls that this host claims, runs, or has run, and how many of them there is room for.

Decides whether another call of a function may be claimed: as many as the host has room for, and no
more than three quarters of that for one function, so that a function whose calls hang leaves room
for the others. Invariants: an attempt moves forward only, from claiming over running to over; what
is over has an outcome, and stays here until the log has it. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterator
from enum import Enum, auto

from bokilog.functions.calls.records import DeadLettered, Finished, Retried
from bokilog.functions.calls.state import OpenCall


class At(Enum):
    """How far an attempt is here."""

    CLAIMING = auto()
    RUNNING = auto()
    OVER = auto()


class Attempt:
    """An attempt of one call."""

    __slots__ = ("at", "extend_s", "function", "number", "outcome")

    def __init__(self, function: str, number: int, extend_s: float) -> None:
        self.function = function
        self.number = number
        self.extend_s = extend_s
        """When its lease is renewed, by our clock."""
        self.at = At.CLAIMING
        self.outcome: Finished | Retried | DeadLettered | None = None

    def end(self, outcome: Finished | Retried | DeadLettered) -> None:
        """It is over here; the log is still to hear of it."""
        self.at, self.outcome = At.OVER, outcome


class Attempts:
    """All of a host's, by call."""

    __slots__ = ("_by_call", "_count_of")

    def __init__(self) -> None:
        self._by_call: dict[str, Attempt] = {}
        self._count_of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_call)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_call)

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._by_call

    def items(self) -> ItemsView[str, Attempt]:
        """Of each call, in the order in which they were begun."""
        return self._by_call.items()

    def get(self, call_id: str) -> Attempt | None:
        """The attempt of that call, if it is here."""
        return self._by_call.get(call_id)

    def begin(self, call: OpenCall, *, extend_s: float) -> Attempt:
        """The call is claimed, or turns out to be ours."""
        attempt = self._by_call[call.call_id] = Attempt(call.function, call.attempt, extend_s)
        self._count_of[call.function] += 1
        return attempt

    def forget(self, call_id: str) -> Attempt | None:
        """The call is not ours any more; returns the attempt there was."""
        attempt = self._by_call.pop(call_id, None)
        if attempt is not None:
            self._count_of[attempt.function] -= 1
        return attempt

    def has_room(self, function: str, capacity: int) -> bool:
        """Whether one function may have one more."""
        return self._count_of[function] < max(1, capacity * 3 // 4)

    def check(self) -> None:
        """Assert what must always hold."""
        assert Counter(each.function for each in self._by_call.values()) == +self._count_of
        for call_id, attempt in self._by_call.items():
            assert (attempt.outcome is not None) == (attempt.at == At.OVER), call_id
