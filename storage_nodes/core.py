"""A storage node as one pure core: a replica per log space, behind the term gate.

Decides which replica an event is for, and which part of it; what the links of a node mean to it,
and when a read-only node tries to write again. Messages of a term that is not installed yet are
held, bounded, and make the node load the view; those of an ended term are dropped: their sender has
a newer shard by then (P17).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import assert_never

from bokilog.effects import (
    Address,
    BatchEnded,
    CeilingRaised,
    CheckpointStored,
    ColdDone,
    Commit,
    Effect,
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
    SetTimer,
    TimerFired,
    ViewInstalled,
    ViewSwapped,
    WrittenSynced,
)
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.messages import (
    BookState,
    CancelRead,
    FetchFrames,
    FetchRuns,
    FetchSnapshot,
    FetchStored,
    FoldMarks,
    FollowIndex,
    FramesSent,
    IndexReport,
    Message,
    Metalog,
    MetalogGone,
    MetalogSynced,
    Read,
    Replicate,
    RequestFailed,
    ResumeShard,
    SeqnumAt,
    SetAux,
    SnapshotPart,
    Status,
    StatusRequest,
    StoredFrame,
    StoredSent,
    TermChanged,
)
from bokilog.pulse import PULSE, Pulse
from bokilog.storage_nodes.expiry import BEHIND_LOOK_S, LOOK_S
from bokilog.storage_nodes.rebuilding import Rebuild, cannot_rebuild
from bokilog.storage_nodes.replica import Replica
from bokilog.term_gate import FUTURE, TermGate
from bokilog.view import View

TRACE_EVENTS = 256


class StorageCore:
    """`handle(event, now_s) -> effects` of one storage node."""

    def __init__(
        self,
        *,
        node: NodeId,
        replicas: Mapping[LogSpaceId, Replica],
        checkpoint_s: float,
        rebuild: Rebuild = cannot_rebuild,
        incarnation: int = 0,
        disk_id: str = "",
    ) -> None:
        self.node = node
        self._pulse = Pulse(node, "storage", incarnation=incarnation, disk_id=disk_id)
        self.replicas = dict(replicas)
        self.gate = TermGate(Term(0))
        self.view: View | None = None
        self.trace: deque[tuple[Address, str]] = deque(maxlen=TRACE_EVENTS)
        """(source, what) of the last messages, without payloads."""
        self.ignored_count = 0
        """Messages of ended terms, of unknown log spaces, or not meant for a storage node."""
        self._checkpoint_s = checkpoint_s
        self._rebuild = rebuild
        self._late: dict[LogSpaceId, list[View]] = {}
        """Views that a log space installs once its checkpoint is stored."""
        self._token = 0
        self._committing: dict[int, LogSpaceId] = {}
        self._links: set[Address] = set()
        self._touched: set[LogSpaceId] = set()
        """Log spaces that something happened to since the last batch ended."""

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        if type(event) is Received:
            return self._received(*event)
        if type(event) is BatchEnded:
            return self._end_batch()
        match event:
            case Persisted(token=token):
                return self._replica(self._committing.pop(token)).persisted(token)
            case PersistFailed(token=token, reason=reason):
                return self._replica(self._committing.pop(token)).persist_failed(token, reason)
            case ReadOnlyChanged(space=number, reason=reason):
                return self._replica(LogSpaceId(number)).read_only_changed(reason)
            case CheckpointStored(space=number):
                return self._checkpoint_stored(LogSpaceId(number))
            case ColdDone(space=number, job=job, outcome=outcome):
                return self._replica(LogSpaceId(number)).cold_done(job, outcome, now_s)
            case ViewInstalled(view=view):
                return self._install(view)
            case LinkUp(peer=peer):
                self._links.add(peer)
                return self._link_up(peer)
            case LinkDown(peer=peer):
                self._links.discard(peer)
                return self._link_down(peer)
            case TimerFired(timer=timer):
                return self._timer(timer, now_s)
            case LinkClogged() | CeilingRaised() | WrittenSynced():
                return []
            case PromiseStored() | LeaseHeld() | LeaseLost() | IntentStored() | ViewSwapped():
                return []  # of sequencers
            case Received() | BatchEnded():
                raise AssertionError("these are handled before")
            case _:
                assert_never(event)

    def _replica(self, number: LogSpaceId) -> Replica:
        """The replica that something is happening to."""
        self._touched.add(number)
        return self.replicas[number]

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, source: Address, message: Message) -> list[Effect]:
        self.trace.append((source, type(message).__name__))
        if isinstance(message, Replicate):
            return self._replicate(source, message)
        if isinstance(message, Metalog):
            return self._metalog(source, message)
        if isinstance(message, Read):
            replica = self._known_replica(LogSpaceId(message.space))
            return replica.answers.read(source, message) if replica is not None else []
        if isinstance(message, StatusRequest):
            return [Send(source, Status(message.request, self.facts()))]
        if isinstance(message, RequestFailed):
            return []  # a trim for retention was refused: it is proposed again
        if isinstance(message, TermChanged):
            return [LoadView(message.term)] if message.term > self.gate.term else []
        return self._dispatch(source, message)

    def _replicate(self, source: Address, message: Replicate) -> list[Effect]:
        """A frame; what its own shard has no use for any more, the replica sees."""
        frame = message.frame
        space, term, _ = frame.shard
        if term != self.gate.term and self.gate.admit(term, source, message) is FUTURE:
            return [LoadView(term)]
        replica = self._known_replica(space)
        if replica is None or replica.mend(source, frame):
            return []
        return replica.arrivals.take(frame, source)

    def _metalog(self, source: Address, message: Metalog) -> list[Effect]:
        """Metalog of an ended term is still wanted: it is how a node that was away catches up (P8,
        P13)."""
        run = message.run
        space, term, _, _ = run
        if term != self.gate.term and self.gate.admit(term, source, message) is FUTURE:
            return [LoadView(term)]
        replica = self._known_replica(space)
        return replica.metalog(run) if replica is not None else []

    def _known_replica(self, number: LogSpaceId) -> Replica | None:
        """The replica that a message is for; None, and counted, if there is none here."""
        replica = self.replicas.get(number)
        if replica is None:
            self.ignored_count += 1
        else:
            self._touched.add(number)
        return replica

    def _dispatch(self, source: Address, message: Message) -> list[Effect]:
        number = _space_of(message)
        if number not in self.replicas:
            self.ignored_count += 1
            return []
        replica = self._replica(LogSpaceId(number))
        match message:
            case FollowIndex():
                return replica.answers.follow(source, message)
            case ResumeShard(shard=shard):
                return replica.arrivals.resume(source, shard)
            case FetchFrames():
                return replica.answers.fetch(source, message)
            case FetchRuns():
                return replica.entries.give(source, message)
            case FramesSent():
                return replica.frames_sent(source, message)
            case FetchSnapshot():
                return replica.storing.give(source, message)
            case SnapshotPart():
                return replica.snapshot_part(source, message)
            case FetchStored():
                return replica.answers.fetch_stored(source, message)
            case StoredFrame():
                return replica.stored_frame(source, message)
            case StoredSent():
                return replica.filling.answered(source, message)
            case MetalogSynced(term=term, count=count):
                return replica.storing.metalog_synced(Term(term), count)
            case MetalogGone(count=count):
                return replica.folding.metalog_gone(count)
            case CancelRead():
                return replica.answers.cancel(source, message)
            case SeqnumAt():
                return replica.answers.seqnum_at(source, message)
            case BookState():
                return replica.answers.book_state(source, message)
            case SetAux():
                return replica.answers.set_aux(message)
            case IndexReport():
                return replica.peer_stored(str(source), message)
            case FoldMarks(marks=marks):
                return replica.peer_folded(NodeId(str(source)), marks)
            case _:
                self.ignored_count += 1
                return []

    # --- views and links --------------------------------------------------------------------------

    def _install(self, view: View) -> list[Effect]:
        first = self.view is None
        self.view = view
        self._touched.update(self.replicas)
        effects: list[Effect] = []
        for number in self.replicas:
            effects += self._install_in(number, view)
        for held in self.gate.install(view.term):
            effects += self._received(held.source, held.message)
        if first:
            effects.append(SetTimer("checkpoint", self._checkpoint_s))
            effects.append(SetTimer("upkeep", LOOK_S))
        for peer in sorted(self._links, key=str):
            effects += self._link_up(peer)
        return [*effects, *self._pulse.install(view)]

    def _install_in(self, number: LogSpaceId, view: View) -> list[Effect]:
        """One log space's part; if it folded what is lost now, it is built anew (P11).

        While its store is being written that has to wait, and every later view with it.
        """
        replica = self.replicas[number]
        late = self._late.get(number, [])
        if late or (replica.is_past(view.term, view.end(number)) and replica.is_storing):
            self._late[number] = [*late, view]
            return []
        if not replica.is_past(view.term, view.end(number)):
            return replica.install(view.space(number), view.term, view.end(number))
        new, views = self._rebuild(number, view)
        new.succeed(replica)
        self.replicas[number] = new
        effects: list[Effect] = []
        if replica.staged:  # in this batch; the new one hears of it from others, or does without
            self._token += 1
            self._committing[self._token] = number
            effects.append(Commit(number, self._token))
        for each in views:
            effects += new.install(each.space(number), each.term, each.end(number))
        return effects

    def _checkpoint_stored(self, number: LogSpaceId) -> list[Effect]:
        effects = self._replica(number).checkpoint_stored()
        late = self._late.pop(number, [])
        for view in late:
            effects += self._install_in(number, view)
        for peer in sorted(self._links, key=str) if late else ():
            effects += self._link_up(peer)
        return effects

    def _link_up(self, peer: Address) -> list[Effect]:
        effects: list[Effect] = []
        self._touched.update(self.replicas)
        for replica in self.replicas.values():
            if self.view is not None and peer == replica.space.primary:
                effects += replica.follow_primary()
            elif peer in replica.space.replicas and isinstance(peer, str):
                effects += replica.peer_link(NodeId(peer), up=True)
        return effects

    def _link_down(self, peer: Address) -> list[Effect]:
        effects: list[Effect] = []
        self._touched.update(self.replicas)
        for replica in self.replicas.values():
            effects += replica.link_down(peer)
            if isinstance(peer, str):
                effects += replica.peer_link(NodeId(peer), up=False)
        return effects

    # --- time -------------------------------------------------------------------------------------

    def _timer(self, timer: object, now_s: float) -> list[Effect]:
        match timer:
            case ("fold", int() as number):
                return self._replica(LogSpaceId(number)).folding.timer()
            case ("fetch", int() as number):
                return self._replica(LogSpaceId(number)).folding.fetch_timer()
            case ("snapshot", int() as number):
                return self._replica(LogSpaceId(number)).snapshot_timer()
            case ("backfill", int() as number):
                return self._replica(LogSpaceId(number)).filling.timer()
            case ("read", int() as number, int() as key):
                return self._replica(LogSpaceId(number)).answers.read_timer(key)
            case ("cold", int() as number, int() as key):
                return self._replica(LogSpaceId(number)).answers.cold_timer(key)
            case ("cold-down", int() as number):
                return self._replica(LogSpaceId(number)).cold_down_timer()
            case "checkpoint":
                self._touched.update(self.replicas)
                for replica in self.replicas.values():
                    replica.checkpoint_timer()
                return [SetTimer("checkpoint", self._checkpoint_s)]
            case _ if timer == PULSE:
                return self._pulse.beat(rebuilding=not all(map(_is_whole, self.replicas.values())))
            case "upkeep":
                return self._upkeep(now_s)
            case _:
                return []

    def _upkeep(self, now_s: float) -> list[Effect]:
        """What nobody waits for, a bounded part at a time: retention, compaction, scrubbing."""
        effects: list[Effect] = []
        behind = False
        for number, replica in self.replicas.items():
            proposed, more = replica.retention_timer(now_s)
            effects += [*proposed, *replica.scrub(now_s), *replica.move_cold(now_s)]
            busy = replica.compact(now_s)
            if busy or replica.staged:
                self._touched.add(number)
            behind |= more or busy
        return [*effects, SetTimer("upkeep", BEHIND_LOOK_S if behind else LOOK_S)]

    def _end_batch(self) -> list[Effect]:
        if not self._touched:
            return []
        effects: list[Effect] = []
        touched, self._touched = self._touched, set()
        for number in sorted(touched):
            token = self._token + 1
            if self.replicas[number].end_batch(token, effects):
                self._token = token
                self._committing[token] = number
        return effects

    # --- for people -------------------------------------------------------------------------------

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "role": "storage",
            "node": self.node,
            "term": self.gate.term,
            "ignored": self.ignored_count,
            "spaces": {number: replica.facts() for number, replica in self.replicas.items()},
        }

    def check(self) -> None:
        for replica in self.replicas.values():
            replica.check()


def _is_whole(replica: Replica) -> bool:
    return replica.is_whole or not replica.is_member


def _space_of(message: Message) -> int | None:
    """The log space a message is about."""
    match message:
        case StoredFrame(frame=frame):
            return frame.shard.space
        case ResumeShard(shard=shard) | FetchFrames(shard=shard):
            return shard.space
        case (
            FollowIndex()
            | SeqnumAt()
            | CancelRead()
            | BookState()
            | SetAux()
            | IndexReport()
            | FoldMarks()
            | FetchRuns()
            | FramesSent()
            | FetchSnapshot()
            | SnapshotPart()
            | FetchStored()
            | StoredSent()
            | MetalogGone()
            | MetalogSynced()
        ):
            return message.space
        case _:
            return None
