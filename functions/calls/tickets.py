"""What became of a host's last append about each call and each schedule.

Decides whether the host may act on what the state says of one now. While an append is under way the
state is about to change; once it is answered, the state has to take in the record that the answer
spoke of first: acting on an older state would only be refused. Invariants: at most one append per
ticket is under way; a ticket that keeps nobody waiting any more is forgotten.

Does not know: what was appended, what a ticket is of. Pure.
"""

from __future__ import annotations

from typing import Final

NOT_BUSY: Final = 0.0
UNTIL_TOLD: Final = float("inf")
"""An answer, or a change of the state, will say when."""


class _Ticket:
    __slots__ = ("again_s", "seqnum", "under_way")

    def __init__(self) -> None:
        self.under_way = True
        self.seqnum = 0
        """It is there, or something else is: wait until the state has taken it in."""
        self.again_s = 0.0
        """Not before that time."""


class Tickets:
    """One per call and schedule that something was appended about."""

    __slots__ = ("_tickets",)

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket] = {}

    def __contains__(self, ticket: str) -> bool:
        return ticket in self._tickets

    @property
    def under_way_count(self) -> int:
        """Appends without an answer."""
        return sum(each.under_way for each in self._tickets.values())

    def begin(self, ticket: str) -> None:
        """Something is appended about it."""
        self._tickets[ticket] = _Ticket()

    def end(self, ticket: str, seqnum: int, *, again_s: float = 0.0) -> bool:
        """The answer: our record stands at `seqnum`, or somebody else's that was first.

        Returns:
            False when nothing is known of it.
        """
        known = self._tickets.get(ticket)
        if known is None:
            return False
        known.under_way, known.seqnum = False, seqnum
        known.again_s = again_s or known.again_s
        return True

    def fail(self, ticket: str, *, again_s: float) -> bool:
        """It was not appended, as far as anybody knows; returns as `end` does."""
        known = self._tickets.get(ticket)
        if known is None:
            return False
        known.under_way, known.again_s = False, again_s
        return True

    def busy_until(self, ticket: str, seqnum: int, now_s: float) -> float:
        """How long nothing is to be done about it, if the state stands at `seqnum` of it."""
        known = self._tickets.get(ticket)
        if known is None:
            return NOT_BUSY
        if known.under_way or seqnum < known.seqnum:
            return UNTIL_TOLD
        if now_s < known.again_s:
            return known.again_s
        del self._tickets[ticket]
        return NOT_BUSY

    def forget(self, ticket: str) -> None:
        """Whatever became of it counts no more; also if it is under way."""
        self._tickets.pop(ticket, None)

    def forget_answered(self, ticket: str) -> None:
        """The same, unless an answer is still to come."""
        known = self._tickets.get(ticket)
        if known is not None and not known.under_way:
            del self._tickets[ticket]

    def forget_all_answered(self) -> None:
        """The state is another one: what it was to take in may be behind it."""
        self._tickets = {ticket: each for ticket, each in self._tickets.items() if each.under_way}
