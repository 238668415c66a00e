"""Which segments of a metalog nobody will follow from any more (P16).

Everything below the stored position of a write quorum of replicas may go: each of those gives its
fold to a replica that is further behind, or new, so one that is gone for good keeps nothing here.
Decides which whole segments that are, and where the metalog begins then. Of several sequencers the
primary tells the backups, and each lets go of its own segments; one that was away for longer goes
on from where the primary's metalog begins.

Invariants: what is kept begins with a cut, so that whoever begins there knows the tail (P13); it is
durable here before anything goes, so that a sequencer never brings less to a seal than it told
(P14).

Does not know who follows, or who is primary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bokilog.journal import Journal
from bokilog.metalog import decode_run
from bokilog.named import NamedTuple
from bokilog.sequencer.runs import RunIndex

CUT_WITHIN: Final = 256
"""Entries looked at for a cut; without one in them nothing goes yet."""


class Releasable(NamedTuple):
    """Segments to let go of."""

    segments: tuple[int, ...]
    begins_at: int
    """Count before the first entry that is surely kept: a cut's run."""


def stored_by_quorum(stored: Iterable[int], write_quorum: int) -> int:
    """How many entries a write quorum has stored its fold past."""
    counts = sorted(stored, reverse=True)
    return counts[write_quorum - 1] if len(counts) >= write_quorum else 0


def releasable(journal: Journal, runs: RunIndex, *, count: int, until: int) -> Releasable | None:
    """Segments that hold nothing from entry `count` on; None: there are none.

    Args:
        journal: of the metalog.
        runs: where its runs lie.
        count: entries below it are not needed.
        until: entries that are published, and durable here.
    """
    segments = journal.segments()
    if len(segments) < 2 or not count:
        return None
    count = min(count, until - 1)  # the last run stays
    newest = next(runs.locations(count, until), None)
    if newest is None or journal.resolve(newest).segment <= segments[0].number:
        return None
    begins: tuple[int, int] | None = None
    for location in runs.locations(max(0, count - CUT_WITHIN), count + 1):
        segment = journal.resolve(location).segment
        if segment < segments[0].number:
            continue  # let go already
        run = decode_run(journal.read(location))
        if run.tail is not None and run.first <= count and run.until <= until:
            begins = run.first, segment
    if begins is None:
        return None
    first, oldest = begins
    found = tuple(each.number for each in segments if each.number < oldest and not each.open)
    return Releasable(found, first) if found else None
