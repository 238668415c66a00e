"""A sequencer process as one pure core: its role in each log space, behind the greeting and the
term.

Decides which term's messages count, and which role hears of them (`roles.py` says what this process
is in a view, `cut_clock.py` what time a cut carries). With one sequencer its term is as long as its
life: each start ends the term before and stores the next view before this core exists (P12, P13).
With several, roles change when a stored view says so. Messages of older terms are ignored: their
sender learns the new term from `TermChanged`. Whoever knows a newer term makes this one load that
view; what belongs to it is kept until then (P17).

Invariants: each commit has a token of its own, over all log spaces, so that their syncs may end in
any order. Once a term is sealed or succeeded nothing of it is ordered, published, confirmed or
acknowledged here (P14). Entries past a term's end are gone before anything of the next term is done
(P13).

Does not know: sockets, disks, how views are stored, who decides them (`controller.py`). Differs
from Boki, whose sequencers agree on a term by asking ZooKeeper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, assert_never

from bokilog.effects import (
    Address,
    BatchEnded,
    CeilingRaised,
    CheckpointStored,
    ColdDone,
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
from bokilog.errors import NotPrimary, to_wire
from bokilog.histogram import Moment
from bokilog.ids import START, LogSpaceId, NodeId, Term
from bokilog.journal import Journal
from bokilog.messages import (
    CeilingHeld,
    ConfirmTerm,
    Extend,
    Extended,
    FetchRuns,
    FollowMetalog,
    FramesLacking,
    Heartbeat,
    HoldCeiling,
    IndexReport,
    Message,
    OpenShardRequest,
    Propose,
    ReplicateFrom,
    ReplicateRun,
    RequestFailed,
    Runs,
    RunsGone,
    RunsHeld,
    RunsSynced,
    Seal,
    Sealed,
    ShardProgress,
    Status,
    StatusRequest,
    SyncMetalog,
    SyncRuns,
    TailRequest,
    TermChanged,
    TermConfirmed,
)
from bokilog.sequencer.backup import Backup, FromPrimary
from bokilog.sequencer.cut_clock import CutClock
from bokilog.sequencer.held import Recovered
from bokilog.sequencer.primary import FromBackup, Primary
from bokilog.sequencer.roles import Roles
from bokilog.sequencer.seal import Sealing, serve
from bokilog.term_gate import TermGate
from bokilog.view import LogSpace, View

TRACE_EVENTS: Final = 256
FOLLOW_RETRY_S: Final = 0.2
"""A backup that hears nothing of its primary for so long asks it again."""

_AboutSeal = Seal | Extend | FetchRuns | Runs
_Addressed = (
    ShardProgress
    | OpenShardRequest
    | FollowMetalog
    | Propose
    | TailRequest
    | IndexReport
    | FramesLacking
    | SyncMetalog
)


class SequencerCore:
    """`handle(event, now_s) -> effects` of one sequencer.

    Args:
        node: its name in the view.
        view: with one sequencer of this start's own term, stored already; with several the one
            that the journals reach to, and later ones follow as `ViewInstalled`.
        recovered: per log space, where the term before ended and what led there.
        journals: per log space, where its metalog goes.
        incarnation: of this start, as registered in the view store (P3).
        disk_id: of its data directory (P14).
        promised: the last term that was promised here to be left alone, by an earlier start.
        ceilings: seqnums that may be in use in log spaces whose metalog is not synced (P11).
        releases: whether what replicas have stored is let go, by primaries and backups (P16).
        release_after_s: not before a primary is so old.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        view: View,
        recovered: Mapping[LogSpaceId, Recovered],
        journals: Mapping[LogSpaceId, Journal],
        incarnation: int = 0,
        disk_id: str = "",
        promised: Term | None = None,
        ceilings: Mapping[LogSpaceId, int] | None = None,
        releases: bool = False,
        release_after_s: float = 0.0,
    ) -> None:
        self.node = node
        self.view = view
        self.incarnation = incarnation
        self.disk_id = disk_id
        self._journals = journals
        self._sealing = Sealing(
            node=node, incarnation=incarnation, disk_id=disk_id, promised=promised
        )
        self._ceilings = dict(ceilings or {})
        self._gate = TermGate(view.term)
        self._links: set[Address] = set()
        self._asked: dict[
            tuple[Address, LogSpaceId, type], FollowMetalog | IndexReport | FramesLacking
        ] = {}
        """What others told that is for a primary, while this sequencer may become one."""
        self._ticking = False
        self._moment = Moment()
        self._roles = roles = Roles(
            node=node,
            incarnation=incarnation,
            disk_id=disk_id,
            journals=journals,
            ceilings=self._ceilings,
            sealing=self._sealing,
            moment=self._moment,
            releases=releases,
            release_after_s=release_after_s,
        )
        self.primaries, self.backups = roles.primaries, roles.backups
        for space in view.spaces:
            if space.id in recovered:
                roles.begin(space, view, recovered[space.id])
        self.trace: deque[tuple[float, Address, str]] = deque(maxlen=TRACE_EVENTS)
        """(now_s, source, what) of the last messages, without payloads."""
        self.ignored_count = 0
        """Messages of other terms, of unknown log spaces, or not meant for a sequencer."""
        self._clock = CutClock(view.end_timestamp_ms)
        self._token = 0
        self._committing: dict[int, LogSpaceId] = {}
        self._touched: set[LogSpaceId] = set()
        """Log spaces that something happened to since the last batch ended."""

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What an event asks for, in order."""
        self._moment.now_s = now_s
        if type(event) is Received:
            source, message = event
            self.trace.append((now_s, source, type(message).__name__))
            if type(message) is ShardProgress:
                return self._progressed(source, message)
            return self._received(source, message)
        if type(event) is BatchEnded:
            return self._end_batch(now_s, event[0]) if self._touched else []
        match event:
            case Persisted(token=token):
                return self._persisted(token)
            case PersistFailed(token=token, reason=reason):
                return self._role(self._committing.pop(token)).persist_failed(reason)
            case CeilingRaised(space=space, seqnum=seqnum):
                return self._ceiling_raised(LogSpaceId(space), seqnum)
            case WrittenSynced(space=space, term=term, count=count):
                effects = self._role(LogSpaceId(space)).written_synced(term, count)
                return [*effects, *self._sealing.moved(self.view.term, self._roles.holders())]
            case LinkUp(peer=peer):
                return self._link_up(peer)
            case LinkDown(peer=peer):
                return self._link_down(peer)
            case TimerFired(timer=("feed", int() as space, source)):
                primary = self.primaries.get(LogSpaceId(space))
                return primary.feed(source) if primary is not None else []
            case TimerFired(timer=("backups", int() as space)):
                primary = self.primaries.get(LogSpaceId(space))
                return primary.look_after_backups() if primary is not None else []
            case TimerFired(timer=("positions", int() as space)):
                primary = self.primaries.get(LogSpaceId(space))
                return primary.tell_positions() if primary is not None else []
            case TimerFired(timer="follow"):
                return self._follow_again()
            case ViewInstalled(view=view):
                return self._install(view)
            case PromiseStored(term=term):
                return self._sealing.promise_stored(
                    term, self.view.term, self._roles.holders(), self._ceilings
                )
            case TimerFired() | LinkClogged() | CheckpointStored() | ReadOnlyChanged():
                return []  # a full disk keeps commits back until there is room: nothing is lost
            case LeaseHeld() | LeaseLost() | IntentStored() | ViewSwapped():
                return []  # of the controller beside this core
            case ColdDone():
                return []  # of storage nodes
            case Received() | BatchEnded():
                raise AssertionError("these are handled before")
            case _:
                assert_never(event)

    @property
    def newest_term(self) -> Term:
        """Of the installed view; a primary of an older one has been succeeded."""
        return self.view.term

    def _role(self, space: LogSpaceId) -> Primary | Backup:
        """The role in a log space that something is happening to."""
        self._touched.add(space)
        return self.primaries.get(space) or self.backups[space]

    def _persisted(self, token: int) -> list[Effect]:
        space = self._committing.pop(token)
        self._touched.add(space)
        primary = self.primaries.get(space)
        if primary is not None and not primary.space.backups:
            return primary.persisted(token)
        effects = self._role(space).persisted(token)
        return [*effects, *self._sealing.moved(self.view.term, self._roles.holders())]

    def _ceiling_raised(self, space: LogSpaceId, seqnum: int) -> list[Effect]:
        self._ceilings[space] = max(seqnum, self._ceilings.get(space, 1))
        role = self._role(space)
        if isinstance(role, Backup):
            return role.ceiling_raised(seqnum)
        role.ceiling_raised(seqnum)
        return []

    # --- links ------------------------------------------------------------------------------------

    def _link_up(self, peer: Address) -> list[Effect]:
        self._links.add(peer)
        effects: list[Effect] = [Send(peer, TermChanged(self.newest_term))]
        for backup in self.backups.values():
            if backup.primary == peer:
                effects += backup.follow()
        return [*effects, *self._start_ticking()]

    def _link_down(self, peer: Address) -> list[Effect]:
        self._links.discard(peer)
        self._gate.forget(peer)
        for primary in self.primaries.values():
            primary.link_down(peer)
        if self._asked:
            self._asked = {name: each for name, each in self._asked.items() if name[0] != peer}
        return []

    def _start_ticking(self) -> list[Effect]:
        if self._ticking or all(backup.primary is None for backup in self.backups.values()):
            return []
        self._ticking = True
        return [SetTimer("follow", FOLLOW_RETRY_S)]

    def _follow_again(self) -> list[Effect]:
        self._ticking = False
        effects: list[Effect] = []
        for backup in self.backups.values():
            if backup.primary in self._links:
                effects += backup.tick()
        return [*effects, *self._start_ticking()]

    # --- messages ---------------------------------------------------------------------------------

    def _received(self, source: Address, message: Message) -> list[Effect]:
        match message:
            case StatusRequest(request=request):
                return [Send(source, Status(request, self.facts()))]
            case TermChanged(term=term):
                return [LoadView(term)] if term > self.newest_term else []
            case (
                OpenShardRequest()
                | FollowMetalog()
                | Propose()
                | TailRequest()
                | IndexReport()
                | FramesLacking()
                | SyncMetalog()
            ):
                return self._addressed(source, message)
            case RunsHeld() | ReplicateFrom() | CeilingHeld() | RunsSynced() | TermConfirmed():
                return self._from_backup(source, message)
            case ReplicateRun() | HoldCeiling() | SyncRuns() | ConfirmTerm():
                return self._from_primary(source, message)
            case RunsGone():
                return self._runs_gone(source, message)
            case Seal() | Extend() | FetchRuns() | Runs():
                return self._about_seal(source, message)
            case Sealed() | Extended() | Heartbeat():
                return []  # for the controller beside this core
            case _:
                self.ignored_count += 1
                return []

    def _from_backup(self, source: Address, message: FromBackup) -> list[Effect]:
        if message.term != self.view.term:
            return self._other_term(source, message.term, message)
        primary = self.primaries.get(LogSpaceId(message.space))
        if primary is None or primary.term != message.term:
            self.ignored_count += 1
            return []
        self._touched.add(primary.space.id)
        return primary.backup_received(NodeId(str(source)), message)

    def _from_primary(self, source: Address, message: FromPrimary) -> list[Effect]:
        if message.term != self.view.term:
            return self._other_term(source, message.term, message)
        space = message.run.space if isinstance(message, ReplicateRun) else message.space
        backup = self.backups.get(LogSpaceId(space))
        if backup is None:
            self.ignored_count += 1
            return []
        self._touched.add(backup.space.id)
        return backup.primary_received(source, message)

    def _runs_gone(self, source: Address, message: RunsGone) -> list[Effect]:
        """From the primary of this term, or from whoever holds what a controller wants held."""
        holder = self._roles.holders().get(LogSpaceId(message.space))
        if message.term == self.view.term and holder is not None:
            self._sealing.runs_gone(source, message, holder)
        return self._from_primary(source, message)

    def _about_seal(self, source: Address, message: _AboutSeal) -> list[Effect]:
        """Of the installed term only: what lies past an older term's end must be gone before this
        sequencer says what it holds (P13)."""
        term = Term(message.term)
        if term != self.view.term:
            return self._other_term(source, term, message)
        holders = self._roles.holders()
        match message:
            case Seal():
                return self._sealing.seal(source, term, holders, self._ceilings)
            case Extend():
                return self._sealing.extend(source, message, holders)
            case FetchRuns(space=space) | Runs(space=space) if space in holders:
                number = LogSpaceId(space)
                if isinstance(message, FetchRuns):
                    return serve(source, message, holders[number], self._journals[number])
                self._touched.add(number)
                return self._sealing.fetched(message, holders[number])
            case _:
                self.ignored_count += 1
                return []

    def _other_term(self, source: Address, term: int, message: Message) -> list[Effect]:
        """Of a newer term: kept until that view is loaded. Of an older one: its sender is told."""
        if term > self.newest_term:
            self._gate.admit(term, source, message)
            return [LoadView(term)]
        self.ignored_count += 1
        return [Send(source, TermChanged(self.newest_term))]

    def _progressed(self, source: Address, message: ShardProgress) -> list[Effect]:
        """By far the most of what a primary is told."""
        space, term, _, _, _ = message
        primary = self.primaries.get(LogSpaceId(space))
        if primary is None or term != primary.term:
            return self._addressed(source, message)
        self._touched.add(LogSpaceId(space))
        primary.progressed(NodeId(str(source)), message)
        return []

    def _addressed(self, source: Address, message: _Addressed) -> list[Effect]:
        """A message about a log space; one of a newer term than any known here is a hint."""
        term = _term_of(message)
        space = LogSpaceId(message.space)
        if term is not None and term > self.newest_term:
            if space in self.primaries or space in self.backups:
                self._keep(source, term, message)
            return [LoadView(term)]
        primary = self.primaries.get(space)
        if primary is None:
            return self._not_primary(source, message)
        self._touched.add(space)
        match message:
            case OpenShardRequest(term=primary.term):
                primary.open_shard(message)
            case FollowMetalog():
                return primary.follow(source, message)
            case Propose():
                return primary.propose(source, message)
            case TailRequest():
                return primary.tail_wanted(source, message)
            case IndexReport():
                return primary.index_reported(str(source), message)
            case FramesLacking():
                primary.frames_lacking(str(source), message)
            case SyncMetalog(term=primary.term):
                return primary.sync_wanted(source, message)
            case ShardProgress() | OpenShardRequest() | SyncMetalog():
                self.ignored_count += 1
            case _:
                assert_never(message)
        return []

    def _keep(self, source: Address, term: Term, message: _Addressed) -> None:
        """It is of a view that this sequencer has not loaded yet."""
        if isinstance(message, FollowMetalog | IndexReport | FramesLacking):
            self._asked[source, LogSpaceId(message.space), type(message)] = message
        else:
            self._gate.admit(term, source, message)

    def _not_primary(self, source: Address, message: _Addressed) -> list[Effect]:
        """Its sender may know a view in which this sequencer is the primary, or an old one."""
        backup = self.backups.get(LogSpaceId(message.space))
        if backup is None:
            self.ignored_count += 1
            return []
        match message:
            case FollowMetalog() | IndexReport() | FramesLacking():
                self._keep(source, self.newest_term, message)
            case Propose(request=request) | TailRequest(request=request):
                error = to_wire(NotPrimary(backup.primary))
                return [Send(source, RequestFailed(request, error, START))]
            case _:
                self.ignored_count += 1
        return []

    def _end_batch(self, now_s: float, wall_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        timestamp_ms = self._clock.read(now_s, wall_ms)
        touched, self._touched = self._touched, set()
        for space in sorted(touched):
            effects += self._end_of(space, timestamp_ms)
        return effects

    def _end_of(self, space: LogSpaceId, timestamp_ms: int) -> list[Effect]:
        """What a batch brought to one log space is ordered, if it is primary, and committed."""
        role = self.primaries.get(space) or self.backups[space]
        token = self._token + 1
        effects = role.end_batch(timestamp_ms, token)
        if role.committed(token):
            self._token = token
            self._committing[token] = space
        return effects

    # --- views ------------------------------------------------------------------------------------

    def _install(self, view: View) -> list[Effect]:
        """A later term begins: a primary of the last one never orders anything again (P12)."""
        if view.term <= self.newest_term:
            return []
        self.view = view
        self._sealing.begin()
        self._clock.at_least(view.end_timestamp_ms)
        effects: list[Effect] = []
        for space in view.spaces:
            effects += self._change_role(space)
        peers = [peer for peer in self._links if isinstance(peer, str)]
        if any(space.backups for space in view.spaces):
            effects += [Send(peer, TermChanged(view.term)) for peer in sorted(peers)]
        self._asked = {
            name: message
            for name, message in self._asked.items()
            if _counts_after(view.term, message)
        }
        for held in self._gate.install(view.term):
            effects += self._received(held.source, held.message)
        return [*effects, *self._start_ticking()]

    def _change_role(self, space: LogSpace) -> list[Effect]:
        """From the role in the last view to that in this one. A new primary is told at once what
        others told the one before.

        What a backup took in this very batch is committed before: the next role knows nothing of it
        that is still to be done, and with no entry to come it would never be durable (P13).
        """
        committed = self._end_of(space.id, 0) if space.id in self.backups else []
        primary = self.primaries.get(space.id)
        if primary is not None:
            for source, message in primary.asked():
                name = source, space.id, type(message)
                if not _is_said_from(self.view.term, self._asked.get(name)):
                    self._asked[name] = message
        effects = [*committed, *self._roles.change(space, self.view)]
        primary = self.primaries.get(space.id)
        if primary is not None and primary.term == self.view.term:
            for (source, number, _), asked in list(self._asked.items()):
                if number == space.id:
                    effects += self._addressed(source, asked)
        return effects

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "role": "sequencer",
            "node": self.node,
            "term": self.view.term,
            "primary": any(each.term == self.newest_term for each in self.primaries.values()),
            "promised": self._sealing.promised,
            "ignored": self.ignored_count,
            "spaces": self._roles.facts(),
        }

    def check(self) -> None:
        """Asserts the invariants."""
        assert all(token <= self._token for token in self._committing)
        self._roles.check()
        self._gate.check()


def _is_said_from(term: Term, asked: Message | None) -> bool:
    """Whether it says where a fold stands in this term, or a later one: then its sender installed
    that view before this sequencer did."""
    return isinstance(asked, IndexReport) and (asked.said_in or 0) >= term


def _counts_after(term: Term, asked: Message) -> bool:
    """Whether the primary of a later term has to know it. That a replica is empty, or lacks
    records, says something of now only: each primary asks anew (P20, P24)."""
    if isinstance(asked, IndexReport) and asked.empty:
        return _is_said_from(Term(term + 1), asked)
    return not isinstance(asked, FramesLacking)


def _term_of(message: _Addressed) -> Term | None:
    """The term that a message is of, or speaks about."""
    match message:
        case ShardProgress(term=term) | OpenShardRequest(term=term) | SyncMetalog(term=term):
            return Term(term)
        case FollowMetalog(position=position):
            return position.term
        case IndexReport():
            return message.said_in
        case Propose() | TailRequest() | FramesLacking():
            return None
        case _:
            assert_never(message)
