"""Going on past a majority of sequencers that is lost for good, on what is left (P15).

Decides, for the stopped cluster of a directory, which sequencers still have a vote, what their
metalogs reach up to, and so what is lost: what was acknowledged since, by sequencers that are gone.
Once an operator accepts that, it makes a new directory for each sequencer that is gone, with a copy
of the longest metalog of every log space, and stores the next view: it ends the term there, names
the new disks, and has a history id of its own, so that whoever saw what is lost is told
(`HistoryChanged`). The start after that is like any other.

Storage nodes are reported, and nothing is done to them: what a wiped one can still get from its
peers it gets at its start, and what it cannot is `DataLost`. If none has anything of a log space
any more, a start waits with that until it is accepted here (P24). A fold that is stored past the
new end is moved aside, as it holds what is lost: the node gets another one from a peer or from its
metalog.

Invariants: nothing is changed before the operator said yes; nothing is deleted, what is in the way
is moved aside; the view is stored last, so a run that is killed can be run again; no seqnum that
was given out before is given out again (`SEQNUMS_LEFT_OUT`).

Does not know: how an operator is asked. Only for what a majority cannot decide any more: with one,
a start does everything by itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bokilog.errors import BokilogError, InvalidSettings, NotReady
from bokilog.ids import START, LogSpaceId, NodeId
from bokilog.io.directory import claim, lock_file, lock_to_read, read_identity
from bokilog.io.journal_file import JournalFile
from bokilog.io.open_views import open_views
from bokilog.io.sync import DataSync, NoSync, sync_directory
from bokilog.io.view_store import ViewStore, check_versions, first_view
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import Sealed
from bokilog.sequencer.ceilings import CEILINGS, Ceilings
from bokilog.sequencer.next_view import (
    Ending,
    Start,
    endings,
    has_vote,
    is_quorum,
    next_view,
    sequencers_of,
)
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.recovery import verify_item
from bokilog.shapes.supervisor import LOCK
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import prefix_end
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.view import End, LogSpace, View

SEQNUMS_LEFT_OUT: Final = 1 << 24
"""More than can have been ordered between what a backup holds and what its primary published."""


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
    folds_past: tuple[tuple[NodeId, LogSpaceId], ...]
    """Folds that were stored past these ends."""
    folds_empty: frozenset[tuple[NodeId, LogSpaceId]] = frozenset()
    """Storage nodes that hold nothing of a log space, although records were ordered in it."""

    @property
    def needs_acceptance(self) -> bool:
        """Whether anything is lost that a start cannot bring back."""
        return self.majority_lost or any(map(self._lacks_records, self.view.spaces))

    @property
    def majority_lost(self) -> bool:
        """Whether a log space has no majority of its sequencers any more."""
        return not all(is_quorum(space, self.alive) for space in self.view.spaces)

    def _lacks_records(self, space: LogSpace) -> bool:
        """Whether records may have been held by nobody but nodes that are gone."""
        gone = sum(node in self.storage_gone for node in space.replicas)
        return gone >= space.write_quorum or self._is_all_lost(space)

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
            count = self.ends[space.id].end.position.count
            if self.majority_lost:
                found.append(
                    f"log space {space.id} ({space.durability}) ends at entry {count} of its "
                    "metalog: appends, trims and holds that only the missing sequencers knew of "
                    "are lost, also if they were acknowledged"
                )
            if self._is_all_lost(space) and self.ends[space.id].end.tail > 1:
                found.append(
                    f"log space {space.id}: none of its storage nodes holds anything of it, so all "
                    f"its records are lost, up to seqnum {self.ends[space.id].end.tail - 1}"
                )
            elif self._lacks_records(space):
                lacking = ", ".join(node for node in space.replicas if node in self.storage_gone)
                found.append(f"log space {space.id}: records that only {lacking} held are lost")
        found += [
            f"{node} stored more of log space {space} than that: its index is moved aside and made "
            "anew"
            for node, space in self.folds_past
        ]
        return found


class AcceptLoss:
    """One recovery of a stopped cluster; a context manager that keeps others away meanwhile.

    Args:
        layout: of its directory.

    Raises, when entered:
        DirectoryInUse: the cluster, or a node of it, runs.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._kept = ExitStack()

    def __enter__(self) -> AcceptLoss:
        with ExitStack() as kept:
            self._layout.run_dir.mkdir(exist_ok=True)
            lock = lock_file(self._layout.run_dir / LOCK, owner_of=self._layout.directory)
            kept.callback(os.close, lock)
            for node in self._layout.nodes:
                if node.data_dir is not None:
                    held = lock_to_read(node.data_dir)
                    if held is not None:
                        os.close(held)  # nobody starts one by hand while the supervisor's is held
            self._kept = kept.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    # --- what is left -----------------------------------------------------------------------------

    def look(self) -> Left:
        """What is left. Changes nothing that a start would not.

        Raises:
            NotReady: there is no view, or nothing to go on from: only a backup helps then.
            CorruptJournal: a metalog of a sequencer that is there is damaged: move that
                directory away if it is lost, too.
        """
        with closing(open_views(self._layout.views)) as views:
            view = views.latest()
            if view is None:
                raise NotReady(f"no view is stored in {views.where}")
            check_versions(view)
            alive, gone = self._sequencers(view)
            if not alive:
                raise NotReady(
                    "no sequencer is left that has a say "
                    f"({'; '.join(f'{node}: {why}' for node, why in gone.items())}): bring one of "
                    "their directories back, or make a new cluster with bokilog restore"
                )
            answers = {node: self._answer(views, view, node) for node in alive}
        ends = endings(view, answers)
        for space, ending in ends.items():
            if not ending.sources:
                raise NotReady(
                    f"{', '.join(alive)} lack entries of log space {space} from before term "
                    f"{view.term}: bring another sequencer back, or make a new cluster with "
                    "bokilog restore"
                )
        storage_gone = self._storage_gone(view)
        return Left(
            view=view,
            alive=tuple(alive),
            gone=gone,
            storage_gone=storage_gone,
            ends=ends,
            folds_past=tuple(self._folds_past(view, ends, storage_gone)),
            folds_empty=frozenset(self._folds_empty(view, ends, storage_gone)),
        )

    def _sequencers(self, view: View) -> tuple[list[NodeId], dict[NodeId, str]]:
        alive: list[NodeId] = []
        gone: dict[NodeId, str] = {}
        for node in sequencers_of(view):
            disk_id, why = self._disk_of(view, node)
            if not why and not has_vote(view, node, disk_id):
                why = "its disk is another one than the view's"
            if why:
                gone[node] = why
            else:
                alive.append(node)
        return alive, gone

    def _disk_of(self, view: View, node: NodeId) -> tuple[str, str]:
        """The disk id of a node's directory, or why there is none."""
        try:
            said = read_identity(self._data_dir(node))
        except (BokilogError, OSError) as error:
            return "", str(error)
        if (said.cluster_id, said.node_id) != (view.cluster_id, node):
            return "", f"its directory is that of {said.node_id} of cluster {said.cluster_id}"
        return said.disk_id, ""

    def _answer(self, views: ViewStore, view: View, node: NodeId) -> Sealed:
        """What a sequencer would answer to a seal (P14)."""
        directory = self._data_dir(node)
        ceilings, begun = Ceilings(directory / CEILINGS), first_view(views)
        rows = []
        for space in view.spaces:
            if node in space.sequencers:
                with _metalog(directory, space) as journal:
                    end = recover_metalog(
                        journal,
                        begun.end(space.id),
                        ceiling=1,
                        released=True,
                        ended=ended_in(views, space.id),
                    ).end
                ceiling = ceilings.of(space.id)
                rows.append([space.id, *end.position, end.tail, end.timestamp_ms, ceiling])
        return Sealed(view.term, view.node(node).disk_id, 0, rows)

    def _storage_gone(self, view: View) -> dict[NodeId, str]:
        wanted = {node for space in view.spaces for node in space.replicas}
        gone = {node: self._disk_of(view, node)[1] for node in sorted(wanted)}
        return {node: why for node, why in gone.items() if why}

    def _folds_past(
        self, view: View, ends: Mapping[LogSpaceId, Ending], gone: Mapping[NodeId, str]
    ) -> Iterator[tuple[NodeId, LogSpaceId]]:
        for space in view.spaces:
            for node in space.replicas:
                path = self._data_dir(node) / f"index-{space.id}"
                if node in gone or not (path / "CURRENT").exists():
                    continue
                with closing(RocksStore(path)) as store:
                    found = store.get(keys.META)
                stands = keys.decode_meta(found).position if found is not None else START
                if stands.count > ends[space.id].end.position.count:
                    yield node, space.id

    def _folds_empty(
        self, view: View, ends: Mapping[LogSpaceId, Ending], gone: Mapping[NodeId, str]
    ) -> Iterator[tuple[NodeId, LogSpaceId]]:
        for space in view.spaces:
            end = ends[space.id].end
            if space.durability == "memory" or end.tail <= 1:
                continue
            for node in space.replicas:
                path = self._data_dir(node) / f"index-{space.id}"
                if node not in gone and _is_empty(path, end):
                    yield node, space.id

    # --- going on ---------------------------------------------------------------------------------

    def accept(self, left: Left) -> View:
        """Make it so; returns the next view.

        Raises:
            InvalidSettings: nothing is lost that a start cannot bring back.
            NotReady: another view was stored meanwhile.
        """
        view = left.view
        if not left.needs_acceptance:
            problem = "has lost nothing that it needs: start it with bokilog up"
            raise InvalidSettings("dir", str(self._layout.directory), problem)
        starts = {
            node: Start(incarnation=0, disk_id=view.node(node).disk_id) for node in left.alive
        }
        if left.majority_lost:
            for node in left.gone:
                starts[node] = Start(incarnation=0, disk_id=self.made_anew(left, node))
        for node, number in left.folds_past:
            _move_aside(self._data_dir(node) / f"index-{number}", view)
        following = next_view(
            view,
            ends=[self._end(left, space.id) for space in view.spaces],
            primary={space.id: left.ends[space.id].sources[0] for space in view.spaces},
            starts=starts,
        )
        following = replace(
            following, history_id=secrets.token_hex(4), losses_accepted=following.term
        )
        with closing(open_views(self._layout.views)) as views:
            if not views.compare_and_swap(view.term, following):
                raise NotReady(f"another view of term {following.term} was stored meanwhile")
        return following

    def made_anew(self, left: Left, node: NodeId) -> str:
        """A directory for a sequencer that is gone, or new, with all that is left; returns its disk
        id. What was there is moved aside."""
        path = self._data_dir(node)
        if path.exists() and any(path.iterdir()):
            _move_aside(path, left.view)
        with claim(path, left.view.cluster_id, node) as directory:
            ceilings = Ceilings(path / CEILINGS)
            for space in left.view.spaces:
                if node in space.sequencers:
                    end, source = left.ends[space.id].end, left.ends[space.id].sources[0]
                    name = f"metalog-{space.id}"
                    _copy_synced(self._data_dir(source) / name, path / name)
                    if space.durability != "sync":
                        ceilings.raise_to(space.id, end.tail)
            sync_directory(str(path))
            return directory.disk_id

    def _end(self, left: Left, space: LogSpaceId) -> End:
        """Where the term ends; seqnums that are lost with entries are given to no other records."""
        end = left.ends[space].end
        if not left.majority_lost:
            return end
        return replace(end, tail=min(end.tail + SEQNUMS_LEFT_OUT, SEQNUM_MAX))

    def _data_dir(self, node: NodeId) -> Path:
        for plan in self._layout.nodes:
            if plan.id == node and plan.data_dir is not None:
                return plan.data_dir
        raise InvalidSettings("dir", str(self._layout.directory), f"holds no data of {node}")


# --- pieces ---------------------------------------------------------------------------------------


@contextmanager
def _metalog(directory: Path, space: LogSpace) -> Iterator[JournalFile]:
    sync = DataSync() if space.durability == "sync" else NoSync()
    journal = JournalFile(directory / f"metalog-{space.id}", sync=sync, verify=verify_item)
    try:
        yield journal
    finally:
        journal.close()


def _is_empty(path: Path, end: End) -> bool:
    """Whether a fold is stored that holds no records, and has not come to the end."""
    if not (path / "CURRENT").exists():
        return True
    with closing(RocksStore(path)) as store:
        found = store.get(keys.META)
        rows = next(iter(store.scan(keys.ROWS, prefix_end(keys.ROWS))), None)
    stands = keys.decode_meta(found).position if found is not None else START
    return rows is None and stands.count < end.position.count


def _move_aside(path: Path, view: View) -> None:
    """Out of the way, under a name that is free."""
    number = 1
    while (aside := path.with_name(f"{path.name}.before-term-{view.term + 1}.{number}")).exists():
        number += 1
    path.rename(aside)
    sync_directory(str(path.parent))


def _copy_synced(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        with file.open("rb") as reading, (target / file.name).open("wb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
    sync_directory(str(target))
