"""A cluster of real cores in one process: a seeded network, disks that forget, crashes.

Decides what the world does to the cores: when messages arrive (in order per connection, in any
order between connections), when syncs end, when links break, when processes die and come back. The
cores decide everything else.

Does not know what is right: `checkers.py` does.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

from bokilog.effects import (
    Address,
    BatchEnded,
    CancelTimer,
    CeilingRaised,
    Checkpoint,
    CheckpointStored,
    Commit,
    Core,
    Disconnect,
    Effect,
    EndTerm,
    Event,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    RaiseCeiling,
    Received,
    Send,
    SetTimer,
    SyncWritten,
    TimerFired,
    ViewInstalled,
    WrittenSynced,
)
from bokilog.frame import decode_frame
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import Message
from bokilog.metalog import ITEM_METALOG
from bokilog.record import Durability
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.recovery import recover_metalog
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import clear
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.rebuilding import goes_on_from_stored
from bokilog.storage_nodes.replica import Replica
from bokilog.view import LogSpace, Node, View, first_end
from bokilog.wire import decode, encode

SPACE = LogSpaceId(0)
SEQUENCER = NodeId("sequencer-1")
STORAGE = tuple(NodeId(f"storage-{number}") for number in (1, 2, 3))
ENGINES = tuple(NodeId(f"engine-{number}") for number in (1, 2))
CLIENTS = (101, 102, 103)
"""Addresses of clients; a client is connected to one engine."""


@dataclass
class Disk:
    """What survives a crash of its node."""

    journal: MemoryJournal = field(default_factory=lambda: MemoryJournal(segment_bytes=1 << 16))
    store: MemoryStore = field(default_factory=MemoryStore)
    ceiling: int = 1
    synced: int = 0
    """Runs of its metalog that no loss of power takes."""


@dataclass
class Process:
    """A running node; a crash drops it."""

    core: Core
    life: int
    tokens: list[int] = field(default_factory=list)
    """Committed and not yet synced."""
    syncing: bool = False
    timers: dict[Hashable, int] = field(default_factory=dict)


Link = tuple[Address, Address]
"""(from, to): one direction of a connection; bulk links are named ("bulk", node)."""


class World:
    """Everything, from one seed."""

    def __init__(
        self,
        seed: int,
        *,
        facts: bool = True,
        engines: EngineSettings | None = None,
        durability: Durability = "sync",
    ) -> None:
        self.random = random.Random(seed)
        self.now_s = 1000.0
        self.wall_ms = 1_700_000_000_000
        self.trace: list[str] = []
        self.views: list[View] = [_first_view(durability)]
        self.disks = {node: Disk() for node in (SEQUENCER, *STORAGE)}
        self.processes: dict[NodeId, Process] = {}
        self.clients: dict[int, Callable[[Message], None]] = {}
        self.down: Callable[[int], None] = lambda client: None
        self.engine_of: dict[int, NodeId] = {}
        self._installed: dict[int, int] = {}
        """Life to the term its core was told last."""
        self._engines = engines or EngineSettings()
        if not facts:
            self._engines = replace(self._engines, facts_bytes=0, cache_bytes=0)
        self._lives = itertools.count(1)
        self._incarnations = itertools.count(1)
        self._queues: dict[Link, deque[Message]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        for node in (SEQUENCER, *STORAGE, *ENGINES):
            self.start(node)

    # --- time -------------------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), action))

    def soon(self, action: Callable[[], None]) -> None:
        self.later(self.random.expovariate(1 / 0.001), action)

    def step(self) -> bool:
        if not self._heap:
            return False
        at_s, _, action = heapq.heappop(self._heap)
        self.wall_ms += int((at_s - self.now_s) * 1000)
        self.now_s = max(self.now_s, at_s)
        action()
        return True

    def run(self, until: Callable[[], bool], *, steps: int = 200_000) -> bool:
        """Steps until something holds; False if it does not within the bound."""
        for _ in range(steps):
            if until():
                return True
            if not self.step():
                break
        return until()

    # --- processes --------------------------------------------------------------------------------

    def start(self, node: NodeId) -> None:
        assert node not in self.processes
        if node == SEQUENCER:
            core: Core = self._sequencer()
        elif node in STORAGE:
            core = self._storage(node)
        else:
            core = EngineCore(self._engines, node_id=node, incarnation=next(self._incarnations))
        self.processes[node] = Process(core, next(self._lives))
        self.note(f"start {node}")
        if node in STORAGE:
            index = core.replicas[SPACE].index  # type: ignore[attr-defined]
            for view in self.views[index.position.term + 1 :] or self.views[-1:]:
                self.deliver(node, ViewInstalled(view))
        elif node in ENGINES:
            self.deliver(node, ViewInstalled(self.views[-1]))
        for peer in self._peers(node):
            self.connect(node, peer)
        if node == SEQUENCER:
            for other in (*STORAGE, *ENGINES):
                if other in self.processes:
                    self._load_views(other)

    def crash(self, node: NodeId, *, keep_unsynced: bool = False) -> None:
        """`kill -9`; without `keep_unsynced` the machine loses power too."""
        del self.processes[node]
        self.note(f"crash {node}")
        disk = self.disks.get(node)
        if disk is not None:
            disk.journal.crash(keep_unsynced=keep_unsynced)
            disk.store.crash()
        for peer in list(self.processes):
            self._break(node, peer)
        for client, engine in self.engine_of.items():
            if engine == node:
                self._drop(client, node)
                self.down(client)

    def restart(self, node: NodeId, *, keep_unsynced: bool = False) -> None:
        self.crash(node, keep_unsynced=keep_unsynced)
        self.start(node)

    def lose_metalog(self, *, kept: float) -> None:
        """The sequencer's machine dies, and of the metalog all but a part was not on its disk yet,
        as a class below `sync` allows, but for what somebody wanted synced (P11)."""
        self.crash(SEQUENCER)
        disk = self.disks[SEQUENCER]
        runs = [bytes(data) for _, _, data in disk.journal.recover()]
        disk.journal = MemoryJournal(segment_bytes=1 << 16)
        for data in runs[: max(disk.synced, int(len(runs) * kept))]:
            disk.journal.append(ITEM_METALOG, [data])
            disk.journal.commit()
            disk.journal.sync_now()
        self.start(SEQUENCER)

    def _sequencer(self) -> SequencerCore:
        """A start is a new term (P12): the end of the last one is in its view (P13)."""
        last = self.views[-1]
        disk = self.disks[SEQUENCER]
        ceiling = disk.ceiling if last.space(SPACE).durability != "sync" else 1
        recovered = recover_metalog(disk.journal, first_end(SPACE), ceiling=ceiling)
        view = replace(last, term=Term(last.term + 1), ends=(recovered.end,))
        self.views.append(view)
        return SequencerCore(
            node=SEQUENCER,
            view=view,
            recovered={SPACE: recovered},
            journals={SPACE: disk.journal},
        )

    def _storage(self, node: NodeId) -> StorageCore:
        def rebuild(space: LogSpaceId, view: View) -> tuple[Replica, list[View]]:
            self.note(f"{node} builds its fold anew")
            disk, views = self.disks[node], self.views[1 : view.term + 1]
            stored = Index(space, disk.store).position
            segments = disk.journal.segments()
            if goes_on_from_stored(view.space(space), stored, views=views, segments=segments):
                views = [each for each in views if each.term > stored.term]
            else:
                clear(disk.store)
            return self._replica(node), views

        replicas = {SPACE: self._replica(node)}
        return StorageCore(node=node, replicas=replicas, checkpoint_s=0.05, rebuild=rebuild)

    def _replica(self, node: NodeId) -> Replica:
        disk = self.disks[node]
        replica = Replica(
            node=node,
            space=self.views[-1].space(SPACE),
            identity=Identity(node, 0),
            journal=disk.journal,
            fold=Fold(Index(SPACE, disk.store, postings_max=50)),
            cache_bytes_max=1 << 20,
            pending_bytes_max=1 << 20,
        )
        for _, location, data in disk.journal.recover(replica.replay_from):
            replica.recover_frame(decode_frame(bytes(data)), location)
        return replica

    def _load_views(self, node: NodeId) -> None:
        installed = self._installed.get(self.processes[node].life, 0)
        for view in self.views[installed + 1 :]:
            self.deliver(node, ViewInstalled(view))

    # --- links ------------------------------------------------------------------------------------

    def _peers(self, node: NodeId) -> list[NodeId]:
        everyone = (SEQUENCER, *STORAGE, *ENGINES)
        return [peer for peer in everyone if peer in self.processes and _linked(node, peer)]

    def connect(self, node: NodeId, peer: NodeId) -> None:
        self._queues[node, peer] = deque()
        self._queues[peer, node] = deque()
        self.deliver(node, LinkUp(peer))
        self.deliver(peer, LinkUp(node))
        for engine, storage in ((node, peer), (peer, node)):
            if engine in ENGINES and storage in STORAGE:
                self._queues[engine, ("bulk", storage)] = deque()
                self._queues[storage, ("bulk", engine)] = deque()
                self.deliver(engine, LinkUp(("bulk", storage)))
                self.deliver(storage, LinkUp(("bulk", engine)))

    def break_link(self, node: NodeId, peer: NodeId) -> None:
        """A connection is reset, and made again a little later."""
        if node not in self.processes or peer not in self.processes:
            return
        self.note(f"reset {node} {peer}")
        self._break(node, peer)
        lives = self.processes[node].life, self.processes[peer].life

        def again() -> None:
            connected = (node, peer) in self._queues  # it was reset twice, and is back already
            if (self._life(node), self._life(peer)) == lives and not connected:
                self.connect(node, peer)

        self.later(0.02, again)

    def _break(self, node: NodeId, peer: NodeId) -> None:
        for source, to in ((node, peer), (peer, node)):
            for link in ((source, to), (source, ("bulk", to))):
                if self._queues.pop(link, None) is not None and to in self.processes:
                    name = ("bulk", source) if isinstance(link[1], tuple) else source
                    self.deliver(to, LinkDown(name))

    def attach(self, client: int, engine: NodeId, receive: Callable[[Message], None]) -> None:
        """A client connects to an engine."""
        self.clients[client] = receive
        self.engine_of[client] = engine
        self._queues[client, engine] = deque()
        self._queues[engine, client] = deque()
        self.deliver(engine, LinkUp(client))

    def _drop(self, client: int, engine: NodeId) -> None:
        self._queues.pop((client, engine), None)
        self._queues.pop((engine, client), None)

    def send(self, source: Address, to: Address, message: Message) -> bool:
        """Queues a message, as bytes would travel; False if no connection stands."""
        queue = self._queues.get((source, to))
        if queue is None:
            return False
        queue.append(decode(*_over_the_wire(message)))
        self.soon(lambda: self._arrive(source, to, queue))
        return True

    def _arrive(self, source: Address, to: Address, queue: deque[Message]) -> None:
        if self._queues.get((source, to)) is not queue or not queue:
            return
        message = queue.popleft()
        if isinstance(to, int):
            self.clients[to](message)
            return
        name: Address = source
        node = to
        if isinstance(to, tuple):
            name, node = ("bulk", source), to[1]
        self.deliver(NodeId(str(node)), Received(name, message))

    # --- cores ------------------------------------------------------------------------------------

    def deliver(self, node: NodeId, event: Event) -> None:
        process = self.processes.get(node)
        if process is None:
            return
        if isinstance(event, ViewInstalled):
            self._installed[process.life] = event.view.term
        for each in (event, BatchEnded(self.wall_ms)):
            for effect in process.core.handle(each, self.now_s):
                self._perform(node, process, effect)
        check = getattr(process.core, "check", None)
        if check is not None:
            check()
        self._sync(node, process)

    def _perform(self, node: NodeId, process: Process, effect: Effect) -> None:
        match effect:
            case Send(to=to, message=message):
                self.send(node, to, message)
            case Commit(token=token):
                process.tokens.append(token)
            case SetTimer(timer=timer, delay_s=delay_s):
                number = process.timers[timer] = next(self._order)
                self.later(delay_s, lambda: self._fire(node, process.life, timer, number))
            case CancelTimer(timer=timer):
                process.timers.pop(timer, None)
            case LoadView():
                self._load_views(node)
            case Checkpoint():
                self.later(0.005, lambda: self._checkpoint(node, process.life))
            case RaiseCeiling(space=space, seqnum=seqnum):
                self.disks[node].ceiling = seqnum
                self.soon(lambda: self.deliver(node, CeilingRaised(space, seqnum)))
            case SyncWritten(space=space, term=term, count=count):
                disk = self.disks[node]
                disk.synced = len(list(disk.journal.recover()))
                synced = WrittenSynced(space, term, count)
                self.soon(lambda: self.deliver(node, synced))
            case EndTerm():
                self.soon(lambda: self.restart(node))
            case Disconnect():
                raise AssertionError(f"{node} sends {effect.peer} away: {effect.reason}")
            case _:
                raise AssertionError(f"{node} asks for {effect}: this world has one sequencer")

    def _fire(self, node: NodeId, life: int, timer: Hashable, number: int) -> None:
        process = self.processes.get(node)
        if process is not None and process.life == life and process.timers.get(timer) == number:
            del process.timers[timer]
            self.deliver(node, TimerFired(timer))

    def _sync(self, node: NodeId, process: Process) -> None:
        """One group at a time; a sync takes a while."""
        if process.syncing or not process.tokens:
            return
        journal = self.disks[node].journal
        written = journal.commit()
        assert not hasattr(written, "definite"), "these disks do not fill up"
        tokens, process.tokens = process.tokens, []
        process.syncing = True

        def done() -> None:
            if self._life(node) != process.life:
                return
            journal.sync_now()
            process.syncing = False
            for token in tokens:
                self.deliver(node, Persisted(token))
            self._sync(node, process)

        self.soon(done)

    def _checkpoint(self, node: NodeId, life: int) -> None:
        if self._life(node) != life:
            return
        index = self.processes[node].core.replicas[SPACE].index  # type: ignore[attr-defined]
        for _ in index.generations.steps():
            pass
        index.generations.write()
        self.deliver(node, CheckpointStored(SPACE))

    def _life(self, node: NodeId) -> int | None:
        process = self.processes.get(node)
        return None if process is None else process.life

    def note(self, line: str) -> None:
        self.trace.append(f"{self.now_s:.6f} {line}")

    def index(self, node: NodeId) -> Index:
        replica: Replica = self.processes[node].core.replicas[SPACE]  # type: ignore[attr-defined]
        return replica.index


def _linked(node: NodeId, peer: NodeId) -> bool:
    return node != peer and not (node in ENGINES and peer in ENGINES)


def _over_the_wire(message: Message) -> tuple[int, bytes, list[memoryview]]:
    """As sockets carry it: nothing is shared between processes."""
    kind, head, attachments = encode(message)
    return kind, bytes(head), [memoryview(bytes(part)) for part in attachments]


def _first_view(durability: Durability) -> View:
    nodes = [Node(id=SEQUENCER, role="sequencer", address="")]
    nodes += [Node(id=node, role="storage", address="") for node in STORAGE]
    nodes += [Node(id=node, role="engine", address="") for node in ENGINES]
    space = LogSpace(
        id=SPACE, durability=durability, primary=SEQUENCER, replicas=STORAGE, write_quorum=2
    )
    return View(
        cluster_id="world",
        history_id="world",
        term=Term(0),
        nodes=tuple(nodes),
        spaces=(space,),
        ends=(first_end(SPACE),),
    )
