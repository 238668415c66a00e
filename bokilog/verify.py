"""Judges the files of something that is stopped: what is wrong, where, and what that affects.

Decides which bytes of a damaged range are bad and which records that means (P29), whether a metalog
is one unbroken sequence that ends where the views say (P13), whether its cuts' frames are there,
and whether views follow each other. It only looks: repair, and what may be dropped as a torn tail
(P30), are decided elsewhere (`io/journal_recovery.py`).

Invariant: what a class allows to lose is a note, what it does not is a finding. Does not know
files or the fold (`storage_nodes/fold_check.py`); findings are bounded, the rest is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from bokilog.columns import first_bad_record
from bokilog.cut import record_count
from bokilog.errors import RemoteProtocolError
from bokilog.frame import (
    HEADER_BYTES,
    ITEM_FRAME,
    decode_columns,
    decode_head,
)
from bokilog.ids import LogSpaceId, Shard, Term
from bokilog.journal import Damage, Location
from bokilog.metalog import (
    ITEM_METALOG,
    CloseShard,
    Cut,
    Entry,
    Lost,
    OpenShard,
    Run,
    StartOver,
    verify_run as _verify_run,
)
from bokilog.segment import Group, decode_group, decode_group_header
from bokilog.view import End, View

FINDINGS_MAX: Final = 1000
"""Of one part; what is beyond it is counted, since one cause may show in a million places."""
_UNKNOWN: Final = "unknown: what it held cannot be told any more"


class Finding(NamedTuple):
    """Something that is wrong."""

    file: str
    offset: int | None
    """None: the file as a whole."""
    problem: str
    affected: str
    """Which records, entries or answers depend on it."""


class Part(NamedTuple):
    """What was checked by itself: a journal, a fold, the views, an identity."""

    name: str
    checked: str
    """How much of it was looked at, for people."""
    notes: tuple[str, ...] = ()
    """What is as a crash leaves it, or as the class allows."""
    findings: tuple[Finding, ...] = ()
    more_count: int = 0
    """Findings that are not listed."""


class Findings:
    """Collects a bounded number of findings."""

    __slots__ = ("found", "more_count")

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.more_count = 0

    def add(self, file: str, offset: int | None, problem: str, affected: str) -> None:
        """One more; counted only, once there are too many."""
        if len(self.found) < FINDINGS_MAX:
            self.found.append(Finding(file, offset, problem, affected))
        else:
            self.more_count += 1

    def part(self, name: str, checked: str, notes: Iterable[str] = ()) -> Part:
        """What was found, as a part of the report."""
        return Part(name, checked, tuple(notes), tuple(self.found), self.more_count)


# --- a damaged range of a segment -----------------------------------------------------------------


def explain_damage(data: bytes, damage: Damage) -> Iterator[Finding]:
    """What is bad in `[start, until)` of a segment: each bad item, else each bad group.

    Args:
        data: the segment's bytes; empty: the file is missing.
        damage: as the scan reported it.
    """
    if not data:
        yield Finding(damage.path, None, "the segment is missing", _groups_text(damage))
        return
    at, number = damage.start, damage.first_group
    while at < damage.until and (group := decode_group(data, at, damage.until)) is not None:
        bad = list(_bad_items(data, group, damage.path))
        if not bad:
            break  # whole in itself, but not of this place: a stale or misplaced group
        yield from bad
        at, number = group.header.end, group.header.number + 1
    if at < damage.until:
        yield _bad_group(data, damage, at, number)


def _bad_items(data: bytes, group: Group, path: str) -> Iterator[Finding]:
    view = memoryview(data)
    for kind, start, until in group.items:
        if kind == ITEM_FRAME:
            found = frame_problem(view[start:until])
        elif kind == ITEM_METALOG:
            found = None if _verify_run(view[start:until]) else _RUN_PROBLEM
        else:
            found = _Problem(0, f"an item of unknown kind {kind}", _UNKNOWN)
        if found is not None:
            yield Finding(path, start + found.offset, found.problem, found.affected)


def _bad_group(data: bytes, damage: Damage, at: int, number: int) -> Finding:
    header = decode_group_header(data, at)
    if header is None or header.offset != at:
        problem = f"the header of group {number} does not verify"
    elif header.end > damage.until:
        problem = f"group {header.number} is cut off"
    elif decode_group(data, at, damage.until) is None:
        problem = f"the lengths of the items of group {header.number} do not verify"
    else:
        problem = f"group {header.number} stands where group {number} should"
    return Finding(damage.path, at, problem, _groups_text(damage))


def _groups_text(damage: Damage) -> str:
    if damage.next_group is None:
        return f"all groups of the segment from {damage.first_group} on"
    if damage.next_group == damage.first_group + 1:
        return f"group {damage.first_group}"
    return f"groups {damage.first_group} to {damage.next_group - 1}"


class _Problem(NamedTuple):
    offset: int
    problem: str
    affected: str


_RUN_PROBLEM: Final = _Problem(0, "a metalog run does not match its checksum", "its entries")


def frame_problem(data: memoryview) -> _Problem | None:
    """What is wrong with the bytes of a frame: its header, its columns or a record (P29)."""
    try:
        head = decode_head(data)
    except RemoteProtocolError as error:
        return _Problem(0, f"a frame's header is damaged: {error.problem}", _UNKNOWN)
    affected = local_ids_text(head.shard, head.first, head.records)
    header = bytes(data[:HEADER_BYTES])
    payload_at = HEADER_BYTES + head.columns_bytes
    try:
        frame = decode_columns(header, bytes(data[HEADER_BYTES:payload_at]))
    except RemoteProtocolError as error:
        return _Problem(0, f"a frame's header or columns are damaged: {error.problem}", affected)
    payload = data[payload_at:]
    if len(payload) != frame.columns.payload_bytes:
        return _Problem(payload_at, "a frame's payload is not as long as its columns say", affected)
    bad = first_bad_record(frame.columns, payload)
    if bad is None:
        return None
    offset = payload_at + sum(frame.columns.lengths[:bad])
    return _Problem(
        offset,
        "a record's bytes do not match their checksum",
        local_ids_text(frame.shard, frame.first + bad, 1),
    )


def local_ids_text(shard: Shard, first: int, records: int) -> str:
    """The records of a shard as a person may look for them."""
    last = f" to {first + records - 1}" if records > 1 else ""
    name = f"shard {shard.number} of term {shard.term} in log space {shard.space}"
    return f"record{'s' if records > 1 else ''} {first}{last} of {name}"


# --- the metalog ----------------------------------------------------------------------------------


class MetalogCheck:
    """Follows the runs of a journal in order, with the frames beside them if it holds both.

    Args:
        space: the log space it belongs to.
        paths: where segments lie, for findings.
        ends: of terms, by the term that followed them: `ends[t]` is where term t - 1 ended.
        needed_from: entries from this count on have to be there; those before may be recycled.
        with_frames: frames stand in the same journal, before the entries that order them (P11).
    """

    def __init__(
        self,
        space: LogSpaceId,
        paths: PathOf,
        *,
        ends: dict[Term, End],
        needed_from: int,
        with_frames: bool,
    ) -> None:
        self.findings = Findings()
        self.entry_count = 0
        self.run_count = 0
        self.count: int | None = None
        """Count of entries up to the last run; None: none was seen."""
        self.term = Term(0)
        self._space = space
        self._paths = paths
        self._ends = ends
        self._needed_from = needed_from
        self._with_frames = with_frames
        self._tail = 1
        self._timestamp_ms = 0
        self._kept_until = sys.maxsize
        """Entries of the term from this count on are past its end (P13). A primary that was cut off
        makes some for a while after the next term began, so time says nothing between the two."""
        self._whole = True
        """No entry of this term was missed: shards and the tail are known exactly."""
        self._ordered: dict[int, int] = {}
        self._frames: dict[Shard, dict[int, int]] = {}
        self._at = Location(0, 0, 0)

    def frame(self, data: memoryview) -> None:
        """The next frame of a journal that holds both; it was verified before."""
        head = decode_head(data)
        self._frames.setdefault(head.shard, {})[head.first] = head.first + head.records

    def run(self, run: Run, at: Location) -> None:
        """The next run, found at `at`; one that was journalled again (P7) says nothing new."""
        self._at = at
        if run.space != self._space:
            self._add(f"a run of log space {run.space} is in this journal", "the whole metalog")
            return
        count = self.count
        if count is not None and run.until <= count and run.term <= self.term:
            return
        if count is None:
            self._begin(run)
        elif run.term < self.term:
            self._add(f"a run of term {run.term} follows term {self.term}", "entries after it")
        elif run.term > self.term:
            self._new_term(run, count)
        elif run.first != count:
            self._gap(run, count)
        self._follow(run)

    def end(self, stored_count: int, *, strict: bool) -> list[str]:
        """All runs were given: whether they reach what the views and the fold need.

        Args:
            stored_count: the position of the fold that stands on this metalog, 0 without one.
            strict: the class allows no loss; else a metalog that is short is a note, returned.
        """
        count = self._needed_from if self.count is None else self.count
        named = max((end.position.count for end in self._ends.values()), default=0)
        notes = []
        if max(count, stored_count) < named:
            problem = f"the metalog ends after {count} entries, a view says after {named}"
            if strict:
                self._add(problem, f"entries {max(count, stored_count)} to {named - 1}", whole=True)
            else:
                notes.append(f"{problem}; this class may lose its end with the machine's power")
        return notes

    def _begin(self, run: Run) -> None:
        self._whole = run.first == 0
        if run.first > self._needed_from:
            self._add(
                f"the first run begins with entry {run.first}, not {self._needed_from}",
                f"entries {self._needed_from} to {run.first - 1}",
            )

    def _gap(self, run: Run, count: int) -> None:
        if run.first < count:
            self._add(f"a run begins with entry {run.first} again, after {count}", "their order")
            return
        self._whole = False
        self._ordered = {}
        if run.first > self._needed_from:  # else their segment was recycled, and rightly so
            self._add(
                f"entries are missing before entry {run.first}",
                f"entries {max(count, self._needed_from)} to {run.first - 1}",
            )

    def _new_term(self, run: Run, count: int) -> None:
        """Entries past the end of a term are dropped; the next one goes on from the end (P13)."""
        end = self._ends.get(run.term)
        ended = count if end is None else end.position.count
        if run.first > max(count, self._needed_from):
            self._add(
                f"entries are missing before entry {run.first} of term {run.term}",
                f"entries {max(count, self._needed_from)} to {run.first - 1}",
            )
        elif run.first < count and run.first != ended and run.first > self._needed_from:
            self._add(
                f"term {run.term} begins with entry {run.first}, its view says {ended}",
                "entries after it",
            )

    def _follow(self, run: Run) -> None:
        if run.term != self.term or self.count is None:
            end = self._ends.get(run.term)
            self._ordered = {}
            following = [term for term in self._ends if term > run.term]
            if following:
                self._kept_until = self._ends[min(following)].position.count
            else:
                self._kept_until = sys.maxsize
            whole_term = end is not None and end.position.count == run.first
            self._whole = whole_term or (run.first == 0)
            if end is not None:
                self._tail = end.tail if whole_term else max(self._tail, end.tail)
        self.run_count += 1
        self.entry_count += len(run.entries)
        self.term, self.count = run.term, run.until
        for place, entry in enumerate(run.entries):
            self._entry(entry, run.first + place)

    def _entry(self, entry: Entry, count: int) -> None:
        if count < self._kept_until:
            if entry.timestamp_ms < self._timestamp_ms:
                self._add(f"time goes back at entry {count}", "seqnums asked for by time")
            self._timestamp_ms = max(self._timestamp_ms, entry.timestamp_ms)
        if isinstance(entry, Cut):
            self._cut(entry, count)
        elif isinstance(entry, OpenShard):
            self._ordered.setdefault(entry.number, 0)
        elif isinstance(entry, CloseShard):
            self._ordered.pop(entry.number, None)
        elif isinstance(entry, Lost):
            self._lost(entry, count)
        elif isinstance(entry, StartOver):
            self._tail = max(self._tail, entry.first_seqnum)

    def _lost(self, lost: Lost, count: int) -> None:
        """Only ordered records are said to be lost (P24)."""
        ordered = self._ordered.get(lost.number) if lost.term == self.term else None
        if ordered is not None and lost.until > ordered:
            self._add(
                f"entry {count} says that records {lost.start} to {lost.until - 1} of shard "
                f"{lost.number} are lost: ordered are {ordered}",
                "records that are there may be skipped",
            )

    def _cut(self, cut: Cut, count: int) -> None:
        until = cut.first_seqnum + record_count(cut.spans)
        affected = f"seqnums {cut.first_seqnum} to {until - 1}"
        if cut.first_seqnum < self._tail or (self._whole and cut.first_seqnum > self._tail):
            self._add(
                f"the cut at entry {count} begins at seqnum {cut.first_seqnum}, not {self._tail}",
                affected,
            )
        self._tail = max(self._tail, until)
        for number, start, stop in cut.spans:
            known = self._ordered.get(number, None if not self._whole else -1)
            if known is not None and known != start:
                ordered = "it is not open" if known < 0 else f"ordered are {known}"
                self._add(
                    f"the cut at entry {count} orders shard {number} from {start}: {ordered}",
                    affected,
                )
            self._ordered[number] = stop
            if self._with_frames:
                self._take(Shard(self._space, self.term, number), start, stop, count)

    def _take(self, shard: Shard, start: int, until: int, count: int) -> None:
        """The frames of a span were read before it, or the fold has it already (P19)."""
        frames = self._frames.get(shard, {})
        at = start
        while at < until and (following := frames.pop(at, None)) is not None:
            at = following
        if at < until and count >= self._needed_from:
            self._add(
                f"entry {count} orders records whose frames are not in the journal",
                local_ids_text(shard, at, until - at),
            )

    def _add(self, problem: str, affected: str, *, whole: bool = False) -> None:
        file = self._paths.path(self._at.segment)
        self.findings.add(file, None if whole else self._at.offset, problem, affected)


class PathOf:
    """Where the segments of a journal lie, for findings."""

    __slots__ = ("directory",)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def path(self, segment: int) -> str:
        """The file of a segment; the directory, before any segment was seen."""
        return f"{self.directory}/{segment:08d}.seg" if segment else self.directory


# --- views ----------------------------------------------------------------------------------------


def check_views(views: Sequence[tuple[str, View]], findings: Findings) -> None:
    """Whether views follow each other: terms, cluster, ends that never go back (P13, P15).

    Args:
        views: the views that could be read, each with its file, by term.
        findings: where to.
    """
    for (_, before), (file, view) in pairwise(views):
        if view.term != before.term + 1:
            terms = f"{before.term + 1} to {view.term - 1}"
            findings.add(file, None, f"the views of terms {terms} are missing", "those terms' ends")
        if view.cluster_id != before.cluster_id:
            problem = f"it is of cluster {view.cluster_id}, the one before of {before.cluster_id}"
            findings.add(file, None, problem, "every node that starts from it")
        for problem in _ends_back(before, view):
            findings.add(file, None, problem, "which records of the ended term count")


def _ends_back(before: View, view: View) -> Iterator[str]:
    known = {end.space: end for end in before.ends}
    for end in view.ends:
        last = known.get(end.space)
        if last is None:
            continue
        if end.tail < last.tail or end.timestamp_ms < last.timestamp_ms:
            yield f"the end of log space {end.space} goes back, to seqnum {end.tail}"
        elif end.position.count < last.position.count and end.position.count:
            yield f"the end of log space {end.space} goes back, to entry {end.position.count}"


def ends_of(views: Iterable[View], space: LogSpaceId) -> dict[Term, End]:
    """Where each term's predecessor ended in a log space."""
    return {
        view.term: end for view in views for end in view.ends if end.space == space and view.term
    }


# --- sizes, for people ----------------------------------------------------------------------------

_STEP: Final = 1024


def bytes_text(size_bytes: int) -> str:
    """
    >>> bytes_text(512), bytes_text(3 << 20)
    ('512 B', '3.0 MiB')
    """
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < _STEP:
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= _STEP
    return f"{size:.1f} GiB"
