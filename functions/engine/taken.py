"""A client's frame on its way, and the verdicts that frames wait for.

A frame with conditions, keys or a library's tags is answered twice: by the order, and by the
verdicts of the fold (P22), which one index replica streams. Either may come first; a verdict may be
missed with a link, and is then asked for again (P23).

Invariant: a frame waits under the name it was sent by, (term, first count), so a verdict of an
earlier name is about nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.effects import Address
from bokilog.frame import Frame
from bokilog.ids import START, Position, Term
from bokilog.messages import AppendFrame

Outcomes = list[list[object]]
"""As in `FrameVerdicts`: [unit, VERDICT_*, a, b] each."""


class Taken:
    """A client's frame, from its arrival until nothing more is to be told of it."""

    __slots__ = (
        "client",
        "columns",
        "first_seqnum",
        "frame",
        "number",
        "outcomes",
        "payload",
        "position",
        "size_bytes",
    )

    def __init__(self, client: Address, message: AppendFrame, size_bytes: int) -> None:
        self.client: Address | None = client
        """None: the client is gone, or was told that nobody knows."""
        self.number = message.number
        self.columns = message.columns
        self.payload = message.payload
        self.size_bytes = size_bytes
        self.frame: Frame | None = None
        """None until it has LocalIds."""
        self.first_seqnum = 0
        self.position = START
        """Of the cut that ordered it."""
        self.outcomes: Outcomes | None = None
        """Its verdicts, if they came before the cut."""


class AwaitedVerdicts:
    """Frames of one log space whose verdicts are still to come, ordered or not."""

    __slots__ = ("_before", "_frames", "_number")

    def __init__(self, number: int) -> None:
        self._number = number
        self._frames: dict[tuple[Term, int], Taken] = {}
        self._before: set[tuple[Term, int]] = set()

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[Taken]:
        return iter(self._frames.values())

    def add(self, frame: Frame, taken: Taken) -> None:
        """It was sent by this name."""
        self._frames[frame.shard.term, frame.first] = taken

    def discard(self, taken: Taken) -> None:
        """Nothing is awaited for it, under its present name."""
        if taken.frame is not None:
            self._frames.pop((taken.frame.shard.term, taken.frame.first), None)

    def decided(self, rows: list[list[object]]) -> Iterator[tuple[Taken, Outcomes]]:
        """The ordered frames that verdicts of an index replica are about; with others they are
        kept.
        """
        for term, number, first, outcomes in rows:
            if number != self._number or not isinstance(outcomes, list):
                continue
            if not (isinstance(term, int) and isinstance(first, int)):
                continue
            taken = self._frames.get((Term(term), first))
            if taken is None:
                continue
            if taken.first_seqnum:
                yield taken, outcomes
            else:
                taken.outcomes = outcomes

    def lost(self, term: Term, start: int, until: int) -> list[Taken]:
        """The ordered frames among these records, which will never have verdicts (P24)."""
        return [
            taken
            for (of, first), taken in self._frames.items()
            if of == term and start <= first < until and taken.first_seqnum
        ]

    def rows(self) -> list[list[int]]:
        """For `FollowIndex`: the ordered ones."""
        return [
            [term, self._number, first, taken.first_seqnum]
            for (term, first), taken in self._frames.items()
            if taken.first_seqnum
        ]

    def missing_at(self, position: Position) -> bool:
        """Whether an index replica at `position` had decided one of them before."""
        return any(taken.first_seqnum and taken.position <= position for taken in self)

    def overdue(self) -> bool:
        """Whether one was ordered and awaited at the last call already."""
        ordered = {key for key, taken in self._frames.items() if taken.first_seqnum}
        found = not ordered.isdisjoint(self._before)
        self._before = ordered
        return found
