"""The backups of one log space, as its primary sees them: who holds what, and who gets what next.

Decides up to where entries are held by a majority of the log space's sequencers (P11), which runs a
backup is sent, and when, which seqnum ceiling a majority has synced, and how much of a metalog that
is left to operating systems, and when a majority has confirmed that the term is not sealed (P26).
As many backups as make a majority with the primary *lead*: they are sent every run at once. The
others get what has gathered after a while, since each message costs them a write and a sync that
nobody waits for; if the leading ones take too long, all get everything at once, and others lead. A
backup that is behind is fed from the journal in portions, from where the journal begins if it holds
less, and one that does not keep up is sent nothing more until it tells what it holds.

Invariants: what a backup held on an earlier connection counts again only once it says so on the
new one; the primary counts itself only for what is durable in its own journal.

Does not know: what entries say, followers, disks. Source: Boki (SOSP'21) section 4.3, where a
primary's secondaries acknowledge from memory, all of them; differs from Boki: acknowledgements are
of durable entries, not every backup is asked for each of them, and catching up is part of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.ids import NodeId, Term
from bokilog.messages import ConfirmTerm, HoldCeiling, ReplicateRun, RunsGone, SyncRuns
from bokilog.metalog import Run
from bokilog.sequencer.held import Standing
from bokilog.view import LogSpace

RUNS_FED: Final = 64
"""Runs sent to a backup that is behind before others get their turn."""
ENTRIES_UNTOLD_MAX: Final = 8192
"""Entries sent to a backup that it has not told it holds; past that it is behind."""
LEADING_LATE_S: Final = 0.02
"""A run for which no majority was found by then goes to every backup: some times what a disk takes,
and little beside what people notice of a sequencer that stands still."""
OTHERS_S: Final = 0.05
"""How long runs gather for backups that do not lead: under load about ten of them."""
ROUNDS_MAX: Final = 16
"""Rounds of confirmation under way; later tails share the next one (P26)."""

Waiter = tuple[Address, int]
"""Who asked for a tail, and the number of the request."""


class Feed:
    """What one backup was sent on its present connection."""

    __slots__ = ("clogged", "sent", "told")

    def __init__(self, count: int) -> None:
        self.sent = count
        self.told = count
        """It said that it has so many."""
        self.clogged = False
        """It is sent more once it has told that it holds some."""


class Replication:
    """Pure; one term of one log space that has backups."""

    __slots__ = (
        "_ceilings",
        "_confirmed",
        "_fed_s",
        "_feeds",
        "_held",
        "_leading",
        "_own_ceiling",
        "_quorum",
        "_round",
        "_rounds",
        "_space",
        "_sync_asked",
        "_synced",
        "_term",
        "_watching",
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
        """The first of them lead."""
        self._leading: tuple[NodeId, ...] = ()
        self._fed_s = -math.inf
        """When all of them were fed last, since others lead."""
        self._watching = False
        """The timer is set that looks after those that do not lead."""
        self._own_ceiling = 0
        self._ceilings = dict.fromkeys(space.backups, 0)
        self._sync_asked = 0
        self._synced = dict.fromkeys(space.backups, 0)
        """Entries that outlive a loss of power there; that stays true of a process that is gone."""
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
        """A new run goes at once to those that lead and have everything before it."""
        effects: list[Effect] = []
        message = ReplicateRun(self._term, run)
        for node in self._leading:
            feed = self._feeds[node]
            if feed.sent == run.first and run.until - feed.told <= ENTRIES_UNTOLD_MAX:
                feed.sent = run.until
                effects.append(Send(node, message))
        if not self._watching and len(self._feeds) > len(self._leading):
            effects.append(self._watch(LEADING_LATE_S))
        return effects

    def due(self, now_s: float, *, waits_since_s: float | None) -> list[NodeId]:
        """The timer has fired: who is to be fed now.

        Args:
            now_s: the time.
            waits_since_s: since when the oldest run waits for a majority; None: none does.
        """
        self._watching = False
        late = waits_since_s is not None and now_s - waits_since_s >= LEADING_LATE_S
        if not late and now_s - self._fed_s < OTHERS_S:
            return []
        if late:  # whoever led does so again only after all the others
            for node in self._leading:
                self._feeds[node] = self._feeds.pop(node)
            self._choose()
        self._fed_s = now_s
        return list(self._feeds)

    def watch(self, now_s: float, count: int, *, waits: bool) -> list[Effect]:
        """The timer once more, while backups were not sent all `count` entries, sooner if a run
        waits for a majority.

        Once they were, only they can help, however long a run waits: a term that has ended without
        this primary waits for good, and what a slow leader holds up the next run finds out.
        """
        if self._watching or len(self._feeds) <= len(self._leading):
            return []
        if all(feed.sent >= count or feed.clogged for feed in self._feeds.values()):
            return []
        soon = 0.0 if waits else self._fed_s + OTHERS_S - now_s
        return [self._watch(max(soon, LEADING_LATE_S))]

    def _watch(self, delay_s: float) -> Effect:
        self._watching = True
        return SetTimer(("backups", self._space.id), delay_s)

    def _choose(self) -> None:
        self._leading = tuple(self._feeds)[: self._quorum - 1]
        self._fed_s = -math.inf  # one that leads from now on may lack what others were sent

    def feed_from(self, node: NodeId, count: int) -> list[Effect]:
        """A backup's connection or view is new, or it lacks something: what was said before may be
        lost. What it holds it tells next."""
        self._feeds[node] = Feed(max(count, self.begins_at))
        self._choose()
        self._held[node] = 0
        effects: list[Effect] = []
        if self.begins_at:
            effects.append(Send(node, self._runs_gone()))
        if self.ceiling_asked:
            effects.append(Send(node, self._hold_ceiling()))
        if self._sync_asked > self._synced[node]:
            effects.append(Send(node, self._sync_runs()))
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

    def told(self, node: NodeId, count: int) -> bool:
        """A backup holds so many entries, to the class's standard.

        Returns:
            Whether it is to be fed now.
        """
        self._held[node] = max(self._held[node], count)
        feed = self._feeds.get(node)
        if feed is None:
            return False
        feed.told = max(feed.told, count)
        return feed.clogged or node in self._leading

    def feed(
        self, node: NodeId, count: int, runs_from: Callable[[int], Iterator[Run]]
    ) -> list[Effect]:
        """The next runs for a backup that is behind `count`; more when its timer fires, or when it
        has told that it holds some."""
        feed = self._feeds.get(node)
        if feed is None or feed.sent >= count:
            return []
        effects: list[Effect] = []
        feed.clogged = False
        for run in runs_from(feed.sent):
            if run.until - feed.told > ENTRIES_UNTOLD_MAX:
                feed.clogged = True
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
            self._choose()
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

    # --- syncs ------------------------------------------------------------------------------------

    def ask_sync(self, count: int) -> list[Effect]:
        """Backups are to sync so many entries; those without a connection are asked with it."""
        if count <= self._sync_asked:
            return []
        self._sync_asked = count
        return [Send(node, self._sync_runs()) for node in self._feeds]

    def backup_synced(self, node: NodeId, count: int) -> None:
        """A backup has synced so many entries."""
        self._synced[node] = max(self._synced[node], count)

    def synced_count(self, own: int) -> int:
        """Entries that a majority has synced, the primary `own` of them."""
        return self._majority(own, self._synced.values())

    def _sync_runs(self) -> SyncRuns:
        return SyncRuns(self._space.id, self._term, self._sync_asked)

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
