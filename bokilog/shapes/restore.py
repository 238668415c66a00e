"""Making a new log of a backup: a cluster that was never started, or an embedded log.

Decides what goes where, and that nobody takes the new log for the old one: it has a cluster id and
a history id of its own, so tokens and nodes of the old one are refused (`HistoryChanged`, P15), and
its terms begin anew. Seqnums go on above all that the backup knows of, class `memory` included,
whose records are `DataLost`.

Every replica of a log space gets the same journal and the same fold (`restored_space.py`). The
metalog begins where the fold stands: the view of term 0 says so, and sequencers hold nothing before
it but what engines must hear of, the deletions of LogBooks (P18).

Invariant: a directory is usable only once all of it is there: the first view of a cluster is stored
last, an embedded log gets its name last; what was written of a restore that failed is removed.

Does not know what parts look like (`backup_files.py`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bokilog.errors import BackupUnusable, FormatTooNew, InvalidSettings, NotSupported, ReadOnly
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.io.directory import claim, write_synced
from bokilog.io.file_views import FileViews
from bokilog.io.journal_file import JournalFile
from bokilog.io.places import Place
from bokilog.io.sync import DataSync
from bokilog.journal import Refused
from bokilog.messages import SnapshotPart, StoredFrame
from bokilog.metalog import ITEM_METALOG, DeleteBook, Proposer, Run, encode_run
from bokilog.shapes import embedded
from bokilog.shapes.backup_files import Manifest, SpaceManifest, read_manifest, read_part
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.shapes.recovery import verify_item
from bokilog.shapes.restored_space import RestoredSpace
from bokilog.view import FOLD_VERSION, PROTOCOL_VERSION, End, View

ENTRIES_MAX: Final = 1_000
"""Of one run of deletions."""
PART_SUFFIX: Final = ".restoring"
Tell = Callable[[int], None]
"""Told how many bytes of the backup were read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was made of a backup."""

    manifest: Manifest
    shape: str
    history_id: str


def _tell_nobody(_: int) -> None:
    pass


def restore(
    place: Place,
    directory: Path,
    *,
    shape: str | None = None,
    storage_nodes: int | None = None,
    sequencers: int | None = None,
    function_nodes: int | None = None,
    port: int | None = None,
    views_url: str | None = None,
    tell: Tell = _tell_nobody,
) -> Restored:
    """Make a log in a directory of the backup in a place; the log is not started.

    Args:
        place: holds a complete backup.
        directory: is not there, or is empty.
        shape: `cluster` or `embedded`; None: as the one that was backed up.
        storage_nodes, sequencers: None: as the cluster that was backed up.
        function_nodes, port, views_url: as for `lay_out`.
        tell: told as it goes on.

    Raises:
        BackupUnusable: it is not complete, or was altered.
        FormatTooNew: a later version made it.
        NotSupported: an older version made it, whose folds decide otherwise.
        InvalidSettings: the directory is not empty, or a value is out of range.
    """
    manifest = read_manifest(place)
    _check_versions(manifest, place)
    directory = directory.expanduser().absolute()
    _check_empty(directory)
    shape = shape or manifest.shape
    if shape == "embedded":
        _check_no_cluster(
            storage_nodes=storage_nodes,
            sequencers=sequencers,
            function_nodes=function_nodes,
            port=port,
            views_url=views_url,
        )
    with _removed_if_it_fails(directory):
        if shape == "embedded":
            view = _embedded(place, manifest, directory, tell)
        else:
            filled = _Filled(place, manifest, tell)
            lay_out(
                directory,
                storage_nodes=_or_as_before(storage_nodes, manifest.storage_nodes),
                sequencers=_or_as_before(sequencers, manifest.sequencers),
                function_nodes=function_nodes,
                port=port,
                views_url=views_url,
                fill=filled,
            )
            assert filled.view is not None
            view = filled.view
    return Restored(manifest=manifest, shape=shape, history_id=view.history_id)


def _check_no_cluster(**said: object) -> None:
    for name, value in said.items():
        if value is not None:
            problem = "is of a cluster, and the new log is embedded: leave it out"
            raise InvalidSettings(name, str(value), problem)


def _or_as_before(wanted: int | None, before: int) -> int:
    return max(1, before) if wanted is None else wanted


def _check_versions(manifest: Manifest, place: Place) -> None:
    if manifest.protocol_version > PROTOCOL_VERSION:
        what = f"the protocol of the backup in {place.where!r}"
        raise FormatTooNew(what, manifest.protocol_version, PROTOCOL_VERSION)
    if manifest.fold_version > FOLD_VERSION:
        what = f"the fold of the backup in {place.where!r}"
        raise FormatTooNew(what, manifest.fold_version, FOLD_VERSION)
    if manifest.fold_version < FOLD_VERSION:
        problem = f"this version folds by {FOLD_VERSION} only"
        raise NotSupported(f"a backup of fold version {manifest.fold_version}", problem)
    known = {int(number): durability for number, durability in embedded.SPACES.items()}
    if {space.id: space.durability for space in manifest.spaces} != known:
        raise BackupUnusable(place.where, "its log spaces are not those of this version")


def _check_empty(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InvalidSettings("dir", repr(str(directory)), "is a file")
    found = min(directory.iterdir(), default=None) if directory.exists() else None
    if found is not None:
        problem = f"is not empty: it holds {found.name!r}; a restore makes a new log"
        raise InvalidSettings("dir", repr(str(directory)), problem)


@contextmanager
def _removed_if_it_fails(directory: Path) -> Iterator[None]:
    """It was empty, so everything in it is ours."""
    there = directory.exists()
    try:
        yield
    except BaseException:
        for path in list(directory.iterdir()) if directory.exists() else []:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not there and directory.exists():
            directory.rmdir()
        raise


# --- what is written ------------------------------------------------------------------------------


def _ends(manifest: Manifest) -> tuple[End, ...]:
    """Where the new log's metalogs begin."""
    return tuple(
        End(
            space=LogSpaceId(space.id),
            position=Position(Term(0), space.count),
            tail=space.tail,
            timestamp_ms=space.timestamp_ms,
        )
        for space in manifest.spaces
    )


