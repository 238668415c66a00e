"""Entries of one log space's metalog at one replica, as they come: in order, to the ends of terms.

Runs arrive from the primary, out of turn after a lost link, and at a start from the shared journal.
Views say where each term ended.

Decides which entries are next, when there are too many that wait, and from where on the metalog is
asked for.

Invariants: entries are handed on in order and without a gap; of a term, none past its end (P13); a
term that had ended later has lost entries since, and ends where the next view says (P11).

Does not know: what an entry does, which frames it needs, or whether there is a fold.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from bokilog.effects import Address, Effect, Send
from bokilog.ids import Position, Term
from bokilog.messages import FetchRuns, FollowMetalog
from bokilog.metalog import Entry, MetalogFollower, Run
from bokilog.storage_nodes.kept_runs import KeptRuns
from bokilog.storage_nodes.membership import Membership
from bokilog.view import End

ENTRIES_WAITING_MAX = 100_000
"""Entries kept that cannot be folded yet; beyond that runs are dropped and asked for again."""


class Entries:
    """What of the metalog is known here, and waits to be folded.

    Args:
        membership: who the primary is.
        position: where the fold stands.
        keeps_runs: whether sequencers may ask for runs that they lost (P11).
    """

    __slots__ = ("_ended", "_follower", "_membership", "_runs", "dropped_runs_count", "waiting")

    def __init__(self, membership: Membership, position: Position, *, keeps_runs: bool) -> None:
        self._membership = membership
        self._follower = MetalogFollower(membership.space.id, position)
        self._runs = KeptRuns(membership.space.id, keeps=keeps_runs)
        self.waiting: deque[tuple[Position, Entry]] = deque()
        """Those that are next, and were not folded yet."""
        self.dropped_runs_count = 0
        """Since all that waited was folded."""
        self._ended: dict[Term, End] = {}
        """By term, where the one before it ended."""

    def succeed(self, before: Entries) -> None:
        """What was kept for sequencers is kept still."""
        self._runs = before._runs

    # --- runs -------------------------------------------------------------------------------------

    @property
    def known_until(self) -> Position:
        """Every entry up to here was taken, folded or not."""
        return self._follower.position

    @property
    def are_too_many(self) -> bool:
        """Whether so many wait that no more are taken."""
        return len(self.waiting) > ENTRIES_WAITING_MAX

    def take(self, run: Run) -> bool:
        """Entries that were published, in their turn or not; False: they are asked for again."""
        if len(self.waiting) > ENTRIES_WAITING_MAX:
            self.dropped_runs_count += 1
            return False
        if self._runs.keeps:
            self._runs.keep(run)
        self.waiting += self._follower.offer(run)
        return True

    def recover(self, run: Run) -> bool:
        """A durable run of the shared journal; False if entries before it are missing."""
        self.waiting += self._follower.offer(run)
        return not self._follower.gap

    def follow(self) -> Send:
        """Asks the primary for what comes next."""
        space = self._membership.space
        return Send(space.primary, FollowMetalog(space.id, self._follower.position, 0))

    def give(self, source: Address, message: FetchRuns) -> list[Effect]:
        """A sequencer that starts asks for what it may have lost (P11)."""
        return [*self._runs.give(source, message)]

    # --- terms ------------------------------------------------------------------------------------

    def end_term(self, term: Term, end: End) -> None:
        """The view of `term` is in force: the one before ended at `end` (P13)."""
        count = end.position.count
        self._ended[term] = end
        self.waiting += self._follower.end_term(Term(term - 1), count)
        self._runs.begin_term(term, count)
        for earlier, known in self._ended.items():
            if earlier < term and known.position.count > count:
                position = Position(known.position.term, count)
                given_up = known.given_up or end.given_up
                self._ended[earlier] = replace(known, position=position, given_up=given_up)

    def end_of(self, term: Term) -> End | None:
        """Where that term ended, as far as is known."""
        return self._ended.get(Term(term + 1))

    def end_before(self, position: Position) -> bool:
        """Whether the term of that position is known to have ended before it."""
        end = self.end_of(position.term)
        return end is not None and position.count > end.position.count

    def are_past(self, term: Term, end: End) -> bool:
        """Whether entries were taken here that the view of `term` says were lost (P11, P13)."""
        position = self._follower.position
        return position.term < term and position.count > end.position.count

    # --- where the fold stands --------------------------------------------------------------------

    def stand_at(self, position: Position) -> None:
        """The fold stands in the next term."""
        self._follower.position = max(self._follower.position, position)

    def start_over(self, position: Position) -> None:
        """What was ordered before is lost on every replica (P20)."""
        self._follower.position = position
        self.waiting.clear()

    def jump(self, position: Position) -> None:
        """The fold is a peer's, of that position (P16)."""
        self._follower = MetalogFollower(self._membership.space.id, position)
        for term, end in sorted(self._ended.items()):
            if term > position.term:
                self._follower.end_term(Term(term - 1), end.position.count)
