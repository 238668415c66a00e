"""Runs of a metalog that sequencers may lose: a storage node keeps the last of them (P11).

A log space of class `flush` or `memory` may lose the end of its metalog with the machine of its
sequencer. What it published went to storage nodes; whoever is to be primary next asks them.

Decides which runs are kept: the last ones, in memory, as many as an operating system may not have
written yet.

Invariants: runs are in order and without a gap; what the end of a term cut off is given to nobody.

Does not know what is in a run, nor who lost what.
"""

from __future__ import annotations

from collections import deque

from bokilog.effects import Address, Send
from bokilog.ids import LogSpaceId, Term
from bokilog.messages import FetchRuns, Runs
from bokilog.metalog import Run

RUNS_KEPT = 8_192
"""So much of a metalog is what an operating system may not have written yet."""
RUNS_GIVEN = 256
"""Of them, in one answer."""


class KeptRuns:
    """The last runs of one log space that were published.

    Args:
        space: the log space.
        keeps: whether its metalog may be lost at all.
    """

    __slots__ = ("_runs", "_space", "keeps")

    def __init__(self, space: LogSpaceId, *, keeps: bool) -> None:
        self._space = space
        self.keeps = keeps
        self._runs: deque[Run] = deque(maxlen=RUNS_KEPT if keeps else 0)

    def keep(self, run: Run) -> None:
        """One that came before, or ahead of its turn, adds nothing."""
        runs = self._runs
        if runs and run.first != runs[-1].until:
            if run.first < runs[-1].until:
                return
            runs.clear()
        runs.append(run)

    def begin_term(self, term: Term, count: int) -> None:
        """The terms before ended at `count` entries: runs past that never happened (P13)."""
        runs = self._runs
        while runs and runs[-1].term < term and runs[-1].until > count:
            runs.pop()

    def give(self, source: Address, message: FetchRuns) -> list[Send]:
        """Those from `message.first` on, as many as one answer holds."""
        wanted = message.first
        found: list[Run] = []
        for run in self._runs:
            if run.first == wanted and len(found) < RUNS_GIVEN:
                found.append(run)
                wanted = run.until
        return [Send(source, Runs(self._space, message.term, tuple(found)))]
