"""What each storage node holds of each shard, and the frontiers that follow from it.

Invariants: what was ordered stays ordered, and a frontier is the W-th largest count of a shard's
replicas or what was ordered, whichever is more (P9); a node counts with one disk and incarnation
only, the one it reported last, so what an earlier life of it claimed stops counting (P6); nothing
at or past a closed shard's count counts (P2).

Does not know: seqnums, terms, when a cut is due. Differs from Boki: W of N instead of all replicas.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bokilog.cut import CutSpan, frontier
from bokilog.ids import NodeId


class ShardState:
    """One open shard: its replicas' counts and how far its records are ordered."""

    __slots__ = ("counts", "engine", "frontier", "ordered", "replicas")

    def __init__(self, *, engine: str, replicas: tuple[NodeId, ...]) -> None:
        self.engine = engine
        self.replicas = replicas
        self.counts: dict[NodeId, int] = {}
        self.frontier = 0
        """Held by a write quorum, or ordered."""
        self.ordered = 0
        """Inside a cut already; ordered <= frontier."""


class Progress:
    """(shard, storage node) to counts, for one log space and term."""

    __slots__ = ("_dirty", "_identities", "_write_quorum", "shards")

    def __init__(self, write_quorum: int) -> None:
        self._write_quorum = write_quorum
        self._identities: dict[NodeId, tuple[str, int]] = {}
        self._dirty: set[int] = set()
        """Shards whose frontier may be past what is ordered."""
        self.shards: dict[int, ShardState] = {}

    def open(self, number: int, *, engine: str, replicas: tuple[NodeId, ...]) -> None:
        """From here on reports of the shard count; its replicas are fixed (P1)."""
        assert number not in self.shards, f"shard {number} is open already"
        self.shards[number] = ShardState(engine=engine, replicas=replicas)

    def close(self, number: int) -> int:
        """Its records past the count returned are certainly not ordered (P2)."""
        self._dirty.discard(number)
        return self.shards.pop(number).ordered

    def report(
        self, node: NodeId, identity: tuple[str, int], counts: Iterable[Sequence[int]]
    ) -> None:
        """A node's counts; unknown and closed shards, and nodes that are no replica, do not count.

        Args:
            node: the storage node.
            identity: its (disk id, incarnation); a lower incarnation of a disk is a late message.
            counts: rows of shard number and records held to the class's standard.
        """
        known = self._identities.get(node)
        if known != identity:
            if known is not None and known[0] == identity[0] and known[1] > identity[1]:
                return
            self._identities[node] = identity
            self._forget(node)
        for number, count in counts:
            shard = self.shards.get(number)
            if shard is None or node not in shard.replicas:
                continue
            if count > shard.counts.get(node, 0):
                shard.counts[node] = count
                self._move_frontier(number, shard)

    def _forget(self, node: NodeId) -> None:
        """Another life of the node begins: only what is ordered does not have to be held again."""
        for number, shard in self.shards.items():
            if shard.counts.pop(node, None) is not None:
                self._move_frontier(number, shard)

    def _move_frontier(self, number: int, shard: ShardState) -> None:
        held = frontier(shard.counts.values(), write_quorum=self._write_quorum)
        ordered = shard.ordered
        if held > ordered:
            shard.frontier = held
            self._dirty.add(number)
        else:
            shard.frontier = ordered
            self._dirty.discard(number)

    @property
    def due(self) -> bool:
        """Whether any record may be ordered now."""
        return bool(self._dirty)

    @property
    def waiting(self) -> int:
        """How many records may be ordered now."""
        return sum(
            self.shards[number].frontier - self.shards[number].ordered for number in self._dirty
        )

    def take_cut(self, *, room: int) -> tuple[CutSpan, ...]:
        """The records that may be ordered now, at most `room` of them; from here on they are.

        A shard whose records do not fit is left for a later cut: no frame is cut in two (P9).
        """
        taken = []
        for number in sorted(self._dirty):
            shard = self.shards[number]
            start, until = shard.ordered, shard.frontier
            if until - start > room:
                continue
            room -= until - start
            taken.append(CutSpan(number, start, until))
            shard.ordered = until
            self._dirty.discard(number)
        return tuple(taken)

    def check(self) -> None:
        """Asserts the invariants."""
        for number, shard in self.shards.items():
            held = frontier(shard.counts.values(), write_quorum=self._write_quorum)
            assert shard.frontier == max(held, shard.ordered), f"shard {number}: {shard.frontier}"
            assert (number in self._dirty) == (shard.frontier > shard.ordered)
            assert set(shard.counts) <= set(shard.replicas)
        assert self._dirty <= set(self.shards)
