"""A cluster of real cores: sequencer, storage nodes and engines on simulated machines.

Decides what the shells decide (`bokilog/io/node.py` and the `node.py` of each role): when a core
runs, what it is started from, who dials whom. The driver, the committer, the greeting of clients
and all recovery are the product's own; only sockets, files and clocks are this world's.

Invariant: a process that died is never heard of again, and what its next life knows it read from
its disk and from the view store.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Protocol

from bokilog.columns import first_bad_record
from bokilog.cut import CutSpan
from bokilog.effects import (
    AcquireLease,
    Address,
    CeilingRaised,
    Checkpoint,
    CheckpointStored,
    ColdDone,
    Commit,
    Core,
    Disconnect,
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
    RaiseCeiling,
    ReadOnlyChanged,
    Received,
    ReleaseLease,
    Send,
    StartCold,
    StoreIntent,
    StorePromise,
    SwapView,
    SyncWritten,
    ViewInstalled,
    ViewSwapped,
    WrittenSynced,
)
from bokilog.errors import BokilogError
from bokilog.frame import ITEM_FRAME, Frame, decode_frame
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.node import GreetingCore
from bokilog.functions.engine.producer import SpaceProducer, Standing
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import START, LogSpaceId, NodeId, Position, Shard, Term
from bokilog.io.commits import Committer
from bokilog.io.driver import Driver
from bokilog.journal import Journal, Location
from bokilog.messages import (
    FramesLacking,
    Message,
    Metalog,
    MetalogBegins,
    MetalogGone,
    MetalogSynced,
    RunsGone,
    SnapshotPart,
    StoredFrame,
    Tail,
    TailRequest,
    Welcome,
)
from bokilog.metalog import Cut, Run
from bokilog.record import Durability
from bokilog.sequencer.controller import ControllerCore
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.member import MemberCore
from bokilog.sequencer.next_view import Start, has_vote, next_view
from bokilog.sequencer.primary import Primary, Recovered
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import IndexStore, clear
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.reader import is_whole
from bokilog.storage_nodes.rebuilding import goes_on_from_stored
from bokilog.storage_nodes.replica import Replica
from bokilog.view import LogSpace, Node, View, first_end
from tests.sim.disk import Disk, SimJournal
from tests.sim.loop import ProcessLoop, World
from tests.sim.network import Network, Wire
from tests.sim.objects import Mover, ObjectStore
from tests.sim.oracle import WatchedFold, space_oracles
from tests.sim.swarm import Knobs
from tests.sim.verdicts import Fetch

SPACE = LogSpaceId(0)
WALL_START_MS = 1_700_000_000_000
"""Wall time when the world begins."""
Items = Callable[[int], Iterable[tuple[int, Location, memoryview]]]
VIEW_POLL_S = 0.25
REDIAL_S = 0.05
CLUSTER_ID = "sim"


PATHS: dict[type, str] = {
    MetalogBegins: "an engine starts behind released metalog",
    MetalogGone: "a follower is behind released metalog",
    RunsGone: "a backup is behind released metalog",
    SnapshotPart: "a part of a peer's fold is loaded",
    StoredFrame: "a frame is copied behind a loaded fold",
    FramesLacking: "a replica states a loss",
    MetalogSynced: "a fold may be stored: its metalog is synced",
}
"""What messages stand for, for the summary."""
LEASE_S = 0.6
"""Without renewal another controller gets it, although the one before may not know."""


class Views:
    """The view store: views in order, who started last, what is intended, who may act."""

    def __init__(self, world: World, first: View, stored: Callable[[View], None]) -> None:
        self.holder: NodeId | None = None
        self._world = world
        self._views = [first]
        self._stored = stored
        self._incarnations = itertools.count(1)
        self._intent: tuple[Term, str] | None = None
        self._renewed_s = 0.0

    def latest(self) -> View:
        return self._views[-1]

    def load(self, term: int) -> View:
        return self._views[term]

    def compare_and_swap(self, expected: Term, view: View) -> bool:
        if self._views[-1].term != expected:
            return False
        assert view.term == expected + 1
        self._world.note(f"view {view.term}")
        self._views.append(view)
        self._stored(view)
        return True

    def store_intent(self, term: Term, reason: str) -> bool:
        """False: a later view is stored."""
        if self._views[-1].term != term:
            return False
        self._intent = term, reason
        return True

    def intent(self) -> tuple[Term, str] | None:
        known = self._intent
        return known if known is not None and known[0] == self._views[-1].term else None

    def try_lease(self, node: NodeId) -> bool:
        now_s = self._world.now_s
        if self.holder not in (None, node) and now_s < self._renewed_s + LEASE_S:
            return False
        self.holder, self._renewed_s = node, now_s
        return True

    def release_lease(self, node: NodeId) -> None:
        if self.holder == node:
            self.holder = None

    def register_incarnation(self) -> int:
        return next(self._incarnations)


class Scheduler:
    """A process takes a while to look at its inbox, so that several events make a batch; longer
    when it is busy."""

    def __init__(self, world: World, knobs: Knobs, loop: ProcessLoop) -> None:
        self._loop = loop
        self._lag_s = knobs.lag_s
        self._busy_share, self._busy_s = knobs.busy_share, knobs.busy_s
        self._random = world.chance(f"lag {loop.name}").random
        self._busy = world.chance(f"busy {loop.name}").random
        self.call_later: Callable[[float, Callable[[], object]], _Cancellable] = loop.call_later

    def call_soon(self, callback: Callable[[], object], /) -> object:
        delay_s = self._lag_s * self._random()
        if self._busy_share and self._busy() < self._busy_share:
            delay_s += self._busy_s * self._busy()
        if self._loop.paused and self._busy_share:
            return self.call_later(delay_s, self._resumed(callback))
        return self.call_later(delay_s, callback)

    def _resumed(self, callback: Callable[[], object]) -> Callable[[], object]:
        """Whatever came due in a pause is in the inbox before it is looked at."""
        return lambda: self.call_later(0.0, callback)


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class NodeClock:
    """A node's clocks; its wall clock may be wrong."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._node = node

    def now_s(self) -> float:
        return self._cluster.world.now_s

    def wall_ms(self) -> int:
        return self._cluster.wall_ms(self._node)


