"""What is left of a stopped cluster, and the next view once a person gives up the rest (P15).

Decides, from what sequencers and storage nodes hold that are there, where every log space goes on:

1. Where the longest metalog of a sequencer with a vote ends, as after any start, if some replica
   can fold it on.
2. Where the furthest stored fold stands, if that is further: those with a vote were away while the
   others, who are lost, went on. A fold holds all that its entries did (P20) and is never ahead of
   its frames (P19), so nothing up to there is lost. The metalog *begins anew* there: the view says
   so (`LogSpace.begun`), no sequencer counts a run of an earlier term any more, also not one that
   comes back with an old disk, and replicas that stand before load that fold (P16).
3. There as well if every fold stands before the first entry that is left of the metalog: no replica
   could fold on, and all would wait for ever. What was ordered since is given up. If no replica has
   a fold any more, that is the start: everything is lost but the seqnums.
4. There as well if no sequencer with a vote is left at all.

Invariants: no seqnum that may have been given out is given out again (`SEQNUMS_LEFT_OUT`), and
those of what is lost are `DataLost` (`End.given_up`); a fold is chosen only if no view ended a term
before it (P13); no fold that is further than the end stays in use. Nothing is counted twice: the
metalogs that the view relies on are on the disks that it names, before it is stored (P13, P14).

Does not know: directories, how a person is asked. Folds of class `memory` are never stored: those
log spaces go on where their metalog does, or from nothing, and start over (P20).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from bokilog.errors import NotReady
from bokilog.ids import START, LogSpaceId, NodeId, Position, Term
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import Sealed
from bokilog.sequencer.held import Recovered
from bokilog.sequencer.next_view import Ending, Start, endings, is_quorum, next_view
from bokilog.sequencer.recovery import Ended
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import IndexStore
from bokilog.view import End, LogSpace, View

SEQNUMS_LEFT_OUT: Final = 1 << 32
"""More than can have been ordered between what is known here and what a lost primary published: a
sequencer may have been away for hours, though folds are stored every few seconds."""


class StoredFold(NamedTuple):
    """Where the fold of a replica stands on its disk."""

    position: Position
    tail: int
    timestamp_ms: int


NOTHING_STORED: Final = StoredFold(START, 1, 0)


class Stopped(Protocol):
    """The directories of a cluster that does not run."""

    def made_anew(self, left: Left, node: NodeId) -> str:
        """One for a sequencer, with a copy of every metalog that goes on (`Left.source_of`); its
        disk id."""

    def move_fold_aside(self, left: Left, node: NodeId, space: LogSpaceId) -> None:
        """The node has no fold of that log space from here on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is left of a cluster, and what is not."""

    view: View
    """The last one."""
    alive: tuple[NodeId, ...]
    """Sequencers with a vote."""
    gone: Mapping[NodeId, str]
    """The other sequencers, each with why."""
    storage_gone: Mapping[NodeId, str]
    """Storage nodes whose data is not there, each with why."""
    ends: Mapping[LogSpaceId, Ending]
    """Where the metalogs of those with a vote end."""
    begins_at: Mapping[LogSpaceId, Mapping[NodeId, int]] = field(default_factory=dict)
    """Entries before that are not in the metalogs of those with a vote any more (P16)."""
    folds: Mapping[LogSpaceId, Mapping[NodeId, StoredFold]] = field(default_factory=dict)
    """Of the replicas that are there, but for class `memory`."""
    folds_astray: tuple[tuple[NodeId, LogSpaceId], ...] = ()
    """Folds that hold what the end of a term left out: they are of no use."""
    folds_empty: frozenset[tuple[NodeId, LogSpaceId]] = frozenset()
    """Storage nodes that hold nothing of a log space, although records were ordered in it."""

    def source_of(self, space: LogSpaceId, node: NodeId) -> NodeId:
        """Whose metalog a sequencer gets that is made anew, of a log space that goes on: its own,
        if that is whole, which nobody else may have."""
        keepers = self.keepers(self.view.space(space))
        return node if node in keepers else keepers[0]

    # --- where log spaces go on -------------------------------------------------------------------

    def furthest(self, space: LogSpace) -> tuple[NodeId | None, StoredFold]:
        """The fold that stands furthest, and whose it is."""
        found = self.folds.get(space.id, {})
        nodes = [node for node in found if (node, space.id) not in self.folds_astray]
        if not nodes:
            return None, NOTHING_STORED
        node = max(nodes, key=lambda each: found[each].position.count)
        return node, found[node]

    def _sources(self, space: LogSpace) -> tuple[NodeId, ...]:
        """Sequencers whose metalog reaches the end."""
        return self.ends[space.id].sources

    def _begins_at(self, space: LogSpace, node: NodeId) -> int:
        return self.begins_at.get(space.id, {}).get(node, 0)

    def _is_late(self, space: LogSpace, node: NodeId) -> bool:
        """Whether a sequencer's metalog begins after every fold: none could go on with it."""
        if space.durability == "memory":
            return False
        return self._begins_at(space, node) > self.furthest(space)[1].position.count

    def late(self) -> tuple[NodeId, ...]:
        """Sequencers with a vote that let go of entries of a log space which others have, and folds
        need: whoever is primary must have them, so these get that metalog of others."""
        going_on = [space for space in self.view.spaces if self.keepers(space)]
        return tuple(
            node for node in self.alive if any(self._is_late(space, node) for space in going_on)
        )

    def keepers(self, space: LogSpace) -> tuple[NodeId, ...]:
        """Sequencers whose metalog some fold can go on with, up to the end, whatever they let go of
        in other log spaces."""
        return tuple(node for node in self._sources(space) if not self._is_late(space, node))

    def anew_at(self, space: LogSpace) -> StoredFold | None:
        """The fold that its metalog begins anew at; None: the metalog goes on."""
        _, fold = self.furthest(space)
        past = fold.position.count > self.ends[space.id].end.position.count
        return fold if past or not self.keepers(space) else None

    def check(self) -> None:
        """There is something to go on from.

        Raises:
            NotReady: sequencers that are left lack entries that no fold holds either, or there is
                no sequencer and no fold.
        """
        if not self.alive:
            self._check_folds()
            return
        for space in self.view.spaces:
            ending, (node, fold) = self.ends[space.id], self.furthest(space)
            wanted, stands = ending.end.position.count, fold.position.count
            if not ending.sources and stands < wanted:
                index = "no storage node that is left has stored an index"
                if node is not None and stands:
                    index = f"the furthest index that is left, of {node}, stands at entry {stands}"
                raise NotReady(
                    f"{', '.join(self.alive)} lack entries of log space {space.id} from before term"
                    f" {self.view.term}, which began after entry {wanted}, and {index}: bring"
                    " another sequencer or storage node back, or make a new cluster with bokilog"
                    " restore"
                )

    def _check_folds(self) -> None:
        if any(self.furthest(space)[1].position.count for space in self.view.spaces):
            return
        gone = "; ".join(f"{node}: {why}" for node, why in self.gone.items())
        raise NotReady(
            f"no sequencer is left that has a say ({gone}), and no storage node that is left has"
            " stored an index: bring one of their directories back, or make a new cluster with"
            " bokilog restore"
        )

    def end_of(self, space: LogSpace) -> End:
        """Where its term ends; seqnums that are lost with entries are given to no other records."""
        end, anew = self.ends[space.id].end, self.anew_at(space)
        if anew is None and not self.majority_lost:
            return end
        folds = self.folds.get(space.id, {}).values()
        tail = max([end.tail, *(fold.tail for fold in folds)])
        if self.majority_lost or (anew is not None and anew.position.count > end.position.count):
            tail = min(tail + SEQNUMS_LEFT_OUT, SEQNUM_MAX)
        return replace(
            end,
            position=end.position if anew is None else anew.position,
            tail=tail,
            timestamp_ms=max([end.timestamp_ms, *(fold.timestamp_ms for fold in folds)]),
            given_up=True,
        )

    # --- what is lost -----------------------------------------------------------------------------

    @property
    def needs_acceptance(self) -> bool:
        """Whether anything is lost that a start cannot bring back; before the first term nothing
        was ordered, and no disk has a vote yet."""
        if not self.view.term:
            return False
        return self.majority_lost or any(map(self._lacks_records, self.view.spaces))

    @property
    def majority_lost(self) -> bool:
        """Whether a log space has no majority of its sequencers any more."""
        return not all(is_quorum(space, self.alive) for space in self.view.spaces)

    @property
    def folds_past(self) -> tuple[tuple[NodeId, LogSpaceId], ...]:
        """Folds that were stored past where the metalogs of those with a vote end."""
        past = [
            (node, space)
            for space, folds in self.folds.items()
            for node, fold in folds.items()
            if fold.position.count > self.ends[space].end.position.count
        ]
        return tuple(dict.fromkeys((*past, *self.folds_astray)))

    def _lacks_records(self, space: LogSpace) -> bool:
        """Whether records may have been held by nobody but nodes that are gone."""
        gone = sum(node in self.storage_gone for node in space.replicas)
        return gone >= space.write_quorum or self._is_all_lost(space) or self._goes_back(space)

    def _goes_back(self, space: LogSpace) -> bool:
        """Whether it goes on before entries that sequencers hold: nobody can fold them."""
        anew = self.anew_at(space)
        return anew is not None and anew.position.count < self.ends[space.id].end.position.count

    def _is_all_lost(self, space: LogSpace) -> bool:
        """Whether no storage node has anything of it: a start goes on only once that is accepted
        (P24)."""
        return all(
            node in self.storage_gone or (node, space.id) in self.folds_empty
            for node in space.replicas
        )

    def losses(self) -> list[str]:
        """What will be lost, in sentences for people."""
        found = [f"sequencer {node} is gone: {why}" for node, why in self.gone.items()]
        found += [f"storage node {node} is gone: {why}" for node, why in self.storage_gone.items()]
        for space in self.view.spaces:
            found += self._losses_in(space)
        found += [
            f"{node} stored more of log space {space} than counts: its index is moved aside and"
            " made anew"
            for node, space in self.folds_astray
        ]
        return found

    def _losses_in(self, space: LogSpace) -> list[str]:
        found: list[str] = []
        end, (node, fold) = self.ends[space.id].end, self.furthest(space)
        count, stands = end.position.count, fold.position.count
        anew = self.anew_at(space)
        lost = "appends, trims and holds that only the missing sequencers knew of are lost, also if"
        lacking = ", ".join(node for node in space.replicas if node in self.storage_gone)
        if not self.alive and space.durability == "memory":
            return [f"log space {space.id} (memory) is empty, as after every stop"]
        if not self.alive:
            where = f"where the index of {node} stands" if node is not None and stands else "empty"
            found.append(
                f"log space {space.id} ({space.durability}): no sequencer is left that knows its"
                f" order; it goes on at entry {stands}, {where}: appends, trims and holds since"
                f" are lost, also if they were acknowledged: all records from seqnum {fold.tail} on"
            )
        elif self.majority_lost and (anew is None or stands <= count):
            found.append(
                f"log space {space.id} ({space.durability}) ends at entry {count} of its metalog:"
                f" {lost} they were acknowledged"
            )
        elif anew is not None and stands > count:
            found.append(
                f"log space {space.id} ({space.durability}): the sequencers that are left hold its"
                f" metalog up to entry {count} only; it goes on at entry {stands}, where the index"
                f" of {node} stands: {lost} they were acknowledged since"
            )
        if self._is_all_lost(space) and end.tail > 1:
            found.append(
                f"log space {space.id}: none of its storage nodes holds anything of it, so all "
                f"its records are lost, up to seqnum {end.tail - 1}"
            )
        elif self.alive and self._goes_back(space):
            begins_at = min(
                (self._begins_at(space, each) for each in self._sources(space)), default=0
            )
            found.append(
                f"log space {space.id} goes back to entry {stands}, where the furthest index that"
                f" is left stands{f' (of {node})' if node else ''}: its metalog reaches back to"
                f" entry {begins_at} only, and no index can be built of what lies between. Records"
                f" from seqnum {fold.tail} to {end.tail - 1} are lost"
            )
        elif lacking and self._lacks_records(space):
            found.append(f"log space {space.id}: records that only {lacking} held are lost")
        return found


