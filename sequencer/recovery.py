"""Where a metalog stood when this sequencer stopped, read from its own journals.

With one sequencer its journal is the metalog: what it holds, and P7 has made durable, is the end
(P13). Classes whose metalog is not synced start again above their ceiling, so that no seqnum is
given twice, whatever was lost (P11). With several sequencers it is what this one brings to the next
view.

Invariant: what is taken for the metalog is one unbroken sequence of runs of this log space; a
journal that holds anything else has no say (P14). A run of a later term that begins where an
earlier term's run did cuts back to it: what lay past it was left out by that term's end (P13).

Does not know: views, which journal belongs to which log space. Differs from Boki, which keeps the
metalog in memory only.
"""

from __future__ import annotations

from dataclasses import replace

from bokilog.errors import CorruptJournal
from bokilog.ids import Position
from bokilog.journal import Journal, Location
from bokilog.metalog import Run, decode_run
from bokilog.sequencer.held import Held, Recovered
from bokilog.sequencer.runs import RunIndex
from bokilog.view import End


def recover_metalog(
    journal: Journal, last: End, *, ceiling: int, released: bool = False
) -> Recovered:
    """Reads a metalog from its journal.

    Args:
        journal: freshly opened; its items are runs.
        last: where the metalog stood before the first item of the journal.
        ceiling: no seqnum at or past it was given out; the next term starts there if it is past
            the tail.
        released: whether its first segments may have been let go (P16).

    Raises:
        CorruptJournal: the runs do not follow each other, or are of another log space.
    """
    held = Held(Recovered(last, RunIndex(), (), begins_at=last.position.count))
    dropped_until = 0
    for _, location, data in journal.recover():
        run = decode_run(data)
        if released and not len(held.runs) and run.space == last.space and run.first > held.count:
            held.begin_at(run)
        if run.space == last.space and run.term <= held.position.term:
            if run.until <= held.count:
                continue  # written again by a recovery (P7)
            if run.term < held.position.term and run.until <= dropped_until:
                continue  # the same, of entries that a term's end left out
        if run.space == last.space and run.term > held.position.term and run.first < held.count:
            dropped_until = max(dropped_until, held.count)
            held.cut(run.first)
        if (run.space, run.first) != (last.space, held.count) or run.term < held.position.term:
            raise _does_not_follow(run, location, last=last, position=held.position)
        held.take(run, location)
    found = held.recovered()
    return found._replace(end=replace(found.end, tail=max(found.end.tail, ceiling)))


def _does_not_follow(
    run: Run, location: Location, *, last: End, position: Position
) -> CorruptJournal:
    problem = (
        f"entries {run.first}..{run.until} of log space {run.space} and term {run.term} do not"
        f" follow {position} of log space {last.space}"
    )
    return CorruptJournal(f"segment {location.segment}", location.offset, problem)