class Process:
    """One life of one node: what `NodeShell` and `Network` are to a real one."""

    def __init__(
        self,
        cluster: Cluster,
        name: NodeId,
        core: Core,
        *,
        loop: ProcessLoop,
        journals: Mapping[LogSpaceId, Journal],
        perform: Callable[[Effect], None],
        use_headroom: bool = False,
        greet: Callable[[int], None] | None = None,
    ) -> None:
        self.name = name
        self.core = core
        self.loop = loop
        self.installed = Term(0)
        self.links: dict[Address, Wire] = {}
        self._cluster = cluster
        self._check: Callable[[], object] | None = getattr(core, "check", None)
        """Of the core: asserts its invariants."""
        self._producers: Mapping[int, SpaceProducer] = {}
        """Of an engine."""
        if isinstance(core, GreetingCore):
            self._producers = core._engine.producers
        self._is_sequencer = name in cluster.sequencers
        self._view_lag_s = cluster.knobs.view_lag_s
        self._view_chance = cluster.world.chance(f"views {name}").random
        self._perform_own = perform
        self._greet = greet
        self._names: dict[Wire, Address] = {}
        self._dialled: dict[Wire, tuple[NodeId, bool]] = {}
        self._connections = itertools.count(1)
        self.driver: Driver[Event, Effect] = Driver(
            core,
            perform=self._perform,
            end_of_batch=self._end_of_batch,
            clock=NodeClock(cluster, name),
            on_bug=self._on_bug,
            scheduler=Scheduler(cluster.world, cluster.knobs, loop),
        )
        self._committers = {
            space: self._committer(space, journal, use_headroom=use_headroom)
            for space, journal in journals.items()
        }
        loop.call_later(VIEW_POLL_S, self._poll)

    # --- what happens to it -----------------------------------------------------------------------

    def deliver(self, event: Event) -> None:
        if not self.loop.dead:
            self.driver.deliver(event)

    def install(self, view: View) -> None:
        self.installed = view.term
        self.deliver(ViewInstalled(view))

    def load_views(self) -> None:
        """As `ViewLoader.load`: a remote store is not asked, it tells by itself."""
        if not self._view_lag_s:
            self._load_stored()

    def view_stored(self) -> None:
        """A remote store tells of it, in its own time."""
        if self._view_lag_s:
            self.loop.call_later(self._view_lag_s * self._view_chance(), self._load_stored)

    def _load_stored(self) -> None:
        views = self._cluster.views
        while self.installed < views.latest().term:
            self.install(views.load(self.installed + 1))

    def _poll(self) -> None:
        self._load_stored()
        self.loop.call_later(VIEW_POLL_S, self._poll)

    def end(self) -> None:
        """The process dies: its connections end."""
        self.loop.end()
        self.driver.stop()
        for committer in self._committers.values():
            committer.close()
        for wire in list(self._names):
            self._cluster.network.reset(wire, silent_to=self)
        for wire in list(self._dialled):
            self._cluster.network.reset(wire, silent_to=self)

    # --- connections ------------------------------------------------------------------------------

    def dial(self, peer: NodeId, *, bulk: bool = False) -> None:
        """Keep a link to a peer: one try now, more whenever it is lost."""
        if self.loop.dead:
            return
        other = self._cluster.processes.get(peer)
        network = self._cluster.network
        delay_s = network.delay_s(self.name, peer)
        if (
            other is None
            or other.loop.paused
            or network.is_cut(self.name, peer)
            or network.is_cut(peer, self.name)
        ):
            self.loop.call_later(REDIAL_S + delay_s, self.dial_again, peer, bulk)
            return
        wire = network.connect(self, other, bulk=bulk)
        self._dialled[wire] = peer, bulk
        self.loop.call_later(delay_s, self._say_hello, other, wire)

    def dial_again(self, peer: NodeId, bulk: bool) -> None:
        self.dial(peer, bulk=bulk)

    def _say_hello(self, other: Process, wire: Wire) -> None:
        if other.loop.dead:
            self._cluster.network.reset(wire, silent_to=other)
        elif not wire.broken:
            name: Address = ("bulk", self.name) if wire.bulk else self.name
            wire.greet(other, other.installed)
            other.linked(name, wire, self.installed)

    def accept_client(self, wire: Wire) -> None:
        """A client said hello."""
        assert self._greet is not None, f"{self.name} is no engine"
        connection = next(self._connections)
        self.links[connection] = wire
        self._names[wire] = connection
        self._greet(connection)

    def welcome_client(self, connection: int, positions: list[list[int]]) -> None:
        wire = self.links.get(connection)
        if wire is None:
            return
        view = self._cluster.views.load(self.installed)
        spaces: list[list[object]] = [[space.id, space.durability] for space in view.spaces]
        welcome = Welcome(
            self.name, 0, view.cluster_id, view.history_id, view.term, positions, spaces
        )
        wire.send(self, welcome)
        self.deliver(LinkUp(connection))

    def linked(self, name: Address, wire: Wire, term: int) -> None:
        """Both greetings were said; a newer connection of a peer takes the place of the older."""
        older = self.links.get(name)
        if older is not None and older is not wire:
            self.lost(older)
            self._cluster.network.reset(older, silent_to=self)
        self.links[name] = wire
        self._names[wire] = name
        if term > self.installed:
            self.load_views()
        self.deliver(LinkUp(name))

    def up(self, wire: Wire, term: int) -> None:
        if self.loop.dead:
            return
        peer, bulk = self._dialled[wire]
        self.linked(("bulk", peer) if bulk else peer, wire, term)

    def arrived(self, wire: Wire, message: Message) -> None:
        name = self._names.get(wire)
        if name is not None and not self.loop.dead:
            if self._is_sequencer and isinstance(message, TailRequest):
                self._cluster.watch.tail_asked(self.name, name, message)
            self.deliver(Received(name, message))

    def lost(self, wire: Wire) -> None:
        if self.loop.dead:
            return
        name = self._names.pop(wire, None)
        if name is not None and self.links.get(name) is wire:
            del self.links[name]
            self.deliver(LinkDown(name))
        dialled = self._dialled.pop(wire, None)
        if dialled is not None:
            self.loop.call_later(REDIAL_S, self.dial_again, *dialled)

    def clogged(self, wire: Wire, *, clear: bool) -> None:
        name = self._names.get(wire)
        if name is not None:
            self.deliver(LinkClogged(name, clear=clear))

    def send(self, to: Address, message: Message) -> None:
        kind = type(message)
        if kind in PATHS:
            self._cluster.world.reach(PATHS[kind])
        if kind is Metalog:
            assert isinstance(message, Metalog)
            self._cluster.watch.published(message.run)
        elif kind is Tail and self._is_sequencer:
            assert isinstance(message, Tail)
            self._cluster.watch.tail_told(self.name, to, message)
        wire = self.links.get(to)
        if wire is not None:
            wire.send(self, message)

    # --- effects ----------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Send):  # most are
            self.send(effect.to, effect.message)
            return
        match effect:
            case Commit(space=space, token=token):
                self._committers[LogSpaceId(space)].request(token)
            case SyncWritten(space=space, term=term, count=count):
                synced = WrittenSynced(space, term, count)
                journal = self._cluster.disks[self.name].journals[LogSpaceId(space)]
                journal.sync_written(lambda problem: self.deliver(synced))
            case LoadView():
                self.load_views()
            case EndTerm(reason=reason):
                self._cluster.restart_later(self.name, reason)
            case Disconnect(peer=peer, reason=reason):
                self._cluster.world.violation(f"{self.name} sends {peer} away: {reason}")
            case _:
                self._perform_own(effect)

    def _end_of_batch(self) -> None:
        if self._check is not None:
            self._check()
        for each in self._producers.values():
            if each.standing is Standing.LEARNING:
                self._cluster.world.reach("an engine waits for deletions")
        for space, committer in self._committers.items():
            self._cluster.watch.batch_ended(self.name, space, committer)
            committer.flush()

    def _on_bug(self, error: Exception) -> None:
        self._cluster.bug(self.name, error)

    def _committer(self, space: int, journal: Journal, *, use_headroom: bool) -> Committer:
        def persisted(tokens: list[Hashable]) -> None:
            for token in tokens:
                assert isinstance(token, int)
                self.deliver(Persisted(token))

        def failed(tokens: list[Hashable], reason: str) -> None:
            for token in tokens:
                assert isinstance(token, int)
                self.deliver(PersistFailed(token, reason))

        return Committer(
            journal,
            persisted=persisted,
            failed=failed,
            read_only=lambda reason: self.deliver(ReadOnlyChanged(space, reason)),
            inline=self._cluster.knobs.inline_sync,
            use_headroom=use_headroom,
            now=lambda: self._cluster.world.now_s,
        )


