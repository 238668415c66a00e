"""An engine as one pure core: the log half of a function node, between clients, storage nodes and
primaries.

Decides which part an event is for, what the links mean to each, and what passes the term gate.
Producers (one per log space) take appends; the reader answers reads; primaries are asked for tails
and proposals. They meet here only: no part knows another.

Invariants: views are installed in order and none twice (P15); metalog and what replicas hold pass
the term gate, reads and verdicts do not (P17); whatever is unanswered is asked again after a link,
a view or a timer, so no message is relied on to arrive.

Does not know: sockets, clocks, disks. The same core runs in the engine process and in the embedded
shape.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import assert_never

from bokilog.effects import (
    Address,
    BatchEnded,
    CeilingRaised,
    CheckpointStored,
    ColdDone,
    Effect,
    EndTerm,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    LinkClogged,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    PersistFailed,
    PromiseStored,
    ReadOnlyChanged,
    Received,
    Send,
    TimerFired,
    ViewInstalled,
    ViewSwapped,
    WrittenSynced,
)
from bokilog.errors import NotReady, ReadOnly, from_wire, to_wire
from bokilog.facts import Facts
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.following import Following
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.local_answers import LocalAnswers
from bokilog.functions.engine.order import Horizon
from bokilog.functions.engine.producer import SpaceProducer
from bokilog.functions.engine.published import Published
from bokilog.functions.engine.reader import Reader
from bokilog.functions.engine.requests import TIMER, PrimaryRequests
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.silence import SILENCE
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.messages import (
    Answer,
    AppendFrame,
    BookState,
    CancelRead,
    FrameRefused,
    IndexStream,
    Message,
    Metalog,
    MetalogBegins,
    MetalogGone,
    MetalogPosition,
    Propose,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
    SetAux,
    ShardHeld,
    Status,
    StatusRequest,
    StillReading,
    Tail,
    TailRequest,
    TermChanged,
)
from bokilog.named import NamedTuple
from bokilog.pulse import PULSE, Pulse
from bokilog.shared_records import SharedWriter
from bokilog.term_gate import CURRENT, FUTURE, TermGate
from bokilog.view import View


class EngineStats(NamedTuple):
    """A snapshot of one engine."""

    term: int
    clients: int
    links: int
    unordered_frames: int
    unordered_bytes: int
    frames_refused: int
    frames_lost: int
    frames_resent: int
    reads_waiting: int
    reads_local: int
    reads_passed: int
    """Passed on to a storage node as they were."""
    reads_fetched: int
    """Answered from facts, with bytes fetched."""
    facts_bytes: int
    facts_evicted: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    shared_hits: int
    """Records that workers found in the memory they share with this engine."""
    shared_misses: int
    requests_waiting: int
    requests_repeated: int
    held_messages: int
    held_dropped: int
    ignored: int
    """Messages of ended terms, to nobody, or not meant for an engine."""


class EngineCore:
    """`handle(event, now_s) -> effects` of one engine.

    Args:
        settings: what an operator may tune.
        node_id: its name in the view.
        incarnation: this start's registered number (P3); it names its shards in every term (P1).
        shared: memory that workers on the same machine read records from; None: there is none.
    """

    def __init__(
        self,
        settings: EngineSettings,
        node_id: NodeId,
        incarnation: int,
        *,
        shared: SharedWriter | None = None,
    ) -> None:
        self.settings = settings
        self.node = node_id
        self.incarnation = incarnation
        self.view: View | None = None
        self.gate = TermGate(Term(0), settings.held_messages_max, settings.held_bytes_max)
        self.trace: deque[tuple[float, Address, str]] = deque(maxlen=settings.trace_events)
        """(now_s, source, what) of the last events, without payloads."""
        self.ignored_count = 0
        self._pulse = Pulse(node_id, "engine", incarnation=incarnation)
        self.producers: dict[int, SpaceProducer] = {}
        self._horizons: dict[int, Horizon] = {}
        self._clients: set[Address] = set()
        self._links = Links()
        self._cache = RecordCache(settings.cache_bytes)
        self._facts = Facts(settings.facts_bytes)
        self._shared = shared
        published = Published(shared, self._cache, self._facts) if shared is not None else None
        self.following = Following(
            settings=settings,
            node=node_id,
            number=incarnation,
            links=self._links,
            facts=self._facts,
            cache=self._cache,
            published=published,
        )
        ids = count(1)
        self.reader = Reader(
            settings=settings,
            links=self._links,
            ids=ids,
            facts=self._facts,
            local=LocalAnswers(self._facts, self._cache, published),
            following=self.following,
        )
        self.requests = PrimaryRequests(
            number=incarnation, links=self._links, ids=ids, retry_s=settings.retry_s
        )
        self._now_s = 0.0

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What an event asks for, in order."""
        self._now_s = now_s
        if type(event) is Received:
            source, message = event
            self._links.heard[source] = now_s
            self.trace.append((now_s, source, type(message).__name__))
            return self._received(source, message)
        if type(event) is BatchEnded:
            return self._end_batch()
        return self._other(event)

    def _received(self, source: Address, message: Message) -> list[Effect]:
        """The commonest first."""
        if type(message) is AppendFrame:
            return self._append(source, message)
        if type(message) is Metalog:
            return self._metalog(source, message)
        if type(message) is IndexStream:
            return self._stream(source, message)
        match message:
            case Read() | BookState():
                if message.linearizable:
                    return self.requests.want_tail(source, message)
                return self.reader.ask(source, message, self._now_s)
            case ReadReply():
                return self.reader.replied(source, message, self._now_s)
            case MetalogPosition():
                return self._published(source, message)
            case ShardHeld():
                return self._held(source, message)
            case FrameRefused():
                return self._storage_refused(source, message)
            case TailRequest():
                return self.requests.want_tail(source, message)
            case Tail():
                return self._tail_arrived(message)
            case Propose():
                return self.requests.propose(source, message)
            case CancelRead(request=request):
                self.requests.cancel(source, request)
                return self.reader.cancel(source, request)
            case SeqnumAt():
                return self.reader.ask(source, message, self._now_s)
            case SetAux():
                return self.reader.set_aux(source, message)
            case Answer():
                return self.reader.answered(message)
            case RequestFailed():
                return self._failed(source, message)
            case StillReading(request=request):
                self.reader.still_reading(source, request, self._now_s)
                return []
            case MetalogBegins(space=number, count=count):
                if number in self.producers:
                    self.producers[number].deletions.metalog_begins(count)
                return []
            case MetalogGone(space=number, count=count):
                # What became of the frames that are under way here cannot be learned any more.
                reason = f"the metalog of log space {number} begins at entry {count} by now"
                return [EndTerm(f"{self.node} was away for too long: {reason}")]
            case TermChanged(term=term):
                return [LoadView(term)] if term > self.gate.term else []
            case StatusRequest(request=request):
                return [Send(source, Status(request, self.facts()))]
            case _:
                self.ignored_count += 1
                return []

    def _other(self, event: Event) -> list[Effect]:
        self.trace.append((self._now_s, "", type(event).__name__))
        match event:
            case LinkUp(peer=peer):
                return self._link_up(peer)
            case LinkDown(peer=peer):
                return self._link_down(peer)
            case LinkClogged(peer=peer, clear=clear):
                return self._clogged(peer, clear=clear)
            case ViewInstalled(view=view):
                return self._install(view)
            case TimerFired(timer=timer):
                return self._timer(timer)
            case ReadOnlyChanged(space=space, reason=reason):
                producer = self.producers.get(space)
                return producer.read_only_changed(reason) if producer is not None else []
            case Persisted() | PersistFailed() | CeilingRaised() | CheckpointStored() | ColdDone():
                return []  # an engine has no journal
            case PromiseStored() | LeaseHeld() | LeaseLost() | IntentStored() | ViewSwapped():
                return []  # of sequencers
            case WrittenSynced():
                return []  # of theirs
            case Received() | BatchEnded():
                raise AssertionError("these are handled before")
            case _:
                assert_never(event)

    # --- from clients -----------------------------------------------------------------------------

    def _append(self, source: Address, message: AppendFrame) -> list[Effect]:
        producer = self.producers.get(message.space)
        if producer is None:
            error = to_wire(NotReady(f"log space {message.space} is in no view known here"))
            return [Send(source, FrameRefused(message.space, message.number, error))]
        return producer.take(source, message)

    # --- from primaries ---------------------------------------------------------------------------

    def _metalog(self, source: Address, message: Metalog) -> list[Effect]:
        """Entries of an ended term are wanted too: they say what of it was ordered (P13)."""
        run = message.run
        space, term, first, entries = run
        producer = self.producers.get(space)
        if term != self.gate.term and self.gate.admit(term, source, message) is FUTURE:
            return [LoadView(term)]
        if producer is None:
            self.ignored_count += 1
            return []
        tail = run.tail
        if tail is not None:
            self._horizons[space].saw(Position(term, first + len(entries)), tail)
        effects = producer.metalog(run)
        index = self.following.spaces[space]
        folded = index.position
        if folded[1] > first and producer.under_way.awaited.missing_at(folded):
            index.want_verdicts()  # it was decided before that replica was followed
        return effects

    def _published(self, source: Address, message: MetalogPosition) -> list[Effect]:
        term = message.position.term
        if self.gate.admit(term, source, message) is FUTURE:
            return [LoadView(term)]
        producer = self.producers.get(message.space)
        if producer is None:
            self.ignored_count += 1
            return []
        self._horizons[message.space].saw(message.position, message.tail)
        return producer.published(message.position)

    def _tail_arrived(self, message: Tail) -> list[Effect]:
        """Whoever waited goes on: with the tail itself, or to read at its position (P26)."""
        effects: list[Effect] = []
        for client, waiting in self.requests.tail_arrived(message):
            if isinstance(waiting, TailRequest):
                effects.append(Send(client, message._replace(request=waiting.request)))
                continue
            position = max(waiting.position, message.position)
            asked: Read | BookState = waiting._replace(linearizable=False, position=position)
            effects += self.reader.ask(client, asked, self._now_s, linearizable=True)
        return effects

    # --- from storage nodes -----------------------------------------------------------------------

    def _held(self, source: Address, message: ShardHeld) -> list[Effect]:
        shard = message.shard
        admission = self.gate.admit(shard.term, source, message)
        if admission is not CURRENT or shard.space not in self.producers:
            return [LoadView(shard.term)] if admission is FUTURE else []
        return self.producers[shard.space].under_way.held(source, message)

    def _storage_refused(self, source: Address, message: FrameRefused) -> list[Effect]:
        """A storage node takes no frames. So it cannot fold past those that it lacks: another index
        is followed, or reads would wait for room on its disk."""
        producer, error = self.producers.get(LogSpaceId(message.space)), from_wire(message.error)
        if producer is None or isinstance(source, int) or not isinstance(error, ReadOnly):
            self.ignored_count += 1
            return []
        effects = producer.storage_refused(source, error.reason)
        index = self.following.spaces[message.space]
        lacks = index.position < index.horizon.position or producer.under_way.replicas.any_has_room
        if index.chosen != (source[1] if isinstance(source, tuple) else source) or not lacks:
            return effects
        effects += self.reader.follow_another(message.space, self._now_s)
        return [*effects, *self._followed_anew()]

    def _failed(self, source: Address, message: RequestFailed) -> list[Effect]:
        effects = self.reader.failed(source, message, self._now_s)
        if effects is None:
            effects = self.requests.failed(message)
        if effects is None:
            self.ignored_count += 1
        return effects or []

    def _stream(self, source: Address, message: IndexStream) -> list[Effect]:
        """What an index replica has folded: facts for reads, verdicts of appends, answers of
        proposals.
        """
        effects = self.reader.stream(source, message, self._now_s)
        if effects is None:
            self.ignored_count += 1
            return []
        space, _, position, _, _, _, verdicts, answers, _, deleted = message
        producer = self.producers[space]
        if not self.following.spaces[space].is_lost(position):
            effects += producer.books_deleted(deleted, position)
        if verdicts:
            effects += producer.under_way.verdicts(verdicts)
        for row in answers:
            answered, trim = self.requests.decided(row, position)
            if trim is not None:
                self.reader.trimmed(trim.book, trim.tag, trim.until)
            effects += answered
        return effects

    # --- links, views, time -----------------------------------------------------------------------

    def _link_up(self, peer: Address) -> list[Effect]:
        self._links.went_up(peer)
        if isinstance(peer, int):
            self._clients.add(peer)
            return []
        effects: list[Effect] = []
        for producer in self.producers.values():
            effects += producer.link_up(peer)
        effects += self.requests.link_up(peer)
        return [*effects, *self.reader.link_up(peer, self._now_s), *self._followed_anew()]

    def _link_down(self, peer: Address) -> list[Effect]:
        self._links.went_down(peer)
        self.gate.forget(peer)
        if isinstance(peer, int):
            return self._forget_client(peer)
        for producer in self.producers.values():
            producer.link_down(peer)
        return [*self.reader.link_down(peer, self._now_s), *self._followed_anew()]

    def _forget_client(self, client: Address) -> list[Effect]:
        self._clients.discard(client)
        for producer in self.producers.values():
            producer.forget_client(client)
        self.requests.forget_client(client)
        return self.reader.forget_client(client)

    def _followed_anew(self) -> list[Effect]:
        """Answers that another index replica has streamed already are asked for again."""
        effects: list[Effect] = []
        for space in self.following.chosen_anew():
            effects += self.requests.propose_again(space)
        return effects

    def _clogged(self, peer: Address, *, clear: bool) -> list[Effect]:
        self._links.clog(peer, clear=clear)
        effects: list[Effect] = []
        for producer in self.producers.values():
            effects += producer.under_way.clogged(peer, clear=clear)
        return effects

    def _install(self, view: View) -> list[Effect]:
        if view.term <= self.gate.term:
            return []
        self.view = view
        held = self.gate.install(view.term)
        effects: list[Effect] = []
        for space in view.spaces:
            if space.id not in self.producers:
                horizon = self._horizons[space.id] = Horizon()
                self.producers[space.id] = SpaceProducer(
                    space.id,
                    settings=self.settings,
                    node=self.node,
                    number=self.incarnation,
                    links=self._links,
                    cache=self._cache,
                    horizon=horizon,
                )
            effects += self.producers[space.id].install(view)
        effects += self.reader.install(view, self._horizons, self._now_s)
        self.following.chosen_anew()  # proposals are repeated anyway
        effects += self.requests.install(view)
        for message in held:
            effects += self.handle(Received(message.source, message.message), self._now_s)
        return [*effects, *self._pulse.install(view)]

    def _timer(self, timer: object) -> list[Effect]:
        match timer:
            case ("producer", int() as space):
                producer = self.producers[space]
                if producer.under_way.awaited.overdue():
                    self.following.spaces[space].want_verdicts()
                if not producer.index_behind():
                    return producer.timer()
                effects = self.reader.follow_another(space, self._now_s)
                return [*effects, *self._followed_anew(), *producer.timer()]
            case ("lag", int() as space):
                if not self.producers[space].admission.lag_timer():
                    return []
                return [*self.reader.follow_another(space, self._now_s), *self._followed_anew()]
            case ("read", int() as number):
                return self.reader.timer(number, self._now_s)
            case _ if timer == TIMER:
                return self.requests.timer()
            case _ if timer == SILENCE:
                return [*self.reader.look_for_silence(self._now_s), *self._followed_anew()]
            case _ if timer == PULSE:
                return self._pulse.beat()
            case _:
                return []

    def _end_batch(self) -> list[Effect]:
        effects = self.reader.end_batch()
        if not self.following.due:
            return [*effects, *self.requests.end_batch()] if self.requests.arrived else effects
        rows: dict[int, list[list[int]]] = {}
        if self.following.verdicts_due:
            rows = {space: each.under_way.awaited.rows() for space, each in self.producers.items()}
        told = self.following.end_batch(rows, self.reader.waited_books)
        return [*effects, *told, *self.requests.end_batch()]

    # --- for people -------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """A snapshot."""
        producers, reader, cache = self.producers.values(), self.reader, self._cache
        shared = self._shared
        return EngineStats(
            term=self.gate.term,
            clients=len(self._clients),
            links=len(self._links.up),
            unordered_frames=sum(each.admission.frames for each in producers),
            unordered_bytes=sum(each.admission.bytes for each in producers),
            frames_refused=sum(each.admission.refused_count for each in producers),
            frames_lost=sum(each.under_way.lost_count for each in producers),
            frames_resent=sum(each.under_way.resent_count for each in producers),
            reads_waiting=reader.waiting,
            reads_local=reader.local_count,
            reads_passed=reader.passed.count,
            reads_fetched=reader.fetches.count,
            facts_bytes=self._facts.bytes_used,
            facts_evicted=self._facts.evicted_count,
            cache_bytes=cache.bytes_used,
            cache_hits=cache.hit_count,
            cache_misses=cache.miss_count,
            shared_hits=shared.hits if shared is not None else 0,
            shared_misses=shared.misses if shared is not None else 0,
            requests_waiting=self.requests.waiting,
            requests_repeated=self.requests.repeated_count,
            held_messages=len(self.gate),
            held_dropped=self.gate.dropped_count,
            ignored=self.ignored_count
            + reader.unexpected_count
            + sum(each.unexplained_count for each in producers),
        )

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        stats = self.stats()
        return {
            "role": "engine",
            "node": self.node,
            "incarnation": self.incarnation,
            **stats._asdict(),
            "spaces": {
                space: {**producer.summary(), **self.following.spaces[space].summary()}
                for space, producer in self.producers.items()
            },
        }

    def check(self) -> None:
        """Asserts the invariants of all parts."""
        self.gate.check()
        self._cache.check()
        self._facts.check()
        self.following.check()
        self.reader.check()
        for producer in self.producers.values():
            producer.check()
