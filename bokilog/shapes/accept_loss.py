"""Going on past a majority of sequencers that is lost for good, on what is left (P15).

Decides, for the stopped cluster of a directory, which sequencers still have a vote, what their
metalogs reach up to, and what folds storage nodes have stored. What follows from that is decided in
`what_is_left.py`. Once an operator accepts what is lost, it makes a new directory for each
sequencer that is gone, or has let go of entries that are needed, with a copy of the longest metalog
of every log space that goes on, and stores the next view: it ends the term, names the new disks,
and has a history id of its own, so that whoever saw what is lost is told (`HistoryChanged`). The
start after that is like any other.

Storage nodes are reported, and hardly anything is done to them: what a wiped one can still get from
its peers it gets at its start, and what it cannot is `DataLost`. If none has anything of a log
space any more, a start waits with that until it is accepted here (P24). A fold that holds what the
end of a term left out is moved aside: the node gets another one from a peer or from its metalog.

Invariants: nothing is changed before the operator said yes; nothing is deleted but a copy that a
killed run had not finished, what is in the way is moved aside; what sequencers with a vote hold is
not touched, but may be moved aside. The view is stored last, so a run that is killed can be run
again: what it moved aside is put back first, if the view still names that disk.

Does not know: how an operator is asked. Only for what a majority cannot decide any more: with one,
a start does everything by itself.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from bokilog.errors import BokilogError, InvalidSettings, NotReady
from bokilog.ids import START, LogSpaceId, NodeId
from bokilog.io.directory import (
    claim,
    lock_to_read,
    make_directory,
    read_identity,
)
from bokilog.io.journal_file import JournalFile
from bokilog.io.open_views import open_views
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.io.sync import DataSync, NoSync, sync_directory
from bokilog.io.view_store import ViewStore, beginning, check_versions
from bokilog.sequencer.ceilings import CEILINGS, Ceilings
from bokilog.sequencer.held import Recovered
from bokilog.sequencer.next_view import has_vote, sequencers_of
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.recovery import verify_item
from bokilog.shapes.supervisor import lock_cluster
from bokilog.shapes.what_is_left import (
    NOTHING_STORED,
    Left,
    StoredFold,
    after_loss,
    put_together,
    stored_in,
)
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import prefix_end
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.verify import Findings
from bokilog.view import End, LogSpace, View

ASIDE: Final = ".before-term-"
UNFINISHED_SUFFIX: Final = ".unfinished"


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
            kept.callback(os.close, lock_cluster(self._layout))
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
        """What is left, once what a killed run moved aside is back in its place. Changes nothing
        else that a start would not.

        Raises:
            NotReady: there is no view, or nothing to go on from: only a backup helps then.
            CorruptJournal: a metalog of a sequencer that is there is damaged: move that
                directory away if it is lost, too.
        """
        with closing(open_views(self._layout.views)) as views:
            view = views.latest()
            if view is None:
                raise NotReady(f"no view is stored in {views.where}: bring its views back")
            check_versions(view)
            self._put_back(view)
            alive, gone = self._sequencers(view)
            left = put_together(
                view,
                {node: self._held(views, view, node) for node in alive},
                ceiling=self._ceiling,
                stored=lambda node, space: _stored_fold(self._data_dir(node) / f"index-{space}"),
                ended=partial(ended_in, views),
                gone=gone,
                storage_gone=self._storage_gone(view),
            )
        left = replace(left, folds_empty=frozenset(self._folds_empty(left)))
        left.check()
        return left

    def _put_back(self, view: View) -> None:
        """If a directory is aside whose disk the view names, a run was killed before it stored the
        next view: what that directory holds has a vote, and may be nowhere else (P14)."""
        sequencers = sequencers_of(view)
        for plan in self._layout.nodes:
            named = view.node(plan.id).disk_id if plan.id in sequencers else ""
            place = plan.data_dir
            if not named or place is None or _disk_in(place) == named:
                continue
            asides = place.parent.glob(f"{place.name}{ASIDE}*")
            if aside := next((each for each in asides if _disk_in(each) == named), None):
                if place.exists():
                    _move_aside(place, view)
                aside.rename(place)
                sync_directory(str(place.parent))

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

    def _held(self, views: ViewStore, view: View, node: NodeId) -> dict[LogSpaceId, Recovered]:
        """What a start of a sequencer would find in its journals."""
        found = {}
        for space in view.spaces:
            if node in space.sequencers:
                with _metalog(self._data_dir(node), space) as journal:
                    found[space.id] = recover_metalog(
                        journal,
                        beginning(views, space),
                        ceiling=1,
                        released=True,
                        ended=ended_in(views, space.id),
                        begun=space.begun,
                    )
        return found

    def _ceiling(self, node: NodeId, space: LogSpaceId) -> int:
        return Ceilings(self._data_dir(node) / CEILINGS).of(space)

    def _storage_gone(self, view: View) -> dict[NodeId, str]:
        wanted = {node for space in view.spaces for node in space.replicas}
        gone = {node: self._disk_of(view, node)[1] for node in sorted(wanted)}
        return {node: why for node, why in gone.items() if why}

    def _folds_empty(self, left: Left) -> Iterator[tuple[NodeId, LogSpaceId]]:
        for space in left.view.spaces:
            end = left.ends[space.id].end
            if space.durability == "memory" or end.tail <= 1:
                continue
            for node in space.replicas:
                data = self._data_dir(node)
                if node in left.storage_gone or not _is_empty(data / f"index-{space.id}", end):
                    continue
                if not _has_frames(data / f"journal-{space.id}", space):
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
        following = after_loss(left, self, history_id=secrets.token_hex(4))
        with closing(open_views(self._layout.views)) as views:
            if not views.compare_and_swap(view.term, following):
                raise NotReady(f"another view of term {following.term} was stored meanwhile")
        return following

    def made_anew(self, left: Left, node: NodeId) -> str:
        """A directory for a sequencer that is gone, new, or lacks what another has, with every
        metalog that goes on; its disk id. What was there is moved aside once all of it is made."""
        place = self._data_dir(node)
        if place.exists() and not any(place.iterdir()):  # it may be where a new disk is mounted
            return self._make(place, left, node)
        made = place.with_name(f"{place.name}{UNFINISHED_SUFFIX}")
        if made.exists():
            shutil.rmtree(made)  # of a run that was killed
        disk_id = self._make(made, left, node)
        if place.exists():
            _move_aside(place, left.view)
        made.rename(place)
        sync_directory(str(place.parent))
        return disk_id

    def _make(self, path: Path, left: Left, node: NodeId) -> str:
        with claim(path, left.view.cluster_id, node) as directory:
            ceilings = Ceilings(path / CEILINGS)
            for space in left.view.spaces:
                if node not in space.sequencers:
                    continue
                if space.durability != "sync":
                    ceilings.raise_to(space.id, left.ends[space.id].end.tail)
                name = f"metalog-{space.id}"
                if left.anew_at(space) is None:
                    source = self._data_dir(left.source_of(space.id, node))
                    _copy_synced(source / name, path / name)
                else:  # a sequencer with a vote has one, also if nothing is left of it
                    make_directory(path / name)
            sync_directory(str(path))
            return directory.disk_id

    def sync(self, node: NodeId) -> None:
        """Everything that its metalogs hold is on its disk when this returns."""
        for path in sorted(self._data_dir(node).glob("metalog-*")):
            for file in sorted(path.iterdir()):
                with file.open("rb+") as written:
                    os.fsync(written.fileno())
            sync_directory(str(path))

    def move_fold_aside(self, left: Left, node: NodeId, space: LogSpaceId) -> None:
        """The node has no fold of that log space from here on."""
        _move_aside(self._data_dir(node) / f"index-{space}", left.view)

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


def _stored_fold(path: Path) -> StoredFold:
    if not (path / "CURRENT").exists():
        return NOTHING_STORED
    with closing(RocksStore(path)) as store:
        return stored_in(store)


def _is_empty(path: Path, end: End) -> bool:
    """Whether a fold is stored that holds no records, and has not come to the end."""
    if not (path / "CURRENT").exists():
        return True
    with closing(RocksStore(path)) as store:
        found = store.get(keys.META)
        rows = next(iter(store.scan(keys.ROWS, prefix_end(keys.ROWS))), None)
    stands = keys.decode_meta(found).position if found is not None else START
    return rows is None and stands.count < end.position.count


def _has_frames(path: Path, space: LogSpace) -> bool:
    """Whether a journal holds something of which a start makes a fold: it is stored later (P11)."""
    if not path.is_dir():
        return False
    journal = StoppedJournal(
        path, durable=space.durability == "sync", verify=verify_item, findings=Findings()
    )
    return any(True for _ in journal.items())


def _move_aside(path: Path, view: View) -> None:
    """Out of the way, under a name that is free."""
    number = 1
    while (aside := path.with_name(f"{path.name}{ASIDE}{view.term + 1}.{number}")).exists():
        number += 1
    path.rename(aside)
    sync_directory(str(path.parent))


def _disk_in(path: Path) -> str:
    try:
        return read_identity(path).disk_id
    except (BokilogError, OSError):
        return ""


def _copy_synced(source: Path, target: Path) -> None:
    target.mkdir()
    for file in sorted(source.iterdir()):
        with file.open("rb") as reading, (target / file.name).open("wb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
    sync_directory(str(target))
