"""The backups of one log space, as its primary sees them: who holds what, and who gets what next.

Decides up to where entries are held by a majority of the log space's sequencers (P11), which runs a
backup is sent, which seqnum ceiling a majority has synced, and when a majority has confirmed that
the term is not sealed (P26). Several runs are in flight; a backup that is behind is fed from the
journal in portions, from where the journal begins if it holds less, and one that does not keep up
is sent nothing more until it tells what it holds.

Invariants: what a backup held on an earlier connection counts again only once it says so on the
new one; the primary counts itself only for what is durable in its own journal.

Does not know: what entries say, followers, disks. Source: Boki (SOSP'21) section 4.3, where a
primary's secondaries acknowledge from memory; differs from Boki: acknowledgements are of durable
entries, and catching up is part of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.ids import NodeId, Term
from bokilog.messages import ConfirmTerm, HoldCeiling, ReplicateRun, RunsGone
from bokilog.metalog import Run
from bokilog.sequencer.held import Standing
from bokilog.view import LogSpace

RUNS_FED: Final = 64
"""Runs sent to a backup that is behind before others get their turn."""
ENTRIES_UNTOLD_MAX: Final = 8192
"""Entries sent to a backup that it has not told it holds; past that it is behind."""
ROUNDS_MAX: Final = 16
"""Rounds of confirmation under way; later tails share the next one (P26)."""

Waiter = tuple[Address, int]
"""Who asked for a tail, and the number of the request."""


class Feed:
    """What one backup was sent on its present connection."""

    __slots__ = ("sent", "told")

    def __init__(self, count: int) -> None:
        self.sent = count
        self.told = count
        """It said that it has so many."""


class Replication:
    """Pure; one term of one log space that has backups."""

    __slots__ = (
        "_ceilings",
        "_confirmed",
        "_feeds",
        "_held",
        "_own_ceiling",
        "_quorum",
        "_round",
        "_rounds",
        "_space",
        "_term",
        "begins_at",
        "ceiling_asked",
        "standing",
    )

    def __init__(
        self, *, space: LogSpace, term: Term, standing: Standing, begins_at: int = 0
    ) -> None:
        self.standing = standing
        """Of this primary's own journal."""
        self.ceiling_asked = 0
        self.begins_at = begins_at
        """Count before the first entry that the primary keeps."""
        self._space = space
        self._term = term
        self._quorum = space.metalog_quorum
        self._held = dict.fromkeys(space.backups, 0)
        self._feeds: dict[NodeId, Feed] = {}
        self._own_ceiling = 0
        self._ceilings = dict.fromkeys(space.backups, 0)
        self._confirmed = dict.fromkeys(space.backups, 0)
        self._round = 0
        self._rounds: deque[tuple[int, list[Waiter]]] = deque()

    def __contains__(self, node: object) -> bool:
        return node in self._held

    # --- entries ----------------------------------------------------------------------------------

    @property
    def held_count(self) -> int:
        """Entries that a majority holds, the primary among the sequencers."""
        return self._majority(self.standing.count, self._held.values())

    def ordered(self, run: Run) -> list[Effect]:
        """A new run goes at once to whoever has everything before it."""
        effects: list[Effect] = []
        for node, feed in self._feeds.items():
            if feed.sent == run.first and run.until - feed.told <= ENTRIES_UNTOLD_MAX:
                feed.sent = run.until
                effects.append(Send(node, ReplicateRun(self._term, run)))
        return effects

    def feed_from(self, node: NodeId, count: int) -> list[Effect]:
        """A backup's connection or view is new, or it lacks something: what was said before may be
        lost. What it holds it tells next."""
        self._feeds[node] = Feed(max(count, self.begins_at))
        self._held[node] = 0
        effects: list[Effect] = []
        if self.begins_at:
            effects.append(Send(node, self._runs_gone()))
        if self.ceiling_asked:
            effects.append(Send(node, self._hold_ceiling()))
        if self._rounds:
            effects.append(Send(node, ConfirmTerm(self._space.id, self._term, self._round)))
        return effects

    @property
    def sent_count(self) -> int | None:
        """Entries that every backup with a connection was sent; None: nobody is connected."""
        return min((feed.sent for feed in self._feeds.values()), default=None)

    def let_go(self, begins_at: int) -> list[Effect]:
        """The primary keeps nothing before that; backups need not either (P16)."""
        self.begins_at = begins_at
        return [Send(node, self._runs_gone()) for node in self._feeds]

    def _runs_gone(self) -> RunsGone:
        return RunsGone(self._space.id, self._term, self.begins_at)

    def told(self, node: NodeId, count: int) -> None:
        """A backup holds so many entries, to the class's standard."""
        self._held[node] = max(self._held[node], count)
        feed = self._feeds.get(node)
        if feed is not None:
            feed.told = max(feed.told, count)

    def feed(
        self, node: NodeId, count: int, runs_from: Callable[[int], Iterator[Run]]
    ) -> list[Effect]:
        """The next runs for a backup that is behind `count`; more when its timer fires, or when it
        has told that it holds some."""
        feed = self._feeds.get(node)
        if feed is None or feed.sent >= count:
            return []
        effects: list[Effect] = []
        for run in runs_from(feed.sent):
            if run.until - feed.told > ENTRIES_UNTOLD_MAX:
                return effects
            if len(effects) >= RUNS_FED:
                return [*effects, SetTimer(("feed", self._space.id, node), 0.0)]
            feed.sent = run.until
            effects.append(Send(node, ReplicateRun(self._term, run)))
        return effects

    def link_down(self, node: Address) -> None:
        """A process that is gone may have lost what was not synced, so nothing of it counts until
        it is heard of again."""
        if node in self:
            self._feeds.pop(NodeId(str(node)), None)
            self._held[NodeId(str(node))] = 0

    # --- ceilings ---------------------------------------------------------------------------------

    def ask_ceiling(self, seqnum: int) -> list[Effect]:
        """Backups are to sync it too: the next term begins above the largest that is brought."""
        self.ceiling_asked = seqnum
        return [Send(node, self._hold_ceiling()) for node in self._feeds]

    def ceiling_held(self, node: NodeId | None, seqnum: int) -> int:
        """A backup, or None: this primary, has synced a ceiling.

        Returns:
            What a majority has synced.
        """
        if node is None:
            self._own_ceiling = max(self._own_ceiling, seqnum)
        else:
            self._ceilings[node] = max(self._ceilings[node], seqnum)
        return self._majority(self._own_ceiling, self._ceilings.values())

    def _hold_ceiling(self) -> HoldCeiling:
        return HoldCeiling(self._space.id, self._term, self.ceiling_asked)

    # --- tails ------------------------------------------------------------------------------------

    def begin_round(self, waiters: list[Waiter]) -> tuple[list[Effect], list[Waiter]]:
        """Asks whether the term is sealed, for everybody who has asked for a tail since the last
        round began (P26).

        Returns:
            What to send, and who has to wait for the next round.
        """
        if not waiters or len(self._rounds) >= ROUNDS_MAX:
            return [], waiters
        self._round += 1
        self._rounds.append((self._round, waiters))
        ask = ConfirmTerm(self._space.id, self._term, self._round)
        return [Send(node, ask) for node in self._feeds], []

    def confirmed(self, node: NodeId, round_: int) -> list[Waiter]:
        """A backup had not sealed the term when this round had begun; who can be answered now."""
        self._confirmed[node] = max(self._confirmed[node], round_)
        over = self._majority(self._round, self._confirmed.values())
        answered: list[Waiter] = []
        while self._rounds and self._rounds[0][0] <= over:
            answered += self._rounds.popleft()[1]
        return answered

    def give_up_rounds(self) -> list[Waiter]:
        """The term is over: everybody who waits."""
        waiting = [waiter for _, waiters in self._rounds for waiter in waiters]
        self._rounds.clear()
        return waiting

    def _majority(self, own: int, others: Iterable[int]) -> int:
        return sorted((own, *others), reverse=True)[self._quorum - 1]
