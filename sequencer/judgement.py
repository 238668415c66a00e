"""Whether the cluster needs another view, whether it can have one, and who could be primary in it.

Decides what is wrong with a view, as one sequencer sees it: it is the first term; a primary is
suspected, was restarted, has not taken over, is about to stop or has a clock far ahead; the disk of
a sequencer has no vote yet (P14); a storage node is gone for good, as far as anybody can tell, and
another one can take its place. And what a change would need: a majority with a vote, alive.

Invariant: it only judges, so a wrong judgement costs a needless change or a late one, nothing else.

Does not know: leases, the steps of a change.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.messages import Heartbeat
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.next_view import (
    Start,
    has_vote,
    is_quorum,
    primaries_of,
    sequencers_of,
)
from bokilog.sequencer.vitals import Vitals
from bokilog.view import View

ADMIT_PAUSE_S: Final = 1.0
"""A disk gets its vote by a change of its own at the earliest this long after the last one: it is
not urgent, and several that come at once need one change only."""


class Judgement:
    """What one sequencer thinks of the others, and of itself, in the present view.

    Args:
        settings: delays.
        node: this sequencer.
        me: this start of it.
    """

    __slots__ = (
        "_ahead_since_s",
        "_wall",
        "installed_s",
        "leaving",
        "me",
        "node",
        "now_s",
        "settings",
        "view",
        "vitals",
    )

    def __init__(self, settings: ControllerSettings, *, node: NodeId, me: Start) -> None:
        self.settings = settings
        self.node = node
        self.me = me
        self.view: View | None = None
        self.vitals = Vitals(settings)
        self.leaving = False
        """This process is about to stop: somebody else shall be primary."""
        self.now_s = 0.0
        """Of the event being handled."""
        self.installed_s = 0.0
        """When the view began here."""
        self._wall: tuple[float, int] = (0.0, 0)
        self._ahead_since_s: dict[NodeId, float] = {}

    # --- what happens -----------------------------------------------------------------------------

    def install(self, view: View) -> None:
        """A view begins."""
        self.view, self.installed_s = view, self.now_s
        others = [(node.id, node.role) for node in view.nodes if node.id != self.node]
        self.vitals.expect(others, self.now_s)

    def clock(self, wall_ms: int) -> None:
        """The wall clock, at the end of a batch."""
        self._wall = (self.now_s, wall_ms)
        self.vitals.clock(wall_ms)

    def beat(self) -> None:
        """Called every `heartbeat_s`: since when whose clock is too far ahead is looked at here, so
        that one late message does not tell."""
        self.vitals.tick(self.now_s)
        for node in self.sequencers:
            if self.is_alive(node) and self.is_ahead(node):
                self._ahead_since_s.setdefault(node, self.now_s)
            else:
                self._ahead_since_s.pop(node, None)

    def heartbeat(self, *, newest: Term, controller: bool) -> Heartbeat:
        """What this sequencer tells the others."""
        then_s, wall_ms = self._wall
        installed = self.view.term if self.view is not None else 0
        return Heartbeat(
            node=self.node,
            role="sequencer",
            incarnation=self.me.incarnation,
            disk_id=self.me.disk_id,
            term=max(newest, installed),
            installed=installed,
            wall_ms=wall_ms + int((self.now_s - then_s) * 1000) if wall_ms else 0,
            leaving=self.leaving,
            controller=controller,
        )

    # --- what is wrong ----------------------------------------------------------------------------

    def need(self) -> str | None:
        """Why another view is needed; None: it is not."""
        view = self.view
        assert view is not None, "nothing is judged before the first view"
        if view.term == 0:
            return None if any(map(self.is_awaited, self.sequencers)) else "the first term"
        for node in primaries_of(view):
            reason = self._fault(view, node)
            if reason is not None:
                return f"{node}: {reason}"
        if self.now_s - self.installed_s < ADMIT_PAUSE_S:
            return None
        for node in self.sequencers:
            if self.is_alive(node) and not self.votes(node):
                return f"{node}: its disk is another one than the view's, and has no vote yet"
        return self._replacing(view)

    # --- storage nodes that are gone --------------------------------------------------------------

    def replacements(self) -> dict[LogSpaceId, tuple[NodeId, ...]]:
        """Replicas of the log spaces in which a storage node that is gone for too long has another
        one take its place.

        Only while as many of the others are there, and have all that they should have, as hold
        every acknowledged record between them (P9): N - W + 1.
        """
        view, limit_s = self.view, self.settings.replace_after_s
        if view is None or not limit_s or not view.term:
            return {}
        load = Counter(node for space in view.spaces for node in space.replicas)
        found: dict[LogSpaceId, tuple[NodeId, ...]] = {}
        for space in view.spaces:
            gone = [node for node in space.replicas if self._gone_for_s(node) >= limit_s]
            sound = [node for node in space.replicas if self._is_sound(node)]
            if not gone or len(sound) < len(space.replicas) - space.write_quorum + 1:
                continue
            replicas = list(space.replicas)
            for node in gone:
                spares = [
                    each.id
                    for each in view.nodes
                    if each.role == "storage"
                    and each.id not in (*replicas, *gone)
                    and self._is_sound(each.id)
                ]
                if spares:
                    spare = min(spares, key=load.__getitem__)
                    load[spare] += 1
                    replicas[replicas.index(node)] = spare
            if tuple(replicas) != space.replicas:
                found[space.id] = tuple(replicas)
        return found

    def _replacing(self, view: View) -> str | None:
        """Why storage nodes are replaced; None: none is."""
        for space, replicas in self.replacements().items():
            before = view.space(space).replicas
            old, new = next(pair for pair in zip(before, replicas, strict=True) if len({*pair}) > 1)
            gone_s = self._gone_for_s(old)
            return (
                f"{old}: it is gone for {gone_s:.1f} s; {new} holds log space {space} from now on"
            )
        return None

    def _gone_for_s(self, node: NodeId) -> float:
        suspicion = self.vitals.suspicion(node, self.now_s)
        return 0.0 if suspicion is None else self.now_s - suspicion[0]

    def _is_sound(self, node: NodeId) -> bool:
        """It lives, and has all that it should have."""
        peer = self.vitals.get(node)
        return peer is not None and not peer.rebuilding and self.is_alive(node)

    def _fault(self, view: View, node: NodeId) -> str | None:
        """Why a primary should not go on."""
        suspicion = self.vitals.suspicion(node, self.now_s)
        if suspicion is not None:
            return suspicion[1]
        if self.is_awaited(node):
            return None
        if self.start(node).incarnation != view.node(node).incarnation:
            return "it was restarted"
        if self.is_stuck(node):
            return f"it has not taken over for {self.now_s - self.installed_s:.1f} s"
        if not self.has_stand_in(node):
            return None
        if self.leaves(node):
            return "it is about to stop"
        if self.now_s - self._ahead_since_s.get(node, self.now_s) >= self.settings.suspicion_s:
            return f"its clock is {self._ahead_ms(node) / 1000:.1f} s ahead of the others'"
        return None

    def is_stuck(self, node: NodeId) -> bool:
        """It lives, and has not installed the view that everybody has had for long."""
        peer = self.vitals.get(node)
        return (
            self.view is not None
            and peer is not None
            and peer.heard
            and peer.installed < self.view.term
            and self.now_s - self.installed_s >= self.settings.suspicion_s
        )

    # --- whether a change can succeed -------------------------------------------------------------

    def missing(self) -> str:
        """Why no change can succeed now; empty: it can."""
        view = self.view
        assert view is not None, "nothing is judged before the first view"
        votes = [node for node in self.sequencers if self.is_alive(node) and self.votes(node)]
        for space in view.spaces:
            if not is_quorum(space, votes):
                wanted = f"{space.metalog_quorum} of {len(space.sequencers)}"
                return f"{wanted} sequencers are needed: {self.roll()}"
        return ""

    def roll(self) -> str:
        """What keeps which sequencers from voting."""
        problems = []
        for node in self.sequencers:
            suspicion = self.vitals.suspicion(node, self.now_s)
            if suspicion is not None:
                problems.append(f"{node}: {suspicion[1]}")
            elif not self.is_alive(node):
                problems.append(f"{node} is awaited")
            elif not self.votes(node):
                problems.append(f"{node} has another disk and no vote")
        return "; ".join(problems) or "all are there"

    def has_stand_in(self, one: NodeId) -> bool:
        """Whether another sequencer could do a node's work."""
        return any(
            node != one
            and self.is_alive(node)
            and not self.leaves(node)
            and not self.vitals.is_cut_off(node)
            and self.votes(node)
            for node in self.sequencers
        )

    # --- about one node ---------------------------------------------------------------------------

    @property
    def sequencers(self) -> tuple[NodeId, ...]:
        """All of the view, in its order."""
        return () if self.view is None else sequencers_of(self.view)

    @property
    def is_primary(self) -> bool:
        """Whether the view names this very start of this sequencer (P12)."""
        view = self.view
        return (
            view is not None
            and self.node in primaries_of(view)
            and view.node(self.node).incarnation == self.me.incarnation
        )

    def is_alive(self, node: str) -> bool:
        """This process is; others once heard of, until suspected."""
        return node == self.node or self.vitals.is_alive(node, self.now_s)

    def is_awaited(self, node: str) -> bool:
        """It may still come."""
        return node != self.node and self.vitals.is_awaited(node, self.now_s)

    def is_known(self, node: str) -> bool:
        """Its incarnation and disk are."""
        peer = self.vitals.get(node)
        return node == self.node or (peer is not None and peer.heard)

    def start(self, node: str) -> Start:
        """The last known start of a sequencer."""
        peer = self.vitals.get(node)
        if peer is None:
            return self.me if node == self.node else Start(incarnation=0, disk_id="")
        return Start(incarnation=peer.incarnation, disk_id=peer.disk_id)

    def votes(self, node: str) -> bool:
        """Whether its disk has a vote in the present term (P14)."""
        return self.view is not None and has_vote(self.view, node, self.start(node).disk_id)

    def leaves(self, node: str) -> bool:
        """It is about to stop."""
        peer = self.vitals.get(node)
        return self.leaving if node == self.node else peer is not None and peer.leaving

    def is_ahead(self, node: NodeId) -> bool:
        """Its wall clock is too far ahead for a primary (P10)."""
        return self._ahead_ms(node) > self.settings.clock_ahead_max_s * 1000

    def _ahead_ms(self, node: NodeId) -> int:
        return self.vitals.ahead_ms(node, filter(self.is_alive, self.sequencers))

    def facts(self, node: str) -> dict[str, object]:
        """For `bokilog status`."""
        peer = self.vitals.get(node)
        assert peer is not None, f"{node} is not expected"
        suspicion = self.vitals.suspicion(node, self.now_s)
        facts: dict[str, object] = {
            "role": peer.role,
            "alive": self.is_alive(node),
            "suspected_for_s": None if suspicion is None else round(self.now_s - suspicion[0], 1),
            "why": "" if suspicion is None else suspicion[1],
            "incarnation": peer.incarnation,
            "term": peer.installed,
        }
        if peer.role == "storage":
            facts["rebuilding"] = peer.rebuilding
        if peer.role == "sequencer":
            facts["vote"] = peer.heard and self.votes(node)
            facts["clock_ahead_ms"] = peer.clock_ms
            facts["leaving"] = peer.leaving
        return facts
