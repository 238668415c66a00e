"""Whether the replicas of one log space have folded alike (P24).

Every fold chains a hash over what it applied (`fold.py`). A replica remembers it at some
positions, the last ones and some further back, and now and then tells its peers; so two replicas
find a position at which they both stood, however far apart they are. Once two hashes differ they
differ at every later position.

Decides who is wrong: a replica that differs from more than half of all replicas, which agree among
themselves. It gives up its fold and loads one of theirs. Without such a majority (two replicas, or
one that is silent) nobody can tell, so nobody moves, and an operator is told.

Invariants: positions name terms, so entries that were lost with the end of a term are never taken
for those that came in their place (P11, P13).

Does not know: messages, how a fold is loaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bokilog.ids import NodeId, Position, Term
from bokilog.named import NamedTuple

STRIDES: Final = (1, 64, 4096)
"""Positions by which counts are remembered: the very last ones serve replicas that stand still."""
MARKS: Final = 32
"""Positions remembered of each stride."""


class Disagreement(NamedTuple):
    """A replica and some others have folded otherwise."""

    peers: tuple[NodeId, ...]
    """Those that this one differs from."""
    outvoted: bool
    """They agree among themselves, and are more than half of all replicas: this one is wrong."""
    alike_until: int
    """Tail where this fold was last known to be as theirs; 0: not known."""


class Agreement:
    """What one replica knows of the hashes of all."""

    __slots__ = ("_heard", "_marks")

    def __init__(self) -> None:
        self._marks: tuple[deque[tuple[Position, int, int]], ...] = tuple(
            deque(maxlen=MARKS) for _ in STRIDES
        )
        self._heard: dict[NodeId, dict[Position, int]] = {}

    def folded(self, position: Position, chained_hash: int, tail: int) -> None:
        """The fold stands there now."""
        for stride, marks in zip(STRIDES, self._marks, strict=True):
            if position.count % stride:
                break
            marks.append((position, chained_hash, tail))

    def forget(self) -> None:
        """The fold is another one."""
        for marks in self._marks:
            marks.clear()

    def rows(self) -> list[list[int]]:
        """For peers: `[term, count, hash]`."""
        return [[*position, known] for position, known in sorted(self._own().items())]

    def heard(self, peer: NodeId, rows: Sequence[Sequence[int]]) -> None:
        """What a peer says of its own; what it said before is replaced."""
        self._heard[peer] = {Position(Term(term), count): known for term, count, known in rows}

    def disagreement(self, replicas: Iterable[NodeId]) -> Disagreement | None:
        """Who of these (all replicas, this one left out) folded otherwise, as far as is known."""
        own, others = self._own(), list(replicas)
        against = [peer for peer in others if _agree(own, self._heard.get(peer, {})) is False]
        if not against:
            return None
        first, *rest = (self._heard[peer] for peer in against)
        alike = all(_agree(first, each) is True for each in rest)
        most = 2 * len(against) > len(others) + 1
        alike_until = max(
            (tail for marks in self._marks for at, known, tail in marks if first.get(at) == known),
            default=0,
        )
        return Disagreement(tuple(against), alike and most, alike_until)

    def _own(self) -> dict[Position, int]:
        return {position: known for marks in self._marks for position, known, _ in marks}


def _agree(one: Mapping[Position, int], other: Mapping[Position, int]) -> bool | None:
    """Whether two folds were alike where both stood last; None: they stood nowhere together."""
    common = one.keys() & other.keys()
    if not common:
        return None
    last = max(common)
    return one[last] == other[last]
