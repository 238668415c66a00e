"""Checks the files of a stopped log: embedded, one node, or a whole local cluster.

Decides what kind of directory it is, keeps its owners away while it is read, and what is checked
against what: views (`verify_views.py`), metalogs (`verify_metalogs.py`), then folds beside their
journals (`verify_folds.py`). Changes no file. Does not know what is wrong within one of them
(`bokilog/verify.py`, `storage_nodes/fold_check.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bokilog.errors import DirectoryInUse, InvalidSettings
from bokilog.ids import LogSpaceId
from bokilog.io.directory import IDENTITY, lock_to_read
from bokilog.shapes.cluster_layout import SETTINGS, Layout, NodePlan, read_layout
from bokilog.shapes.embedded import SPACES
from bokilog.shapes.supervisor_state import RUNNING, read_state
from bokilog.shapes.verify_folds import (
    check_fold,
    check_folds,
    check_that_replicas_agree,
    stored_count_of,
    stored_fold,
)
from bokilog.shapes.verify_journals import is_missing, journal_part, opened
from bokilog.shapes.verify_metalogs import CheckedMetalog, check_metalogs, follow, merge
from bokilog.shapes.verify_report import Report
from bokilog.shapes.verify_views import check_identity, stored_views, views_in
from bokilog.storage_nodes.fold_check import FoldFacts
from bokilog.verify import Findings, MetalogCheck, Part, PathOf, ends_of
from bokilog.view import View


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
        self._report = Report(self._directory, "", part_done, progress)

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
        identity = check_identity(self._report, directory, "", cluster_id=None, node_id=None)
        inside = directory / "views"
        if identity is not None and identity.cluster_id == "embedded":
            self._report.kind = "embedded"
            views = views_in(self._report, inside)
            self._embedded(directory, views)
            return
        self._report.kind = "node"
        views = self._views_beside(directory.parent.parent)
        if identity is not None and views and views[-1].cluster_id != identity.cluster_id:
            views = []  # somebody else's
        metalogs = check_metalogs(self._report, directory, "", views)
        check_folds(self._report, directory, "", views, metalogs, later={})

    def _views_beside(self, cluster: Path) -> list[View]:
        """Of the cluster that a node's directory may lie in."""
        if (cluster / SETTINGS).exists():
            return stored_views(self._report, read_layout(cluster))
        beside = cluster / "views"
        return views_in(self._report, beside) if beside.is_dir() else []

    def _cluster(self, layout: Layout) -> None:
        state = read_state(layout.run_dir)
        if state is not None and state.alive and state.state != "stopped":
            raise DirectoryInUse(str(layout.directory), RUNNING)
        nodes = [node for node in layout.nodes if node.data_dir is not None]
        with ExitStack() as kept:
            for node in nodes:
                assert node.data_dir is not None
                kept.enter_context(_kept(node.data_dir))
            views = stored_views(self._report, layout)
            metalogs: dict[LogSpaceId, CheckedMetalog] = {}
            later: dict[LogSpaceId, dict[int, int]] = {}
            for node in nodes:
                if self._node_is_there(node, views) and node.role == "sequencer":
                    assert node.data_dir is not None
                    merge(
                        metalogs,
                        check_metalogs(
                            self._report, node.data_dir, f"{node.id} ", views, later=later
                        ),
                    )
            folds: dict[str, dict[LogSpaceId, FoldFacts]] = {}
            for node in nodes:
                if node.role == "storage" and node.data_dir is not None and node.data_dir.is_dir():
                    folds[node.id] = check_folds(
                        self._report, node.data_dir, f"{node.id} ", views, metalogs, later=later
                    )
            check_that_replicas_agree(self._report, folds)

    def _node_is_there(self, node: NodePlan, views: list[View]) -> bool:
        """A node that never started has no directory; one that did must have its own."""
        assert node.data_dir is not None
        cluster_id = views[-1].cluster_id if views else None
        if (node.data_dir / IDENTITY).exists():
            check_identity(
                self._report, node.data_dir, f"{node.id} ", cluster_id=cluster_id, node_id=node.id
            )
            return True
        findings = Findings()
        if views and views[-1].term > 0:
            there = node.data_dir.is_dir() and any(node.data_dir.iterdir())
            problem = f"it has no {IDENTITY}" if there else "the node's directory is gone or empty"
            findings.add(str(node.data_dir), None, problem, "all it held")
        self._report.add(findings.part(f"{node.id} identity", "nothing"))
        return False

    def _embedded(self, directory: Path, views: list[View]) -> None:
        """Frames and the entries that order them stand in one journal (P11)."""
        for space, durability in SPACES.items():
            path = directory / f"journal-{space}"
            index = directory / f"index-{space}"
            if durability == "memory" or is_missing(self._report, path, index.is_dir()):
                continue
            findings = Findings()
            journal = opened(self._report, path, durability, findings)
            with stored_fold(index, findings) as store:
                stored_count = stored_count_of(store) or 0
                metalog = MetalogCheck(
                    space,
                    PathOf(str(path)),
                    ends=ends_of(views, space),
                    needed_from=stored_count,
                    with_frames=True,
                )
                later = follow(journal, metalog)
                notes = metalog.end(stored_count, strict=durability == "sync")
                findings.found += metalog.findings.found
                findings.more_count += metalog.findings.more_count
                self._report.add(
                    journal_part(f"journal-{space}", journal, metalog, findings, notes)
                )
                if store is not None:
                    check_fold(
                        self._report, f"index-{space}", index, store, journal, views, space, later
                    )


@contextmanager
def _kept(directory: Path) -> Iterator[None]:
    """Nobody starts from the directory meanwhile."""
    descriptor = lock_to_read(directory) if directory.is_dir() else None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
