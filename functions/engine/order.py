"""A log space's metalog as an engine follows it: only what touches its shard, plus a way to be
sure.

Decides which entries are new to this engine. Usually it follows *lite*: the primary leaves out what
does not concern it (P18), cuts carry their first seqnum and its own spans are contiguous, so
skipped entries cost nothing to notice. When it must know that nothing of its own was left out (the
end of a term, a span that does not continue the last), it *catches up*: it asks for every entry and
takes them without a gap, up to a target.

Invariants: entries come out once and in order; none past the end of an ended term (P13). Lite rests
on a primary that sends in order on one connection; whoever loses the connection asks again from
`position`.

Does not know: frames, views, links.
"""

from __future__ import annotations

from typing import Final

from bokilog.ids import START, LogSpaceId, Position, Term
from bokilog.messages import FollowMetalog
from bokilog.metalog import Entry, MetalogFollower, Run

ENDS_KEPT: Final = 64
"""Of one log space; a term is minutes to months."""


class SpaceOrder:
    """Turns runs as they arrive into this engine's entries."""

    __slots__ = ("_ends", "_strict", "number", "position", "space", "target")

    def __init__(self, space: LogSpaceId, number: int) -> None:
        self.space = space
        self.number = number
        """The engine's shard number in every term."""
        self.position = START
        """Every entry that touches this engine up to here was returned."""
        self.target = 0
        """Count of entries up to which it catches up."""
        self._ends: dict[Term, int] = {}
        self._strict: MetalogFollower | None = None

    @property
    def catching_up(self) -> bool:
        """Whether it takes entries without a gap, and has not reached its target."""
        return self._strict is not None

    def follow(self) -> FollowMetalog:
        """What to ask the primary for."""
        return FollowMetalog(self.space, self.position, 0 if self._strict else self.number)

    def end_term(self, term: Term, count: int) -> None:
        """A stored view says where `term` ended: its entries past `count` never happened (P13).

        What it was catching up to may be past that: whoever still has to asks anew.
        """
        for earlier, end in self._ends.items():
            self._ends[earlier] = min(end, count)
        self._ends[term] = count
        if self.position.term <= term and self.position.count > count:
            # Only a class that may lose entries gets here (P11): what was told is lost, not wrong.
            self.position = Position(self.position.term, count)
        self._strict = None

    def catch_up(self, target: int, *, position: Position | None = None) -> None:
        """From `position` (or where it is) on, take every entry up to `target` without a gap."""
        self.position = position or self.position
        self.target = target
        strict = MetalogFollower(self.space, self.position)
        for term, count in sorted(self._ends.items()):
            if term >= self.position.term:
                strict.end_term(term, count)
        self._strict = strict

    def caught_up(self) -> bool:
        """Whether the target is reached; if so it is lite again."""
        if self._strict is None or self.position.count < self.target:
            return False
        self._strict = None
        return True

    def rewind(self, position: Position) -> None:
        """Entries past `position` were returned and could not be used."""
        self.position = position
        if self._strict is not None:
            self.catch_up(self.target)

    def offer(self, run: Run) -> list[tuple[Position, Entry]]:
        """The entries of a run that are new."""
        if self._strict is not None:
            ready = self._strict.offer(run)
            self.position = self._strict.position
            return ready
        _, of, first, entries = run
        until = first + len(entries)
        if of in self._ends:
            until = min(until, self._ends[of])
        term, count = self.position
        if of < term or until <= count:
            return []
        position = self.position = Position(of, until)
        if until == first + 1:  # the usual run
            return [(position, entries[0])]
        return [
            (Position(of, place + 1), entries[place - first])
            for place in range(max(count, first), until)
        ]

    def seen(self, position: Position) -> None:
        """The primary has published up to here, and sent what touches this engine."""
        if self._strict is None and position.count <= self._ends.get(position.term, position.count):
            self.position = max(self.position, position)

    def check(self) -> None:
        """Asserts the invariants."""
        if self._strict is not None:
            assert self._strict.position == self.position
        for term, count in self._ends.items():
            assert self.position.term != term or self.position.count <= count


class Ends:
    """Where terms ended, as stored views say: whether an entry that something told of is past an
    end, and so never counts again (P13).

    Of a class that may lose entries a term may end before an earlier one did, and be longer later
    on (P11); so every end counts that came after the entry's own term. Ends that no lower one
    follows are kept, up to `ENDS_KEPT`; of older terms more is taken for lost than is.
    """

    __slots__ = ("_ends", "term")

    def __init__(self) -> None:
        self.term = START.term
        """Of the newest view."""
        self._ends: list[tuple[Term, int]] = []
        """Term of a view, and the count of entries that the terms before it ended at; both grow."""

    def install(self, term: Term, count: int) -> None:
        """The view of `term` says that the terms before it ended after `count` entries."""
        self.term, ends = term, self._ends
        while ends and ends[-1][1] >= count:
            ends.pop()
        ends.append((term, count))
        if len(ends) > ENDS_KEPT:
            (_, lowest), (later, _) = ends[:2]
            ends[:2] = [(later, lowest)]

    def is_past(self, position: Position) -> bool:
        """Whether an end since that position's term lies before it."""
        of, count = position
        return of < self.term and any(end < count for term, end in self._ends if term > of)


class Horizon:
    """The furthest (position, tail) of a log space that anything told this engine of; both grow
    together. Beside it, how far behind that the followed index replica is (P32).
    """

    __slots__ = ("_terms_before", "followed", "indexed_tail", "position", "tail")

    def __init__(self) -> None:
        self.position = START
        self.tail = 1
        self._terms_before: dict[Term, int] = {}
        """How far terms were known that something told has ended, before its view was here."""
        self.followed = False
        """Whether an index replica is followed: without one there is no lag to speak of."""
        self.indexed_tail = 1
        """First seqnum that is not in the followed replica's index, as its stream said last; of
        one that was just chosen nothing is known yet, and what the one before it said stays.
        """

    def saw(self, position: Position, tail: int) -> None:
        """A pair that belongs together: `tail` is the first seqnum not ordered at `position`."""
        if position > self.position:
            term, count = self.position
            if position[0] != term:
                self._terms_before[term] = count
            self.position, self.tail = position, tail

    def end_before(self, term: Term, count: int) -> bool:
        """The view of `term` says that the terms before it ended after `count` entries: whether
        more of theirs were told of. What is left may still be lost where a later one ends (P11)."""
        counts = [known for of, known in self._terms_before.items() if of < term]
        if self.position.term < term:
            counts.append(self.position.count)
        known = max(counts, default=0)
        self._terms_before = {of: n for of, n in self._terms_before.items() if of >= term}
        self._terms_before[Term(term - 1)] = min(known, count)
        return known > count

    @property
    def lag_records(self) -> int:
        """Seqnums that are ordered and not yet in the followed replica's index."""
        return max(0, self.tail - self.indexed_tail) if self.followed else 0
