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

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from bokilog.errors import CorruptJournal
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.journal import Journal, Location
from bokilog.metalog import MetalogFollower, Run, decode_run
from bokilog.sequencer.held import Held, Recovered
from bokilog.sequencer.runs import RunIndex
from bokilog.view import End, View

Ended = Callable[[Term], End | None]
"""Where the term before a term ended."""


class Views(Protocol):
    """What is asked of a view store."""

    def load(self, term: Term) -> View | None:
        """The view of a term, if it is stored."""


def recover_metalog(
    journal: Journal,
    last: End,
    *,
    ceiling: int,
    released: bool = False,
    ended: Ended | None = None,
    until: int = 0,
    begun: int = 0,
) -> Recovered:
    """Reads a metalog from its journal.

    Args:
        journal: freshly opened; its items are runs.
        last: where the metalog stood before the first item of the journal.
        ceiling: no seqnum at or past it was given out; the next term starts there if it is past
            the tail.
        released: whether entries may have been let go (P16): its first segments, or, while this
            sequencer was away, those before a cut's run that it went on with. Segments that are
            missing for another reason are found by the journal itself (P30).
        ended: where the term before a term ended, if that is known: what lies past it is not what
            the next entry follows.
        until: the last term that is stored, for who begins the next one without installing the
            views of those before: a lone sequencer, whose journal may hold what the others of a
            larger set left out (P13).
        begun: the term that begins at `last`: runs of earlier terms do not count any more, since
            folds say what they did, or it is given up (P15).

    Raises:
        CorruptJournal: the runs do not follow each other, or are of another log space.
    """
    held = Held(Recovered(last, RunIndex(), (), begins_at=last.position.count))
    dropped_until = 0
    for _, location, data in journal.recover():
        run = decode_run(data)
        if run.space == last.space and run.term < begun:
            continue
        if ended is not None and run.space == last.space and run.term > held.position.term:
            dropped_until = max(dropped_until, held.count)
            _end_terms(held, run.term, ended)
        if released and _goes_on(held, run):
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
    for term in range(held.position.term + 1, until + 1):
        end = ended(Term(term)) if ended is not None else None
        if end is not None and end.position.count < held.count:
            held.end_at(end)
    found = held.recovered()
    return found._replace(end=replace(found.end, tail=max(found.end.tail, ceiling)))


def following(known: Recovered, runs: Iterable[Run], *, last: Term, ended: Ended) -> list[Run]:
    """Those of some runs, in order, that follow a metalog without a gap; none past the end of its
    term, or of a later term than `last` (P11, P13)."""
    follower = MetalogFollower(known.end.space, known.end.position)
    for term in range(known.end.position.term, last):
        end = ended(Term(term + 1))
        if end is None or end.position.count < known.end.position.count:
            return []  # what is held here is itself past an end: its view drops it first
        follower.end_term(Term(term), end.position.count)
    found: list[Run] = []
    for run in runs:
        before = follower.position.count
        if run.until <= before:
            continue  # another storage node brought it
        whole = run.space == follower.space and run.first == before and run.term <= last
        if not whole or len(follower.offer(run)) < len(run.entries):
            break
        found.append(run)
    return found


def ended_in(views: Views, space: LogSpaceId) -> Ended:
    """Where each term's predecessor ended, as stored views say."""

    def ended(term: Term) -> End | None:
        view = views.load(term)
        return None if view is None else view.end(space)

    return ended


def _end_terms(held: Held, until: Term, ended: Ended) -> None:
    """Drops what lies past the ends of the terms before `until` (P13)."""
    for term in range(held.position.term + 1, until + 1):
        end = ended(Term(term))
        if end is None or held.count <= end.position.count:
            continue
        if end.position.count < held.begins_at:
            held.forget()
        else:
            held.cut(end.position.count)


def _goes_on(held: Held, run: Run) -> bool:
    """Whether the run follows entries that were let go: it is the first one, or a cut's, so that
    the tail is known (P16)."""
    gap = run.space == held.space and run.first > held.count and run.term >= held.position.term
    return gap and (not len(held.runs) or run.tail is not None)


def _does_not_follow(
    run: Run, location: Location, *, last: End, position: Position
) -> CorruptJournal:
    problem = (
        f"entries {run.first}..{run.until} of log space {run.space} and term {run.term} do not"
        f" follow {position} of log space {last.space}"
    )
    return CorruptJournal(f"segment {location.segment}", location.offset, problem)
