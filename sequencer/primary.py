"""The primary of one log space in one term: progress in, cuts out.

Decides the order. It cuts on arrival, once per batch (LIMITS point 3), never looks at a record or a
tag, and publishes an entry only once it is held to the class's standard (P11). Several entries may
be in flight.

With backups an entry is published once a majority of the log space's sequencers holds it
(`replication.py`); without, once it is durable here.

Invariants: positions and seqnums are contiguous from the end of the term before (P13); timestamps
never go back (P10); no seqnum at or past the synced ceiling is given (P11); nothing is sent to a
follower past `published_count`; a follower gets every entry once and in order on one connection.

Does not know: disks, sockets, clocks (the time arrives with the end of a batch). Source: Boki
(SOSP'21) section 4.3; differs from Boki: no timer, W of N, entries are durable before anybody sees
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias, assert_never

from bokilog.cut import record_count
from bokilog.effects import Address, Commit, Effect, EndTerm, RaiseCeiling, Send, SetTimer
from bokilog.errors import BokilogError, NotReady, Overloaded, ReadOnly, WrongTerm, to_wire
from bokilog.histogram import Histogram, Moment
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Journal
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    CeilingHeld,
    FollowMetalog,
    FramesLacking,
    IndexReport,
    Metalog,
    MetalogBegins,
    MetalogGone,
    MetalogPosition,
    OpenShardRequest,
    Propose,
    ReplicateFrom,
    RequestFailed,
    RunsHeld,
    ShardProgress,
    Tail,
    TailRequest,
    TermConfirmed,
)
from bokilog.metalog import (
    ITEM_METALOG,
    CloseShard,
    Cut,
    DeleteBook,
    Entry,
    ForgetKeys,
    Lost,
    OpenShard,
    Run,
    StartOver,
    decode_run,
    encode_run,
    proposal_problem,
)
from bokilog.named import NamedTuple
from bokilog.sequencer.held import Held, Holding, Recovered, Standing, deletions_of
from bokilog.sequencer.progress import Progress
from bokilog.sequencer.replication import Replication
from bokilog.sequencer.retention import releasable, stored_by_quorum
from bokilog.sequencer.runs import RunIndex
from bokilog.sequencer.survival import Survival
from bokilog.view import End, LogSpace

__all__ = ["Primary", "PrimaryStats", "Recovered", "RunIndex", "deletions_of"]

RUNS_CACHED: Final = 4096
"""Published runs kept in memory for followers; older ones are read back from the journal."""
RUNS_FED: Final = 64
"""Runs sent to a follower that is behind before others get their turn."""
RUNS_LOOKED_AT: Final = 1024
"""The same, counting also those that an engine does not need: about 10 ms of reading back."""
RUNS_IN_FLIGHT_MAX: Final = 1024
"""Runs that wait for their sync; on a disk that stands still nothing more is ordered, and what
arrives meanwhile is one cut later."""
RUNS_REPLICATED_MAX: Final = 2
"""Runs that wait for a majority: one on its way there, one on its way back. What arrives meanwhile
is one cut, which costs every process less than several (7 to 10 % of throughput when saturated)."""
PROPOSALS_MAX: Final = 4096
"""Proposals of one run, at most 300 bytes each; more are refused as `Overloaded`."""
OPENINGS_MAX: Final = 4096
"""Openings of shards of one run; whoever is left out asks again."""
RETRY_AFTER_S: Final = 0.1
CEILING_STEP: Final = 1 << 24
"""Seqnums that one synced ceiling covers; at most that many are skipped when a term ends (P11)."""
POSITIONS_S: Final = 0.02
"""An engine that nothing of a run concerns is told the position this much later, and so for all
runs meanwhile at once: nobody waits for it, and each message would wake a process."""
RELEASE_AFTER_S: Final = 10.0
"""A primary lets go of nothing for so long after it began: an engine that has not found it yet
would lack what was let go, and have to begin anew (P16)."""
FORGET_KEYS_MS: Final = 3_600_000
"""A `ForgetKeys` entry at most this often, by cut timestamps, and one when a term begins."""


FromBackup: TypeAlias = RunsHeld | ReplicateFrom | CeilingHeld | TermConfirmed


class Follower:
    """Who gets this metalog: a storage node (every entry) or an engine (what touches its shard)."""

    __slots__ = ("number", "sent", "told", "untold")

    def __init__(self, *, number: int, sent: int) -> None:
        self.number = number
        """The engine's shard number, or 0 for every entry (P18)."""
        self.sent = sent
        """Count of entries sent or skipped."""
        self.told = sent
        """The same without what it has not heard of: it may need what comes after that (P16)."""
        self.untold = False
        """The last of them were skipped, and it has not heard so."""


