"""The metalog of one term as its primary holds it: ordered, in flight, published, let go.

Decides which runs wait for the class's standard, where a published run is read back from (the
newest from memory, the rest from the journal), and what a follower has to know of entries that it
is not sent: where the metalog begins, where folds start, what was deleted or lost.

Invariants: entries have no gap, from the end of the term before (P13); what is published was in
flight before, in order; the newest cached run ends where the published entries end.

Does not know: followers, backups, commits, what is still to be ordered. `held.py` is the same for
any other role.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from bokilog.histogram import Histogram, Moment
from bokilog.ids import Position, Term
from bokilog.journal import Journal
from bokilog.metalog import ITEM_METALOG, Cut, Run, decode_run, encode_run
from bokilog.named import NamedTuple
from bokilog.sequencer.held import Recovered, Standing, deletions_of
from bokilog.view import End

RUNS_CACHED: Final = 4096
"""Published runs kept in memory for followers; older ones are read back from the journal."""


class InFlight(NamedTuple):
    """A run in the journal that is not yet held to the class's standard."""

    token: int
    run: Run
    tail: int
    """First seqnum not ordered after it."""
    made_s: float


class Ordered:
    """Every entry of one log space's metalog, in one term.

    Args:
        recovered: where the term before ended, and what led there.
        term: of the primary.
        journal: where entries go; their runs are read back from it.
        moment: what time it is.
    """

    __slots__ = (
        "_base",
        "_empty_until",
        "_journal",
        "_moment",
        "_recent",
        "_starts_before",
        "begins_at",
        "count",
        "deletions",
        "deletions_since",
        "in_flight",
        "latency",
        "published_count",
        "published_tail",
        "runs",
        "space",
        "starts_at",
        "term",
    )

    def __init__(
        self, recovered: Recovered, *, term: Term, journal: Journal, moment: Moment
    ) -> None:
        end = recovered.end
        self.space = end.space
        self.term = term
        self.count = end.position.count
        """Entries ordered, in flight ones among them."""
        self.published_count = end.position.count
        self.published_tail = end.tail
        """First seqnum that no published entry orders."""
        self.in_flight: deque[InFlight] = deque()
        """The oldest first; only this object adds and takes."""
        self.latency = Histogram()
        """From a run of cuts and other entries to its publication."""
        self.runs = recovered.runs
        self.begins_at = recovered.begins_at
        """Count before the first entry that is kept (P16)."""
        self.deletions = list(recovered.deletions)
        self.deletions_since = recovered.begins_at
        """Of those before that entry it may know none: they were let go (P16)."""
        self.starts_at = recovered.starts_at
        """Count before the entry that folds start at (P20)."""
        self._starts_before = list(recovered.starts_before)
        self._base = end.position
        self._empty_until = 0 if end.position.count else end.tail
        """Nothing below this seqnum is held by anybody: the first start, or after `StartOver`."""
        self._journal = journal
        self._moment = moment
        self._recent: deque[Run] = deque()

    # --- from order to publication ----------------------------------------------------------------

    def append(self, run: Run, *, token: int, tail: int) -> None:
        """The next run goes to the journal; it is in flight until it is published.

        Args:
            run: follows the last one.
            token: of the commit that will cover it.
            tail: first seqnum not ordered after it.

        Raises:
            ReadOnly: the journal has failed; nothing is ordered.
        """
        location = self._journal.append(ITEM_METALOG, [encode_run(run)])
        self.count = run.first + len(run.entries)
        self.runs.add(run.first, location)
        self.in_flight.append(InFlight(token, run, tail, self._moment.now_s))

    def publish_next(self) -> None:
        """The oldest run in flight is held to the class's standard."""
        _, run, self.published_tail, made_s = self.in_flight.popleft()
        self.latency.observe(self._moment.now_s - made_s)
        self.published_count = run.until
        self._recent.append(run)
        if len(self._recent) > RUNS_CACHED:
            self._recent.popleft()
        if not (len(run.entries) == 1 and type(run.entries[0]) is Cut):
            self.deletions += deletions_of(run)

    def abandon(self) -> None:
        """What is in flight is never published in this term."""
        self.in_flight.clear()

    def start_over(self, tail: int) -> None:
        """Folds start at the next entry, empty: nothing below `tail` is held by anybody (P20)."""
        self._starts_before.append(self.starts_at)
        self.starts_at, self._empty_until = self.count, tail

    def let_go(self, begins_at: int) -> None:
        """Entries before that are not kept any more (P16)."""
        self.begins_at = max(self.begins_at, begins_at)
        self.runs.drop(self.begins_at)

    # --- what there is ----------------------------------------------------------------------------

    @property
    def published(self) -> Position:
        """Everything up to here is durable and may be known to anybody."""
        return Position(self.term, self.published_count)

    @property
    def holds_records(self) -> bool:
        """Whether replicas should hold some by now."""
        return self.published_tail > self._empty_until

    def known(self, term: Term) -> int:
        """Entries that whoever stands in that term may have been sent: past a term's end everything
        is of the next one (P13)."""
        return self.published_count if term == self.term else self._base.count

    def runs_from(self, count: int) -> Iterable[Run]:
        """Published runs past `count`, which there are: from memory if they reach back far enough,
        else from the journal."""
        if self._recent and self._recent[-1].first == count:
            return (self._recent[-1],)  # who is fed as it is published needs no more
        if self._recent and self._recent[0].first <= count:
            return reversed(list(self._newest_first(count)))
        locations = self.runs.locations(count, self.published_count)
        return (decode_run(self._journal.read(location)) for location in locations)

    def appended_from(self, count: int) -> Iterator[Run]:
        """Every run past `count`, published or not."""
        if count < self.published_count:
            yield from self.runs_from(count)
        for each in self.in_flight:
            if each.run.until > count:
                yield each.run

    def _newest_first(self, count: int) -> Iterator[Run]:
        """Cached runs from the newest back to the one that holds entry `count`."""
        for run in reversed(self._recent):
            if run.until <= count:
                return
            yield run

    # --- for the next role ------------------------------------------------------------------------

    def end(self, count: int, tail: int, timestamp_ms: int) -> End:
        """Where this term's metalog stands after so many entries."""
        position = Position(self.term, count) if count > self._base.count else self._base
        return End(space=self.space, position=position, tail=tail, timestamp_ms=timestamp_ms)

    def standing(self, timestamp_ms: int) -> Standing:
        """How much is durable here, where that is all it takes to be published."""
        pending = [
            (each.token, self.end(each.run.until, each.tail, timestamp_ms))
            for each in self.in_flight
        ]
        return Standing(self.end(self.published_count, self.published_tail, timestamp_ms), pending)

    def recovered(self, tail: int, timestamp_ms: int) -> Recovered:
        """All of it, published or not, as any role begins with it."""
        unpublished = [run for each in self.in_flight for run in deletions_of(each.run)]
        return Recovered(
            end=self.end(self.count, tail, timestamp_ms),
            runs=self.runs,
            deletions=(*self.deletions, *unpublished),
            starts_at=self.starts_at,
            starts_before=tuple(self._starts_before),
            begins_at=self.begins_at,
        )

    def check(self, *, abandoned: bool) -> None:
        """Asserts the invariants; `abandoned`: what was in flight never gets published."""
        in_flight = sum(len(each.run.entries) for each in self.in_flight)
        assert self.published_count <= self.count
        assert abandoned or self.published_count + in_flight == self.count
        assert not self._recent or self._recent[-1].until == self.published_count
