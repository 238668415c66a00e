"""Which segments of a metalog nobody will follow from any more (P16).

Everything below the stored position of a write quorum of replicas may go: each of those gives its
fold to a replica that is further behind, or new, so one that is gone for good keeps nothing here.
Decides which whole segments that are, and where the metalog begins then.

Invariant: what is kept holds a cut, so that a restart knows the tail (P13).

Does not know who follows. One sequencer does this; of several each keeps all, since one that lost
its disk could not begin in the middle.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final, NamedTuple

from bokilog.journal import Journal
from bokilog.metalog import Run, decode_run
from bokilog.sequencer.runs import RunIndex

CUT_WITHIN_RUNS: Final = 256
"""Runs looked at for a cut; without one in them nothing goes yet."""


class Releasable(NamedTuple):
    """Segments to let go of."""

    segments: tuple[int, ...]
    begins_at: int
    """Count before the first entry that is surely kept."""


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
        until: entries that are durable.
    """
    segments = journal.segments()
    if len(segments) < 2 or not count:
        return None
    locations = runs.locations(min(count, until - 1), until)  # the last run stays
    kept: list[Run] = []
    oldest = 0
    for location in islice(locations, CUT_WITHIN_RUNS):
        run = decode_run(journal.read(location))
        oldest = oldest or journal.resolve(location).segment
        kept.append(run)
        if run.tail is not None:
            break
    if not kept or kept[-1].tail is None:
        return None
    found = tuple(each.number for each in segments if each.number < oldest and not each.open)
    return Releasable(found, kept[0].first) if found else None
