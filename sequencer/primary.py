"""The primary of one log space in one term: progress in, cuts out.

Decides when a run is ordered and when it is published. It cuts on arrival, once per batch (LIMITS
point 3), never looks at a record or a tag, and publishes an entry only once it is held to the
class's standard (P11): once a majority of the log space's sequencers holds it (`replication.py`),
or, without backups, once it is durable here. Several entries may be in flight.

What a run says is decided by `next_run.py`; `ordered.py` holds the metalog, `followers.py` feeds
who follows it; `replica_reports.py` hears what storage nodes say, and `letting_go.py` lets go of
what they have stored. Here they are put together, with what waits for an answer: proposals, tails.

Invariants: positions and seqnums are contiguous from the end of the term before (P13); no seqnum at
or past the synced ceiling is given (P11); once the term is sealed or succeeded nothing is ordered
or published (P12, P14).

Does not know: disks, sockets, clocks (the time arrives with the end of a batch). Source: Boki
(SOSP'21) section 4.3; differs from Boki: no timer, W of N, entries are durable before anybody sees
them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias, assert_never

from bokilog.effects import Address, Commit, Effect, EndTerm, RaiseCeiling, Send
from bokilog.errors import (
    BokilogError,
    NotReady,
    Overloaded,
    ReadOnly,
    Sealed,
    WrongTerm,
    to_wire,
)
from bokilog.histogram import Moment
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Journal
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    CeilingHeld,
    FollowMetalog,
    FramesLacking,
    IndexReport,
    OpenShardRequest,
    Propose,
    ReplicateFrom,
    RequestFailed,
    RunsHeld,
    RunsSynced,
    ShardProgress,
    SyncMetalog,
    Tail,
    TailRequest,
    TermConfirmed,
)
from bokilog.metalog import Run, StartOver, proposal_problem
from bokilog.named import NamedTuple
from bokilog.sequencer.followers import Followers
from bokilog.sequencer.held import Held, Holding, Recovered, Standing
from bokilog.sequencer.letting_go import LettingGo
from bokilog.sequencer.next_run import NextRun
from bokilog.sequencer.ordered import Ordered
from bokilog.sequencer.progress import Progress
from bokilog.sequencer.replica_reports import ReplicaReports
from bokilog.sequencer.replication import Replication
from bokilog.sequencer.runs import RunIndex
from bokilog.sequencer.survival import Survival
from bokilog.sequencer.synced import Synced
from bokilog.view import LogSpace

__all__ = ["Primary", "PrimaryStats", "Recovered"]

RUNS_IN_FLIGHT_MAX: Final = 1024
"""Runs that wait for their sync; on a disk that stands still nothing more is ordered, and what
arrives meanwhile is one cut later."""
RUNS_REPLICATED_MAX: Final = 2
"""Runs that wait for a majority: one on its way there, one on its way back. What arrives meanwhile
is one cut, which costs every process less than several (7 to 10 % of throughput when saturated)."""
RUNS_UNWRITTEN_MAX: Final = 16_384
"""Runs that the primary's own disk has not taken, while backups make a majority without it: they
gather in its memory, up to some tens of MiB. It ends, and one whose disk works goes on."""
PROPOSALS_MAX: Final = 4096
"""Proposals of one run, at most 300 bytes each; more are refused as `Overloaded`."""
TAILS_MAX: Final = 4096
"""Requests for a tail that wait for the next round, each once however often it is asked; more are
refused as `Overloaded`."""
RETRY_AFTER_S: Final = 0.1
CEILING_STEP: Final = 1 << 24
"""Seqnums that one synced ceiling covers; at most that many are skipped when a term ends (P11)."""

FromBackup: TypeAlias = RunsHeld | ReplicateFrom | CeilingHeld | RunsSynced | TermConfirmed


class PrimaryStats(NamedTuple):
    """A primary at a glance."""

    position: Position
    """Ordered so far, durable or not."""
    published: Position
    tail: int
    """At `published`: the first seqnum that no published entry orders."""
    shards: int
    followers: int
    replicas: dict[str, tuple[int, int]]
    """Storage node to (folded, stored) metalog counts, as it last reported."""
    begins_at: int
    """Entries before it were let go."""


class Primary:
    """Pure core of one log space's order.

    Args:
        space: its configuration in this term.
        term: of the view that made it primary; it never has another one (P12).
        recovered: where the term before ended, as the view says, and what led there.
        journal: where entries go; their runs are read back from it.
        standing: how much of that is durable in it; None: all.
        releases: whether it lets go of what replicas have stored, and has backups do so; the
            journal is its own then.
        moment: what time it is.
        release_after_s: it lets go of nothing for so long.
        losses_accepted: of terms before it all records may be gone, a person has said.
    """

    def __init__(
        self,
        *,
        space: LogSpace,
        term: Term,
        recovered: Recovered,
        journal: Journal,
        standing: Standing | None = None,
        releases: bool = False,
        moment: Moment | None = None,
        release_after_s: float = 0.0,
        losses_accepted: int = 0,
    ) -> None:
        self.space = space
        self.term = term
        self._progress = Progress(space.write_quorum)
        self._survival = survival = Survival(space, ordered_before=recovered.end.position.count > 0)
        self._next_run = NextRun(space, recovered.end, progress=self._progress, survival=survival)
        self._moment = moment = moment or Moment()
        self._ordered = ordered = Ordered(recovered, term=term, journal=journal, moment=moment)
        self.cut_latency = ordered.latency
        """From a run of cuts and other entries to its publication."""
        self._followers = Followers(space, ordered=ordered, survival=survival)
        self._reports = ReplicaReports(
            space,
            term=term,
            ordered=ordered,
            survival=survival,
            losses_accepted=losses_accepted,
        )
        self._replication = (
            Replication(
                space=space,
                term=term,
                standing=standing or Standing(recovered.end),
                begins_at=recovered.begins_at,
            )
            if space.backups
            else None
        )
        self._synced = Synced(space.id, term, self._replication)
        self._letting_go = (
            LettingGo(
                ordered,
                journal,
                followers=self._followers,
                replication=self._replication,
                write_quorum=space.write_quorum,
                moment=moment,
                after_s=release_after_s,
            )
            if releases
            else None
        )
        self._proposed: list[tuple[Address, Propose]] = []
        self._tails: list[tuple[Address, int]] = []
        self._ceiling = SEQNUM_MAX + 1 if space.durability == "sync" else recovered.end.tail
        self._ceiling_asked = self._ceiling
        self._stopped: BokilogError | None = None
        self._deposed = False
        self._sealed = False

    # --- messages ---------------------------------------------------------------------------------

    def progressed(self, node: NodeId, message: ShardProgress) -> None:
        """What a storage node holds."""
        _, _, disk_id, incarnation, counts = message
        self._progress.report(node, (disk_id, incarnation), counts)

    def open_shard(self, message: OpenShardRequest) -> None:
        """An engine asks until the metalog tells it."""
        self._next_run.open_shard(message)

    def propose(self, source: Address, message: Propose) -> list[Effect]:
        """An entry that a client asks for; refused here it certainly does not happen."""
        error = self._stopped or proposal_problem(message.entry)
        if error is None and len(self._proposed) >= PROPOSALS_MAX:
            error = Overloaded(RETRY_AFTER_S)
        if error is not None:
            return [self._refuse(source, message.request, error)]
        self._proposed.append((source, message))
        return []

    def tail_wanted(self, source: Address, message: TailRequest) -> list[Effect]:
        """Answered at the end of the batch for all who wait: a round begun after they asked (P26).

        Also when the journal has failed: nothing past what is published was acknowledged to
        anybody. Not when another term has begun, or this one is sealed: there may be more by now.
        """
        waiter = (source, message.request)
        if self._deposed and self._stopped is not None:
            return [self._refuse(*waiter, self._stopped)]
        if self._sealed:
            return [self._refuse(*waiter, Sealed(self.term))]
        if waiter in self._tails:
            return []
        if len(self._tails) >= TAILS_MAX:
            return [self._refuse(*waiter, Overloaded(RETRY_AFTER_S))]
        self._tails.append(waiter)
        return []

    def follow(self, source: Address, message: FollowMetalog) -> list[Effect]:
        """Send everything from a position on, now and as it is published."""
        return self._followers.follow(source, message)

    def index_reported(self, node: str, message: IndexReport) -> list[Effect]:
        """How far a storage node's fold is."""
        survival, undecided = self._survival, self._survival.undecided
        self._reports.folded(node, message)
        effects = self._release()
        if undecided and not survival.undecided:
            return [*effects, *self._followers.feed_all(at_leisure=False)]
        if not undecided and survival.nothing_left:
            what = f"log space {self.space.id}: every storage node has restarted"
            return [*effects, EndTerm(what)]
        return effects

    def _release(self) -> list[Effect]:
        if self._letting_go is None or self._sealed or self._stopped is not None:
            return []
        return self._letting_go.release(self._reports.stored())

    def sync_wanted(self, source: Address, message: SyncMetalog) -> list[Effect]:
        """A storage node is about to store a fold of so many entries (P19)."""
        return self._synced.want(source, message.count, written=self.standing.count)

    @property
    def synced_count(self) -> int:
        """Entries that were synced here because somebody wanted that."""
        return self._synced.own.count

    def sync(self, count: int) -> list[Effect]:
        """So many entries are to be synced here, once they are written."""
        return self._synced.own.want(count, written=self.standing.count)

    def written_synced(self, term: Term, count: int) -> list[Effect]:
        """What was written here is synced, if it was in this term."""
        return self._synced.own_synced(term, count, written=self.standing.count)

    def frames_lacking(self, node: str, message: FramesLacking) -> None:
        """A storage node cannot fold on; what none of them has the next run says is lost (P24)."""
        loss = self._reports.lacking(node, message)
        if loss is not None:
            self._next_run.lost(loss)

    @property
    def held_up(self) -> str:
        """Why what every replica lacks is not given up, for people; empty: it may be, or there is
        nothing (P24)."""
        return self._reports.held_up

    def link_down(self, source: Address) -> None:
        """It follows no more and waits for nothing; what it proposed keeps its place."""
        self._followers.link_down(source)
        self._reports.link_down(source)
        self._synced.link_down(source)
        self._tails = [(waiter, request) for waiter, request in self._tails if waiter != source]
        if self._replication is not None:
            self._replication.link_down(source)

    # --- backups ----------------------------------------------------------------------------------

    def backup_received(self, node: NodeId, message: FromBackup) -> list[Effect]:
        """What a backup says of itself; from a sequencer that is none it means nothing."""
        replication = self._replication
        if replication is None or node not in replication:
            return []
        match message:
            case RunsHeld(count=count):
                to_feed = replication.told(node, min(count, self._ordered.count))
                effects = self._publish_held()
                return [*effects, *self._feed_backup(node)] if to_feed else effects
            case ReplicateFrom(count=count):
                return [
                    *replication.feed_from(node, min(count, self._ordered.count)),
                    *self._feed_backup(node),
                ]
            case CeilingHeld(seqnum=seqnum):
                self._ceiling = max(self._ceiling, replication.ceiling_held(node, seqnum))
            case RunsSynced(count=count):
                replication.backup_synced(node, count)
                return self._synced.backup_synced()
            case TermConfirmed(round=round_):
                answered = replication.confirmed(node, round_)
                if not (self._sealed or self._deposed):
                    return [self._tell_tail(*waiter) for waiter in answered]
                self._tails += answered
            case _:
                assert_never(message)
        return []

    def seal(self) -> None:
        """From here on nothing is ordered, published or confirmed: a promise is being stored, and
        holds already (P14)."""
        self._sealed = True

    # --- the order --------------------------------------------------------------------------------

    def end_batch(self, wall_ms: int, token: int) -> list[Effect]:
        """Everything of this batch becomes one run; at most one commit, named by `token`."""
        effects = self._answer_tails() if self._tails else []
        if self._stopped is not None or self._sealed:
            return effects
        if self._replication is not None and self.standing.pending_count >= RUNS_UNWRITTEN_MAX:
            what = f"its disk has taken none of the last {RUNS_UNWRITTEN_MAX} runs"
            return [*effects, *self.persist_failed(what)]
        most = RUNS_IN_FLIGHT_MAX if self._replication is None else RUNS_REPLICATED_MAX
        due = self._progress.due or self._proposed or self._next_run.due
        if due and len(self._ordered.in_flight) < most:
            effects += self._order(wall_ms, token)
        if self._ceiling_asked <= SEQNUM_MAX:
            self._ask_ceiling(effects)
        return effects

    def _ask_ceiling(self, effects: list[Effect]) -> None:
        need = self._next_run.tail + self._progress.waiting
        if need + CEILING_STEP // 2 > self._ceiling_asked:
            self._ceiling_asked = min(need + CEILING_STEP, SEQNUM_MAX + 1)
            effects.append(RaiseCeiling(self.space.id, self._ceiling_asked))
            if self._replication is not None:
                effects += self._replication.ask_ceiling(self._ceiling_asked)

    def ceiling_raised(self, seqnum: int) -> None:
        """It is synced that seqnums below `seqnum` may be in use: they may be given from now on, or
        once a majority of the sequencers has synced it (P11)."""
        if self._replication is not None:
            seqnum = self._replication.ceiling_held(None, seqnum)
        self._ceiling = max(self._ceiling, seqnum)

    def committed(self, token: int) -> bool:
        """Whether `end_batch(..., token)` had something to commit."""
        in_flight = self._ordered.in_flight
        return bool(in_flight) and in_flight[-1].token == token

    def persisted(self, token: int) -> list[Effect]:
        """Entries up to this commit are durable here: now, and with backups once a majority holds
        them too, and only now may others see them (P11)."""
        if self._replication is not None:
            self._replication.standing.persisted(token)
            return [*self._written(), *self._publish_held()]
        ordered, published = self._ordered, False
        while ordered.in_flight and ordered.in_flight[0].token <= token:
            ordered.publish_next()
            published = True
        return self._followers.feed_all(at_leisure=True) if published else []

    def _written(self) -> list[Effect]:
        """More is durable to the class's standard, perhaps enough for a sync that is wanted: a
        backup may have published further than this primary has written."""
        return self._synced.moved(self.standing.count) if self._synced.waits else []

    def persist_failed(self, reason: str) -> list[Effect]:
        """Nothing that is in flight is ever published; the order stops here until a new term (P7).

        Whether the next start finds it is unknown, so its proposers are told nothing.
        """
        effects = self._stop(NotReady(f"sequencing has stopped: {reason}"))
        if self._replication is not None:  # another sequencer can go on
            effects.append(EndTerm(f"log space {self.space.id}: {reason}"))
        return effects

    def depose(self, term: Term) -> list[Effect]:
        """The view of a later term is stored: nothing more is ordered or published here (P12)."""
        self._deposed = True
        return self._stop(WrongTerm(term))

    # --- who is fed -------------------------------------------------------------------------------

    def feed(self, source: Address) -> list[Effect]:
        """The next runs for whoever is behind; more are sent when its timer fires."""
        effects = self._followers.feed(source)
        return self._feed_backup(source) if effects is None else effects

    def look_after_backups(self) -> list[Effect]:
        """Those that do not lead get what has gathered; all of them, if a run waits for too
        long."""
        replication, ordered, now_s = self._replication, self._ordered, self._moment.now_s
        if replication is None or self._sealed or self._stopped is not None:
            return []
        in_flight = ordered.in_flight
        waits_since_s = in_flight[0].made_s if in_flight else None
        effects: list[Effect] = []
        for node in replication.due(now_s, waits_since_s=waits_since_s):
            effects += self._feed_backup(node)
        return [*effects, *replication.watch(now_s, ordered.count, waits=bool(in_flight))]

    def tell_positions(self) -> list[Effect]:
        """To the engines that the last runs did not concern."""
        return self._followers.tell_positions()

    # --- what it has ------------------------------------------------------------------------------

    def check(self) -> None:
        """Asserts the invariants."""
        self._progress.check()
        ordered = self._ordered
        ordered.check(abandoned=self._stopped is not None)
        self._followers.check()
        assert ordered.published_tail <= self.tail <= self._ceiling <= self._ceiling_asked

    @property
    def count(self) -> int:
        """Entries ordered, durable or not."""
        return self._ordered.count

    @property
    def tail(self) -> int:
        """First seqnum not ordered, also by what is in flight."""
        return self._next_run.tail

    @property
    def standing(self) -> Standing:
        """How much of it is durable here."""
        if self._replication is not None:
            return self._replication.standing
        return self._ordered.standing(self._next_run.timestamp_ms)

    def holding(self) -> Holding:
        """Its metalog, for the next role of this sequencer; asked for before `depose`."""
        recovered = self._ordered.recovered(self.tail, self._next_run.timestamp_ms)
        return Holding(Held(recovered), self.standing)

    @property
    def runs(self) -> RunIndex:
        """Where its entries lie in the journal."""
        return self._ordered.runs

    @property
    def begins_at(self) -> int:
        """Count before the first entry that is kept (P16)."""
        return self._ordered.begins_at

    def runs_gone(self, count: int) -> None:
        """Nothing: it holds every entry of its term."""

    def take_fetched(self, runs: Iterable[Run], until: int) -> list[Effect]:
        """Nothing: every entry of the term is its own, so there is nothing to fetch (P13)."""
        return []

    def asked(self) -> list[tuple[Address, FollowMetalog | IndexReport]]:
        """What others told it that the next primary has to know, as of now."""
        return [*self._followers.asked(), *self._reports.asked()]

    def stats(self) -> PrimaryStats:
        """A snapshot."""
        ordered = self._ordered
        return PrimaryStats(
            position=Position(self.term, ordered.count),
            published=ordered.published,
            tail=ordered.published_tail,
            shards=len(self._progress.shards),
            followers=len(self._followers),
            replicas=self._reports.counts(),
            begins_at=ordered.begins_at,
        )

    @property
    def published(self) -> Position:
        """Everything up to here is durable and may be known to anybody."""
        return self._ordered.published

    # --- parts ------------------------------------------------------------------------------------

    def _order(self, wall_ms: int, token: int) -> list[Effect]:
        next_run, ordered = self._next_run, self._ordered
        entries = next_run.entries(wall_ms, ceiling=self._ceiling, proposed=self._proposed)
        if not entries:
            return []
        if type(entries[0]) is StartOver:  # every replica is empty (P20)
            ordered.start_over(entries[0].first_seqnum)
            self._followers.start_over(ordered.count)
        run = Run(self.space.id, self.term, ordered.count, tuple(entries))
        try:
            ordered.append(run, token=token, tail=next_run.tail)
        except ReadOnly as error:  # it failed for good, and `PersistFailed` is on its way
            return self.persist_failed(error.reason)
        self._proposed.clear()
        if self._replication is None:
            return [Commit(self.space.id, token)]
        end = ordered.end(run.until, next_run.tail, next_run.timestamp_ms)
        self._replication.standing.committed(token, end)
        return [*self._replication.ordered(run), Commit(self.space.id, token)]

    def _publish_held(self) -> list[Effect]:
        """Whatever a majority holds; none of it once the term is sealed (P14)."""
        assert self._replication is not None, "only backups make a majority"
        held, ordered = self._replication.held_count, self._ordered
        if self._sealed or not ordered.in_flight or ordered.in_flight[0].run.until > held:
            return []
        while ordered.in_flight and ordered.in_flight[0].run.until <= held:
            ordered.publish_next()
        return self._followers.feed_all(at_leisure=True)

    def _stop(self, error: BokilogError) -> list[Effect]:
        self._stopped = error
        self._ordered.abandon()
        refused, self._proposed = self._proposed, []
        effects = [self._refuse(source, each.request, error) for source, each in refused]
        if self._deposed:
            if self._replication is not None:
                self._tails += self._replication.give_up_rounds()
            effects += [self._refuse(source, request, error) for source, request in self._tails]
            self._tails = []
        return effects

    def _answer_tails(self) -> list[Effect]:
        if self._sealed:
            return []
        if self._replication is not None:
            effects, self._tails = self._replication.begin_round(self._tails)
            return effects
        waiting, self._tails = self._tails, []
        return [self._tell_tail(*waiter) for waiter in waiting]

    def _tell_tail(self, source: Address, request: int) -> Effect:
        ordered = self._ordered
        tail = Tail(request, self.space.id, ordered.published, ordered.published_tail)
        return Send(source, tail)

    def _feed_backup(self, source: Address) -> list[Effect]:
        """A backup gets every run that was appended, published or not."""
        replication, ordered = self._replication, self._ordered
        if replication is None or source not in replication or self._sealed or self._stopped:
            return []
        return replication.feed(NodeId(str(source)), ordered.count, ordered.appended_from)

    def _refuse(self, source: Address, request: int, error: BokilogError) -> Effect:
        return Send(source, RequestFailed(request, to_wire(error), self.published))
