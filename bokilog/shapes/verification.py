"""Checks the files of a stopped log: embedded, one node, or a whole local cluster.

Decides what kind of directory it is, keeps its owners away while it is read, and feeds the checks
that decide what is wrong (`bokilog/verify.py`, `storage_nodes/fold_check.py`). Changes no file: the
index store, which notes something beside its data whenever it is opened, is opened by links in a
temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bokilog.cold import LIST_FILE, ColdState, decode_list
from bokilog.errors import (
    BokilogError,
    CorruptJournal,
    DataError,
    DirectoryInUse,
    FormatTooNew,
    InvalidSettings,
)
from bokilog.frame import ITEM_FRAME
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.directory import (
    IDENTITY,
    StoredIdentity,
    check_counts,
    lock_to_read,
    read_identity,
)
from bokilog.io.open_views import open_views
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.io.view_store import decode_view
from bokilog.metalog import ITEM_METALOG, DeleteBook, Run, Trim, decode_run
from bokilog.record import Durability
from bokilog.shapes.cluster_layout import SETTINGS, Layout, NodePlan, read_layout
from bokilog.shapes.embedded import SPACES
from bokilog.shapes.recovery import verify_item
from bokilog.shapes.supervisor_state import read_state
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.fold_check import FoldCheck, FoldFacts
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.verify import (
    Findings,
    MetalogCheck,
    Part,
    PathOf,
    bytes_text,
    check_views,
    ends_of,
)
from bokilog.view import View

_SEQNUMS_ALL: Final = 1 << 53


@dataclass(slots=True)
class Report:
    """What was checked, part by part."""

    directory: Path
    kind: str
    """`embedded`, `node` or `cluster`."""
    parts: list[Part] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not any(part.findings for part in self.parts)


@dataclass(slots=True)
class _Metalog:
    """What a metalog's check leaves for those that depend on it."""

    count: int = 0
    seen: bool = False
    strict: bool = True