def _write_space(
    place: Place, space: SpaceManifest, directories: Sequence[Path], tell: Tell
) -> list[int]:
    """One log space, into the directory of each of its replicas.

    Returns:
        The LogBooks that were deleted.
    """
    with ExitStack() as closed:
        made = []
        for directory in directories:
            one = RestoredSpace(directory, LogSpaceId(space.id))
            closed.callback(one.close)
            made.append(one)
        frames = 0
        for part in space.parts:
            for message in read_part(place, part):
                if not isinstance(message, StoredFrame):
                    raise BackupUnusable(place.where, f"{part.name} holds something else")
                frames += 1
                for one in made:
                    one.frame(message)
            tell(part.size_bytes)
        if frames != space.frames:
            problem = f"log space {space.id} has {frames} frames, {space.frames} are listed"
            raise BackupUnusable(place.where, problem)
        for one in made:
            one.frames_done()
        for part in space.rows:
            for message in read_part(place, part):
                if not isinstance(message, SnapshotPart):
                    raise BackupUnusable(place.where, f"{part.name} holds something else")
                for one in made:
                    one.rows(message)
            tell(part.size_bytes)
        for one in made:
            one.finish(space.count, where=place.where)
        return made[0].deleted_books if made else []


class _Filled:
    """What a restore puts into the directory of a cluster before its first view is stored."""

    def __init__(self, place: Place, manifest: Manifest, tell: Tell) -> None:
        self._place = place
        self._manifest = manifest
        self._tell = tell
        self.view: View | None = None

    def __call__(self, layout: Layout, view: View) -> tuple[End, ...]:
        self.view = view
        folders = {node.id: node.data_dir for node in layout.nodes if node.data_dir is not None}
        for node, folder in folders.items():
            claim(folder, view.cluster_id, node).close()
        for space in self._manifest.spaces:
            if space.durability == "memory":
                continue
            known = view.space(LogSpaceId(space.id))
            replicas = [folders[node] for node in known.replicas]
            deleted = _write_space(self._place, space, replicas, self._tell)
            for node in known.sequencers:
                _write_deletions(folders[node], space, deleted)
        return _ends(self._manifest)


def _write_deletions(folder: Path, space: SpaceManifest, deleted: Sequence[int]) -> None:
    """The first entries of the metalog, said once more for engines: they have to know (P18)."""
    journal = JournalFile(folder / f"metalog-{space.id}", sync=DataSync(), verify=verify_item)
    try:
        journal.recover()
        for at in range(0, len(deleted), ENTRIES_MAX):
            entries = tuple(
                DeleteBook(space.timestamp_ms, book, Proposer(0, 0))
                for book in deleted[at : at + ENTRIES_MAX]
            )
            run = Run(LogSpaceId(space.id), Term(0), space.count + at, entries)
            journal.append(ITEM_METALOG, [encode_run(run)])
            written = journal.commit(use_headroom=True)
            if isinstance(written, Refused):
                raise ReadOnly(written.reason)
            failed = journal.sync_now().failed
            if failed is not None:
                raise ReadOnly(failed)
    finally:
        journal.close()


def _embedded(place: Place, manifest: Manifest, directory: Path, tell: Tell) -> View:
    """An embedded log under another name, which it keeps until all of it is there."""
    made = directory.with_name(directory.name + PART_SUFFIX)
    if made.exists():
        problem = "is what an earlier restore left, or somebody else's: remove it"
        raise InvalidSettings("dir", repr(str(made)), problem)
    try:
        claim(made, "embedded", "embedded").close()
        for space in manifest.spaces:
            if space.durability != "memory":
                _write_space(place, space, [made], tell)
        # Class `memory` starts above its ceiling: below it everything is lost (P20).
        ceilings = {str(space.id): space.tail for space in manifest.spaces}
        write_synced(made / "ceilings.json", json.dumps(ceilings).encode())
        view = replace(embedded.first_view(), ends=_ends(manifest))
        assert FileViews(made / "views").compare_and_swap(None, view), "nobody knows of it yet"
        os.rename(made, directory)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return view
