"""A sequencer that is not primary of a log space: it holds the metalog for the one that is.

Journals what the primary sends, in order, and tells how much of it is durable, so that the primary
may publish it (P11). Asks for what it lacks; what lies before the primary's metalog begins it lets
go, and if it holds less than that it goes on from a cut there (P16). Once its term is sealed it
takes nothing more from the primary and tells it nothing (P14), but fetches what another sequencer
holds of that term when a controller wants it to (P13).

Invariants: what it holds is one sequence without a gap; only entries of its term's primary, or from
before the term, are taken; nothing is told before it is durable here, and nothing at all by a disk
that the view does not name, since it may have forgotten a promise (P14).

Does not know: followers, progress, what entries say. Differs from Boki, whose secondaries keep the
metalog in memory and never catch up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bokilog.effects import Address, Commit, Effect, EndTerm, RaiseCeiling, Send
from bokilog.errors import ReadOnly
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Journal
from bokilog.messages import (
    CeilingHeld,
    ConfirmTerm,
    HoldCeiling,
    ReplicateFrom,
    ReplicateRun,
    RunsGone,
    RunsHeld,
    RunsSynced,
    SyncRuns,
    TermConfirmed,
)
from bokilog.metalog import ITEM_METALOG, Run, encode_run
from bokilog.named import NamedTuple
from bokilog.sequencer.held import Holding
from bokilog.sequencer.retention import releasable
from bokilog.sequencer.runs import RunIndex
from bokilog.sequencer.synced import OwnSync
from bokilog.view import LogSpace

ENTRIES_UNWRITTEN_MAX: Final = 8192
"""Entries that its disk has not taken; past that a backup asks for no more of them."""

FromPrimary = ReplicateRun | RunsGone | HoldCeiling | SyncRuns | ConfirmTerm


class BackupStats(NamedTuple):
    """A backup at a glance."""

    position: Position
    """Held so far, durable or not."""
    durable: Position
    tail: int
    begins_at: int
    """Entries before it were let go."""


class Backup:
    """Pure; one term of one log space.

    Args:
        space: its configuration in this term.
        term: of the view.
        holding: what it holds when the term begins.
        journal: where entries go.
        primary: who orders in this term, None: nobody that this sequencer follows.
        ceiling: that is synced here: seqnums below it may be in use (P11).
        votes: whether what it tells counts: the view names its disk.
        releases: whether it lets go of what the primary does not keep either (P16).
    """

    def __init__(
        self,
        *,
        space: LogSpace,
        term: Term,
        holding: Holding,
        journal: Journal,
        primary: NodeId | None,
        ceiling: int,
        votes: bool,
        releases: bool = False,
    ) -> None:
        self.space = space
        self.term = term
        self.primary = primary
        self.votes = votes
        self._ceiling = ceiling
        self._metalog, self.standing = holding
        self._synced = OwnSync(space.id, term)
        self._journal = journal
        self._sealed = False
        self._dirty = False
        """Something was appended since the last commit."""
        self._last_token = 0
        self._asked_at: int | None = None
        """It asked for everything past this count, and nothing has come since."""
        self._heard = False
        """The primary has sent something since the last tick."""
        self._failed = False
        self._releases = releases
        self._gone_until = 0
        """Whoever feeds it keeps no entries before that."""
        self._went_on = False
        """It went on from there, and has not let go of what it held before."""

    # --- from the primary -------------------------------------------------------------------------

    def primary_received(self, source: Address, message: FromPrimary) -> list[Effect]:
        """What the primary of this term asks; of anybody else it means nothing."""
        if source != self.primary or self._sealed or self._failed:
            return []
        self._heard = True
        match message:
            case ReplicateRun(run=run):
                return self._replicate(run)
            case RunsGone(count=count):
                self.runs_gone(count)
                return []
            case HoldCeiling(space=space, seqnum=seqnum):
                known = seqnum <= self._ceiling
                return self.ceiling_raised(seqnum) if known else [RaiseCeiling(space, seqnum)]
            case SyncRuns(count=count):
                return self._tell_synced() if count <= self.synced_count else self.sync(count)
            case ConfirmTerm(space=space, term=term, round=round_):
                return self._tell(TermConfirmed(space, term, round_))

    def _replicate(self, run: Run) -> list[Effect]:
        if run.until <= self.count:
            return []
        if self._goes_on_with(run):
            self._metalog.begin_at(run)
            self._went_on = True
        if run.first > self.count:
            if self._gone_until > self.count:
                return []  # a cut is to come
            return self._ask() if self._asked_at != self.count else []
        if run.first < self.count or not self._metalog.position.term <= run.term <= self.term:
            return []  # no primary sends that
        return self._append(run)

    def _goes_on_with(self, run: Run) -> bool:
        """Whether entries before the run were let go, and it says what the tail is (P16)."""
        gone = self.count < self._gone_until <= run.first
        return gone and run.tail is not None and self._metalog.position.term <= run.term

    def runs_gone(self, count: int) -> None:
        """Whoever feeds this sequencer keeps no entries before `count`."""
        self._gone_until = max(self._gone_until, count)
        self._release()

    def _release(self) -> None:
        """Lets go of segments whose entries nobody is fed (P16)."""
        if not self._releases or self._failed or self.standing.count < self._metalog.begins_at:
            return
        gone, until = min(self._gone_until, self.standing.count), self.standing.count
        found = releasable(self._journal, self.runs, count=gone, until=until)
        if found is not None:
            self._metalog.let_go(found.begins_at)
            for segment in found.segments:
                self._journal.release(segment)

    def _append(self, run: Run) -> list[Effect]:
        try:
            location = self._journal.append(ITEM_METALOG, [encode_run(run)])
        except ReadOnly as error:
            return self.persist_failed(error.reason)
        self._metalog.take(run, location)
        self._asked_at, self._dirty = None, True
        return []

    def _ask(self) -> list[Effect]:
        """Everything past what it holds; and what is durable, since earlier word may be lost."""
        self._asked_at, self._heard = self.count, False
        if self.primary is None or self._sealed or self._failed:
            return []
        ask = Send(self.primary, ReplicateFrom(self.space.id, self.term, self.count))
        return [ask, *self._tell_held()]

    def follow(self) -> list[Effect]:
        """A link to the primary is new, or this term is."""
        return self._tell_held() if self._is_behind else self._ask()

    def tick(self) -> list[Effect]:
        """Every so often: asks again if the primary was silent, as it may never have heard."""
        heard, self._heard = self._heard, False
        return [] if heard or self._is_behind else self._ask()

    @property
    def _is_behind(self) -> bool:
        """Whether its disk is, so far that it asks for no more: it would be sent that."""
        written = max(self.standing.count, self._metalog.begins_at)
        return self.count - written >= ENTRIES_UNWRITTEN_MAX

    # --- durability -------------------------------------------------------------------------------

    def end_batch(self, timestamp_ms: int, token: int) -> list[Effect]:
        """What came in this batch becomes one commit, named by `token`; no entry is made here."""
        if not self._dirty:
            return []
        self._dirty = False
        self._last_token = token
        self.standing.committed(token, self._metalog.end)
        return [Commit(self.space.id, token)]

    def committed(self, token: int) -> bool:
        """Whether `end_batch(..., token)` had something to commit."""
        return self._last_token == token

    def persisted(self, token: int) -> list[Effect]:
        """Entries up to this commit are durable here: the primary may count on it (P11)."""
        if not self.standing.persisted(token):
            return []
        if self._went_on and self.standing.count > self._metalog.begins_at:
            self._went_on = False
            self._release()
        if self._synced.waits:
            return [*self._synced.moved(self.standing.count), *self._tell_held()]
        return self._tell_held()

    @property
    def synced_count(self) -> int:
        """Entries that were synced because somebody wanted that in this term."""
        return self._synced.count

    def sync(self, count: int) -> list[Effect]:
        """So many entries are to be synced, once they are written."""
        return self._synced.want(count, written=self.standing.count)

    def written_synced(self, term: Term, count: int) -> list[Effect]:
        """What was written here is synced, if it was in this term."""
        effects = self._synced.synced(term, count, written=self.standing.count)
        return [*effects, *self._tell_synced()]

    def _tell_synced(self) -> list[Effect]:
        return self._tell(RunsSynced(self.space.id, self.term, self._synced.count))

    def persist_failed(self, reason: str) -> list[Effect]:
        """What is in flight is never told; the next start of this sequencer tries again (P7)."""
        self._failed = True
        return [EndTerm(f"log space {self.space.id}: {reason}")]

    def ceiling_raised(self, seqnum: int) -> list[Effect]:
        """It is synced here that seqnums below `seqnum` may be in use (P11)."""
        self._ceiling = max(self._ceiling, seqnum)
        return self._tell(CeilingHeld(self.space.id, self.term, seqnum))

    def _tell_held(self) -> list[Effect]:
        return self._tell(RunsHeld(self.space.id, self.term, self.standing.count))

    def _tell(self, message: RunsHeld | CeilingHeld | RunsSynced | TermConfirmed) -> list[Effect]:
        """To the primary, if it may count on it (P14)."""
        if self.primary is None or self._sealed or self._failed or not self.votes:
            return []
        return [Send(self.primary, message)]

    # --- the end of the term ----------------------------------------------------------------------

    def seal(self) -> None:
        """From here on nothing of this term is acknowledged: a promise is being stored, and holds
        already (P14)."""
        self._sealed = True

    @property
    def count(self) -> int:
        """How many entries it holds, durable or not."""
        return self._metalog.count

    @property
    def runs(self) -> RunIndex:
        """Where they lie in the journal."""
        return self._metalog.runs

    @property
    def begins_at(self) -> int:
        """Count before the first entry that is kept."""
        return self._metalog.begins_at

    def take_fetched(self, runs: Iterable[Run], until: int) -> list[Effect]:
        """Entries of the sealed term that another sequencer holds, up to the end that a controller
        wants (P13)."""
        for run in runs:
            if self._goes_on_with(run) and run.until <= until and run.space == self.space.id:
                self._metalog.begin_at(run)
                self._went_on = True
            elif self.count < self._gone_until <= run.first:
                continue  # a cut is to come
            follows = run.first == self.count and run.until <= until
            known = self._metalog.position.term <= run.term <= self.term
            if not (follows and known and run.space == self.space.id) or self._failed:
                return []
            failed = self._append(run)
            if failed:
                return failed
        return []

    def holding(self) -> Holding:
        """Its metalog, for the next role of this sequencer."""
        return Holding(self._metalog, self.standing)

    def link_down(self, peer: Address) -> None:
        """Nothing to forget: with the next link it asks anew."""

    def stats(self) -> BackupStats:
        """A snapshot."""
        return BackupStats(
            position=self._metalog.position,
            durable=self.standing.end.position,
            tail=self._metalog.tail,
            begins_at=self._metalog.begins_at,
        )

    def check(self) -> None:
        """Asserts the invariants."""
        assert self.standing.count <= self.count
