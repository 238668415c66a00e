"""Whether anything of a `memory` log space is left, as its replicas say (P20).

Its records live in the memory of its storage nodes, so they are gone when every one of them has
restarted since. At the start of a term nothing is ordered until that is known: a replica says that
it still holds something, or all of them that they hold nothing; then folds start over, empty, at
the term's first entry. If all restart within a term, the term has to end: open shards would go on
counting from records that nobody holds.

Invariant: nobody is asked to fold what may be lost while that is undecided. Other classes are never
undecided, and never lose everything.
"""

from __future__ import annotations

from bokilog.view import LogSpace


class Survival:
    """What the replicas of one log space have said of what they hold, in one term."""

    __slots__ = ("_applies", "_empty", "_replicas", "undecided")

    def __init__(self, space: LogSpace, *, ordered_before: bool) -> None:
        self._applies = space.durability == "memory"
        self._replicas = space.replicas
        self._empty: dict[str, bool] = {}
        self.undecided = self._applies and ordered_before

    def reported(self, node: str, *, empty: bool, ordered: bool) -> None:
        """A replica's report; `ordered`: there are records that it would hold by now."""
        if not empty:
            self.undecided = False
        self._empty[node] = empty and (self.undecided or ordered)

    def is_empty(self, node: str) -> bool:
        """Whether it said that it holds nothing when it should have held something."""
        return self._empty.get(node, False)

    @property
    def nothing_left(self) -> bool:
        """Every replica has restarted since records were ordered."""
        return self._applies and all(self._empty.get(node, False) for node in self._replicas)

    def started_over(self) -> None:
        """From here on there is nothing to lose until something is ordered."""
        self.undecided = False
        self._empty.clear()
