"""Another number of sequencers or storage nodes, for a cluster that is stopped.

Decides which changes there can be, and stores the next view for them: it ends the term where a
majority of the old sequencers says that it ended, and names the new nodes. New storage nodes are
spares (P33); spares go, replicas do not. Every new sequencer gets a directory with a copy of the
longest metalog of each log space, so that a majority of the new ones has all of it, on the disks
that the view names, before the view is stored (P13, P14); the start after that is like any other.
With
fewer sequencers, too, a majority of the old ones has to say where the term ended, and a majority of
those that stay has all of it before the view is stored, synced also where the class leaves that to
operating systems: folds may be stored by what others had synced (P11). The others' directories stay
where they are, without a vote.

Invariants: the cluster does not run meanwhile; the view is stored last, by compare-and-swap, so a
run that is killed can be run again (`AcceptLoss.look` puts back what it moved aside), and one whose
view is stored finds nothing to do; W and the replicas of log spaces stay as they are (P15).

Does not know: settings files, processes. Past a lost majority there is only `accept_loss.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from bokilog.errors import InvalidSettings, NotReady
from bokilog.ids import NodeId
from bokilog.io.open_views import open_views
from bokilog.sequencer.next_view import Start, is_quorum, next_view
from bokilog.shapes.accept_loss import AcceptLoss
from bokilog.shapes.cluster_layout import Layout, nodes_of
from bokilog.shapes.what_is_left import Left
from bokilog.view import LogSpace, Node, View


class Stopped(Protocol):
    """The directories of the sequencers of a cluster that does not run."""

    def made_anew(self, left: Left, node: NodeId) -> str:
        """One with a copy of all that is left; its disk id."""

    def sync(self, node: NodeId) -> None:
        """Everything that its metalogs hold is on its disk when this returns."""


def change_nodes(layout: Layout) -> None:
    """Make the views of a stopped cluster say what a layout says.

    Raises:
        InvalidSettings: that cannot be changed.
        NotReady: too many sequencers are lost for a change, or another view was stored meanwhile.
        DirectoryInUse: the cluster, or a node of it, runs.
    """
    with closing(open_views(layout.views)) as views:
        view = views.latest()
    if view is None or _nodes_of(view) == _nodes_of(_widened(layout, view)):
        return
    _check(layout, view)
    with AcceptLoss(_with_old_sequencers(layout, view)) as stopped:
        left = stopped.look()
        _check_left(left)
        following = following_view(_widened(layout, left.view), left, stopped)
        with closing(open_views(layout.views)) as views:
            if not views.compare_and_swap(left.view.term, following):
                raise NotReady(f"another view of term {following.term} was stored meanwhile")


def _nodes_of(view: View) -> set[NodeId]:
    """Those that keep anything."""
    return {node.id for node in view.nodes if node.role != "engine"}


def _with_old_sequencers(layout: Layout, view: View) -> Layout:
    """The layout, with sequencers of the view that are to go: what they hold is looked at."""
    known = {plan.id for plan in layout.nodes}
    going = tuple(
        replace(
            layout.nodes[0],
            id=node.id,
            addresses=(node.address,),
            data_dir=layout.data_dir / node.id,
        )
        for node in view.nodes
        if node.role == "sequencer" and node.id not in known
    )
    return replace(layout, nodes=(*layout.nodes, *going))


# --- what can be ----------------------------------------------------------------------------------


def _check(layout: Layout, view: View) -> None:
    wanted = {plan.id for plan in layout.nodes}
    gone = [node for node in view.nodes if node.role != "engine" and node.id not in wanted]
    sequencers = [node.id for node in view.nodes if node.role == "sequencer"]
    for node in gone:
        held = [str(space.id) for space in view.spaces if node.id in space.replicas]
        if held:
            problem = (
                f"takes {node.id} away, which holds the records of log space {', '.join(held)}:"
                " only spare storage nodes can be taken out"
            )
            raise InvalidSettings("storage_nodes", str(layout.settings.storage_nodes), problem)
    if not view.term:
        problem = "can be changed once the cluster has been started as it was made"
        name = "sequencers" if layout.settings.sequencers != len(sequencers) else "storage_nodes"
        raise InvalidSettings(name, str(getattr(layout.settings, name)), problem)


def _check_left(left: Left) -> None:
    """Nothing may be missing that a start would wait for, or bring back."""
    if left.majority_lost:
        whom = "; ".join(f"{node}: {why}" for node, why in left.gone.items())
        raise NotReady(f"a majority of sequencers is lost ({whom}): see bokilog recover")
    for node, space in left.folds_past:
        raise NotReady(
            f"{node} knows more of log space {space} than the sequencers do: start the cluster as"
            " it was, so that they get it, and change it then"
        )
    if any(left.anew_at(space) is not None for space in left.view.spaces):
        raise NotReady(
            "the sequencers and storage nodes that are left hold too little to go on with: see"
            " bokilog recover"
        )


# --- the next view --------------------------------------------------------------------------------


def _widened(layout: Layout, view: View) -> View:
    return with_nodes(view, nodes_of(layout))


def with_nodes(view: View, wanted: Sequence[Node]) -> View:
    """The view with these nodes, each new sequencer a backup of every log space."""
    known = {node.id: node for node in view.nodes}
    nodes = tuple(known.get(node.id, node) for node in wanted)
    sequencers = [node.id for node in nodes if node.role == "sequencer"]
    added = [node for node in sequencers if node not in known]
    spaces = []
    for space in view.spaces:
        first, *others = [*(n for n in space.sequencers if n in sequencers), *added]
        spaces.append(replace(space, primary=first, backups=tuple(others)))
    return replace(view, nodes=nodes, spaces=tuple(spaces))


def following_view(widened: View, left: Left, stopped: Stopped) -> View:
    """The next one, which the directories are ready for: a majority of the sequencers that it names
    has every metalog whole, and synced.

    Args:
        widened: the last view, with other nodes.
        left: what the old ones hold; a majority of the old sequencers is there.
        stopped: their directories, and those to be made.
    """
    left = replace(left, view=widened)
    for node in _staying(left):
        stopped.sync(node)
    starts = {
        node.id: Start(incarnation=0, disk_id=node.disk_id)
        for node in widened.nodes
        if node.id in left.alive
    }
    made = list(_to_be_made(widened, left))
    for node in made:
        starts[node] = Start(incarnation=0, disk_id=stopped.made_anew(left, node))
    return next_view(
        widened,
        ends=[left.ends[space.id].end for space in widened.spaces],
        primary={space.id: _holder(space, left, made) for space in widened.spaces},
        starts=starts,
    )


def _staying(left: Left) -> list[NodeId]:
    """Sequencers that were there, and are."""
    return [node.id for node in left.view.nodes if node.id in left.alive]


def _holder(space: LogSpace, left: Left, made: Sequence[NodeId]) -> NodeId:
    """A sequencer that has the whole metalog of a log space."""
    holding = (*left.ends[space.id].sources, *made)
    return next(node for node in holding if node in space.sequencers)


def _to_be_made(view: View, left: Left) -> Iterator[NodeId]:
    """Sequencers that get a copy of what the furthest one holds: the new ones, and others until a
    majority has all of it (P13)."""
    made = {node.id for node in view.nodes if node.role == "sequencer" and _is_new(left, node)}
    yield from sorted(made)
    for node in _staying(left):
        behind = any(node not in left.ends[space.id].sources for space in view.spaces)
        if behind and _is_elsewhere(view, left, node) and not _is_held(view, left, made):
            made.add(node)
            yield node
    if not _is_held(view, left, made):
        raise NotReady(
            "too few sequencers have every metalog up to its end: start the cluster as it was, so"
            " that they get it, and change it then"
        )


def _is_elsewhere(view: View, left: Left, node: NodeId) -> bool:
    """Whether others have every metalog up to its end: this one's directory is moved aside."""
    return all(set(left.ends[space.id].sources) - {node} for space in view.spaces)


def _is_new(left: Left, node: Node) -> bool:
    return node.id not in left.alive and node.id not in left.gone


def _is_held(view: View, left: Left, made: set[NodeId]) -> bool:
    """Whether a majority has every metalog up to its end."""
    return all(is_quorum(space, made.union(left.ends[space.id].sources)) for space in view.spaces)
