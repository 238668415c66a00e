"""Disks that are lost for good, more at once than anybody may lose, and a person who accepts that.

Decides what is lost: sequencers, now and then all of them, else all but one, which may have been
away for a while before, so that the others went on; storage nodes; or both. Then the cluster is
stopped, the operator goes on with what is left (`operator.py`), nobody goes on who knew of what was
before, and a disk that counts as lost may be put back. If what is left does not suffice, the disks
are there again, and others are lost later.

Does not know what has to be left: the oracle hears of it (`oracle.py`), and judges by that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bokilog.ids import NodeId
from tests.sim.cluster import Cluster
from tests.sim.disk import Disk
from tests.sim.history import History
from tests.sim.operator import Operator

ALL_SHARE = 0.25
"""Of runs in which no sequencer is left."""
BACK_SHARE = 0.4
"""Of runs in which a lost disk of a sequencer comes back."""


class Losses:
    """Disks are lost for good, more than anybody may lose, and a person accepts that (P15)."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        *,
        stop: Callable[[], None],
        start_later: Callable[[NodeId], None],
        new_clients: Callable[[], None],
    ) -> None:
        self.over = False
        self._strikes = 0
        self.away: set[NodeId] = set()
        """A sequencer that is not started: it will be the only one that is left."""
        self._cluster = cluster
        self._history = history
        self._stop, self._start_later, self._new_clients = stop, start_later, new_clients
        self._world = cluster.world
        self._knobs = cluster.knobs
        self._chance = self._world.chance("losses")
        self._survivor = self._chance.choice(cluster.sequencers)
        self._lose_all = self._world.chance("all sequencers").random() < ALL_SHARE

    def start(self) -> None:
        """Some time before that the one that will be left may stop, so that others go on."""
        chance, duration_s = self._chance, self._knobs.duration_s
        at_s = duration_s * chance.uniform(0.4, 0.9)
        if self._lose_sequencers and chance.random() < 0.7:
            self._world.later(at_s * chance.uniform(0.3, 1.0), self._stop_survivor)
        self._world.later(at_s, self._strike)

    @property
    def _lose_sequencers(self) -> bool:
        return self._knobs.loses in ("sequencers", "both")

    def _stop_survivor(self) -> None:
        if not self.over:
            self.away.add(self._survivor)
            self._cluster.crash(self._survivor, power=False)

    def _strike(self) -> None:
        if self.over:
            return
        cluster, chance = self._cluster, self._chance
        self._stop()
        self._strikes += 1
        storage = self._storage()
        sequencers = set(cluster.sequencers) if self._lose_sequencers else set()
        if not self._lose_all:
            sequencers.discard(self._survivor)
        lost = {node: cluster.disks[node] for node in sorted({*storage, *sequencers})}
        cluster.disks.update({node: disk.replaced(self._strikes) for node, disk in lost.items()})
        before, cluster.copies_lost = cluster.copies_lost, bool(storage)
        if Operator(cluster).accept_loss(storage):
            self._world.reach(f"a loss is accepted: {self._knobs.loses}")
            self._keep(storage)
            self._world.later(0.0, self._begin_history)
            if sequencers and chance.random() < BACK_SHARE:
                node = chance.choice(sorted(sequencers))
                self._world.later(chance.uniform(0.05, 0.4), partial(self._back, node, lost[node]))
        else:
            self._world.reach("a loss cannot be accepted: a disk comes back")
            cluster.disks.update(lost)
            cluster.copies_lost = before
            self._world.later(0.2 * self._knobs.duration_s, self._strike)
        self.away.clear()
        for node in cluster.nodes:
            self._start_later(node)

    def _storage(self) -> list[NodeId]:
        replicas = self._cluster.replicas()
        if self._knobs.loses == "sequencers":
            return []
        everything = self._knobs.loses == "all storage"
        count = len(replicas) if everything else self._knobs.write_quorum
        return self._chance.sample(replicas, count)

    def _keep(self, storage: list[NodeId]) -> None:
        """Bytes that only lost storage nodes held are on no disk any more."""
        kept = [node for node in self._cluster.replicas() if node not in storage]
        for space, oracle in self._cluster.oracles.items() if storage else ():
            journals = [self._cluster.disks[node].journals[space] for node in kept]
            oracle.keep_bytes({name for each in journals for name in each.frame_names()})

    def _begin_history(self) -> None:
        """Who knew of the one before is not there any more, but for tokens."""
        history = self._history
        history.old_tokens += [token for token, _ in history.tokens]
        history.tokens.clear()
        self._new_clients()

    def _back(self, node: NodeId, disk: Disk) -> None:
        """Somebody finds a disk that counts as lost, and puts it back."""
        if self.over:
            return
        self._world.reach("a disk comes back whose loss was accepted")
        self._cluster.crash(node, power=True)
        self._cluster.disks[node] = disk
        self._cluster.watch.disk_exchanged()
        self._start_later(node)
