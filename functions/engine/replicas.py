"""The storage nodes of one open shard: what each was sent, and what it gets when its link changes
(P8).

Invariants: a replica that is *ready* was sent every frame given so far and gets the next one at
once; any other gets what it lacks, past the first unordered record, as soon as it has said what it
holds and its link is clear. What was ordered meanwhile it fetches from a peer. One that says that
its disk is full goes on being sent everything; until it has not said so again when asked, it does
not count among those that take frames (P32).

Does not know: clients, the order, terms.
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.effects import Address, Effect, Send
from bokilog.frame import Frame
from bokilog.functions.engine.links import Links, bulk
from bokilog.ids import Shard
from bokilog.messages import Replicate, ResumeShard


class Replica:
    """What a storage node was sent of the shard."""

    __slots__ = ("address", "full", "node", "ready", "resumed", "sent_until", "told")

    def __init__(self, node: str, *, up: bool, clogged: bool) -> None:
        self.node = node
        self.address = bulk(node)
        self.resumed = up
        """On this connection it has said what it holds; of a new shard that is nothing."""
        self.ready = up and not clogged
        self.sent_until = 0
        self.full = ""
        """Why it takes no frames; empty: it does, as far as is known."""
        self.told = False
        """It has said so since everybody was asked last."""


class Replicas:
    """All of a shard, in the order of its opening."""

    __slots__ = ("_links", "_replicas", "count", "resent_count", "shard")

    def __init__(self, shard: Shard, nodes: Iterable[str], links: Links) -> None:
        self.shard = shard
        self.count = 0
        """Records given to the ready ones."""
        self.resent_count = 0
        self._links = links
        self._replicas = [
            Replica(node, up=bulk(node) in links.up, clogged=bulk(node) in links.clogged)
            for node in nodes
        ]

    def send(self, frame: Frame, until: int, effects: list[Effect]) -> None:
        """A new frame, to whoever takes frames now."""
        self.count = until
        replicate = Replicate(frame)
        for replica in self._replicas:
            if replica.ready:
                replica.sent_until = until
                effects.append(tuple.__new__(Send, (replica.address, replicate)))

    def link_up(self, peer: Address) -> list[Effect]:
        """It is asked what it holds."""
        replica = self._find(peer)
        if replica is None:
            return []
        replica.ready = replica.resumed = False
        return [Send(replica.address, ResumeShard(self.shard))]

    def link_down(self, peer: Address) -> None:
        """It gets nothing until it is back."""
        replica = self._find(peer)
        if replica is not None:
            replica.ready = replica.resumed = False
            replica.full = ""

    # --- full disks -------------------------------------------------------------------------------

    def refused(self, peer: Address, reason: str) -> None:
        """It takes no frames for now; over which link it says so does not matter."""
        replica = self._find(peer if isinstance(peer, tuple) else bulk(str(peer)))
        if replica is not None:
            replica.full, replica.told = reason, True

    def forget_refusals(self) -> None:
        """Whoever has not said again that it takes no frames, though it was asked, may do so."""
        for replica in self._replicas:
            if not replica.told:
                replica.full = ""
            replica.told = False

    def full(self, write_quorum: int) -> str:
        """Who takes no frames, and why, if those who do are too few; empty: they are enough."""
        full = [replica for replica in self._replicas if replica.full]
        if len(self._replicas) - len(full) >= write_quorum:
            return ""
        return "; ".join(f"{replica.node}: {replica.full}" for replica in full)

    @property
    def any_has_room(self) -> bool:
        """Whether somebody takes frames, as far as is known."""
        return any(not replica.full for replica in self._replicas)

    # --- what they hold ---------------------------------------------------------------------------

    def held(
        self, peer: Address, count: int, unordered: Iterable[Frame], *, ordered: int
    ) -> list[Effect]:
        """It says what it holds; over which link does not matter."""
        replica = self._find(peer if isinstance(peer, tuple) else bulk(str(peer)))
        if replica is None or replica.address not in self._links.up:
            return []
        replica.resumed = True
        replica.sent_until = min(count, self.count)
        return self._send_rest(replica, unordered, ordered=ordered)

    def clogged(
        self, peer: Address, unordered: Iterable[Frame], *, ordered: int, clear: bool
    ) -> list[Effect]:
        """It gets nothing more until it has caught up, then what is unordered still."""
        replica = self._find(peer)
        if replica is None:
            return []
        replica.ready = False
        if not (clear and replica.resumed):
            return []
        return self._send_rest(replica, unordered, ordered=ordered)

    def _send_rest(
        self, replica: Replica, unordered: Iterable[Frame], *, ordered: int
    ) -> list[Effect]:
        if replica.address in self._links.clogged:
            return []
        start = max(replica.sent_until, ordered)
        replica.ready = True
        replica.sent_until = self.count
        effects: list[Effect] = [
            Send(replica.address, Replicate(frame)) for frame in unordered if frame.until > start
        ]
        self.resent_count += len(effects)
        return effects

    def ask(self, *, all_of_them: bool) -> list[Effect]:
        """Who is connected and has not said what it holds is asked again; or everybody who is."""
        return [
            Send(replica.address, ResumeShard(self.shard))
            for replica in self._replicas
            if replica.address in self._links.up and (all_of_them or not replica.resumed)
        ]

    @property
    def waiting(self) -> bool:
        """Whether an answer to what was asked is still to come."""
        up = self._links.up
        return any(not each.resumed and each.address in up for each in self._replicas)

    def summary(self) -> dict[str, int]:
        """What each was sent."""
        return {replica.node: replica.sent_until for replica in self._replicas}

    def check(self) -> None:
        """Asserts the invariants."""
        for replica in self._replicas:
            assert not replica.ready or replica.resumed
            assert not replica.ready or replica.sent_until == self.count

    def _find(self, peer: Address) -> Replica | None:
        return next((each for each in self._replicas if each.address == peer), None)
