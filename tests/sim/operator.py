"""What a person does with a cluster that is stopped: other numbers of sequencers, accepted losses.

Decides nothing: what is left is put together from the disks of this world, as
`bokilog/shapes/accept_loss.py` does it from directories, and what follows from that is the
product's own (`what_is_left.py`, `node_changes.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bokilog.errors import NotReady
from bokilog.ids import LogSpaceId, NodeId
from bokilog.sequencer.next_view import has_vote, sequencers_of
from bokilog.sequencer.recovery import ended_in
from bokilog.shapes.node_changes import following_view, with_nodes
from bokilog.shapes.what_is_left import Left, after_loss, put_together, stored_in
from bokilog.storage_nodes.index_store import clear
from bokilog.view import View
from tests.sim.cluster import Cluster


class Operator:
    """Of one cluster, none of whose processes runs."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def shrink(self, count: int) -> bool:
        """`bokilog up --sequencers COUNT`: the first ones stay. False: it is refused until the
        cluster ran as it was."""
        cluster = self._cluster
        left = self._look()
        assert not left.majority_lost, f"{left.gone} are gone"
        assert not left.folds_past, f"{left.folds_past} know more than the sequencers do"
        left.check()
        staying = cluster.sequencers[:count]
        going = set(cluster.sequencers) - set(staying)
        nodes = [node for node in left.view.nodes if node.id not in going]
        try:
            following = following_view(with_nodes(left.view, nodes), left, self)
        except NotReady:
            return False
        cluster.sequencers = staying
        self._store(following)
        return True

    def accept_loss(self, storage_gone: Collection[NodeId]) -> bool:
        """`bokilog recover --accept-loss`. False: it is refused, since there is too little to go on
        from.

        Args:
            storage_gone: nodes whose directories are not there.
        """
        try:
            left = self._look(storage_gone)
            left.check()
        except NotReady:
            return False
        if not left.view.term:
            return False
        assert left.needs_acceptance and left.losses(), "nothing is lost"
        following = after_loss(left, self, history_id=f"{left.view.history_id}+")
        self._reach(left)
        for end in following.ends:
            oracle = self._cluster.oracles[end.space]
            oracle.loss_accepted(following.term, given_up=end.given_up)
        self._store(following)
        self._cluster.watch.history_ended()
        return True

    def _reach(self, left: Left) -> None:
        """What became of it, for the summary."""
        for space in left.view.spaces:
            anew, end = left.anew_at(space), left.ends[space.id].end
            if not left.alive:
                what = "goes on without any metalog"
            elif anew is None:
                what = "goes on where the metalog ends"
            elif not anew.position.count:
                what = "goes on from nothing"
            elif anew.position.count > end.position.count:
                what = "goes on at a fold past the metalog"
            else:
                what = "goes back to a fold before the metalog"
            self._cluster.world.reach(f"after a loss a log space {what}")

    # --- directories ------------------------------------------------------------------------------

    def made_anew(self, left: Left, node: NodeId) -> str:
        """A disk with a copy of all that is left."""
        disks = self._cluster.disks
        before = dict(disks[node].journals)
        disks[node].wipe()
        self._cluster.world.reach("a sequencer that stays gets what others hold")
        for space in left.view.spaces:
            if space.durability != "sync":
                disks[node].ceilings[space.id] = left.ends[space.id].end.tail
            if left.anew_at(space) is None:
                source = left.source_of(space.id, node)
                held = before if source == node else disks[source].journals
                disks[node].journals[space.id].copy(held[space.id])
        return disks[node].disk_id

    def move_fold_aside(self, left: Left, node: NodeId, space: LogSpaceId) -> None:
        """The node has no fold of that log space from here on."""
        clear(self._cluster.disks[node].stores[space])

    def sync(self, node: NodeId) -> None:
        """Everything that its metalogs hold outlives a loss of power from here on."""
        for journal in self._cluster.disks[node].journals.values():
            journal.sync_all()

    # --- what is left -----------------------------------------------------------------------------

    def _store(self, view: View) -> None:
        last = self._cluster.views.latest()
        assert self._cluster.views.compare_and_swap(last.term, view), "nobody else stores views"

    def _look(self, storage_gone: Collection[NodeId] = ()) -> Left:
        view, disks = self._cluster.views.latest(), self._cluster.disks
        sequencers = sequencers_of(view)
        alive = [node for node in sequencers if has_vote(view, node, disks[node].disk_id)]
        return put_together(
            view,
            {
                node: {
                    space.id: self._cluster.recovered(disks[node], space.id)
                    for space in view.spaces
                }
                for node in alive
            },
            ceiling=lambda node, space: disks[node].ceilings.get(space, 1),
            stored=lambda node, space: stored_in(disks[node].stores[space]),
            ended=partial(ended_in, self._cluster.views),
            gone={node: "another disk" for node in sequencers if node not in alive},
            storage_gone=dict.fromkeys(storage_gone, "lost"),
        )
