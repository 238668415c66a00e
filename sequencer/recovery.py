"""Where the term before this start ended, read from this sequencer's own journals.

With one sequencer its journal is the metalog: what it holds, and P7 has made durable, is the end (P13). Classes whose
metalog is not synced start again above their ceiling, so that no seqnum is given twice, whatever was lost (P11).
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.cut import record_count
from bokilog.ids import Position
from bokilog.journal import Journal
from bokilog.metalog import Cut, DeleteBook, Run, decode_run
from bokilog.sequencer.primary import Recovered, RunIndex
from bokilog.view import End


def recover_metalog(journal: Journal, last: End, *, ceiling: int) -> Recovered:
    """Reads a metalog from its journal.

    Args:
        journal: freshly opened; its items are runs.
        last: where the metalog stood before the first item of the journal.
        ceiling: no seqnum at or past it was given out; the next term starts there if it is past the tail.
    """
    runs = RunIndex()
    deletions: list[Run] = []
    position, tail, timestamp_ms = last.position, last.tail, last.timestamp_ms
    for _, location, data in journal.recover():
        run = decode_run(data)
        if run.until <= position.count:
            continue  # written again by a recovery (P7)
        runs.add(run.first, location)
        position = Position(run.term, run.until)
        for entry in run.entries:
            timestamp_ms = max(timestamp_ms, entry.timestamp_ms)
            if isinstance(entry, Cut):
                tail = entry.first_seqnum + record_count(entry.spans)
        deletions += _deletions(run)
    end = End(
        space=last.space,
        position=position,
        tail=max(tail, ceiling),
        timestamp_ms=timestamp_ms,
    )
    return Recovered(end, runs, tuple(deletions))


def _deletions(run: Run) -> Iterator[Run]:
    for place, entry in enumerate(run.entries):
        if isinstance(entry, DeleteBook):
            yield Run(run.space, run.term, run.first + place, (entry,))
