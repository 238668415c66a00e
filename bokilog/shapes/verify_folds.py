"""The stored folds of a stopped log, each beside its journal, and with each other.

Decides which fold must fit which metalog, what a fold that is not stored means, and which folds
must be the same (P24). Changes nothing: the index store, which notes something beside its data
whenever it is opened, is opened by links in a temporary folder. Does not know what is wrong within
a fold (`storage_nodes/fold_check.py`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bokilog.cold import LIST_FILE, ColdState, decode_list
from bokilog.errors import BokilogError
from bokilog.ids import LogSpaceId
from bokilog.io.stopped_journal import StoppedJournal
from bokilog.shapes.verify_journals import (
    durability_of,
    is_missing,
    journal_part,
    numbered,
    opened,
)
from bokilog.shapes.verify_metalogs import CheckedMetalog
from bokilog.shapes.verify_report import Report
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.fold_check import FoldCheck, FoldFacts
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.verify import Findings, bytes_text, ends_of
from bokilog.view import View


def check_folds(
    report: Report,
    directory: Path,
    prefix: str,
    views: list[View],
    metalogs: dict[LogSpaceId, CheckedMetalog],
    *,
    later: dict[LogSpaceId, dict[int, int]],
) -> dict[LogSpaceId, FoldFacts]:
    """The journals of a storage node, each with its fold."""
    found = {}
    for index, space in numbered(directory, "index-"):
        path = directory / f"journal-{space}"
        if is_missing(report, path, True, prefix=prefix):
            continue
        findings = Findings()
        journal = opened(report, path, durability_of(views, space), findings)
        cold, notes = _cold_segments(path, findings)
        report.add(journal_part(f"{prefix}{path.name}", journal, None, findings, notes))
        store_findings = Findings()
        with stored_fold(index, store_findings) as store:
            if store is None:
                report.add(store_findings.part(f"{prefix}{index.name}", "nothing"))
                continue
            facts = check_fold(
                report,
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


def check_fold(
    report: Report,
    name: str,
    index: Path,
    store: RocksStore,
    journal: StoppedJournal,
    views: list[View],
    space: LogSpaceId,
    later: dict[int, int],
    *,
    metalog: CheckedMetalog | None = None,
    cold: Mapping[int, int] | None = None,
) -> FoldFacts | None:
    """A stored fold beside its journal; None: there is none that could be read."""
    check = FoldCheck(
        store,
        file=str(index),
        heads=journal,
        later_trims=later,
        cold=cold,
        progress=report.progress,
    )
    facts = check.run(space, ends=ends_of(views, space))
    notes: list[str] = []
    if facts is not None and metalog is not None and facts.position.count > metalog.count:
        problem = (
            f"the fold stands at entry {facts.position.count}, the sequencers' metalog ends"
            f" after {metalog.count}"
        )
        if metalog.is_strict:
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
    report.add(check.findings.part(name, told, notes))
    return facts


@contextmanager
def stored_fold(index: Path, findings: Findings) -> Iterator[RocksStore | None]:
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


def stored_count_of(store: RocksStore | None) -> int | None:
    """How many entries a stored fold has taken in, as it says itself."""
    try:
        found = store.get(keys.META) if store is not None else None
        return keys.decode_meta(found).position.count if found is not None else None
    except (BokilogError, ValueError, TypeError):
        return None  # the fold's own check says what is wrong


def check_that_replicas_agree(
    report: Report, folds: dict[str, dict[LogSpaceId, FoldFacts]]
) -> None:
    """Folds that stand at one position have applied the same (P24)."""
    findings = Findings()
    seen: dict[tuple[LogSpaceId, object], tuple[str, int]] = {}
    for node, by_space in folds.items():
        for space, facts in by_space.items():
            other, expected = seen.setdefault((space, facts.position), (node, facts.chained_hash))
            if facts.chained_hash != expected:
                findings.add(
                    str(report.directory / "data" / node / f"index-{space}"),
                    None,
                    f"its chained hash at entry {facts.position.count} differs from {other}'s",
                    "what conditions decided: one of the two must be built anew",
                )
    report.add(findings.part("replicas", f"{len(folds)} compared"))


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