class Cluster:
    """Machines, processes, the view store, and the oracle that sees every fold."""

    def __init__(self, world: World, knobs: Knobs) -> None:
        self.world = world
        self.knobs = knobs
        self.network = Network(world, knobs)
        self.sequencers = tuple(NodeId(f"sequencer-{i + 1}") for i in range(knobs.sequencer_count))
        self._first_sequencers = frozenset(self.sequencers)
        storage_count = knobs.storage_count + knobs.spare_count
        self.storage = tuple(NodeId(f"storage-{i + 1}") for i in range(storage_count))
        self.engines = tuple(NodeId(f"engine-{i + 1}") for i in range(knobs.engine_count))
        self.spaces = tuple(LogSpaceId(space) for space in range(len(knobs.durabilities)))
        self._powerless: set[NodeId] = set()
        """Nodes whose machine has lost power."""
        self._died: set[NodeId] = set()
        """Nodes whose process ended, and that are not known to hold what it held."""
        self._none_holds = False
        """So many died that no copy of anything in memory need be left, and none was."""
        self.copies_lost = False
        """Every copy of some records is: a person has accepted that (P15, P24)."""
        self.oracles = space_oracles(
            *(world, knobs.durabilities, self._whole),
            may_lose=self._may_lose,
            may_lack=self._may_lack,
        )
        self.views = Views(world, self._first_view(), self._view_stored)
        self.disks = {
            node: Disk(world, knobs, node, knobs.durabilities)
            for node in (*self.sequencers, *self.storage)
        }
        self.objects = ObjectStore(world, knobs)
        self.processes: dict[NodeId, Process] = {}
        self.watch = Watch(self)
        self._chance = world.chance("cluster")
        self._wall_offsets_ms: dict[str, int] = {}

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        return (*self.sequencers, *self.storage, *self.engines)

    def wall_ms(self, node: str) -> int:
        offset_ms = self._wall_offsets_ms.get(node, 0)
        return WALL_START_MS + int(self.world.now_s * 1000) + offset_ms

    def set_clock(self, node: str, offset_ms: int) -> None:
        self._wall_offsets_ms[node] = offset_ms

    def bug(self, node: NodeId, error: Exception) -> None:
        """A core raised: that is never right."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "?"
        self.world.violation(f"{node} raised {type(error).__name__}: {error} ({where})")

    # --- processes --------------------------------------------------------------------------------

    def start(self, node: NodeId) -> None:
        if node in self.processes or node not in self.nodes:
            return
        self.world.note(f"start {node}")
        if node in self.sequencers:
            for journal in self.disks[node].journals.values():
                self.watch.on(node, journal)
        loop = ProcessLoop(self.world, node)
        try:
            loop.inside(lambda: self._start(node, loop))
        except (BokilogError, AssertionError) as error:
            self.bug(node, error)

    def _start(self, node: NodeId, loop: ProcessLoop) -> None:
        if node in self.sequencers and len(self.sequencers) > 1:
            self._start_member(node, loop)
        elif node in self.sequencers:
            self._start_sequencer(node, loop)
        elif node in self.storage:
            self._start_storage(node, loop)
        else:
            self._start_engine(node, loop)

    def crash(self, node: NodeId, *, power: bool) -> None:
        """The process dies, or with `power` the machine."""
        process = self.processes.pop(node, None)
        if process is None:
            return
        self.world.note(f"crash {node}{' power' if power else ''}")
        process.end()
        self._died.add(node)
        self._none_holds = self._none_holds or self._holds_nothing()
        if power:
            self._powerless.add(node)
        disk = self.disks.get(node)
        if disk is not None:
            disk.crash(power=power)

    @property
    def died(self) -> frozenset[NodeId]:
        """Storage nodes that may have less in memory than they were counted for."""
        return frozenset(self._died.intersection(self.storage))

    def has_all_again(self, node: NodeId) -> None:
        """What it lost with its last process, it has got back from others."""
        self.world.note(f"{node} has everything again")
        self._died.discard(node)
        self._none_holds = False

    def _holds_nothing(self) -> bool:
        """Whether a write quorum died, and nobody else holds anything of a `memory` log space."""
        if len(self.died) < self.knobs.write_quorum or "memory" not in self.knobs.durabilities:
            return False
        space = LogSpaceId(self.knobs.durabilities.index("memory"))
        left = [self.replica(node, space) for node in self.storage if node not in self._died]
        return all(replica is None or replica.index.empty for replica in left)

    def may_forget(self, space: int) -> bool:
        """Whether what sequencers held of a log space may have been lost with their machines."""
        return self.knobs.durabilities[space] != "sync" and self._may_lose(False)

    def _may_lose(self, everything: bool) -> bool:
        """Whether classes below `sync` may have lost the end of an order, or everything: machines
        of sequencers have lost power, or all storage nodes were started again (P11, P20)."""
        if everything:
            return self._died.issuperset(self.storage) or self._none_holds
        return not self._powerless.isdisjoint(self._first_sequencers)

    def _may_lack(self, durability: Durability) -> bool:
        """Whether every copy of a record may be gone (P24): those that a write quorum held in its
        memory or its operating systems, or with the entries that told of it (P11)."""
        if self.copies_lost:
            return True
        if durability == "sync":
            return False
        gone = self._died if durability == "memory" else self._powerless
        quorum = len(gone.intersection(self.storage)) >= self.knobs.write_quorum
        return quorum or self._may_lose(False)

    def restart_later(self, node: NodeId, reason: str) -> None:
        """What a supervisor does about a process that cannot go on."""
        self.world.note(f"{node} ends: {reason}")
        self.world.later(0.0, lambda: self.crash(node, power=False))
        self.world.later(self.knobs.down_s, lambda: self.start(node))

    def _start_sequencer(self, node: NodeId, loop: ProcessLoop) -> None:
        """A start is a new term (P12): the end of the last one is in its view (P13)."""
        disk, last = self.disks[node], self.views.latest()
        disk.incarnation += 1
        recovered = {
            space: self.recovered(
                disk,
                space,
                ceiling=max(disk.ceilings.get(space, 1), last.end(space).tail),
                until=last.term,
            )
            for space in self.spaces
        }
        incarnation = self.views.register_incarnation()
        view = next_view(
            last,
            ends=[known.end for known in recovered.values()],
            primary=dict.fromkeys(self.spaces, node),
            starts={node: Start(incarnation=incarnation, disk_id=disk.disk_id)},
        )
        assert self.views.compare_and_swap(last.term, view), "nobody else stores views"
        core = SequencerCore(
            node=node, view=view, recovered=recovered, journals=disk.journals, releases=True
        )

        def perform(effect: Effect) -> None:
            assert isinstance(effect, RaiseCeiling), f"a sequencer cannot carry out {effect}"
            loop.call_later(self.knobs.sync_s, raised, effect)

        def raised(effect: RaiseCeiling) -> None:
            disk.ceilings[LogSpaceId(effect.space)] = effect.seqnum
            process.deliver(CeilingRaised(effect.space, effect.seqnum))

        process = self.processes[node] = Process(
            self,
            node,
            core,
            loop=loop,
            journals=disk.journals,
            perform=perform,
            use_headroom=True,
        )
        process.installed = view.term

    def recovered(
        self, disk: Disk, space: LogSpaceId, *, ceiling: int = 1, until: int = 0
    ) -> Recovered:
        """What a start of a sequencer finds in its journal."""
        begun = self.views.latest().space(space).begun
        return recover_metalog(
            disk.journals[space],
            self.views.load(begun).end(space),
            ceiling=ceiling,
            released=True,
            ended=ended_in(self.views, space),
            until=until,
            begun=begun,
        )

    def _start_member(self, node: NodeId, loop: ProcessLoop) -> None:
        """One of several sequencers: as `member_node.py` does."""
        disk, knobs = self.disks[node], self.knobs
        disk.incarnation += 1
        incarnation = self.views.register_incarnation()
        recovered = {space: self.recovered(disk, space) for space in self.spaces}
        reached = min(known.end.position.term for known in recovered.values())
        sequencer = SequencerCore(
            node=node,
            view=self.views.load(reached),
            recovered=recovered,
            journals=disk.journals,
            incarnation=incarnation,
            disk_id=disk.disk_id,
            promised=disk.promised,
            ceilings={space: disk.ceilings.get(space, 1) for space in self.spaces},
            releases=True,
        )
        settings = ControllerSettings(
            heartbeat_s=knobs.heartbeat_s,
            suspicion_s=8 * knobs.heartbeat_s,
            link_down_suspicion_s=knobs.heartbeat_s,
            retry_s=0.05,
            retry_max_s=0.5,
            replace_after_s=knobs.replace_after_s,
        )
        controller = ControllerCore(
            settings, node=node, incarnation=incarnation, disk_id=disk.disk_id
        )
        store = _StoreCalls(self, node, lambda: process)

        def perform(effect: Effect) -> None:
            if isinstance(effect, RaiseCeiling | StorePromise):
                loop.call_later(knobs.sync_s, on_disk, effect)
            else:
                store.perform(effect)

        def on_disk(effect: RaiseCeiling | StorePromise) -> None:
            if isinstance(effect, RaiseCeiling):
                disk.ceilings[LogSpaceId(effect.space)] = effect.seqnum
                process.deliver(CeilingRaised(effect.space, effect.seqnum))
            else:
                disk.promised = effect.term
                process.deliver(PromiseStored(effect.term))

        process = self.processes[node] = Process(
            self,
            node,
            MemberCore(sequencer, controller),
            loop=loop,
            journals=disk.journals,
            perform=perform,
            use_headroom=True,
        )
        for term in range(reached, self.views.latest().term + 1):
            process.install(self.views.load(term))
        for peer in self.sequencers:
            if peer > node:
                process.dial(peer)

    def _whole(self, frame: Frame) -> Frame:
        """The same frame from a disk on which no bit of it was flipped."""
        payload = b"".join(bytes(part) for part in frame.payload)
        if first_bad_record(frame.columns, memoryview(payload)) is None:
            return frame
        name = frame.shard, frame.first
        space = frame.shard.space
        for node in self.storage:
            copy = self.disks[node].journals[space].frame(name)
            if copy is not None and is_whole(copy):
                return copy
        for node in self.storage:
            copy = self.objects.frame(
                self.disks[node], space, lambda each: (each.shard, each.first) == name
            )
            if copy is not None:
                return copy
        return frame

    def _view_stored(self, view: View) -> None:
        """What a view says of ends is what terms of the one history begin with."""
        for end in view.ends:
            self.oracles[end.space].view_stored(
                view.term, end.position.count, end.tail, told=self.watch.told(end.space)
            )
            for node in view.space(end.space).replicas:
                stored = self.stored_count(node, end.space)
                if stored > end.position.count:
                    self.world.violation(
                        f"term {view.term} ends log space {end.space} at {end.position}, and"
                        f" {node} has stored a fold of {stored} entries"
                    )
                self.watch.stores(node, end.space, stored)
        for process in self.processes.values():
            process.view_stored()

    def stored_count(self, node: NodeId, space: LogSpaceId) -> int:
        """Entries up to which a storage node has stored its fold."""
        meta = self.disks[node].stores[space].get(keys.META)
        return keys.decode_meta(meta).position.count if meta is not None else 0

    def _start_storage(self, node: NodeId, loop: ProcessLoop) -> None:
        disk, latest, knobs = self.disks[node], self.views.latest(), self.knobs
        disk.incarnation += 1
        colds = {space: self._cold(disk, space) for space in self.spaces}
        replicas = {
            space: self._replica(
                node, latest.space(space), disk.journals[space].recover, colds[space]
            )
            for space in self.spaces
        }
        first_term = min(replica.index.position.term for replica in replicas.values()) + 1
        mover = Mover(self.world)

        def cold_done(done: ColdDone) -> None:
            process.deliver(done)

        def perform(effect: Effect) -> None:
            if isinstance(effect, StartCold):
                self.objects.start(effect, disk=disk, mover=mover, loop=loop, deliver=cold_done)
                return
            assert isinstance(effect, Checkpoint), f"a storage node cannot carry out {effect}"
            space = LogSpaceId(effect.space)
            self.watch.stores(node, space, replicas[space].index.generations.frozen_count)
            _Checkpoint(self, process, replicas[space], space).step()

        def rebuild(space: LogSpaceId, view: View) -> tuple[Replica, list[View]]:
            store = replicas[space].index.store  # another one since it started over (P20)
            assert isinstance(store, MemoryStore)
            disk.stores[space] = store
            replicas[space], views = self._rebuild(node, space, view, colds[space])
            return replicas[space], views

        core = StorageCore(
            node=node,
            replicas=replicas,
            checkpoint_s=knobs.checkpoint_s,
            rebuild=rebuild,
            incarnation=disk.incarnation,
            disk_id=disk.disk_id,
        )
        process = self.processes[node] = Process(
            self, node, core, loop=loop, journals=disk.journals, perform=perform
        )
        for term in range(max(1, min(first_term, latest.term)), latest.term + 1):
            process.install(self.views.load(term))
        for peer in self.sequencers:
            process.dial(peer)
        for peer in self.storage:
            if peer > node:
                process.dial(peer)

    def _cold(self, disk: Disk, space: LogSpaceId) -> Cold:
        """Which segments lie in the object store, and when others go there."""
        knobs = self.knobs
        if knobs.durabilities[space] == "memory" or not knobs.cold_hot_bytes:
            return Cold(space)
        return Cold(
            space,
            disk.cold_lists[space],
            where="the object store",
            hot_bytes=knobs.cold_hot_bytes,
            incarnation=disk.incarnation,
            cache_bytes=knobs.cold_cache_bytes,
            retry_s=knobs.cold_retry_s,
        )

    def _replica(self, node: NodeId, space: LogSpace, items: Items, cold: Cold) -> Replica:
        """As `storage_nodes/node.py` makes one, with the frames that its journal holds."""
        disk, knobs = self.disks[node], self.knobs
        lives = {"sync": 0, "flush": disk.boots, "memory": disk.incarnation}
        replica = Replica(
            node=node,
            space=space,
            identity=Identity(disk.disk_id, lives[space.durability]),
            journal=disk.journals[space.id],
            fold=self._fold(node, space.id, disk.stores[space.id]),
            new_fold=lambda: self._fold(node, space.id, MemoryStore()),
            cache_bytes_max=knobs.node_cache_bytes,
            pending_bytes_max=knobs.pending_bytes,
            load_entries=knobs.load_entries,
            cold=cold,
        )
        for kind, location, data in items(replica.replay_from):
            assert kind == ITEM_FRAME, "a storage node of a cluster journals frames only"
            replica.recover_frame(decode_frame(bytes(data)), location)
        if missing := replica.recovered_frames():
            self.world.note(f"{node} lost {missing} records of log space {space.id}")
        return replica

    def _fold(self, node: NodeId, space: LogSpaceId, store: IndexStore) -> WatchedFold:
        index = Index(space, store, postings_max=self.knobs.postings_max)
        return WatchedFold(index, node=node, oracle=self.oracles[space])

    def _rebuild(
        self, node: NodeId, space: LogSpaceId, view: View, cold: Cold
    ) -> tuple[Replica, list[View]]:
        """A replica whose fold is past no end up to that of `view` (P11)."""
        disk = self.disks[node]
        self.world.note(f"{node} builds its fold of log space {space} anew")
        views = [self.views.load(term) for term in range(1, view.term + 1)]
        journal, store = disk.journals[space], disk.stores[space]
        stored = Index(space, store).position
        segments = journal.segments()
        if goes_on_from_stored(view.space(space), stored, views=views, segments=segments):
            views = [each for each in views if each.term > stored.term]
        else:
            clear(store)
        return self._replica(node, view.space(space), journal.items, cold), views

    def _start_engine(self, node: NodeId, loop: ProcessLoop) -> None:
        knobs, view = self.knobs, self.views.latest()
        settings = EngineSettings(
            facts_bytes=1 << 20 if knobs.facts else 0,
            cache_bytes=knobs.cache_bytes,
            followed_books_max=knobs.followed_books_max,
            unordered_frames_max=knobs.unordered_frames_max,
            retry_s=knobs.retry_s,
        )
        engine = EngineCore(settings, node, self.views.register_incarnation())

        def greeted(connection: int, positions: list[list[int]]) -> None:
            process.welcome_client(connection, positions)

        def greet(connection: int) -> None:
            for event in core.greet(connection):
                process.deliver(event)

        def perform(effect: Effect) -> None:
            raise AssertionError(f"an engine cannot carry out {effect}")

        core = GreetingCore(engine, spaces=view.spaces, greeted=greeted)
        process = self.processes[node] = Process(
            self, node, core, loop=loop, journals={}, perform=perform, greet=greet
        )
        process.install(view)
        for peer in self.sequencers:
            process.dial(peer)
        for peer in self.storage:
            process.dial(peer)
            process.dial(peer, bulk=True)

    def _first_view(self) -> View:
        roles = {"sequencer": self.sequencers, "storage": self.storage, "engine": self.engines}
        nodes = [
            Node(id=node, role=role, address="")  # type: ignore[arg-type]  # one of the three
            for role, names in roles.items()
            for node in names
        ]
        spaces = tuple(
            LogSpace(
                id=LogSpaceId(space),
                durability=durability,
                primary=self.sequencers[0],
                backups=self.sequencers[1:],
                replicas=self.storage[: self.knobs.storage_count],
                write_quorum=self.knobs.write_quorum,
            )
            for space, durability in enumerate(self.knobs.durabilities)
        )
        return View(
            cluster_id=CLUSTER_ID,
            history_id=CLUSTER_ID,
            term=Term(0),
            nodes=tuple(nodes),
            spaces=spaces,
            ends=tuple(first_end(space.id) for space in spaces),
        )

    # --- looking in -------------------------------------------------------------------------------

    def replicas(self, space: LogSpaceId = SPACE) -> tuple[NodeId, ...]:
        """The storage nodes that hold a log space now."""
        return self.views.latest().space(space).replicas

    def replica(self, node: NodeId, space: LogSpaceId = SPACE) -> Replica | None:
        process = self.processes.get(node)
        if process is None:
            return None
        assert isinstance(process.core, StorageCore)
        return process.core.replicas[space]

    def sequencer(self, node: NodeId) -> SequencerCore | None:
        process = self.processes.get(node)
        if process is None:
            return None
        core = process.core.sequencer if isinstance(process.core, MemberCore) else process.core
        assert isinstance(core, SequencerCore)
        return core

    def cold_bytes(self, node: NodeId) -> Fetch:
        """Reads a node's objects, whoever may: None is what is not there."""
        return lambda space, miss: self.objects.read(self.disks[node], LogSpaceId(space), miss)

    def published(self, space: LogSpaceId = SPACE) -> int | None:
        """Count of published entries, if a primary is there."""
        core = self.sequencer(self.views.latest().space(space).primary)
        primary = core.primaries.get(space) if core is not None else None
        return primary.published.count if primary is not None else None

    @property
    def together(self) -> bool:
        """Every replica stands where the primary is."""
        for space in self.spaces:
            published = self.published(space)
            replicas = [self.replica(node, space) for node in self.replicas(space)]
            if any(each is None or each.index.position.count != published for each in replicas):
                return False
        return True