class InFlight(NamedTuple):
    """A run in the journal that is not yet held to the class's standard."""

    token: int
    run: Run
    tail: int
    """First seqnum not ordered after it."""
    made_s: float


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
        end = recovered.end
        self._moment = moment or Moment()
        self.cut_latency = Histogram()
        """From a run of cuts and other entries to its publication."""
        self.space = space
        self.term = term
        self.tail = end.tail
        """First seqnum not ordered, also by what is in flight."""
        self.published_tail = end.tail
        """The same, counting only what is published."""
        self.timestamp_ms = end.timestamp_ms
        self.count = end.position.count
        self.published_count = end.position.count
        self._base = end.position
        self._starts_at = recovered.starts_at
        self._starts_before = list(recovered.starts_before)
        self._begins_at = recovered.begins_at
        self._survival = Survival(space, ordered_before=end.position.count > 0)
        self._empty_until = 0 if end.position.count else end.tail
        """Nothing below this seqnum is held by anybody: the first start, or after `StartOver`."""
        self._journal = journal
        self._releases = releases
        self._progress = Progress(space.write_quorum)
        self._wanted: dict[int, OpenShardRequest] = {}
        self._proposed: list[tuple[Address, Propose]] = []
        self._in_flight: deque[InFlight] = deque()
        self._followers: dict[Address, Follower] = {}
        self._recent: deque[Run] = deque()
        self._runs = recovered.runs
        self._deletions = list(recovered.deletions)
        self._deletions_since = recovered.begins_at
        """Of those before that entry it may know none: they were let go (P16)."""
        self._tails: list[tuple[Address, int]] = []
        self._ceiling = SEQNUM_MAX + 1 if space.durability == "sync" else end.tail
        self._ceiling_asked = self._ceiling
        self._keys_forgotten_ms = 0
        self._reports: dict[str, IndexReport] = {}
        self._lacking: dict[str, FramesLacking] = {}
        """By storage node: the records that hold its fold up, as its present process says (P24)."""
        self._losses_accepted = losses_accepted
        self._losses: list[Lost] = []
        """Records that no replica has, to be told by the next run."""
        self._release_after_s = release_after_s
        self._began_s: float | None = None
        """When a storage node first told what it has stored."""
        self._positions_due = False
        """The timer is set after which engines hear of what was skipped."""
        self._stopped: BokilogError | None = None
        self._deposed = False
        self._sealed = False
        self._replication = (
            Replication(
                space=space,
                term=term,
                standing=standing or Standing(end),
                begins_at=recovered.begins_at,
            )
            if space.backups
            else None
        )

    # --- messages ---------------------------------------------------------------------------------

    def progressed(self, node: NodeId, message: ShardProgress) -> None:
        """What a storage node holds."""
        _, _, disk_id, incarnation, counts = message
        self._progress.report(node, (disk_id, incarnation), counts)

    def open_shard(self, message: OpenShardRequest) -> None:
        """Idempotent: an engine asks until the metalog tells it; an engine's new start closes its
        old shard."""
        if message.number not in self._progress.shards and len(self._wanted) < OPENINGS_MAX:
            self._wanted[message.number] = message

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
        anybody. Not when another term has begun: there may be more by now.
        """
        if self._deposed and self._stopped is not None:
            return [self._refuse(source, message.request, self._stopped)]
        self._tails.append((source, message.request))
        return []

    def follow(self, source: Address, message: FollowMetalog) -> list[Effect]:
        """Send everything from a position on, now and as it is published.

        An engine that knows nothing yet starts at the present, with every deletion there ever was
        (P18); of those that may not be known here any more an index replica tells it (P16). A
        position past what this primary knows is of entries that were lost with a term's
        end (P11): the follower is sent what came in their place, and learns from its view where
        the term ended (P13).
        """
        known = self.published_count if message.position.term == self.term else self._base.count
        sent = min(message.position.count, known)
        effects: list[Effect] = []
        if message.shard and not message.position.count:
            sent = self.published_count
            if self._deletions_since:
                effects.append(Send(source, MetalogBegins(self.space.id, self._deletions_since)))
            effects += [Send(source, Metalog(run)) for run in self._deletions]
        if source in self.space.replicas:
            sent = sent if message.position.count else max(sent, self._starts_at)
            losses = [run for run in self._deletions if isinstance(run.entries[0], Lost)]
            effects += [Send(source, Metalog(run)) for run in losses if run.until > sent]
        if sent < self._begins_at and not message.shard and not self._survival.undecided:
            return [Send(source, MetalogGone(self.space.id, self._begins_at))]
        follower = Follower(number=message.shard, sent=sent)
        if message.shard:  # engines are told first: callers wait for them
            self._followers.pop(source, None)
            self._followers = {source: follower, **self._followers}
        else:
            self._followers[source] = follower
        if message.shard and sent == self.published_count:
            return [*effects, self._tell_position(source)]
        return [*effects, *self.feed(source)]

    def index_reported(self, node: str, message: IndexReport) -> list[Effect]:
        """How far a storage node's fold is."""
        self._reports[node] = message
        survival, undecided = self._survival, self._survival.undecided
        ordered = self.published_tail > self._empty_until
        survival.reported(node, empty=message.empty, ordered=ordered)
        effects = self._release() if self._releases else []
        if undecided and not survival.undecided:
            fed = [effect for source in list(self._followers) for effect in self.feed(source)]
            return [*effects, *fed]
        if not undecided and survival.nothing_left:
            what = f"log space {self.space.id}: every storage node has restarted"
            return [*effects, EndTerm(what)]
        return effects

    def frames_lacking(self, node: str, message: FramesLacking) -> None:
        """A storage node cannot fold on. Once every replica says so of the same records, none has
        them, and none will take them any more: they are lost for good (P24)."""
        self._lacking[node] = message
        said = [self._lacking.get(each) for each in self.space.replicas]
        names = {each and (each.term, each.number, each.start) for each in said}
        until = min(0 if each is None else each.until for each in said)
        if len(names) == 1 and until > message.start and not self.held_up:
            for each in self.space.replicas:
                del self._lacking[each]
            loss = Lost(0, message.term, message.number, message.start, until)
            if loss not in self._losses:
                self._losses.append(loss)

    @property
    def held_up(self) -> str:
        """Why what every replica lacks is not given up, for people; empty: it may be, or there is
        nothing (P24).

        If all disks are empty, they may be ones that somebody forgot to mount. That a whole log is
        gone, a person has to say (P15).
        """
        said = [self._lacking.get(each) for each in self.space.replicas]
        reports = [self._reports.get(each) for each in self.space.replicas]
        if self.space.durability == "memory" or not all(each and each.empty for each in reports):
            return ""
        if not all(each and each.term >= self._losses_accepted for each in said):
            return ""
        return (
            f"no storage node ({', '.join(self.space.replicas)}) holds any of the records before"
            f" seqnum {self.published_tail}: are their disks mounted? Stop the cluster and put one"
            " of their data directories back; or, if they are gone for good, accept the loss with"
            " bokilog recover --accept-loss"
        )

    def _release(self) -> list[Effect]:
        """Lets go of segments that no replica folds from, and nobody is fed from (P16)."""
        if self._sealed or self._stopped is not None:
            return []
        if self._began_s is None:
            self._began_s = self._moment.now_s
        if self._moment.now_s - self._began_s < self._release_after_s:
            return []
        replicas = self.space.replicas
        stored = [report.stored.count for node, report in self._reports.items() if node in replicas]
        count = min(
            stored_by_quorum(stored, self.space.write_quorum),
            self.published_count,
            *(follower.told for follower in self._followers.values()),
        )
        if self._replication is not None:
            sent = self._replication.sent_count
            count = count if sent is None else min(count, sent)
        if count <= self._begins_at:
            return []  # a replica that was wiped since has stored less than its last life had
        until = min(self.published_count, self.standing.count)
        found = releasable(self._journal, self._runs, count=count, until=until)
        if found is None:
            return []
        self._begins_at = max(self._begins_at, found.begins_at)
        self._runs.drop(self._begins_at)
        for segment in found.segments:
            self._journal.release(segment)
        return [] if self._replication is None else self._replication.let_go(self._begins_at)

    def link_down(self, source: Address) -> None:
        """It follows no more and waits for nothing; what it proposed keeps its place."""
        self._followers.pop(source, None)
        self._lacking.pop(str(source), None)  # its next process may come by what this one lacked
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
                replication.told(node, min(count, self.count))
                return [*self._publish_held(), *self.feed(node)]
            case ReplicateFrom(count=count):
                return [*replication.feed_from(node, min(count, self.count)), *self.feed(node)]
            case CeilingHeld(seqnum=seqnum):
                self._ceiling = max(self._ceiling, replication.ceiling_held(node, seqnum))
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
        most = RUNS_IN_FLIGHT_MAX if self._replication is None else RUNS_REPLICATED_MAX
        if (self._progress.due or self._due) and len(self._in_flight) < most:
            effects += self._order(wall_ms, token)
        if self._ceiling_asked <= SEQNUM_MAX:
            self._ask_ceiling(effects)
        return effects

    @property
    def _due(self) -> bool:
        """Whether there may be anything to order beside frames; most batches only publish, or
        feed."""
        return bool(self._proposed or self._wanted or self._losses or self._survival.undecided)

    def _ask_ceiling(self, effects: list[Effect]) -> None:
        need = self.tail + self._progress.waiting
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
        return bool(self._in_flight) and self._in_flight[-1].token == token

    def persisted(self, token: int) -> list[Effect]:
        """Entries up to this commit are durable here: now, and with backups once a majority holds
        them too, and only now may others see them (P11)."""
        if self._replication is not None:
            self._replication.standing.persisted(token)
            return self._publish_held()
        published = False
        while self._in_flight and self._in_flight[0].token <= token:
            self._publish_next()
            published = True
        return self._published() if published else []

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

    def feed(self, source: Address, *, at_leisure: bool = False) -> list[Effect]:
        """The next published runs for a follower; more are sent when its timer fires.

        Args:
            source: the follower.
            at_leisure: if it needs none of them, it may hear so later.
        """
        follower = self._followers.get(source)
        if follower is None:
            return self._feed_backup(source)
        if follower.sent >= self.published_count:
            return []
        if self._survival.undecided and source in self.space.replicas:
            return []
        if follower.sent < self._begins_at:  # a replica loads a fold, an engine begins anew (P16)
            del self._followers[source]
            return [Send(source, MetalogGone(self.space.id, self._begins_at))]
        effects: list[Effect] = []
        number, follower.untold = follower.number, False
        position_told = not number
        for looked_at, run in enumerate(self._runs_from(follower.sent)):
            if looked_at and (len(effects) >= RUNS_FED or looked_at >= RUNS_LOOKED_AT):
                effects.append(SetTimer(("feed", self.space.id, source), 0.0))
                return effects
            follower.sent = run.until
            if not number:
                effects.append(Send(source, Metalog(run)))
            elif _touches(run, number):
                effects.append(Send(source, Metalog(run)))
                position_told = run.tail is not None
            else:
                position_told = False
        follower.untold = not position_told and at_leisure and not effects
        if follower.untold:
            return self._tell_positions_later()
        follower.told = follower.sent
        if not position_told:
            effects.append(self._tell_position(source))
        return effects

    def _tell_positions_later(self) -> list[Effect]:
        if self._positions_due:
            return []
        self._positions_due = True
        return [SetTimer(("positions", self.space.id), POSITIONS_S)]

    def tell_positions(self) -> list[Effect]:
        """To the engines that the last runs did not concern."""
        self._positions_due = False
        effects: list[Effect] = []
        for source, follower in self._followers.items():
            if follower.untold:
                follower.untold, follower.told = False, follower.sent
                effects.append(self._tell_position(source))
        return effects

    def check(self) -> None:
        """Asserts the invariants."""
        self._progress.check()
        in_flight = sum(len(each.run.entries) for each in self._in_flight)
        assert self.published_count <= self.count
        assert self._stopped or self.published_count + in_flight == self.count
        assert self.published_tail <= self.tail <= self._ceiling <= self._ceiling_asked
        assert not self._recent or self._recent[-1].until == self.published_count
        assert all(each.sent <= self.published_count for each in self._followers.values())

    @property
    def standing(self) -> Standing:
        """How much of it is durable here."""
        if self._replication is not None:
            return self._replication.standing
        pending = [(each.token, self._end(each.run.until, each.tail)) for each in self._in_flight]
        return Standing(self._end(self.published_count, self.published_tail), pending)

    def holding(self) -> Holding:
        """Its metalog, for the next role of this sequencer; asked for before `depose`."""
        unpublished = [run for each in self._in_flight for run in deletions_of(each.run)]
        recovered = Recovered(
            end=self._end(self.count, self.tail),
            runs=self._runs,
            deletions=(*self._deletions, *unpublished),
            starts_at=self._starts_at,
            starts_before=tuple(self._starts_before),
            begins_at=self._begins_at,
        )
        return Holding(Held(recovered), self.standing)

    @property
    def runs(self) -> RunIndex:
        """Where its entries lie in the journal."""
        return self._runs

    @property
    def begins_at(self) -> int:
        """Count before the first entry that is kept (P16)."""
        return self._begins_at

    def runs_gone(self, count: int) -> None:
        """Nothing: it holds every entry of its term."""

    def take_fetched(self, runs: Iterable[Run], until: int) -> list[Effect]:
        """Nothing: every entry of the term is its own, so there is nothing to fetch (P13)."""
        return []

    def asked(self) -> list[tuple[Address, FollowMetalog | IndexReport]]:
        """What others told it that the next primary has to know, as of now.

        Not that a replica was empty before there was anything to hold: by now it may have all of it
        (P20).
        """
        holds_by_now = self.published_tail > self._empty_until
        return [
            *(
                (source, FollowMetalog(self.space.id, Position(self.term, each.sent), each.number))
                for source, each in self._followers.items()
            ),
            *(
                (node, report)
                for node, report in self._reports.items()
                if not (report.empty and holds_by_now) or self._survival.is_empty(node)
            ),
        ]

    def stats(self) -> PrimaryStats:
        """A snapshot."""
        return PrimaryStats(
            position=Position(self.term, self.count),
            published=self.published,
            tail=self.published_tail,
            shards=len(self._progress.shards),
            followers=len(self._followers),
            replicas={
                node: (report.folded.count, report.stored.count)
                for node, report in self._reports.items()
            },
            begins_at=self._begins_at,
        )

    @property
    def published(self) -> Position:
        """Everything up to here is durable and may be known to anybody."""
        return Position(self.term, self.published_count)

    # --- parts ------------------------------------------------------------------------------------

    def _order(self, wall_ms: int, token: int) -> list[Effect]:
        entries = self._entries(wall_ms)
        if not entries:
            return []
        first = self.count
        run = Run(self.space.id, self.term, first, tuple(entries))
        try:
            location = self._journal.append(ITEM_METALOG, [encode_run(run)])
        except ReadOnly as error:  # it failed for good, and `PersistFailed` is on its way
            return self.persist_failed(error.reason)
        self.count = first + len(entries)
        self._proposed.clear()
        self._losses.clear()
        self._runs.add(first, location)
        self._in_flight.append(InFlight(token, run, self.tail, self._moment.now_s))
        if self._replication is None:
            return [Commit(self.space.id, token)]
        self._replication.standing.committed(token, self._end(run.until, self.tail))
        return [*self._replication.ordered(run), Commit(self.space.id, token)]

    def _publish_held(self) -> list[Effect]:
        """Whatever a majority holds; none of it once the term is sealed (P14)."""
        assert self._replication is not None, "only backups make a majority"
        held = self._replication.held_count
        if self._sealed or not self._in_flight or self._in_flight[0].run.until > held:
            return []
        while self._in_flight and self._in_flight[0].run.until <= held:
            self._publish_next()
        return self._published()

    def _publish_next(self) -> None:
        _, run, self.published_tail, made_s = self._in_flight.popleft()
        self.cut_latency.observe(self._moment.now_s - made_s)
        self.published_count = run.until
        self._recent.append(run)
        if not (len(run.entries) == 1 and type(run.entries[0]) is Cut):
            self._deletions += deletions_of(run)

    def _published(self) -> list[Effect]:
        while len(self._recent) > RUNS_CACHED:
            self._recent.popleft()
        effects: list[Effect] = []
        for source in list(self._followers):
            effects += self.feed(source, at_leisure=True)
        return effects

    def _entries(self, wall_ms: int) -> list[Entry]:
        timestamp_ms = self.timestamp_ms
        if wall_ms > timestamp_ms:
            self.timestamp_ms = timestamp_ms = wall_ms
        entries: list[Entry] = []
        if self._survival.undecided:
            if not self._survival.nothing_left:
                return []
            entries.append(self._start_over(timestamp_ms))
        if self._wanted:
            for request in self._wanted.values():
                entries += self._open(request, timestamp_ms)
            self._wanted.clear()
        spans = self._progress.take_cut(room=self._ceiling - self.tail)
        if spans:
            entries.append(Cut(timestamp_ms, self.tail, spans))
            self.tail += record_count(spans)
        for _, proposal in self._proposed:
            entries.append(proposal.entry._replace(timestamp_ms=timestamp_ms))
        for loss in self._losses:
            entries.append(loss._replace(timestamp_ms=timestamp_ms))
        if entries and timestamp_ms - self._keys_forgotten_ms >= FORGET_KEYS_MS:
            self._keys_forgotten_ms = timestamp_ms
            entries.append(ForgetKeys(timestamp_ms))
        return entries

    def _start_over(self, timestamp_ms: int) -> Entry:
        """Every replica is empty: their folds begin at this entry (P20)."""
        self._survival.started_over()
        self._starts_before.append(self._starts_at)
        self._starts_at, self._empty_until = self.count, self.tail
        for source, follower in self._followers.items():
            if source in self.space.replicas:
                follower.sent = max(follower.sent, self.count)
        return StartOver(timestamp_ms, self.tail)

    def _open(self, request: OpenShardRequest, timestamp_ms: int) -> list[Entry]:
        """An engine's new start supersedes its old one: that shard is closed first (P1, P2, P3)."""
        older = [
            number
            for number, shard in self._progress.shards.items()
            if shard.engine == request.engine
        ]
        if any(number > request.number for number in older):
            return []
        entries: list[Entry] = [
            CloseShard(timestamp_ms, number, self._progress.close(number)) for number in older
        ]
        replicas = self.space.replicas
        self._progress.open(request.number, engine=request.engine, replicas=replicas)
        entries.append(OpenShard(timestamp_ms, request.number, request.engine, replicas))
        return entries

    def _stop(self, error: BokilogError) -> list[Effect]:
        self._stopped = error
        self._in_flight.clear()
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
        return Send(source, Tail(request, self.space.id, self.published, self.published_tail))

    def _tell_position(self, source: Address) -> Effect:
        return Send(source, MetalogPosition(self.space.id, self.published, self.published_tail))

    def _runs_from(self, count: int) -> Iterable[Run]:
        """Published runs past `count`, which there are: from memory if they reach back far enough,
        else from the journal."""
        if self._recent and self._recent[-1].first == count:
            return (self._recent[-1],)  # who is fed as it is published needs no more
        if self._recent and self._recent[0].first <= count:
            return reversed(list(self._newest_first(count)))
        locations = self._runs.locations(count, self.published_count)
        return (decode_run(self._journal.read(location)) for location in locations)

    def _feed_backup(self, source: Address) -> list[Effect]:
        """A backup gets every run that was appended, published or not."""
        replication = self._replication
        if replication is None or source not in replication or self._sealed or self._stopped:
            return []
        return replication.feed(NodeId(str(source)), self.count, self._appended_from)

    def _appended_from(self, count: int) -> Iterator[Run]:
        if count < self.published_count:
            yield from self._runs_from(count)
        for each in self._in_flight:
            if each.run.until > count:
                yield each.run

    def _end(self, count: int, tail: int) -> End:
        """Where this term's metalog stands after so many entries."""
        position = Position(self.term, count) if count > self._base.count else self._base
        return End(
            space=self.space.id, position=position, tail=tail, timestamp_ms=self.timestamp_ms
        )

    def _newest_first(self, count: int) -> Iterator[Run]:
        """Cached runs from the newest back to the one that holds entry `count`."""
        for run in reversed(self._recent):
            if run.until <= count:
                return
            yield run

    def _refuse(self, source: Address, request: int, error: BokilogError) -> Effect:
        return Send(source, RequestFailed(request, to_wire(error), self.published))


def _touches(run: Run, number: int) -> bool:
    """Whether an engine needs the run: its shard's entries, and every deletion (P18)."""
    for entry in run.entries:
        if isinstance(entry, Cut):
            for span in entry.spans:
                if span.number == number:
                    return True
        elif isinstance(entry, DeleteBook) or (
            isinstance(entry, (OpenShard, CloseShard, Lost)) and entry.number == number
        ):
            return True
    return False
