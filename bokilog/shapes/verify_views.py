"""Whose directory it is, and which views are stored for it: the parts of a verification on which
all others stand.

Decides which identity a directory must have, and what a missing or unreadable view means for those
who need it. Changes nothing. Does not know what the views are then used for.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from bokilog.errors import BokilogError, CorruptJournal, DataError, FormatTooNew
from bokilog.ids import NodeId, Term
from bokilog.io.directory import IDENTITY, StoredIdentity, check_counts, read_identity
from bokilog.io.open_views import open_views
from bokilog.io.view_store import decode_view
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.verify_report import Report
from bokilog.verify import Findings, check_views
from bokilog.view import View


def check_identity(
    report: Report, directory: Path, prefix: str, *, cluster_id: str | None, node_id: NodeId | None
) -> StoredIdentity | None:
    """Whose directory it is; other values than the wanted ones are reported."""
    findings = Findings()
    file = str(directory / IDENTITY)
    found: StoredIdentity | None = None
    try:
        found = read_identity(directory)
        check_counts(directory)
        _check_ceilings(directory)
    except BokilogError as error:
        findings.add(file, None, str(error), "the node does not start from this directory")
    if found is not None:
        for name, wanted in (("cluster_id", cluster_id), ("node_id", node_id)):
            said = getattr(found, name)
            if wanted is not None and said != wanted:
                problem = f"{name} is {said!r}, not {wanted!r}: a foreign or copied directory"
                findings.add(file, None, problem, "the node does not start from it")
    told = "unreadable" if found is None else f"{found.node_id}, disk {found.disk_id[:8]}"
    report.add(findings.part(f"{prefix}identity", told))
    return found


def stored_views(report: Report, layout: Layout) -> list[View]:
    """The views of a cluster, wherever they are kept."""
    if not layout.settings.views_url:
        return views_in(report, layout.settings.views_dir)
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
    return _checked(report, views, findings, where=where)


def views_in(report: Report, directory: Path) -> list[View]:
    """The views that lie in a directory."""
    findings = Findings()
    views: list[tuple[str, View]] = []
    for file in sorted(directory.glob("*.view")):
        data = file.read_bytes()
        report.progress(len(data))
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
    return _checked(report, views, findings, where=str(directory))


def _checked(
    report: Report, views: list[tuple[str, View]], findings: Findings, *, where: str
) -> list[View]:
    check_views(views, findings)
    if not views:
        findings.add(where, None, "there is no view", "nothing starts without one")
    terms = f"terms {views[0][1].term} to {views[-1][1].term}" if views else "none"
    report.add(findings.part("views", terms))
    return [view for _, view in views]


def _check_ceilings(directory: Path) -> None:
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