def stored_in(store: IndexStore) -> StoredFold:
    """What a store says of its fold."""
    found = store.get(keys.META)
    if found is None:
        return NOTHING_STORED
    meta = keys.decode_meta(found)
    return StoredFold(meta.position, meta.tail, meta.timestamp_ms)


def put_together(
    view: View,
    held: Mapping[NodeId, Mapping[LogSpaceId, Recovered]],
    *,
    ceiling: Callable[[NodeId, LogSpaceId], int],
    stored: Callable[[NodeId, LogSpaceId], StoredFold],
    ended: Callable[[LogSpaceId], Ended],
    gone: Mapping[NodeId, str],
    storage_gone: Mapping[NodeId, str],
) -> Left:
    """What is left, of what was found.

    Args:
        view: the last one.
        held: the metalogs of each sequencer with a vote.
        ceiling: the seqnum ceiling that such a sequencer has synced.
        stored: the fold that a replica which is there has stored.
        ended: where the terms of a log space ended.
        gone: the other sequencers, each with why.
        storage_gone: storage nodes whose data is not there, each with why.
    """
    folds = {
        space.id: {
            node: stored(node, space.id) for node in space.replicas if node not in storage_gone
        }
        for space in view.spaces
        if space.durability != "memory"
    }
    return Left(
        view=view,
        alive=tuple(held),
        gone=gone,
        storage_gone=storage_gone,
        ends=endings(
            view, {node: _answer(view, node, known, ceiling) for node, known in held.items()}
        )
        if held
        else {space.id: Ending(end=view.end(space.id), sources=()) for space in view.spaces},
        begins_at={
            space.id: {
                node: held[node][space.id].begins_at for node in held if node in space.sequencers
            }
            for space in view.spaces
        },
        folds=folds,
        folds_astray=tuple(
            (node, space)
            for space, each in folds.items()
            for node, fold in each.items()
            if is_astray(fold.position, until=view.term, ended=ended(space))
        ),
    )


