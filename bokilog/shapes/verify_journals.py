"""Journals of something that is stopped, as a verification reads them.

Decides which of them are there, of which class each is, and how a journal that was read is told of.
Changes nothing. Does not know what their items mean.
"""

from __future__ import annotations

from pathlib import Path

from bokilog.ids import LogSpaceId
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.record import Durability
from bokilog.shapes.embedded import SPACES
from bokilog.shapes.recovery import verify_item
from bokilog.shapes.verify_report import Report
from bokilog.verify import Findings, MetalogCheck, Part, bytes_text
from bokilog.view import View


def numbered(directory: Path, prefix: str) -> list[tuple[Path, LogSpaceId]]:
    """Folders of log spaces, such as `journal-3`."""
    return [
        (path, LogSpaceId(int(path.name.removeprefix(prefix))))
        for path in sorted(directory.glob(f"{prefix}*"))
        if path.is_dir() and path.name.removeprefix(prefix).isdecimal()
    ]


def durability_of(views: list[View], space: LogSpaceId) -> Durability:
    """Its class as the view has it; without a view, that of every layout there is."""
    if views and any(each.id == space for each in views[-1].spaces):
        return views[-1].space(space).durability
    return SPACES.get(space, "sync")


def is_missing(report: Report, journal: Path, wanted: bool, *, prefix: str = "") -> bool:
    """Whether there is no such journal; one that has to be there is reported."""
    if journal.is_dir():
        return False
    if wanted:
        findings = Findings()
        findings.add(str(journal), None, "the journal is missing", "all that it held")
        report.add(findings.part(f"{prefix}{journal.name}", "nothing"))
    return True


def opened(
    report: Report, path: Path, durability: Durability, findings: Findings
) -> StoppedJournal:
    """A journal that nobody has open; what is wrong is added as its items are read."""
    return StoppedJournal(
        path,
        durable=durability == "sync",
        verify=verify_item,
        findings=findings,
        progress=report.progress,
    )


def journal_part(
    name: str,
    journal: StoppedJournal,
    metalog: MetalogCheck | None,
    findings: Findings,
    notes: list[str],
) -> Part:
    """The part of a report on a journal that was read."""
    told = (
        f"{len(journal.segments)} segments, {journal.last_group:,} groups, "
        f"{bytes_text(journal.size_bytes)}"
    )
    if metalog is not None:
        told += f", {metalog.entry_count:,} entries"
    return findings.part(name, told, [*journal.notes, *notes])
