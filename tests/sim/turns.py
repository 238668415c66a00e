"""Storage nodes that are started again one after the other, with what they had in memory.

Replicas of a `memory` log space may all have been started again without a moment at which
everything was lost: each has got back what it held before the next one stops. Then nothing may be
lost at all, and nothing may start over (P20, P33).

Decides when a node has got back what it held, by what the processes know and not by what they say;
and when the next one stops.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bokilog.ids import LogSpaceId, NodeId
from tests.sim.cluster import Cluster

LOOK_S = 0.01
"""How often it is looked whether the next one may stop."""


class Mending:
    """Whether one node, since it was started again, has come to hold all that its last process may
    have counted for."""

    def __init__(self, cluster: Cluster, node: NodeId, space: LogSpaceId) -> None:
        self._cluster = cluster
        self._node = node
        self._space = space
        self._life: tuple[object, ...] = ()
        self._count = 0
        """Entries that were ordered when the primary had last heard of the process before."""

    @property
    def done(self) -> bool:
        """To be asked again and again. What the process before said may count until the primary has
        a link to this one; so all that was ordered by then has to be here."""
        cluster = self._cluster
        view = cluster.views.latest()
        name = view.space(self._space).primary
        core, process = cluster.sequencer(name), cluster.processes.get(self._node)
        primary = core.primaries.get(self._space) if core is not None else None
        if process is None or primary is None or primary.term != view.term:
            return False
        wire = cluster.processes[name].links.get(self._node)
        if wire is None or wire.broken or id(process) not in wire.pipes:
            return False
        if self._life != (process, primary, wire):
            self._life = process, primary, wire
            self._count = primary.count
        replica = cluster.replica(self._node, self._space)
        assert replica is not None
        return replica.is_whole and replica.index.position.count >= self._count


class Turns:
    """Of one run."""

    def __init__(self, cluster: Cluster, start_later: Callable[[NodeId], None]) -> None:
        self.over = False
        self._cluster = cluster
        self._start_later = start_later
        self._chance: random.Random = cluster.world.chance("turns")
        self._next: list[NodeId] = []
        self._began = False
        self._mending: dict[NodeId, Mending] = {}
        classes = cluster.knobs.durabilities
        self._space = LogSpaceId(classes.index("memory")) if "memory" in classes else None

    def begin(self) -> None:
        """Some of the replicas in turn, unless it is somebody's turn already."""
        if self._next or self._space is None:
            return
        replicas = self._cluster.replicas(self._space)
        self._next = self._chance.sample(replicas, self._chance.randint(2, len(replicas)))
        self._began = False
        self._look()

    def _look(self) -> None:
        if self.over:
            return
        if self._may_stop():
            self._stop(self._next.pop(0))
        if self._next:
            self._cluster.world.later(LOOK_S, self._look)

    def _may_stop(self) -> bool:
        """Whether every replica has all that it counted for, so that the next one's turn has
        come."""
        self._mend()
        return not self._cluster.died

    def _mend(self) -> None:
        assert self._space is not None, "only what is in memory is lost with a process"
        for node in sorted(self._cluster.died):
            mending = self._mending.get(node)
            if mending is None:
                mending = self._mending[node] = Mending(self._cluster, node, self._space)
            if mending.done:
                self._cluster.has_all_again(node)
                del self._mending[node]

    def _stop(self, node: NodeId) -> None:
        if self._began:
            self._cluster.world.reach("the next replica stops, the last one has everything again")
        self._began = True
        self._cluster.crash(node, power=False)
        self._start_later(node)
