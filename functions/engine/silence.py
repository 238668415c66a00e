"""Storage nodes that say nothing though their link stands: stopped, swapped out, or on a disk that
hangs.

Decides who has kept an engine waiting for too long: it owes an answer, or its stream stands still
while the order goes on, and nothing at all is heard from it. What it was asked is then asked
of others, and another index is followed; it counts again with the first message it sends.

Invariants: a node that owes nothing is never silent, however long it says nothing; being wrong
costs a question asked twice, so a slow node may be taken for a silent one.

Does not know: whom to ask instead. Source: W of N carry on with a dead or slow replica, reads too;
Boki (SOSP'21) waits for the one index replica that an engine has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bokilog.effects import Effect, SetTimer
from bokilog.functions.engine.fetches import Fetches
from bokilog.functions.engine.index_follower import IndexFollower
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.passed import PassedQuestions
from bokilog.ids import NodeId, Position

SILENCE = "silence"


class Silence:
    """Looks at what storage nodes owe for as long as somebody waits for them.

    Args:
        links: when each was heard of last; it is told who is silent.
        after_s: how long an answer may take.
    """

    __slots__ = ("_after_s", "_links", "_still", "looking")

    def __init__(self, *, links: Links, after_s: float) -> None:
        self._links = links
        self._after_s = after_s
        self.looking = False
        """The timer is set."""
        self._still: dict[int, tuple[Position, float]] = {}
        """Log spaces whose stream is behind the order: where it stands, and since when."""

    def look_later(self) -> Effect:
        """Somebody waits: the timer."""
        self.looking = True
        return SetTimer(SILENCE, self._after_s / 2)

    def found(
        self,
        *,
        passed: PassedQuestions,
        fetches: Fetches,
        spaces: Mapping[int, IndexFollower],
        now_s: float,
    ) -> list[NodeId]:
        """The timer has fired: who is silent."""
        self.looking = False
        owed = [*passed.owed(), *fetches.owed(), *self._standing_still(spaces.values(), now_s)]
        since: dict[NodeId, float] = {}
        for node, since_s in owed:
            since[node] = min(since_s, since.get(node, since_s))
        silent = [
            node
            for node, since_s in since.items()
            if now_s - max(since_s, self._links.heard_s(node)) >= self._after_s
        ]
        for node in silent:
            self._links.silence(node)
        return silent

    def _standing_still(
        self, spaces: Iterable[IndexFollower], now_s: float
    ) -> Iterable[tuple[NodeId, float]]:
        for space in spaces:
            if space.chosen is None or space.position >= space.horizon.position:
                self._still.pop(space.id, None)
                continue
            position, since_s = self._still.get(space.id, (None, now_s))
            if position != space.position:
                since_s = now_s
            self._still[space.id] = (space.position, since_s)
            yield space.chosen, since_s
