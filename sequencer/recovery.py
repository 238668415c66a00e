"""Where the term before this start ended, read from this sequencer's own journals.

With one sequencer its journal is the metalog: what it holds, and P7 has made durable, is the end
(P13). Classes whose metalog is not synced start again above their ceiling, so that no seqnum is
given twice, whatever was lost (P11).

Invariant: what is taken for the metalog is one unbroken sequence of runs of this log space; a
journal that holds anything else has no say (P14).

Does not know: views, which journal belongs to which log space. Differs from Boki, which keeps the
metalog in memory only.
"""

from __future__ import annotations

from bokilog.cut import record_count
from bokilog.errors import CorruptJournal
from bokilog.ids import Position
from bokilog.journal import Journal, Location
from bokilog.metalog import Cut, Run, StartOver, decode_run
from bokilog.sequencer.primary import Recovered, RunIndex, deletions_of
from bokilog.view import End


def recover_metalog(journal: Journal, last: End, *, ceiling: int) -> Recovered:
    """Reads a metalog from its journal.

    Args:
        journal: freshly opened; its items are runs.
        last: where the metalog stood before the first item of the journal.
        ceiling: no seqnum at or past it was given out; the next term starts there if it is past
            the tail.

    Raises:
        CorruptJournal: the runs do not follow each other, or are of another log space.
    """
    runs = RunIndex()
    deletions: list[Run] = []
    position, tail, timestamp_ms = last.position, last.tail, last.timestamp_ms
    starts_at = 0
    for _, location, data in journal.recover():
        run = decode_run(data)
        if run.space == last.space and run.until <= position.count and run.term <= position.term:
            continue  # written again by a recovery (P7)
        _check_continues(run, location, last=last, position=position)
        runs.add(run.first, location)
        position = Position(run.term, run.until)
        for place, entry in enumerate(run.entries):
            if isinstance(entry, StartOver):
                starts_at = run.first + place
            timestamp_ms = max(timestamp_ms, entry.timestamp_ms)
            if isinstance(entry, Cut):
                tail = entry.first_seqnum + record_count(entry.spans)
        deletions += deletions_of(run)
    end = End(
        space=last.space,
        position=position,
        tail=max(tail, ceiling),
        timestamp_ms=timestamp_ms,
    )
    return Recovered(end, runs, tuple(deletions), starts_at)


def _check_continues(run: Run, location: Location, *, last: End, position: Position) -> None:
    if run.space == last.space and run.first == position.count and run.term >= position.term:
        return
    problem = (
        f"entries {run.first}..{run.until} of log space {run.space} and term {run.term} do not"
        f" follow {position} of log space {last.space}"
    )
    raise CorruptJournal(f"segment {location.segment}", location.offset, problem)
