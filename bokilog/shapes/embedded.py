"""The embedded shape: engine, storage node and sequencer in this process, on a disk or in memory.

Decides nothing that a core decides. It joins the three cores by reference, puts frames and the
entries that order them into one journal per log space, so that one sync covers both (P11), and
gives the client a port that is a method call.

Every start is a new term (P12): it replays the journal, fixes where the last term ended, stores the
next view, and only then lets anybody in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bokilog.client.admin import ClientLog
from bokilog.client.node import TIMEOUT_S_DEFAULT, Client
from bokilog.client.opening import Opening, register_opener
from bokilog.client.port import Events
from bokilog.effects import (
    Address,
    CancelTimer,
    Checkpoint,
    CheckpointStored,
    Commit,
    Event,
    LinkUp,
    Persisted,
    PersistFailed,
    RaiseCeiling,
    ReadOnlyChanged,
    Received,
    Send,
    SetTimer,
    ViewInstalled,
)
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.ceiling_calls import CeilingCalls
from bokilog.io.clock import Clock, SystemClock
from bokilog.io.commits import Committer
from bokilog.io.driver import Driver
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.sync import DataSync, DelayedSync, NoSync, SyncPolicy
from bokilog.io.view_store import check_versions
from bokilog.journal import Journal
from bokilog.messages import Message, Welcome
from bokilog.metalog import DeleteBook, Proposer, Run
from bokilog.record import DURABILITIES, Durability, check_bound
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.held import Recovered
from bokilog.sequencer.runs import RunIndex
from bokilog.shapes.composed import ComposedCore, FromCore, ToCore, bulk
from bokilog.shapes.recovery import end_of, lost_end, replay
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.checkpoints import Checkpoints
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import IndexStore
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.replica import Replica
from bokilog.view import LogSpace, Node, View, first_end

if TYPE_CHECKING:
    from bokilog.shapes.embedded_disk import Disk

ENGINE, STORAGE, SEQUENCER = NodeId("engine-1"), NodeId("storage-1"), NodeId("sequencer-1")
SPACES: dict[LogSpaceId, Durability] = {
    LogSpaceId(number): durability for number, durability in enumerate(DURABILITIES)
}
CLIENT = 0
"""The address of the process's own client; those of connections are numbered from 1
(`served.py`)."""
CHECKPOINT_S = 10.0
CACHE_BYTES = 64 << 20
PENDING_BYTES = 256 << 20
HEADROOM_BYTES = 16 << 20
"""A checkpoint of a full generation takes a few MiB, a trim a few hundred bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """What a caller may tune of an embedded log."""

    sync_delay_ms: float = 0.0
    """Added to every sync: how the log would do on a slower disk."""
    checkpoint_s: float = CHECKPOINT_S
    """At least this often the fold is stored, so that a restart has little to fold again (P19)."""
    cache_bytes: int = CACHE_BYTES
    """Frames kept decoded per log space, for those who read what was just appended."""
    headroom_bytes: int = HEADROOM_BYTES
    """Left free on the disk for trims and checkpoints: with less than that, nothing is appended
    until there is room again (P32)."""


_new = tuple.__new__  # twice as fast as a named tuple's own


class Storage:
    """What one embedded log stands on: journals, index stores and views; on a disk or in memory."""

    def __init__(self, directory: Path | None, settings: EmbeddedSettings) -> None:
        self.settings = settings
        self.disk: Disk | None = None
        self.past: list[View] = []
        self.journals: dict[LogSpaceId, Journal] = {}
        self.stores: dict[LogSpaceId, IndexStore] = {}
        if directory is not None:
            from bokilog.shapes.embedded_disk import Disk  # a log in memory is open without it

            self.disk = Disk(directory)
        try:
            self._load()
        except BaseException:  # nobody gets to close it
            self.close(clean=False)
            raise

    def _load(self) -> None:
        if self.disk is not None:
            self.past = self.disk.views()
            if self.past:
                check_versions(self.past[-1])
        if not self.past:
            self.store_view(first_view())
        for space, durability in SPACES.items():
            self.journals[space] = self._journal(space, durability)
            self.stores[space] = self._store(space, durability)
        known = self.disk.ceilings() if self.disk is not None else {}
        self.ceilings = {space: known.get(space, 1) for space in SPACES}

    def sync_policy(self, durability: Durability) -> SyncPolicy:
        policy: SyncPolicy = DataSync() if durability == "sync" else NoSync()
        if durability == "sync" and self.settings.sync_delay_ms:
            return DelayedSync(self.settings.sync_delay_ms, policy)
        return policy

    def raise_ceiling(self, space: int, seqnum: int) -> None:
        """Synced when this returns (P11)."""
        self.ceilings[LogSpaceId(space)] = seqnum
        if self.disk is not None:
            self.disk.store_ceilings(self.ceilings)

    def store_view(self, view: View) -> None:
        """The next view; the directory's lock is held, so nobody else stores any."""
        if self.disk is not None:
            self.disk.store_view(self.past[-1].term if self.past else None, view)
        self.past.append(view)

    def close(self, *, clean: bool) -> None:
        for journal in self.journals.values():
            journal.close(clean=clean)
        for store in self.stores.values():
            store.close()
        if self.disk is not None:
            self.disk.close()

    def _journal(self, space: LogSpaceId, durability: Durability) -> Journal:
        if self.disk is None or durability == "memory":
            return MemoryJournal()
        return self.disk.journal(
            space,
            sync=self.sync_policy(durability),
            headroom_bytes=self.settings.headroom_bytes,
        )

    def _store(self, space: LogSpaceId, durability: Durability) -> IndexStore:
        if self.disk is None or durability == "memory":
            return MemoryStore()
        return self.disk.store(space)


