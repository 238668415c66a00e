"""The metalog of one log space as a sequencer holds it, whatever its role is.

Decides what a sequencer remembers of its metalog beside the journal: where each run lies, which
LogBooks were deleted, where folds start over, what the next entry follows, and how much of it is
durable. So a backup becomes a primary, and a primary a backup, without reading a journal again.

Invariants: the entries form one sequence without a gap; what a term's end leaves out is forgotten
as if it had never been there (P13), though its bytes stay in the journal. What is durable never
goes back, but by such an end.

Does not know: roles, terms of views, who else holds what. Differs from Boki, whose replicas keep
the metalog in memory only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from bokilog.ids import START, Position
from bokilog.journal import Journal, Location
from bokilog.metalog import DeleteBook, Lost, Run, StartOver, decode_run
from bokilog.named import NamedTuple
from bokilog.sequencer.runs import RunIndex
from bokilog.view import End

RUNS_READ_MAX: Final = 256
"""Runs read back for a peer at once: a few milliseconds, and a message of tens of KiB."""


class Recovered(NamedTuple):
    """What is known of a log space's metalog, up to its end."""

    end: End
    runs: RunIndex
    deletions: tuple[Run, ...]
    starts_at: int = 0
    """Count before the last `StartOver`: a fold that begins from nothing begins there (P20)."""
    starts_before: tuple[int, ...] = ()
    """The same of the ones before it, which count again if a term ends before the last."""
    begins_at: int = 0
    """Count before the first entry that is kept: a cluster made of a backup has no earlier ones."""


class Held:
    """Every entry that was appended to the journal and counts, durable or not."""

    __slots__ = (
        "_begins_at",
        "_begun",
        "_deletions",
        "_starts",
        "position",
        "runs",
        "space",
        "tail",
        "timestamp_ms",
    )

    def __init__(self, recovered: Recovered) -> None:
        self.space = recovered.end.space
        self.position = recovered.end.position
        self.tail = recovered.end.tail
        self.timestamp_ms = recovered.end.timestamp_ms
        self.runs = recovered.runs
        self._deletions = list(recovered.deletions)
        self._starts = [*recovered.starts_before, recovered.starts_at]
        self._begins_at = recovered.begins_at
        self._begun = True
        """The tail is known at `begins_at`; else from the first cut on, and it begins there."""

    @property
    def count(self) -> int:
        """How many entries."""
        return self.position.count

    @property
    def end(self) -> End:
        """Where it stands."""
        return End(
            space=self.space,
            position=self.position,
            tail=self.tail,
            timestamp_ms=self.timestamp_ms,
        )

    @property
    def begins_at(self) -> int:
        """Count before the first entry that is kept (P16)."""
        return self._begins_at

    def begin_at(self, run: Run) -> None:
        """What came before that run was let go: whoever needs it loads a replica's fold (P16).

        A sequencer that held less goes on from there. Whatever it held is of no use to anybody: a
        write quorum of replicas has stored a fold past it.
        """
        assert run.first > self.count or not len(self.runs), "entries in between are held"
        self.runs = RunIndex()
        self.position = Position(run.term, run.first)
        self._begins_at, self._begun = run.first, run.tail is not None

    def let_go(self, begins_at: int) -> None:
        """Entries before that are not kept any more."""
        self._begins_at = max(self._begins_at, begins_at)
        self.runs.drop(self._begins_at)

    def forget(self) -> None:
        """Everything: the term ended before what is held begins, so that a class that may lose
        entries lost them (P11). Tail and time stay as upper bounds."""
        self.runs = RunIndex()
        self.position, self._begins_at, self._begun = START, 0, True
        self._deletions, self._starts = [], [0]

    def take(self, run: Run, location: Location) -> None:
        """The next run, appended to the journal there."""
        assert run.first == self.count, f"entries {run.first}.. do not follow {self.position}"
        self.runs.add(run.first, location)
        self.position = Position(run.term, run.until)
        tail = run.tail
        if tail is not None:
            self.tail = tail
            if not self._begun:
                self._begins_at, self._begun = run.first, True
        self.timestamp_ms = max(self.timestamp_ms, run.entries[-1].timestamp_ms)
        for place, entry in enumerate(run.entries):
            if isinstance(entry, StartOver):
                self._starts.append(run.first + place)
            elif isinstance(entry, DeleteBook | Lost):
                self._deletions.append(Run(run.space, run.term, run.first + place, (entry,)))

    def cut(self, count: int) -> bool:
        """Forgets what lies past `count`; tail and time stay as upper bounds, for who knows the end
        to set.

        Returns:
            Whether a run ends there; if not nothing is forgotten.
        """
        if count < self.count and not self.runs.cut(count):
            return False
        self.position = self.position._replace(count=min(count, self.count))
        self._deletions = [run for run in self._deletions if run.first < count]
        self._starts = [start for start in self._starts if start < count] or [0]
        return True

    def end_at(self, end: End) -> None:
        """A stored view says where the term ended: what lies past it never counts (P13).

        Who holds less has still to be told the rest.
        """
        if self.count < end.position.count:
            return
        if end.position.count < self._begins_at:
            self.forget()
            return
        whole = self.cut(end.position.count)
        assert whole, f"no run of log space {self.space} ends at {end.position}"
        self.position, self.tail, self.timestamp_ms = end.position, end.tail, end.timestamp_ms

    def recovered(self) -> Recovered:
        """The same, as a primary begins with it."""
        *before, last = self._starts
        deletions, begins_at = tuple(self._deletions), self._begins_at
        return Recovered(self.end, self.runs, deletions, last, tuple(before), begins_at)


