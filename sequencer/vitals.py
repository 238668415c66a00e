"""Who of a cluster is alive, as one sequencer sees it: heartbeats, links, incarnations, clocks.

Decides whom this sequencer suspects and since when. A node is alive once its heartbeat was heard,
until it is suspected: silent for too long while its link stands, or for less once its link is down.
Whoever was never heard of is awaited for as long as a silent one.

Invariants: a heartbeat of an earlier start changes nothing, whatever its disk, since incarnations
are counted in the view store (P3); time during which this process itself did not run is nobody's
silence.

Does not know: terms, views, what follows from a suspicion. Suspicion is a guess, so safety must
never rest on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bokilog.messages import Heartbeat
from bokilog.sequencer.controller_settings import ControllerSettings


@dataclass(slots=True)
class Peer:
    """What is known of one node."""

    node: str
    role: str
    since_s: float
    """When it was last heard of, its link came up, or waiting for it began."""
    heard: bool = False
    """A heartbeat has arrived, so incarnation and disk are known."""
    link_down_s: float | None = None
    """When its link went down; None: it stands, or never did."""
    incarnation: int = 0
    disk_id: str = ""
    term: int = 0
    installed: int = 0
    leaving: bool = False
    controller: bool = False
    rebuilding: bool = False
    """Of a storage node: it lacks what its peers have."""
    clock_ms: int = 0
    """How far its wall clock is ahead of this process's."""
    _sent_wall_ms: int | None = None
    """Of a heartbeat that waits for the end of the batch, when this process's time is known."""


class Vitals:
    """Signs of life of all nodes but this one."""

    __slots__ = ("_last_tick_s", "_peers", "_settings")

    def __init__(self, settings: ControllerSettings) -> None:
        self._settings = settings
        self._peers: dict[str, Peer] = {}
        self._last_tick_s: float | None = None

    def __iter__(self) -> Iterator[Peer]:
        """Everybody, in order of names."""
        return iter(sorted(self._peers.values(), key=lambda peer: peer.node))

    def get(self, node: str) -> Peer | None:
        """What is known of a node, if it is expected or was heard of."""
        return self._peers.get(node)

    # --- what happens -----------------------------------------------------------------------------

    def expect(self, nodes: Iterable[tuple[str, str]], now_s: float) -> None:
        """These (node, role) are to be there: waiting for those not known yet begins; others go."""
        wanted = dict(nodes)
        self._peers = {node: peer for node, peer in self._peers.items() if node in wanted}
        for node, role in wanted.items():
            if node not in self._peers:
                self._peers[node] = Peer(node, role, now_s)

    def heartbeat(self, message: Heartbeat, now_s: float) -> bool:
        """Whether it tells anything: of a known node, and of no earlier start than the last."""
        peer = self._peers.get(message.node)
        if peer is None or (peer.heard and message.incarnation < peer.incarnation):
            return False
        peer.heard, peer.since_s = True, now_s
        peer.incarnation, peer.disk_id = message.incarnation, message.disk_id
        peer.term, peer.installed = message.term, message.installed
        peer.leaving, peer.controller = message.leaving, message.controller
        peer.rebuilding = peer.role == "storage" and message.leaving
        peer._sent_wall_ms = message.wall_ms or None
        return True

    def link(self, node: str, *, up: bool, now_s: float) -> None:
        """A link came up, which is a sign of life, or went down."""
        peer = self._peers.get(node)
        if peer is None:
            return
        peer.link_down_s = None if up else now_s
        if up:
            peer.since_s = now_s

    def clock(self, wall_ms: int) -> None:
        """This process's wall clock, right after what has arrived: a message that waited makes its
        sender look late, never ahead."""
        for peer in self._peers.values():
            if peer._sent_wall_ms is not None:
                peer.clock_ms = peer._sent_wall_ms - wall_ms
                peer._sent_wall_ms = None

    def tick(self, now_s: float) -> None:
        """Called every `heartbeat_s`; when it was not, this process did not run, and what the
        others sent meanwhile is still to be read."""
        last_s, self._last_tick_s = self._last_tick_s, now_s
        settings = self._settings
        late_s = max(settings.suspicion_s / 3, 1.5 * settings.heartbeat_s)
        if last_s is None or now_s - last_s < late_s:
            return
        for peer in self._peers.values():
            peer.since_s = now_s
            if peer.link_down_s is not None:
                peer.link_down_s = now_s

    # --- what follows -----------------------------------------------------------------------------

    def is_alive(self, node: str, now_s: float) -> bool:
        """Heard of, and not suspected."""
        peer = self._peers.get(node)
        return peer is not None and peer.heard and self.suspicion(node, now_s) is None

    def suspicion(self, node: str, now_s: float) -> tuple[float, str] | None:
        """Since when a node is silent, and why that is suspicious; None: it is not (yet)."""
        peer = self._peers.get(node)
        if peer is None:
            return None
        down_s = peer.link_down_s
        if down_s is not None and now_s - down_s >= self._settings.link_down_suspicion_s:
            return down_s, f"its link is down for {now_s - down_s:.1f} s"
        silent_s = now_s - peer.since_s
        if silent_s < self._settings.suspicion_s:
            return None
        what = "silent" if peer.heard else "not heard of"
        return peer.since_s, f"it is {what} for {silent_s:.1f} s"

    def is_cut_off(self, node: str) -> bool:
        """Its link is down, for however short a time."""
        peer = self._peers.get(node)
        return peer is not None and peer.link_down_s is not None

    def is_awaited(self, node: str, now_s: float) -> bool:
        """It may still come: neither alive nor suspected."""
        peer = self._peers.get(node)
        return peer is not None and not peer.heard and self.suspicion(node, now_s) is None

    def ahead_ms(self, node: str, among: Iterable[str]) -> int:
        """How far a node's clock is ahead of the (lower) median of these nodes' clocks; whoever is
        not known here is this process."""
        clocks = sorted(self._clock_of(each) for each in {node, *among})
        return self._clock_of(node) - clocks[(len(clocks) - 1) // 2]

    def _clock_of(self, node: str) -> int:
        peer = self._peers.get(node)
        return 0 if peer is None else peer.clock_ms