class Verification:
    """One run over a directory.

    Args:
        directory: of an embedded log, of a node, or of a local cluster.
        part_done: told each part as it is through.
        progress: told how many bytes were read since it was told last.
    """

    def __init__(
        self,
        directory: Path,
        *,
        part_done: Callable[[Part], None] = lambda _: None,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._directory = directory.expanduser().absolute()
        self._part_done = part_done
        self._progress = progress
        self._report = Report(self._directory, "")

    def run(self) -> Report:
        """Check everything.

        Raises:
            InvalidSettings: the directory holds nothing of bokilog's.
            DirectoryInUse: a live process owns it, or a part of it.
        NodeUnreachable, NotReady: the store of its views does not answer.
        """
        directory, report = self._directory, self._report
        if (directory / SETTINGS).exists():
            report.kind = "cluster"
            self._cluster(read_layout(directory))
        elif (directory / IDENTITY).exists():
            with _kept(directory):
                self._one(directory)
        else:
            problem = f"holds nothing of bokilog's: neither {SETTINGS} nor {IDENTITY}"
            raise InvalidSettings("dir", repr(str(directory)), problem)
        return report

    # --- kinds of directories ---------------------------------------------------------------------

    def _one(self, directory: Path) -> None:
        """An embedded log, or a node by itself; its views may lie beside it (`D/data/NODE`)."""
        identity = self._identity(directory, "", cluster_id=None, node_id=None)
        inside = directory / "views"
        if identity is not None and identity.cluster_id == "embedded":
            self._report.kind = "embedded"
            views = self._views(inside, "")
            self._embedded(directory, views)
            return
        self._report.kind = "node"
        views = self._views_beside(directory.parent.parent)
        if identity is not None and views and views[-1].cluster_id != identity.cluster_id:
            views = []  # somebody else's
        metalogs = self._metalogs(directory, "", views)
        self._folds(directory, "", views, metalogs, later={})

    def _views_beside(self, cluster: Path) -> list[View]:
        """Of the cluster that a node's directory may lie in."""
        if (cluster / SETTINGS).exists():
            return self._stored_views(read_layout(cluster))
        beside = cluster / "views"
        return self._views(beside, "") if beside.is_dir() else []

    def _cluster(self, layout: Layout) -> None:
        state = read_state(layout.run_dir)
        if state is not None and state.alive and state.state != "stopped":
            raise DirectoryInUse(str(layout.directory))
        nodes = [node for node in layout.nodes if node.data_dir is not None]
        with ExitStack() as kept:
            for node in nodes:
                assert node.data_dir is not None
                kept.enter_context(_kept(node.data_dir))
            views = self._stored_views(layout)
            metalogs: dict[LogSpaceId, _Metalog] = {}
            later: dict[LogSpaceId, dict[int, int]] = {}
            for node in nodes:
                if self._node_is_there(node, views) and node.role == "sequencer":
                    assert node.data_dir is not None
                    self._merge(
                        metalogs, self._metalogs(node.data_dir, f"{node.id} ", views, later=later)
                    )
            folds: dict[str, dict[LogSpaceId, FoldFacts]] = {}
            for node in nodes:
                if node.role == "storage" and node.data_dir is not None and node.data_dir.is_dir():
                    folds[node.id] = self._folds(
                        node.data_dir, f"{node.id} ", views, metalogs, later=later
                    )
            self._replicas_agree(folds)

    @staticmethod
    def _merge(metalogs: dict[LogSpaceId, _Metalog], found: dict[LogSpaceId, _Metalog]) -> None:
        """Of several sequencers the one that has most counts."""
        for space, metalog in found.items():
            known = metalogs.get(space)
            if known is None or known.count < metalog.count:
                metalogs[space] = metalog

    def _node_is_there(self, node: NodePlan, views: list[View]) -> bool:
        """A node that never started has no directory; one that did must have its own."""
        assert node.data_dir is not None
        cluster_id = views[-1].cluster_id if views else None
        if (node.data_dir / IDENTITY).exists():
            self._identity(node.data_dir, f"{node.id} ", cluster_id=cluster_id, node_id=node.id)
            return True
        findings = Findings()
        if views and views[-1].term > 0:
            findings.add(
                str(node.data_dir), None, "the node's directory is gone or empty", "all it held"
            )
        self._done(findings.part(f"{node.id} identity", "nothing"))
        return False

    # --- identity and views -----------------------------------------------------------------------

    def _identity(
        self, directory: Path, prefix: str, *, cluster_id: str | None, node_id: NodeId | None
    ) -> StoredIdentity | None:
        findings = Findings()
        file = str(directory / IDENTITY)
        found: StoredIdentity | None = None
        try:
            found = read_identity(directory)
            check_counts(directory)
            self._ceilings(directory)
        except BokilogError as error:
            findings.add(file, None, str(error), "the node does not start from this directory")
        if found is not None:
            for name, wanted in (("cluster_id", cluster_id), ("node_id", node_id)):
                said = getattr(found, name)
                if wanted is not None and said != wanted:
                    problem = f"{name} is {said!r}, not {wanted!r}: a foreign or copied directory"
                    findings.add(file, None, problem, "the node does not start from it")
        told = "unreadable" if found is None else f"{found.node_id}, disk {found.disk_id[:8]}"
        self._done(findings.part(f"{prefix}identity", told))
        return found

    def _ceilings(self, directory: Path) -> None:
        file = directory / "ceilings.json"
        if not file.exists():
            return
        try:
            stored: object = json.loads(file.read_bytes())
            if not isinstance(stored, dict):
                raise TypeError("it is not a JSON object")
            _ = [int(value) for value in stored.values()]
        except (ValueError, TypeError) as error:
            raise CorruptJournal(str(file), 0, f"it holds no ceilings: {error}") from None

    def _stored_views(self, layout: Layout) -> list[View]:
        """The views of a cluster, wherever they are kept."""
        if not layout.settings.views_url:
            return self._views(layout.settings.views_dir, "")
        findings = Findings()
        views: list[tuple[str, View]] = []
        with closing(open_views(layout.views)) as store:
            latest = store.latest_term()
            for term in range(latest + 1 if latest is not None else 0):
                name = f"{store.where} term {term}"
                try:
                    view = store.load(Term(term))
                except (DataError, FormatTooNew) as error:
                    findings.add(name, 0, str(error), "the end of the term before it")
                    continue
                if view is not None:
                    views.append((name, view))
            where = store.where
        return self._checked_views(views, findings, where=where, prefix="")

    def _views(self, directory: Path, prefix: str) -> list[View]:
        findings = Findings()
        views: list[tuple[str, View]] = []
        for file in sorted(directory.glob("*.view")):
            data = file.read_bytes()
            self._progress(len(data))
            try:
                view = decode_view(data, str(file))
            except BokilogError as error:
                findings.add(str(file), 0, str(error), "the end of the term before it")
                continue
            if file.stem.isdecimal() and int(file.stem) != view.term:
                problem = f"it holds the view of term {view.term}"
                findings.add(str(file), None, problem, "the end of the term before it")
            views.append((str(file), view))
        views.sort(key=lambda named: named[1].term)
        return self._checked_views(views, findings, where=str(directory), prefix=prefix)

    def _checked_views(
        self, views: list[tuple[str, View]], findings: Findings, *, where: str, prefix: str
    ) -> list[View]:
        check_views(views, findings)
        if not views:
            findings.add(where, None, "there is no view", "nothing starts without one")
        terms = f"terms {views[0][1].term} to {views[-1][1].term}" if views else "none"
        self._done(findings.part(f"{prefix}views", terms))
        return [view for _, view in views]

    # --- journals and folds -----------------------------------------------------------------------

    def _embedded(self, directory: Path, views: list[View]) -> None:
        """Frames and the entries that order them stand in one journal (P11)."""
        for space, durability in SPACES.items():
            path = directory / f"journal-{space}"
            index = directory / f"index-{space}"
            if durability == "memory" or self._is_missing(path, index.is_dir()):
                continue
            findings = Findings()
            journal = self._journal(path, durability, findings)
            stored_count = 0
            with self._store(index, findings) as store:
                facts = self._stored_position(store)
                stored_count = facts or 0
                metalog = MetalogCheck(
                    space,
                    PathOf(str(path)),
                    ends=ends_of(views, space),
                    needed_from=stored_count,
                    with_frames=True,
                )
                later = self._follow(journal, metalog)
                notes = metalog.end(stored_count, strict=durability == "sync")
                findings.found += metalog.findings.found
                findings.more_count += metalog.findings.more_count
                self._done(_journal_part(f"journal-{space}", journal, metalog, findings, notes))
                if store is not None:
                    self._fold(f"index-{space}", index, store, journal, views, space, later)

    def _metalogs(
        self,
        directory: Path,
        prefix: str,
        views: list[View],
        *,
        later: dict[LogSpaceId, dict[int, int]] | None = None,
    ) -> dict[LogSpaceId, _Metalog]:
        """The journals of a sequencer."""
        found: dict[LogSpaceId, _Metalog] = {}
        for space in self._spaces_of(directory, views):
            path = directory / f"metalog-{space}"
            if self._is_missing(path, bool(ends_of(views, space)), prefix=prefix):
                continue
            findings = Findings()
            durability = _durability(views, space)
            journal = self._journal(path, durability, findings)
            # A cluster that was made of a backup begins where that was taken.
            began = views[0].end(space).position.count if views and not views[0].term else 0
            metalog = MetalogCheck(
                space,
                PathOf(str(path)),
                ends=ends_of(views, space),
                needed_from=max(_begins_at(journal, views, space), began),
                with_frames=False,
            )
            trims = self._follow(journal, metalog)
            if later is not None:
                later.setdefault(space, {}).update(trims)
            strict = durability == "sync"
            notes = metalog.end(0, strict=strict)
            metalog.findings.found[:0] = findings.found
            metalog.findings.more_count += findings.more_count
            self._done(
                _journal_part(f"{prefix}{path.name}", journal, metalog, metalog.findings, notes)
            )
            count = began if metalog.count is None else metalog.count
            found[space] = _Metalog(count, metalog.count is not None, strict)
        return found

    def _folds(
        self,
        directory: Path,
        prefix: str,
        views: list[View],
        metalogs: dict[LogSpaceId, _Metalog],
        *,
        later: dict[LogSpaceId, dict[int, int]],
    ) -> dict[LogSpaceId, FoldFacts]:
        """The journals of a storage node, each with its fold."""
        found = {}
        for index, space in _numbered(directory, "index-"):
            path = directory / f"journal-{space}"
            if self._is_missing(path, True, prefix=prefix):
                continue
            findings = Findings()
            journal = self._journal(path, _durability(views, space), findings)
            cold, notes = _cold_segments(path, findings)
            self._done(_journal_part(f"{prefix}{path.name}", journal, None, findings, notes))
            store_findings = Findings()
            with self._store(index, store_findings) as store:
                if store is None:
                    self._done(store_findings.part(f"{prefix}{index.name}", "nothing"))
                    continue
                facts = self._fold(
                    f"{prefix}{index.name}",
                    index,
                    store,
                    journal,
                    views,
                    space,
                    later.get(space, {}),
                    metalog=metalogs.get(space),
                    cold=cold,
                )
            if facts is not None:
                found[space] = facts
        return found

    def _is_missing(self, journal: Path, wanted: bool, *, prefix: str = "") -> bool:
        """Whether there is no such journal; one that has to be there is reported."""
        if journal.is_dir():
            return False
        if wanted:
            findings = Findings()
            findings.add(str(journal), None, "the journal is missing", "all that it held")
            self._done(findings.part(f"{prefix}{journal.name}", "nothing"))
        return True

    @staticmethod
    def _spaces_of(directory: Path, views: list[View]) -> list[LogSpaceId]:
        """Log spaces whose metalog a node keeps: those it leads, and any that is there."""
        led = {
            space.id
            for view in views[-1:]
            for space in view.spaces
            if view.term and space.primary == read_identity(directory).node_id
        }
        return sorted(led.union(space for _, space in _numbered(directory, "metalog-")))

    def _journal(self, path: Path, durability: Durability, findings: Findings) -> StoppedJournal:
        return StoppedJournal(
            path,
            durable=durability == "sync",
            verify=verify_item,
            findings=findings,
            progress=self._progress,
        )

    def _follow(self, journal: StoppedJournal, metalog: MetalogCheck) -> dict[int, int]:
        """Give a journal's items to the check; how far its entries may trim each LogBook."""
        trims: dict[int, int] = {}
        for kind, location, data in journal.items():
            if kind == ITEM_FRAME:
                metalog.frame(data)
                continue
            run = decode_run(data)
            metalog.run(run, location)
            _note_trims(run, trims)
        return trims

    def _fold(
        self,
        name: str,
        index: Path,
        store: RocksStore,
        journal: StoppedJournal,
        views: list[View],
        space: LogSpaceId,
        later: dict[int, int],
        *,
        metalog: _Metalog | None = None,
        cold: Mapping[int, int] | None = None,
    ) -> FoldFacts | None:
        check = FoldCheck(
            store,
            file=str(index),
            heads=journal,
            later_trims=later,
            cold=cold,
            progress=self._progress,
        )
        facts = check.run(space, ends=ends_of(views, space))
        notes: list[str] = []
        if facts is not None and metalog is not None and facts.position.count > metalog.count:
            problem = (
                f"the fold stands at entry {facts.position.count}, the sequencers' metalog ends"
                f" after {metalog.count}"
            )
            if metalog.strict:
                check.findings.add(str(index), None, problem, "the entries between")
            else:
                notes.append(f"{problem}; this class may lose its end with the machine's power")
        told = "nothing is stored yet"
        if facts is None and min(journal.segments, default=1) > 1 and not check.findings.found:
            problem = "no fold is stored, and the journal does not reach back to the start"
            check.findings.add(str(index), None, problem, "all that was recycled since (P20)")
        if facts is not None:
            told = (
                f"position {facts.position.term}/{facts.position.count}, "
                f"{facts.frame_count:,} frames, {facts.posting_count:,} postings"
            )
        self._done(check.findings.part(name, told, notes))
        return facts

    @contextmanager
    def _store(self, index: Path, findings: Findings) -> Iterator[RocksStore | None]:
        """The fold's store, read only; None if there is none, or it does not open."""
        if not (index / "CURRENT").exists():
            if index.is_dir() and any(index.iterdir()):
                findings.add(str(index), None, "the index store has no CURRENT file", "all reads")
            yield None
            return
        with tempfile.TemporaryDirectory(prefix="bokilog-verify-") as scratch:
            for file in index.iterdir():
                if file.suffix == ".json":
                    shutil.copy(file, scratch)
                else:
                    os.symlink(file, Path(scratch) / file.name)
            try:
                store = RocksStore(scratch, read_only=True)
            except BokilogError as error:
                findings.add(str(index), None, str(error), "all reads by this replica")
                yield None
                return
            try:
                yield store
            finally:
                store.close()

    @staticmethod
    def _stored_position(store: RocksStore | None) -> int | None:
        try:
            found = store.get(keys.META) if store is not None else None
            return keys.decode_meta(found).position.count if found is not None else None
        except (BokilogError, ValueError, TypeError):
            return None  # the fold's own check says what is wrong

    def _replicas_agree(self, folds: dict[str, dict[LogSpaceId, FoldFacts]]) -> None:
        """Folds that stand at one position have applied the same (P24)."""
        findings = Findings()
        seen: dict[tuple[LogSpaceId, object], tuple[str, int]] = {}
        for node, by_space in folds.items():
            for space, facts in by_space.items():
                other, expected = seen.setdefault(
                    (space, facts.position), (node, facts.chained_hash)
                )
                if facts.chained_hash != expected:
                    findings.add(
                        str(self._directory / "data" / node / f"index-{space}"),
                        None,
                        f"its chained hash at entry {facts.position.count} differs from {other}'s",
                        "what conditions decided: one of the two must be built anew",
                    )
        self._done(findings.part("replicas", f"{len(folds)} compared"))

    def _done(self, part: Part) -> None:
        self._report.parts.append(part)
        self._part_done(part)


def _journal_part(
    name: str,
    journal: StoppedJournal,
    metalog: MetalogCheck | None,
    findings: Findings,
    notes: list[str],
) -> Part:
    told = (
        f"{len(journal.segments)} segments, {journal.last_group:,} groups, "
        f"{bytes_text(journal.size_bytes)}"
    )
    if metalog is not None:
        told += f", {metalog.entry_count:,} entries"
    return findings.part(name, told, [*journal.notes, *notes])


def _cold_segments(journal: Path, findings: Findings) -> tuple[dict[int, int], list[str]]:
    """Bytes of each segment that lies in an object store, and what to say of them.

    Whether the objects are there is not asked: they are read by range, and verified then.
    """
    file = journal / LIST_FILE
    if not file.exists():
        return {}, []
    try:
        where, segments = decode_list(file.read_bytes(), str(file))
    except BokilogError as error:
        findings.add(str(file), 0, str(error), "records of segments that lie in an object store")
        return {}, []
    cold = {each.segment: each.size_bytes for each in segments if each.state is ColdState.COLD}
    if not cold:
        return {}, []
    told = f"{len(cold):,} segments, {bytes_text(sum(cold.values()))}, lie in {where}: not read"
    return cold, [told]


def _begins_at(journal: StoppedJournal, views: list[View], space: LogSpaceId) -> int:
    """Entries before it were let go with their segments, once replicas had stored them (P16).

    One of several sequencers that was away meanwhile goes on from a cut, behind a gap.
    """
    runs = (decode_run(data) for kind, _, data in journal.items() if kind == ITEM_METALOG)
    first = next(runs, None)
    if first is None:
        return 0
    begins_at = 0 if min(journal.segments, default=1) == 1 else first.first
    if not any(each.backups for view in views for each in view.spaces if each.id == space):
        return begins_at
    ends, term, count = ends_of(views, space), first.term, first.until
    if first.tail is not None:
        begins_at = first.first
    for run in runs:
        for later in range(term + 1, run.term + 1):
            end = ends.get(Term(later))
            count = count if end is None else min(count, end.position.count)
        if run.first > count and run.tail is not None:
            begins_at = run.first
        count = run.until if run.term > term else max(count, run.until)
        term = max(term, run.term)
    return begins_at


def _note_trims(run: Run, trims: dict[int, int]) -> None:
    for entry in run.entries:
        if isinstance(entry, Trim) and entry.tag is None:
            trims[entry.book] = max(entry.until, trims.get(entry.book, 0))
        elif isinstance(entry, DeleteBook):
            trims[entry.book] = _SEQNUMS_ALL


def _numbered(directory: Path, prefix: str) -> list[tuple[Path, LogSpaceId]]:
    return [
        (path, LogSpaceId(int(path.name.removeprefix(prefix))))
        for path in sorted(directory.glob(f"{prefix}*"))
        if path.is_dir() and path.name.removeprefix(prefix).isdecimal()
    ]


def _durability(views: list[View], space: LogSpaceId) -> Durability:
    """Its class as the view has it; without a view, that of every layout there is."""
    if views and any(each.id == space for each in views[-1].spaces):
        return views[-1].space(space).durability
    return SPACES.get(space, "sync")


@contextmanager
def _kept(directory: Path) -> Iterator[None]:
    """Nobody starts from the directory meanwhile."""
    descriptor = lock_to_read(directory) if directory.is_dir() else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
