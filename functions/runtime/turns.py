"""Which of the calls that a worker has begin now, and which when others have ended.

Decides that a worker runs no more calls at once than its function allows, and in which order those
begin that came ahead (`pool.py` says why they do). A host counts on two things: a call begins only
once fewer than `at_once` are left without a `Done` *that has left the process*, so that whatever
ends the process, the host knows which calls had not begun; and no call is given back whose turn has
come, begun or not: by the host's book it runs from that `Done` on, and a returned one never does.

Invariants: calls begin in the order in which they came; each is begun once or given up once. Does
not know links, clocks, what a call is.
"""

from __future__ import annotations

from itertools import islice

from bokilog.functions.runtime.messages import Credit, Start


class Waiting:
    """A call that has not begun."""

    __slots__ = ("came_s", "credit", "start")

    def __init__(self, start: Start, came_s: float) -> None:
        self.start = start
        self.came_s = came_s
        self.credit = 0
        """Of a stream, given before it began."""


class Turns:
    """The calls of one worker.

    Args:
        at_once: so many run beside each other.
    """

    __slots__ = ("_at_once", "_begun_count", "_waiting")

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._begun_count = 0
        self._waiting: dict[int, Waiting] = {}

    @property
    def waiting_count(self) -> int:
        """Calls that have not begun."""
        return len(self._waiting)

    def came(self, start: Start, now_s: float) -> bool:
        """A call is here; whether it begins now."""
        if self._begun_count < self._at_once and not self._waiting:
            self._begun_count += 1
            return True
        # Slices of a read keep all of it in memory.
        kept = start._replace(payload=bytes(start.payload))
        self._waiting[start.call] = Waiting(kept, now_s)
        return False

    def over(self) -> None:
        """One that had begun has ended, and whoever is told of it was told."""
        self._begun_count -= 1

    def next(self) -> Waiting | None:
        """The call that begins now; None: there is none, or no room."""
        if not self._waiting or self._begun_count >= self._at_once:
            return None
        self._begun_count += 1
        return self._waiting.pop(next(iter(self._waiting)))

    def credit(self, credit: Credit) -> bool:
        """A stream may go further once it begins; False: it has, or is over."""
        waiting = self._waiting.get(credit.call)
        if waiting is not None:
            waiting.credit += credit.items
        return waiting is not None

    def give_up(self, call: int) -> bool:
        """A call is not to begin any more; False: it has, or is over."""
        return self._waiting.pop(call, None) is not None

    def give_back(self, call: int) -> bool:
        """A call is to begin elsewhere; False: it has begun, its turn has come, or it is over."""
        turns = max(self._at_once - self._begun_count, 0)
        return call not in islice(self._waiting, turns) and self.give_up(call)