def _answer(
    view: View,
    node: NodeId,
    held: Mapping[LogSpaceId, Recovered],
    ceiling: Callable[[NodeId, LogSpaceId], int],
) -> Sealed:
    """What a sequencer would answer to a seal (P14)."""
    rows = [
        [space, *known.end.position, known.end.tail, known.end.timestamp_ms, ceiling(node, space)]
        for space, known in held.items()
    ]
    return Sealed(view.term, view.node(node).disk_id, 0, rows)


def is_astray(position: Position, *, until: Term, ended: Ended) -> bool:
    """Whether a fold stands past the end of its term, or of a later one (P11, P13)."""
    ends = (ended(Term(term)) for term in range(position.term + 1, until + 1))
    return any(end is not None and end.position.count < position.count for end in ends)


def after_loss(left: Left, stopped: Stopped, *, history_id: str) -> View:
    """The next view, which the directories are ready for once this returns.

    Args:
        left: what there is; a person has accepted the rest as lost.
        stopped: the directories.
        history_id: of the new history.

    Raises:
        NotReady: there is nothing to go on from.
    """
    left.check()
    view = left.view
    starts = {node: Start(incarnation=0, disk_id=view.node(node).disk_id) for node in left.alive}
    for node in (*(left.gone if left.majority_lost else ()), *left.late()):
        starts[node] = Start(incarnation=0, disk_id=stopped.made_anew(left, node))
    for node, number in left.folds_astray:
        stopped.move_fold_aside(left, node, number)
    following = next_view(
        view,
        ends=[left.end_of(space) for space in view.spaces],
        primary={space.id: _primary(left, space) for space in view.spaces},
        starts=starts,
    )
    spaces = tuple(
        replace(space, begun=following.term) if left.anew_at(known) is not None else space
        for space, known in zip(following.spaces, view.spaces, strict=True)
    )
    return replace(following, spaces=spaces, history_id=history_id, losses_accepted=following.term)


def _primary(left: Left, space: LogSpace) -> NodeId:
    if left.anew_at(space) is None:
        return left.keepers(space)[0]
    return next(node for node in left.alive or space.sequencers if node in space.sequencers)