class Guests(Protocol):
    """What carries messages to clients in other processes."""

    def send(self, to: Address, message: Message, /) -> object: ...

    def flush(self) -> None: ...

    def stopped(self, error: Exception, /) -> None: ...


class EmbeddedNode:
    """The three cores of one process, and what carries out their effects."""

    def __init__(self, storage: Storage, *, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._bug: Exception | None = None
        self._client: Events | None = None
        self._guests: Guests | None = None
        self._replies: list[Message] = []
        self._checkpoints = Checkpoints()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="bokilog-disk")
        self._ceilings = CeilingCalls(
            self._disk,
            storage.raise_ceiling,
            deliver=lambda event: self._deliver(SEQUENCER, event),
        )
        self._replicas = self._recover()
        self.view = self._next_view()
        self._committers = {
            space: self._committer(space, journal) for space, journal in storage.journals.items()
        }
        engine = EngineCore(
            EngineSettings(facts_bytes=0, cache_bytes=0),
            node_id=ENGINE,
            incarnation=self.view.term,
        )
        self.storage_core = StorageCore(
            node=STORAGE, replicas=self._replicas, checkpoint_s=storage.settings.checkpoint_s
        )
        self.sequencer_core = SequencerCore(
            node=SEQUENCER,
            view=self.view,
            recovered={space: self._recovered(space) for space in SPACES},
            journals=storage.journals,
        )
        self.engine_core = engine
        self._driver: Driver[ToCore, FromCore | SetTimer | CancelTimer] = Driver(
            ComposedCore(
                {ENGINE: engine, STORAGE: self.storage_core, SEQUENCER: self.sequencer_core}
            ),
            perform=self._perform,
            end_of_batch=self._end_of_batch,
            clock=clock,
            on_bug=self._on_bug,
        )
        self._begin()

    # --- start ------------------------------------------------------------------------------------

    def _recover(self) -> dict[LogSpaceId, Replica]:
        replicas = {}
        for space, durability in SPACES.items():
            journal, store = self._storage.journals[space], self._storage.stores[space]
            replica = Replica(
                node=STORAGE,
                space=_log_space(space, durability),
                identity=Identity("embedded", 0),
                journal=journal,
                fold=Fold(Index(space, store)),
                cache_bytes_max=self._storage.settings.cache_bytes,
                pending_bytes_max=PENDING_BYTES,
                report_written=True,
                lost_until=self._storage.ceilings[space] if durability == "memory" else 0,
            )
            if durability != "memory":  # that class starts over, empty (P20)
                replay(replica, journal, self._storage.past)
            replicas[space] = replica
        return replicas

    def _next_view(self) -> View:
        """This start's term; its ends say what the last one left (P12, P13)."""
        last = self._storage.past[-1]
        ends = []
        for space, durability in SPACES.items():
            ceiling = self._storage.ceilings[space]
            if durability == "memory":
                ends.append(lost_end(space, last.end(space), ceiling=ceiling))
            else:
                ends.append(end_of(self._replicas[space], ceiling=ceiling))
        view = replace(last, term=Term(last.term + 1), ends=tuple(ends))
        self._storage.store_view(view)
        return view

    def _recovered(self, space: LogSpaceId) -> Recovered:
        """The sequencer begins where the fold ended; nobody here follows it from further back."""
        deletions = tuple(
            Run(space, Term(0), 0, (DeleteBook(0, book, Proposer(0, 0)),))
            for book in sorted(self._replicas[space].index.deleted_books)
        )
        return Recovered(self.view.end(space), RunIndex(), deletions)

    def _begin(self) -> None:
        """Views and links, as a cluster's nodes meet them; then a batch opens the shards."""
        deliver = self._deliver
        for core in (STORAGE, ENGINE):
            deliver(core, ViewInstalled(self.view))
        for core, peers in (
            (SEQUENCER, (STORAGE, ENGINE)),
            (STORAGE, (SEQUENCER, ENGINE)),
            (ENGINE, (SEQUENCER, STORAGE, bulk(STORAGE), CLIENT)),
        ):
            for peer in peers:
                deliver(core, LinkUp(peer))

    def _committer(self, space: LogSpaceId, journal: Journal) -> Committer:
        def persisted(tokens: list[Hashable]) -> None:
            for core, token in _core_tokens(tokens):
                self._deliver(core, _new(Persisted, (token,)))

        def failed(tokens: list[Hashable], reason: str) -> None:
            for core, token in _core_tokens(tokens):
                self._deliver(core, PersistFailed(token, reason))
            read_only(reason)

        def read_only(reason: str) -> None:
            for core in (ENGINE, STORAGE):
                self._deliver(core, ReadOnlyChanged(space, reason))

        return Committer(
            journal,
            persisted=persisted,
            failed=failed,
            read_only=read_only,
            inline=not self._storage.settings.sync_delay_ms,
            use_headroom=True,  # frames are refused before: they keep it
            watch_room=True,
        )

    # --- the client's port ------------------------------------------------------------------------

    def attach(self, client: Events) -> EmbeddedPort:
        """The process's client; it is told at once that the engine is there."""
        self._client = client
        return EmbeddedPort(self)

    def serve(self, guests: Guests) -> Callable[[Event], None]:
        """Clients of other processes; what is returned takes the events of their links."""
        self._guests = guests
        return lambda event: self._deliver(ENGINE, event)

    def welcome(self) -> Welcome:
        """What an engine tells a client: sessions start at the primary's tail (P27)."""
        positions = []
        for space, primary in self.sequencer_core.primaries.items():
            stats = primary.stats()
            positions.append([int(space), *stats.published, stats.tail])
        return Welcome(
            node=ENGINE,
            incarnation=self.view.term,
            cluster_id=self.view.cluster_id,
            history_id=self.view.history_id,
            term=self.view.term,
            positions=positions,
            spaces=[[int(space), durability] for space, durability in SPACES.items()],
        )

    def send(self, message: Message) -> bool:
        if self._closed:
            return False
        self._deliver(ENGINE, _new(Received, (CLIENT, message)))
        return True

    def run(self) -> None:
        """Everything that the client sent is handled before this returns."""
        self._driver.run()

    # --- running ----------------------------------------------------------------------------------

    def _deliver(self, core: str, event: Event) -> None:
        self._driver.deliver(_new(ToCore, (core, event)))

    def _end_of_batch(self) -> None:
        """Writes the groups; then, and only then, what the batch said to the client leaves (A3)."""
        for committer in self._committers.values():
            committer.flush()
        if self._replies and self._client is not None:
            replies, self._replies = self._replies, []
            self._client.on_messages(replies)
        if self._guests is not None:
            self._guests.flush()

    def _perform(self, effect: FromCore | SetTimer | CancelTimer) -> None:
        assert isinstance(effect, FromCore), "the driver keeps the timers"
        core, asked = effect
        if type(asked) is Send:
            to, message = asked
            if to == CLIENT:
                self._replies.append(message)
            elif self._guests is not None and isinstance(to, int):
                self._guests.send(to, message)
            return
        if type(asked) is Commit:
            self._committers[LogSpaceId(asked.space)].request((core, asked.token))
            return
        match asked:
            case Checkpoint(space=space):
                self._start_checkpoint(LogSpaceId(space))
            case RaiseCeiling():
                self._ceilings.perform(asked)
            case _:
                raise AssertionError(f"{core} asked for {asked} in a process of its own")

    def _on_bug(self, error: Exception) -> None:
        """Nothing more is decided; the client is told, the directory is left as after a crash."""
        self._bug = error
        if self._guests is not None:
            self._guests.stopped(error)
        if self._client is not None:
            self._client.on_down(f"it has stopped: {error!r}")

    def _start_checkpoint(self, space: LogSpaceId) -> None:
        def done() -> None:
            self._deliver(STORAGE, CheckpointStored(space))

        self._checkpoints.start(self._replicas[space].index, done)

    # --- stop -------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Lets what is being synced end, stores the fold, and gives the directory back.

        If cancelled, it gives the directory back at once, as it would be after a crash.

        Raises:
            Exception: what a core raised: a bug.
        """
        if self._closed:
            return
        self._closed, settled = True, False
        try:
            if self._bug is None:
                await self._settle()
                settled = True
        finally:
            self._stop(clean=settled and self._bug is None)
        if self._bug is not None:
            raise self._bug

    async def _settle(self) -> None:
        for committer in self._committers.values():
            await committer.drained()
        await asyncio.sleep(0)  # what became durable is handled, and told
        if self._storage.disk is not None:
            await self._checkpoints.store_last(self._replicas.values())

    def _stop(self, *, clean: bool) -> None:
        self._driver.stop()
        self._checkpoints.cancel()
        for committer in self._committers.values():
            committer.close()
        self._ceilings.close()
        self._disk.shutdown(wait=True)
        self._storage.close(clean=clean)


class EmbeddedPort:
    """The client's way to the engine in its own process."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node

    def send(self, message: Message) -> bool:
        return self._node.send(message)

    def flush(self) -> None:
        """Nothing is on its way to be gathered with: a turn of the loop is saved."""
        self._node.run()

    def leave(self) -> None:
        """There is no other engine, and this one does not ask for it."""

    def close(self) -> None:
        """The engine goes with the node, which its owner closes."""


