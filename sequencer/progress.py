"""What each storage node holds of each shard, and the frontiers that follow from it.

Invariants: a frontier never goes back; a node counts with one disk and incarnation only, the one it reported last, so
what an earlier life of it claimed stops counting (P6); nothing at or past a closed shard's count counts (P2).
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.cut import CutSpan, advance, frontier
from bokilog.ids import NodeId


class ShardState:
    """One open shard: its replicas' counts and how far its records are ordered."""

    __slots__ = ("counts", "engine", "frontier", "ordered", "replicas")

    def __init__(self, *, engine: str, replicas: tuple[NodeId, ...]) -> None:
        self.engine = engine
        self.replicas = replicas
        self.counts: dict[NodeId, int] = {}
        self.frontier = 0
        """Held by a write quorum."""
        self.ordered = 0
        """Inside a cut already; ordered <= frontier."""


class Progress:
    """(shard, storage node) to counts, for one log space and term."""

    __slots__ = ("_dirty", "_identities", "_write_quorum", "shards")

    def __init__(self, write_quorum: int) -> None:
        self._write_quorum = write_quorum
        self._identities: dict[NodeId, tuple[str, int]] = {}
        self._dirty: set[int] = set()
        self.shards: dict[int, ShardState] = {}

    def open(self, number: int, *, engine: str, replicas: tuple[NodeId, ...]) -> None:
        self.shards[number] = ShardState(engine=engine, replicas=replicas)

    def close(self, number: int) -> int:
        """Its records past the count returned are certainly not ordered."""
        self._dirty.discard(number)
        return self.shards.pop(number).ordered

    def report(
        self, node: NodeId, identity: tuple[str, int], counts: Iterable[tuple[int, int]]
    ) -> None:
        """A node's counts; unknown and closed shards, and nodes that are no replica, do not count."""
        if self._identities.get(node) != identity:
            self._identities[node] = identity
            for shard in self.shards.values():
                shard.counts.pop(node, None)
        for number, count in counts:
            shard = self.shards.get(number)
            if shard is None or node not in shard.replicas:
                continue
            shard.counts[node] = max(count, shard.counts.get(node, 0))
            reached = frontier(shard.counts.values(), write_quorum=self._write_quorum)
            if reached > shard.frontier:
                shard.frontier = reached
                self._dirty.add(number)

    def take_cut(self) -> tuple[CutSpan, ...]:
        """The records that may be ordered now; from here on they are."""
        if not self._dirty:
            return ()
        dirty = {number: self.shards[number] for number in self._dirty}
        self._dirty.clear()
        spans = advance(
            {number: shard.ordered for number, shard in dirty.items()},
            {number: shard.frontier for number, shard in dirty.items()},
        )
        for shard in dirty.values():
            shard.ordered = shard.frontier
        return spans

    def check(self) -> None:
        for number, shard in self.shards.items():
            assert shard.ordered <= shard.frontier, f"shard {number} is ordered past its frontier"
            held = frontier(shard.counts.values(), write_quorum=self._write_quorum)
            assert held <= shard.frontier, f"shard {number} has a frontier below what is held"
