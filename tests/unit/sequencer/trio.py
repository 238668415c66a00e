"""Three sequencers over journals in memory, and a driver in place of controllers.

Every message waits in its link, and every sync at its disk, until a test lets it happen. Whatever
leaves for a follower is checked: an entry that was published is never replaced or lost (P11, P13).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace

from bokilog.effects import (
    Address,
    BatchEnded,
    CeilingRaised,
    Commit,
    Effect,
    EndTerm,
    Event,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    PromiseStored,
    RaiseCeiling,
    Received,
    Send,
    SetTimer,
    StorePromise,
    SyncWritten,
    TimerFired,
    ViewInstalled,
    WrittenSynced,
)
from bokilog.ids import START, LogSpaceId, NodeId, Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    Extend,
    Extended,
    FollowMetalog,
    Message,
    Metalog,
    OpenShardRequest,
    Seal,
    Sealed,
    ShardProgress,
)
from bokilog.metalog import Entry
from bokilog.record import Durability
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.view import End, LogSpace, Node, View, first_end
from bokilog.wire import decode, encode

SPACE = LogSpaceId(1)
S1, S2, S3 = (NodeId(f"sequencer-{number}") for number in (1, 2, 3))
SEQUENCERS = (S1, S2, S3)
STORAGE = NodeId("storage-1")
ENGINE = "engine-1"
DRIVER = "driver"
WALL_MS = 1_700_000_000_000
SETTLED_WITHIN = 10_000
"""Rounds of messages, syncs and timers."""


@dataclass
class Disk:
    """What outlives a process."""

    id: str
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    promised: Term | None = None
    ceiling: int = 1


@dataclass
class Process:
    """One start of a sequencer."""

    core: SequencerCore
    incarnation: int
    commits: list[int] = field(default_factory=list)
    promises: list[Term] = field(default_factory=list)
    ceilings: list[int] = field(default_factory=list)
    syncs: list[SyncWritten] = field(default_factory=list)
    timers: dict[Hashable, float] = field(default_factory=dict)
    """When each is due."""
    ended: str = ""
    """It asked for the end of its process."""


class Trio:
    """One log space on three sequencers."""

    def __init__(self, durability: Durability = "sync", *, segment_bytes: int = 0) -> None:
        self.views = [_first_view(durability)]
        self.disks = {node: Disk(f"disk-{node}-1") for node in SEQUENCERS}
        self.releases = bool(segment_bytes)
        if segment_bytes:
            for disk in self.disks.values():
                disk.journal = MemoryJournal(segment_bytes=segment_bytes)
        self.processes: dict[NodeId, Process] = {}
        self.queues: dict[tuple[NodeId, NodeId], deque[Message]] = {}
        self.received: dict[Address, list[tuple[NodeId, Message]]] = {}
        """What others than sequencers were sent, in order, with its sender."""
        self.published: dict[int, tuple[Term, Entry]] = {}
        """What anybody was told of each position, by count."""
        self.now_s = 0.0
        self.shard = itertools.count(1)
        self.held = 0
        self._open: tuple[Term, int] | None = None
        self._starts = itertools.count(1)
        for node in SEQUENCERS:
            self.start(node)

    # --- processes --------------------------------------------------------------------------------

    def start(self, node: NodeId) -> None:
        disk, incarnation = self.disks[node], next(self._starts)
        recovered = recover_metalog(
            disk.journal,
            first_end(SPACE),
            ceiling=1,
            released=self.releases,
            ended=ended_in(self, SPACE),
        )
        first = recovered.end.position.term
        core = SequencerCore(
            node=node,
            view=self.views[first],
            recovered={SPACE: recovered},
            journals={SPACE: disk.journal},
            incarnation=incarnation,
            disk_id=disk.id,
            promised=disk.promised,
            ceilings={SPACE: disk.ceiling},
            releases=self.releases,
        )
        self.processes[node] = Process(core, incarnation)
        for view in self.views[first + 1 :]:
            self.handle(node, ViewInstalled(view))
        for peer in SEQUENCERS:
            self.link(node, peer)

    def load(self, term: Term) -> View:
        """A stored view."""
        return self.views[term]

    def crash(self, node: NodeId, *, keep_unsynced: bool = False, wipe: bool = False) -> None:
        for peer in SEQUENCERS:
            self.cut(node, peer)
        del self.processes[node]
        self.disks[node].journal.crash(keep_unsynced=keep_unsynced)
        if wipe:
            self.disks[node] = Disk(f"{self.disks[node].id}x")

    def restart(self, node: NodeId) -> None:
        self.crash(node)
        self.start(node)

    def core(self, node: NodeId) -> SequencerCore:
        return self.processes[node].core

    def count(self, node: NodeId) -> int:
        """Entries that it holds, durable or not."""
        core = self.core(node)
        if SPACE in core.primaries:
            return core.primaries[SPACE].count
        return core.backups[SPACE].count

    # --- links ------------------------------------------------------------------------------------

    def link(self, one: NodeId, other: NodeId) -> None:
        if one == other or not {one, other} <= set(self.processes) or (one, other) in self.queues:
            return
        for source, to in ((one, other), (other, one)):
            self.queues[source, to] = deque()
        self.handle(one, LinkUp(other))
        self.handle(other, LinkUp(one))

    def cut(self, one: NodeId, other: NodeId) -> None:
        """What is under way is lost."""
        if self.queues.pop((one, other), None) is None:
            return
        del self.queues[other, one]
        self.handle(one, LinkDown(other))
        self.handle(other, LinkDown(one))

    def isolate(self, node: NodeId) -> None:
        for peer in SEQUENCERS:
            self.cut(node, peer)

    def heal(self) -> None:
        for one, other in itertools.combinations(SEQUENCERS, 2):
            self.link(one, other)

    def deliver(self, source: NodeId, to: NodeId) -> bool:
        """The next message of a link arrives."""
        queue = self.queues.get((source, to))
        if not queue:
            return False
        self.handle(to, Received(source, queue.popleft()))
        return True

    # --- events -----------------------------------------------------------------------------------

    def handle(self, node: NodeId, *events: Event) -> None:
        """A batch of events."""
        process = self.processes[node]
        for each in (*events, BatchEnded(WALL_MS)):
            for effect in process.core.handle(each, self.now_s):
                self._perform(node, process, effect)
        process.core.check()

    def tell(self, node: NodeId, *messages: Message, source: Address = ENGINE) -> None:
        self.handle(node, *(Received(source, message) for message in messages))

    def _perform(self, node: NodeId, process: Process, effect: Effect) -> None:
        match effect:
            case Send(to=to, message=message):
                self._send(node, to, message)
            case Commit(token=token):
                process.commits.append(token)
            case StorePromise(term=term):
                process.promises.append(term)
            case RaiseCeiling(seqnum=seqnum):
                process.ceilings.append(seqnum)
            case SyncWritten():
                process.syncs.append(effect)
            case LoadView():
                self.load_views(node)
            case SetTimer(timer=timer, delay_s=delay_s):
                process.timers[timer] = self.now_s + delay_s
            case EndTerm(reason=reason):
                process.ended = reason
            case _:
                raise AssertionError(f"a sequencer asked for {effect}")

    def _send(self, node: NodeId, to: Address, message: Message) -> None:
        kind, head, attachments = encode(message)
        arrived = decode(kind, head, [memoryview(bytes(each)) for each in attachments])
        if to in SEQUENCERS:
            queue = self.queues.get((node, NodeId(str(to))))
            if queue is not None:
                queue.append(arrived)
            return
        self.received.setdefault(to, []).append((node, arrived))
        if isinstance(arrived, Metalog):
            run = arrived.run
            for count, entry in enumerate(run.entries, run.first + 1):
                known = self.published.setdefault(count, (run.term, entry))
                assert known == (run.term, entry), f"two entries at {count}: {known}, {entry}"

    def load_views(self, node: NodeId) -> None:
        """Every stored view that it has not installed."""
        for view in self.views[self.core(node).view.term + 1 :]:
            self.handle(node, ViewInstalled(view))

    def sync(self, node: NodeId) -> bool:
        """Everything that waits for its disk is done; False: nothing does."""
        process, disk = self.processes[node], self.disks[node]
        promises, process.promises = process.promises, []
        for term in promises:
            disk.promised = term
            self.handle(node, PromiseStored(term))
        ceilings, process.ceilings = process.ceilings, []
        for seqnum in ceilings:
            disk.ceiling = max(disk.ceiling, seqnum)
            self.handle(node, CeilingRaised(SPACE, seqnum))
        syncs, process.syncs = process.syncs, []
        for sync in syncs:
            self.handle(node, WrittenSynced(*sync))
        return self.write(node) or bool(promises or ceilings or syncs)

    def write(self, node: NodeId) -> bool:
        """What was committed is durable to the class's standard; False: nothing was."""
        process, disk = self.processes[node], self.disks[node]
        commits, process.commits = process.commits, []
        if commits:
            disk.journal.commit()
            disk.journal.sync_now()
        for token in commits:
            self.handle(node, Persisted(token))
        return bool(commits)

    def fire(self, node: NodeId, timer: Hashable) -> None:
        """The time has come for it."""
        due_s = self.processes[node].timers.pop(timer, None)
        if due_s is not None:
            self.now_s = max(self.now_s, due_s)
            self.handle(node, TimerFired(timer))

    def settle(self) -> None:
        """Until no message is under way, no disk is waited for and nobody feeds; time passes once
        there is nothing else to do."""
        for _ in range(SETTLED_WITHIN):
            delivered = [self.deliver(*link) for link in list(self.queues)]
            synced = [self.sync(node) for node in list(self.processes)]
            if not any(delivered) and not any(synced) and not self._fire_due():
                return
        timers = {node: [*process.timers] for node, process in self.processes.items()}
        raise AssertionError(f"three sequencers do not come to rest; timers: {timers}")

    def _fire_due(self) -> bool:
        due = [
            (node, timer)
            for node, process in self.processes.items()
            for timer in process.timers
            if timer != "follow"
        ]
        for node, timer in due:
            self.fire(node, timer)
        return bool(due)

    # --- a log in use -----------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self.views[-1]

    @property
    def primary(self) -> NodeId:
        return self.view.space(SPACE).primary

    def follow(self, node: NodeId, count: int = 0) -> None:
        """A storage node follows from there."""
        position = Position(self.view.term if count else Term(0), count) if count else START
        self.tell(node, FollowMetalog(SPACE, position, 0), source=STORAGE)

    def order(self, node: NodeId, records: int = 1) -> None:
        """The storage node holds more records; the primary cuts, if it still believes in itself."""
        term = self.core(node).view.term
        if self._open is None or self._open[0] != term:
            number = next(self.shard)
            self._open, self.held = (term, number), 0
            self.tell(node, OpenShardRequest(SPACE, term, ENGINE, number))
        self.held += records
        counts = [[self._open[1], self.held]]
        self.tell(node, ShardProgress(SPACE, term, "d", 1, counts), source=STORAGE)

    def sent_to(self, peer: Address, kind: type[Message]) -> list[Message]:
        return [each for _, each in self.received.get(peer, ()) if isinstance(each, kind)]

    # --- the driver -------------------------------------------------------------------------------

    def seal(self, node: NodeId) -> None:
        self.tell(node, Seal(self.view.term), source=DRIVER)

    def answers(self, *, kind: type[Sealed] | type[Extended] = Sealed) -> dict[NodeId, Message]:
        """The last answers about the present term of those who have a vote."""
        return {
            node: message
            for node, message in self.received.get(DRIVER, ())
            if isinstance(message, kind)
            and message.term == self.view.term
            and (self.view.term == 0 or message.disk_id == self.view.node(node).disk_id)
        }

    def end_of(self, nodes: Iterable[NodeId]) -> End:
        """Where the term ended, by these answers: the longest (P13)."""
        rows = []
        for node in nodes:
            message = self.answers()[node]
            assert isinstance(message, Sealed)
            rows += message.ends
        began = self.view.end(SPACE)
        _, term, count, tail, timestamp_ms, _ = max(rows, key=lambda row: tuple(row[1:3]))
        end = End(
            space=SPACE,
            position=Position(Term(term), count),
            tail=tail,
            timestamp_ms=timestamp_ms,
        )
        if self.view.space(SPACE).durability != "sync":
            end = replace(end, tail=max(end.tail, *(row[5] for row in rows)))
        return began if end.position < began.position else end

    def extend(self, node: NodeId, end: End, source: NodeId) -> None:
        row = [SPACE, *end.position]
        self.tell(node, Extend(self.view.term, [row], source), source=DRIVER)

    def has_extended(self, node: NodeId, end: End) -> bool:
        return any(
            sender == node
            and isinstance(message, Extended)
            and message.term == self.view.term
            and message.ends == [[SPACE, *end.position]]
            and message.disk_id == self.disks[node].id
            for sender, message in self.received.get(DRIVER, ())
        )

    def swap(self, end: End, primary: NodeId) -> View:
        """The next view is stored; who has to know loads it when a test says so."""
        space = self.view.space(SPACE)
        others = tuple(node for node in SEQUENCERS if node != primary)
        nodes = tuple(
            replace(
                node,
                disk_id=self.disks[node.id].id,
                incarnation=self.processes[node.id].incarnation if node.id in self.processes else 0,
            )
            if node.id in SEQUENCERS
            else node
            for node in self.view.nodes
        )
        view = replace(
            self.view,
            term=Term(self.view.term + 1),
            nodes=nodes,
            spaces=(replace(space, primary=primary, backups=others),),
            ends=(end,),
        )
        self.views.append(view)
        return view

    def change(self, primary: NodeId, *, among: tuple[NodeId, ...] = SEQUENCERS) -> View:
        """A whole view change by these sequencers, everything settled."""
        for node in among:
            self.seal(node)
        self.settle()
        end = self.end_of(among)
        longest = next(node for node in among if self._brought(node) == end.position)
        for node in among:
            self.extend(node, end, longest)
        self.settle()
        assert all(self.has_extended(node, end) for node in among)
        view = self.swap(end, primary)
        for node in among:
            self.load_views(node)
        self.follow(primary, max(self.published, default=0))
        self.settle()
        return view

    def _brought(self, node: NodeId) -> Position:
        message = self.answers()[node]
        assert isinstance(message, Sealed)
        _, term, count, *_ = message.ends[0]
        return max(Position(Term(term), count), self.view.end(SPACE).position)


def _first_view(durability: Durability) -> View:
    """Nobody is primary in it: it names no start of any sequencer."""
    return View(
        cluster_id="c1",
        history_id="h1",
        term=Term(0),
        nodes=(
            *(Node(id=node, role="sequencer", address="") for node in SEQUENCERS),
            Node(id=STORAGE, role="storage", address=""),
        ),
        spaces=(
            LogSpace(
                id=SPACE,
                durability=durability,
                primary=S1,
                replicas=(STORAGE,),
                write_quorum=1,
                backups=(S2, S3),
            ),
        ),
        ends=(first_end(SPACE),),
    )


def started(durability: Durability = "sync", *, segment_bytes: int = 0) -> Trio:
    """A trio in term 1 whose primary is the first; a shard is open and a storage node follows."""
    trio = Trio(durability, segment_bytes=segment_bytes)
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    return trio