class Watch:
    """What is relied on at the moment it is (P6, P9, P11, P19, P26), whatever the cores believe.

    A record is ordered only while W machines would keep it through a loss of power; an entry is
    published only while a majority of sequencers would, or, of a class that may forget, stored in a
    fold; and nobody counts with what it does not hold. A machine whose disk was replaced without
    the primary's knowledge has the benefit of the doubt. A tail covers all that anybody had
    published when it was asked for.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ordered: set[tuple[object, ...]] = set()
        self._published: set[tuple[object, ...]] = set()
        self._furthest: dict[int, Position] = {}
        """Per log space, what anybody has published."""
        self._asked: dict[tuple[object, ...], Position] = {}

    def on(self, node: NodeId, journal: SimJournal) -> None:
        """Look at what a sequencer orders."""
        journal.appended = partial(self._appended, node)

    def _appended(self, node: NodeId, run: Run) -> None:
        core = self._cluster.sequencer(node)
        primary = core.primaries.get(run.space) if core is not None else None
        if primary is None or primary.term != run.term:
            return
        for entry in run.entries:
            if isinstance(entry, Cut):
                self._ordered.add((run.space, run.term, run.first))
                for span in entry.spans:
                    self._check_span(primary, run, span)

    def _check_span(self, primary: Primary, run: Run, span: CutSpan) -> None:
        space, known = primary.space, primary._progress._identities
        claims = primary._progress.shards[span.number].counts
        shard = Shard(space.id, run.term, span.number)
        keepers, liars = [], []
        for node in space.replicas:
            disk = self._cluster.disks[node]
            lives = {"sync": 0, "flush": disk.boots, "memory": disk.incarnation}
            now = disk.disk_id, lives[space.durability]
            gone = space.durability == "memory" and node not in self._cluster.processes
            unheard = node in known and (tuple(known[node]) != now or gone)
            if unheard or disk.journals[space.id].holds(shard, span.start, span.until):
                keepers.append(node)
            elif claims.get(node, 0) >= span.until:
                liars.append(node)
        if len(keepers) < space.write_quorum or liars:
            self._cluster.world.violation(
                f"{span} of {shard} is ordered, and would be kept by {keepers} only; without"
                f" holding it {liars} count"
            )

    def published(self, run: Run) -> None:
        """A sequencer sends a run to a follower."""
        reached = Position(run.term, run.until)
        self._furthest[run.space] = max(self._furthest.get(run.space, START), reached)
        name = run.space, run.term, run.first
        if name in self._published or name not in self._ordered:
            return
        self._published.add(name)
        sequencers = self._cluster.sequencers
        keepers = [
            node
            for node in sequencers
            if name in self._cluster.disks[node].journals[run.space].durable
        ]
        if len(keepers) <= len(sequencers) // 2 and not self._cluster.may_forget(run.space):
            self._cluster.world.violation(
                f"entries {run.first}.. of term {run.term} are published, and would be kept by"
                f" {keepers} only"
            )

    def told(self, space: LogSpaceId) -> int:
        """How many entries anybody was told of."""
        return self._furthest.get(space, START).count

    def batch_ended(self, node: NodeId, space: LogSpaceId, committer: Committer) -> None:
        """Before a group is written: whatever a batch staged, a commit has to follow in that very
        batch, since nothing else need come by which it would become durable (P13)."""
        staged = self._cluster.disks[node].journals[space].staged
        if staged and not committer._wanted:
            self._cluster.world.violation(
                f"{node} commits nothing of what it wrote for log space {space}: {staged[0]}"
            )

    def disk_exchanged(self) -> None:
        """A sequencer's disk is another one, and who counts on it has not heard: what was ordered
        by then has the benefit of the doubt."""
        self._published |= self._ordered

    def history_ended(self) -> None:
        """What was published may be lost: a person has accepted that, and nobody goes on who knew
        of it (P15)."""
        self._furthest.clear()
        self._asked.clear()

    def stores(self, node: NodeId, space: LogSpaceId, count: int) -> None:
        """A storage node stores a fold of so many entries, or has, and a view is stored: whichever
        majority ends the term then, one of it has to know of them (P13, P14: a disk that was
        exchanged has no vote)."""
        views, disks = self._cluster.views, self._cluster.disks
        view = views.latest()
        begun = views.load(view.space(space).begun).end(space)
        if self._cluster.knobs.durabilities[space] == "sync" or count <= begun.position.count:
            return  # what comes before the metalog is in folds only (P15)
        sequencers = self._cluster.sequencers
        lacking = [
            each
            for each in sequencers
            if has_vote(view, each, disks[each].disk_id)
            and not disks[each].journals[space].outlives_power(count)
        ]
        if len(lacking) > len(sequencers) // 2:
            self._cluster.world.violation(
                f"{node} stores a fold of {count} entries of log space {space}, of which {lacking}"
                " would know nothing"
            )

    def tail_asked(self, node: NodeId, source: Address, message: TailRequest) -> None:
        """A tail request arrives at a sequencer; an engine that starts again numbers from one."""
        furthest = self._furthest.get(message.space, START)
        self._asked.setdefault((node, source, message.space, message.request), furthest)

    def tail_told(self, node: NodeId, to: Address, message: Tail) -> None:
        """A sequencer answers one; asked twice, it may answer the first time."""
        known = self._asked.pop((node, to, message.space, message.request), START)
        behind = message.position.count < known.count
        if self._cluster.may_forget(message.space):
            behind = message.position < known
        if behind:
            self._cluster.world.violation(
                f"{node} tells {to} the tail at {message.position}, and entry {known} was"
                " published when it was asked"
            )


class _StoreCalls:
    """A controller's calls on the view store: they take a while, and some answers get lost."""

    def __init__(self, cluster: Cluster, node: NodeId, process: Callable[[], Process]) -> None:
        self._cluster = cluster
        self._node = node
        self._process = process
        self._chance = cluster.world.chance(f"store {node}")

    def perform(self, effect: Effect) -> None:
        delay_s = self._cluster.network.delay_s(self._node, "views")
        self._cluster.world.later(delay_s, lambda: self._call(effect))

    def _call(self, effect: Effect) -> None:
        process = self._process()
        if process.loop.dead and self._chance.random() < 0.5:
            return  # it was sent before the process died, or not
        answer = self._answer(effect)
        if answer is not None:
            delay_s = self._cluster.network.delay_s("views", self._node)
            process.loop.call_later(delay_s, process.deliver, answer)

    def _answer(self, effect: Effect) -> Event | None:
        views = self._cluster.views
        lost = self._chance.random() < self._cluster.knobs.store_lost_share
        match effect:
            case AcquireLease():
                if lost or not views.try_lease(self._node):
                    return LeaseLost("" if lost else str(views.holder))
                return LeaseHeld(views.intent())
            case ReleaseLease():
                views.release_lease(self._node)
                return None
            case StoreIntent(term=term, reason=reason):
                if not views.store_intent(term, reason):
                    self._process().load_views()
                    return None
                return None if lost else IntentStored(term)
            case SwapView(expected_term=expected, view=view):
                swapped = views.compare_and_swap(expected, view)
                return ViewSwapped(view.term, swapped and not lost)
            case _:
                raise AssertionError(f"a sequencer cannot carry out {effect}")


class _Checkpoint:
    """Builds a checkpoint a slice at a time, then writes it, as `checkpoints.py` does."""

    def __init__(
        self, cluster: Cluster, process: Process, replica: Replica, space: LogSpaceId
    ) -> None:
        self._cluster = cluster
        self._process = process
        self._index = replica.index
        self._space = space
        self._steps = replica.index.generations.steps()

    def step(self) -> None:
        loop, sync_s = self._process.loop, self._cluster.knobs.sync_s
        for _ in self._steps:
            loop.call_later(sync_s / 4, self.step)
            return
        disk = self._cluster.disks[self._process.name]
        if disk.journals[self._space].inner.full is not None:
            self._steps = self._index.generations.steps()
            loop.call_later(2.0, self.step)
            return
        loop.call_later(2 * sync_s, self._write)

    def _write(self) -> None:
        self._index.generations.write()
        self._process.deliver(CheckpointStored(self._space))
