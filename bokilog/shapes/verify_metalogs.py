"""The metalogs of a stopped log: which there must be, from which entry on, and what they trim.

Decides where a metalog may begin (after what was let go, after a backup or a fold that it goes on
from) and which of several sequencers' counts for the folds that depend on it. Changes nothing. Does
not know what is wrong with an entry (`bokilog/verify.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bokilog.frame import ITEM_FRAME
from bokilog.ids import LogSpaceId, Term
from bokilog.io.directory import read_identity
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.limits import NO_END
from bokilog.metalog import ITEM_METALOG, DeleteBook, Run, Trim, decode_run
from bokilog.shapes.verify_journals import (
    durability_of,
    is_missing,
    journal_part,
    numbered,
    opened,
)
from bokilog.shapes.verify_report import Report
from bokilog.verify import Findings, MetalogCheck, PathOf, ends_of
from bokilog.view import View


@dataclass(slots=True)
class CheckedMetalog:
    """What a metalog's check leaves for those that depend on it."""

    count: int
    """Of its entries."""
    is_strict: bool
    """Its class keeps all of them: none may be missing at the end."""


def check_metalogs(
    report: Report,
    directory: Path,
    prefix: str,
    views: list[View],
    *,
    later: dict[LogSpaceId, dict[int, int]] | None = None,
) -> dict[LogSpaceId, CheckedMetalog]:
    """The journals of a sequencer."""
    found: dict[LogSpaceId, CheckedMetalog] = {}
    for space in _spaces_of(directory, views):
        path = directory / f"metalog-{space}"
        if is_missing(report, path, bool(ends_of(views, space)), prefix=prefix):
            continue
        findings = Findings()
        durability = durability_of(views, space)
        journal = opened(report, path, durability, findings)
        begun, began = _begun(views, space)
        metalog = MetalogCheck(
            space,
            PathOf(str(path)),
            ends={term: end for term, end in ends_of(views, space).items() if term >= begun},
            needed_from=max(_begins_at(journal, views, space), began),
            with_frames=False,
        )
        trims = follow(journal, metalog, begun=begun)
        if later is not None:
            later.setdefault(space, {}).update(trims)
        strict = durability == "sync"
        notes = metalog.end(0, strict=strict)
        metalog.findings.found[:0] = findings.found
        metalog.findings.more_count += findings.more_count
        report.add(journal_part(f"{prefix}{path.name}", journal, metalog, metalog.findings, notes))
        count = began if metalog.count is None else metalog.count
        found[space] = CheckedMetalog(count, strict)
    return found


def merge(
    metalogs: dict[LogSpaceId, CheckedMetalog], found: dict[LogSpaceId, CheckedMetalog]
) -> None:
    """Of several sequencers the one that has most counts."""
    for space, metalog in found.items():
        known = metalogs.get(space)
        if known is None or known.count < metalog.count:
            metalogs[space] = metalog


def follow(journal: StoppedJournal, metalog: MetalogCheck, *, begun: int = 0) -> dict[int, int]:
    """Give a journal's items to the check, without runs from before the term in which the
    metalog began; how far its entries may trim each LogBook."""
    trims: dict[int, int] = {}
    for kind, location, data in journal.items():
        if kind == ITEM_FRAME:
            metalog.frame(data)
            continue
        run = decode_run(data)
        if run.term < begun:
            continue
        metalog.run(run, location)
        _note_trims(run, trims)
    return trims


def _spaces_of(directory: Path, views: list[View]) -> list[LogSpaceId]:
    """Log spaces whose metalog a node keeps: those it leads, and any that is there."""
    led = {
        space.id
        for view in views[-1:]
        for space in view.spaces
        if view.term and space.primary == read_identity(directory).node_id
    }
    return sorted(led.union(space for _, space in numbered(directory, "metalog-")))


def _begins_at(journal: StoppedJournal, views: list[View], space: LogSpaceId) -> int:
    """Entries before it were let go with their segments, once replicas had stored them (P16).

    One of several sequencers that was away meanwhile goes on from a cut, behind a gap.
    """
    begun, _ = _begun(views, space)
    found = (decode_run(data) for kind, _, data in journal.items() if kind == ITEM_METALOG)
    runs = (run for run in found if run.term >= begun)
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


def _begun(views: list[View], space: LogSpaceId) -> tuple[int, int]:
    """The term in which a metalog begins, and how many entries come before it: some if the cluster
    was made of a backup, or went on at a fold once a majority of sequencers was lost (P15)."""
    begun = next((each.begun for view in views[-1:] for each in view.spaces if each.id == space), 0)
    first = next((view for view in views if view.term == begun), None)
    return begun, 0 if first is None else first.end(space).position.count


def _note_trims(run: Run, trims: dict[int, int]) -> None:
    for entry in run.entries:
        if isinstance(entry, Trim) and entry.tag is None:
            trims[entry.book] = max(entry.until, trims.get(entry.book, 0))
        elif isinstance(entry, DeleteBook):
            trims[entry.book] = NO_END