def _log_space(space: LogSpaceId, durability: Durability) -> LogSpace:
    return LogSpace(
        id=space,
        durability=durability,
        primary=SEQUENCER,
        replicas=(STORAGE,),
        write_quorum=1,
    )


def first_view() -> View:
    """Term 0: what the log is made of. Nobody acts in it: the first start stores term 1 (P12)."""
    return View(
        cluster_id=os.urandom(8).hex(),
        history_id=os.urandom(8).hex(),
        term=Term(0),
        nodes=(
            Node(id=ENGINE, role="engine", address=""),
            Node(id=STORAGE, role="storage", address=""),
            Node(id=SEQUENCER, role="sequencer", address=""),
        ),
        spaces=tuple(_log_space(space, durability) for space, durability in SPACES.items()),
        ends=tuple(first_end(space) for space in SPACES),
    )


def _core_tokens(tokens: list[Hashable]) -> list[tuple[str, int]]:
    return [token for token in tokens if isinstance(token, tuple)]


def open(  # the name of the public call
    directory: str | os.PathLike[str] | None = None,
    *,
    timeout_s: float = TIMEOUT_S_DEFAULT,
    settings: EmbeddedSettings | None = None,
) -> Opening:
    """Open a log in this process: `log = await open(...)` or `async with open(...) as log`.

    Args:
        directory: where it is kept; made if it is not there. None: in memory, gone when closed.
        timeout_s: of calls that name none.
        settings: what else may be tuned.

    Raises, when awaited:
        DirectoryInUse: another live process has the directory open.
        FormatTooNew: a later version wrote it.
        CorruptJournal: synced bytes do not verify any more.
        InvalidSettings: it holds something else, or is no path of text.
    """

    async def opened() -> ClientLog:
        path = None
        if directory is not None:
            from bokilog.io.directory import path_of  # a log in memory is open without it

            path = path_of("directory", directory)
        return await _open(path, timeout_s, settings or EmbeddedSettings())

    return Opening(opened)


def start_node(path: Path | None, settings: EmbeddedSettings) -> EmbeddedNode:
    """The node of an embedded log, in the running loop; raises as `open`."""
    storage = Storage(path, settings)
    try:
        return EmbeddedNode(storage, clock=SystemClock())
    except BaseException:
        storage.close(clean=False)
        raise


async def _open(path: Path | None, timeout_s: float, settings: EmbeddedSettings) -> ClientLog:
    check_bound("timeout_s", timeout_s)  # before there is anything to close
    node = start_node(path, settings)
    client = Client(node.attach, timeout_s=timeout_s, on_close=node.aclose)
    client.on_up(node.welcome())
    return ClientLog(client)


async def _open_url(directory: str | None, timeout_s: float) -> ClientLog:
    path = None if directory is None else Path(directory)
    return await _open(path, timeout_s, EmbeddedSettings())


register_opener("file", _open_url)
register_opener("memory", _open_url)
