"""An engine that says nothing though its connection stands: when it is asked, and when it is left.

Decides it by looks, a fixed time apart, and not by times: a process that was stopped itself, as a
laptop is, looks once when it goes on, and has missed nothing. An engine that owes nothing may say
nothing; one that owes something may have to wait for others, so it is asked about itself first,
which it answers at once, and is left only if it does not.

Invariants: whatever is heard begins everything anew; nothing is looked at while nothing was sent
since.

Does not know: messages, connections, other engines: whoever has none to go to looks at nothing.
"""

from __future__ import annotations

from typing import Final, Literal

LOOK_S: Final = 1.0
UNANSWERED_MAX: Final = 4
"""Looks that may pass after it was asked: an engine that is only slow never takes so long."""


class EngineSilence:
    """One connection to an engine."""

    __slots__ = ("_sent_count", "_unheard")

    def __init__(self) -> None:
        self._sent_count = 0
        """Messages sent by the time something was heard last."""
        self._unheard = 0
        """Looks since then."""

    def heard(self, sent_count: int) -> None:
        """Something arrived, by when so many messages were sent."""
        self._sent_count = sent_count
        self._unheard = 0

    def owes(self, sent_count: int) -> bool:
        """Whether anything was sent since something was heard."""
        return sent_count > self._sent_count

    def look(self) -> Literal["wait", "ask", "leave"]:
        """A look at an engine that owes something."""
        self._unheard += 1
        if self._unheard == 1:  # it may have been sent a moment ago
            return "wait"
        if self._unheard == 2:
            return "ask"
        return "leave" if self._unheard > 2 + UNANSWERED_MAX else "wait"
