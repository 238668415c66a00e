"""The term gate: messages of another term than one's own, treated in one place (P17).

A message of a past term is answered or dropped by the caller; one of a future term is held until
the view of that term is installed, and tells the caller to fetch that view. Frames, progress,
metalog replication and publication pass it; reads, repair, catch-up and verdicts name the term they
are about and do not.

Invariants: terms only grow; what is held is bounded in messages and bytes, and what does not fit is
dropped and counted (protocols here resume by themselves); held messages come out in the order in
which they arrived.

Does not know: views, what a message means, or which of its fields is its term. Differs from Boki,
which pastes the guard into each of its three node types.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from bokilog.effects import Address
from bokilog.ids import Term
from bokilog.limits import MIB
from bokilog.messages import AppendFrame, Message, Metalog, Replicate
from bokilog.named import NamedTuple

HELD_MAX: Final = 4_096
HELD_BYTES_MAX: Final = 64 * MIB
"""Defaults: what a second of fail-over brings to a busy node."""
MESSAGE_BYTES = 256
"""What a held message without a frame is counted as."""
ENTRY_BYTES = 64
"""What a metalog entry is counted as."""


class Admission(Enum):
    """How a message's term compares with the installed one."""

    PAST = "past"
    CURRENT = "current"
    FUTURE = "future"


PAST, CURRENT, FUTURE = Admission.PAST, Admission.CURRENT, Admission.FUTURE


class Held(NamedTuple):
    """A message that is too early, and who sent it."""

    term: Term
    source: Address
    message: Message


class TermGate:
    """Compares terms, and holds what is too early.

    Args:
        term: the installed view's; 0 before the first.
        held_max: messages held at once.
        held_bytes_max: bytes of messages held at once.
    """

    __slots__ = ("_held", "dropped_count", "held_bytes", "held_bytes_max", "held_max", "term")

    def __init__(
        self, term: Term, held_max: int = HELD_MAX, held_bytes_max: int = HELD_BYTES_MAX
    ) -> None:
        self.term = term
        self.held_max = held_max
        self.held_bytes_max = held_bytes_max
        self.held_bytes = 0
        self.dropped_count = 0
        """Messages of a future term for which there was no room."""
        self._held: list[Held] = []

    def __len__(self) -> int:
        """How many messages are held."""
        return len(self._held)

    def admit(self, term: int, source: Address, message: Message) -> Admission:
        """How a message's term compares; one of a future term is held, if there is room.

        FUTURE asks the caller for a `LoadView(term)` too.
        """
        if term == self.term:
            return CURRENT
        if term < self.term:
            return PAST
        size_bytes = message_bytes(message)
        if len(self._held) >= self.held_max or self.held_bytes + size_bytes > self.held_bytes_max:
            self.dropped_count += 1
        else:
            self.held_bytes += size_bytes
            self._held.append(Held(Term(term), source, message))
        return FUTURE

    def install(self, term: int) -> list[Held]:
        """The view of `term` is installed: what was held for it, in order of arrival.

        What was held for a term in between is past, and dropped as any other past message would be.
        """
        assert term > self.term, f"term {term} installed after {self.term}"
        self.term = Term(term)
        ready = [held for held in self._held if held.term == term]
        self._keep([held for held in self._held if held.term > term])
        return ready

    def forget(self, source: Address) -> None:
        """The connection is gone: what it brought is not continued by what the next one brings."""
        if self._held:
            self._keep([held for held in self._held if held.source != source])

    def check(self) -> None:
        """Asserts the invariants."""
        assert len(self._held) <= self.held_max
        assert self.held_bytes == sum(message_bytes(held.message) for held in self._held)
        assert self.held_bytes <= self.held_bytes_max
        assert all(held.term > self.term for held in self._held)

    def _keep(self, held: list[Held]) -> None:
        self._held = held
        self.held_bytes = sum(message_bytes(each.message) for each in held)


def message_bytes(message: Message) -> int:
    """About what a message takes in memory: exact for frames, which are what can be large."""
    if isinstance(message, Replicate):
        return message.frame.size_bytes
    if isinstance(message, AppendFrame):
        return MESSAGE_BYTES + message.columns.payload_bytes
    if isinstance(message, Metalog):
        return MESSAGE_BYTES + ENTRY_BYTES * len(message.run.entries)
    return MESSAGE_BYTES