class Standing:
    """How far a sequencer's own journal holds a metalog to the class's standard."""

    __slots__ = ("_pending", "end")

    def __init__(self, end: End, pending: Iterable[tuple[int, End]] = ()) -> None:
        self.end = end
        """Everything before it is."""
        self._pending = deque(pending)

    def committed(self, token: int, end: End) -> None:
        """A commit asks that everything up to `end` becomes durable."""
        self._pending.append((token, end))

    def persisted(self, token: int) -> bool:
        """Everything up to that commit is durable; whether that is more than before."""
        moved = False
        while self._pending and self._pending[0][0] <= token:
            self.end = self._pending.popleft()[1]
            moved = True
        return moved

    @property
    def pending_count(self) -> int:
        """How many commits are not durable yet."""
        return len(self._pending)

    @property
    def count(self) -> int:
        """How many entries are durable."""
        return self.end.position.count

    def end_at(self, end: End) -> None:
        """As `Held.end_at`."""
        self.end = _earlier(self.end, end)
        self._pending = deque((token, _earlier(known, end)) for token, known in self._pending)


class Holding(NamedTuple):
    """What passes from one role to the next, with the journal."""

    metalog: Held
    standing: Standing

    def end_at(self, end: End) -> None:
        """A stored view says where the term ended (P13)."""
        self.metalog.end_at(end)
        self.standing.end_at(_earlier(self.metalog.end, end))


def begun(recovered: Recovered) -> Holding:
    """What a start finds in its journal: all of it is durable (P7)."""
    return Holding(Held(recovered), Standing(recovered.end))


def read_runs(journal: Journal, runs: RunIndex, first: int, until: int) -> list[Run]:
    """Whole runs from the one that begins at `first`, at most `RUNS_READ_MAX`, none past `until`;
    all of them must be durable."""
    found: list[Run] = []
    for location in runs.locations(first, until):
        if len(found) >= RUNS_READ_MAX:
            break
        run = decode_run(journal.read(location))
        if run.first >= first and run.until <= until:
            found.append(run)
    return found


def deletions_of(run: Run) -> list[Run]:
    """The run's deletions of LogBooks, each as a run of its own: every engine gets them (P18). And
    what it says is lost: a replica has to know before it folds what comes before (P24)."""
    return [
        Run(run.space, run.term, run.first + place, (entry,))
        for place, entry in enumerate(run.entries)
        if isinstance(entry, DeleteBook | Lost)
    ]


def _earlier(known: End, end: End) -> End:
    return known if known.position.count < end.position.count else end
