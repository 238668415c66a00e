"""The storage node process: reads back what it holds, then serves it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from bokilog.effects import Checkpoint, CheckpointStored, Effect, ReadOnlyChanged, StartCold
from bokilog.errors import NotReady
from bokilog.frame import ITEM_FRAME, decode_frame, verify_frame
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io import network
from bokilog.io.clock import SystemClock
from bokilog.io.directory import Directory, claim
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.node import NodeShell
from bokilog.io.one_identity import check_alone
from bokilog.io.open_views import open_views
from bokilog.io.sync import policy
from bokilog.io.view_store import ViewStore, check_versions
from bokilog.journal import Location
from bokilog.record import Durability
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.checkpoints import Checkpoints
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.cold_store import ColdSpace, ColdStore, load_list
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import IndexStore, clear
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.rebuilding import goes_on_from_stored
from bokilog.storage_nodes.replica import Replica
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.storage_nodes.settings import StorageSettings
from bokilog.view import LogSpace, View

logger = logging.getLogger(__name__)
SYNCED_S = 1.0
"""How long a stop waits for the metalog to be synced."""
TELL_S = 2.0
"""A rebuild is logged at most so often."""
Items = Callable[[int], Iterable[tuple[int, Location, memoryview]]]
"""What a journal holds, from a segment on."""


async def run(settings: StorageSettings, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """One storage node, from its lock to its graceful stop."""
    views = open_views(settings.views_url or settings.views_dir)
    latest = views.latest()
    if latest is None:
        raise NotReady(f"no view is stored in {views.where}: start the cluster with bokilog up")
    check_versions(latest)
    node = NodeId(settings.node_id)
    with claim(settings.data_dir, latest.cluster_id, node) as directory:
        await check_alone(node, latest, addresses=(settings.address, settings.bulk_address))
        storage = _Storage(settings, directory, latest, views=views)
        checkpoints = Checkpoints()
        shell = _shell(settings, storage, checkpoints, latest=latest, views=views)
        # Term 0 orders nothing: before a sequencer's first view is stored there is none to install.
        for term in range(max(1, min(storage.first_term, latest.term)), latest.term + 1):
            view = views.load(Term(term))
            if view is not None:
                shell.install(view)
        await shell.network.listen(settings.address)
        await shell.serve_metrics(settings.metrics_address)
        if settings.bulk_address:
            await shell.network.listen(settings.bulk_address)
        _dial_peers(shell, node, latest)
        telling = asyncio.get_running_loop().create_task(_tell_rebuilding(storage.replicas))
        ready()
        try:
            await shell.run(stop, poll_s=settings.view_poll_s)
            await shell.drained()
            await _synced(shell, storage.replicas)
            await checkpoints.store_last(storage.replicas.values())
        finally:
            telling.cancel()
            await shell.aclose()
            checkpoints.cancel()
            storage.close()


async def _synced(shell: NodeShell, replicas: Mapping[LogSpaceId, Replica]) -> None:
    """Until all that is folded may be stored, if the sequencers are there to say so (P11): what is
    not stored the next start folds again."""
    for replica in replicas.values():
        replica.checkpoint_timer()
        shell.deliver(ReadOnlyChanged(replica.space.id, replica.read_only))  # a batch: nothing new
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + SYNCED_S
    while loop.time() < deadline_s:
        await asyncio.sleep(SYNCED_S / 100)
        if all(replica.storing.may_store_all for replica in replicas.values()):
            return


async def _tell_rebuilding(replicas: Mapping[LogSpaceId, Replica]) -> None:
    """Logs what a node that was wiped, or away for long, gets from its peers (P33)."""
    told: dict[LogSpaceId, tuple[str, int]] = {}
    disagreements: dict[LogSpaceId, str] = {}
    while True:
        for number, replica in replicas.items():
            problem = replica.disagreement
            if problem and problem != disagreements.get(number):
                logger.critical("log space %d: %s (P24)", number, problem)
            disagreements[number] = problem
            said = replica.rebuilding, replica.loaded_count
            if said != told.get(number, ("", 0)):
                logger.warning(
                    "log space %d: %s (indexes loaded from peers so far: %d)",
                    *(number, said[0] or "everything is here", said[1]),
                )
            told[number] = said
        await asyncio.sleep(TELL_S)


class _Storage:
    """What a storage node's cores stand on, read back from its directory."""

    def __init__(
        self, settings: StorageSettings, directory: Directory, view: View, *, views: ViewStore
    ) -> None:
        self.journals: dict[LogSpaceId, JournalFile | MemoryJournal] = {}
        self.replicas: dict[LogSpaceId, Replica] = {}
        self._settings = settings
        self._views = views
        self._node = NodeId(settings.node_id)
        self.incarnation = views.register_incarnation(
            self._node,
            above=directory.next_incarnation(),  # what it was known by before it was registered
        )
        self.disk_id = directory.disk_id
        self._stores: dict[LogSpaceId, IndexStore] = {}
        spaces = view.spaces  # any of them may get this node as a replica while it runs
        self._identities: dict[Durability, Identity] = {
            "sync": Identity(directory.disk_id, 0),
            "flush": Identity(directory.disk_id, directory.boot_incarnation()),
            "memory": Identity(directory.disk_id, self.incarnation),
        }
        self._postings_max = settings.checkpoint_postings_count // len(spaces)
        self._colds = {space.id: self._cold(space) for space in spaces}
        for space in spaces:
            journal = self.journals[space.id] = _journal(settings, space)
            memory_bytes = settings.memory_bytes // 4 // len(spaces)
            self._stores[space.id] = _store(settings, space, memory_bytes=memory_bytes)
            self.replicas[space.id] = self._replica(space, journal.recover)
        self.first_term = min(replica.index.position.term for replica in self.replicas.values()) + 1
        self.cold_store = self._cold_store(directory) if settings.cold_url else None

    def _cold(self, space: LogSpace) -> Cold:
        """Which segments of a log space lie in the object store, and when others go there."""
        settings, url = self._settings, self._settings.cold_url
        if space.durability == "memory":
            return Cold(space.id)
        found = load_list(settings.data_dir / f"journal-{space.id}", url)
        return Cold(
            space.id,
            found,
            where=url,
            after_s=settings.cold_after_s if url else 0.0,
            hot_bytes=settings.hot_bytes if url else 0,
            incarnation=self.incarnation,
            cache_bytes=settings.cold_cache_bytes,
        )

    def _cold_store(self, directory: Directory) -> ColdStore:
        spaces: dict[int, ColdSpace] = {
            number: ColdSpace(self._settings.data_dir / f"journal-{number}", journal)
            for number, journal in self.journals.items()
            if isinstance(journal, JournalFile)
        }
        return ColdStore(
            self._settings.cold_url,
            prefix=f"{directory.cluster_id}/{self._node}/{directory.disk_id}",
            spaces=spaces,
            known=any(cold.ends() for cold in self._colds.values()),
        )

    def rebuild(self, number: LogSpaceId, view: View) -> tuple[Replica, list[View]]:
        """A replica anew, whose fold is past no end up to that of `view` (P11)."""
        earlier = [self._views.load(Term(term)) for term in range(1, view.term)]
        views = [*(each for each in earlier if each is not None), view]
        space, journal = view.space(number), self.journals[number]
        # Another one than at the start, if a `memory` log space has started over since (P20).
        store = self._stores[number] = self.replicas[number].index.store
        stored = Index(number, store).position
        segments = journal.segments()
        if goes_on_from_stored(space, stored, views=views, segments=segments):
            views = [each for each in views if each.term > stored.term]
        else:
            clear(store)
        logger.warning(
            "log space %d was folded past entry %d, where term %d ends it: its fold is built anew",
            *(number, view.end(number).position.count, view.term),
        )
        replica = self.replicas[number] = self._replica(space, journal.items)
        return replica, views

    def _replica(self, space: LogSpace, items: Items) -> Replica:
        """A replica as it was stored, with the frames that its journal holds."""
        replica = Replica(
            node=self._node,
            space=space,
            identity=self._identities[space.durability],
            journal=self.journals[space.id],
            fold=Fold(Index(space.id, self._stores[space.id], postings_max=self._postings_max)),
            new_fold=partial(_empty_fold, space.id),
            cache_bytes_max=self._settings.cache_bytes,
            pending_bytes_max=self._settings.pending_bytes,
            compaction_bytes_s=self._settings.compaction_bytes_s,
            scrub_bytes_s=self._settings.scrub_bytes_s,
            backfill_bytes_s=self._settings.rebuild_bytes_s,
            cold=self._colds[space.id],
        )
        for kind, location, data in items(replica.replay_from):
            if kind == ITEM_FRAME:
                replica.recover_frame(decode_frame(bytes(data)), location)
        if missing := replica.recovered_frames():
            logger.warning(
                "log space %d: frames of %d records were lost with the power; peers give them",
                *(space.id, missing),
            )
        return replica

    def close(self) -> None:
        if self.cold_store is not None:
            self.cold_store.close()
        for journal in self.journals.values():
            journal.close()
        for store in self._stores.values():
            store.close()


def _shell(
    settings: StorageSettings,
    storage: _Storage,
    checkpoints: Checkpoints,
    *,
    latest: View,
    views: ViewStore,
) -> NodeShell:
    def perform(effect: Effect) -> None:
        if isinstance(effect, StartCold):
            assert storage.cold_store is not None, "without a cold store nothing moves"
            storage.cold_store.start(effect, shell.deliver)
            return
        assert isinstance(effect, Checkpoint), f"a storage node cannot carry out {effect}"
        index = storage.replicas[LogSpaceId(effect.space)].index
        stored = CheckpointStored(effect.space)
        checkpoints.start(index, lambda: shell.deliver(stored))

    shell = NodeShell(
        StorageCore(
            node=NodeId(settings.node_id),
            replicas=storage.replicas,
            checkpoint_s=settings.checkpoint_s,
            rebuild=storage.rebuild,
            incarnation=storage.incarnation,
            disk_id=storage.disk_id,
        ),
        identity=network.Identity(
            role="storage",
            node=settings.node_id,
            incarnation=storage.incarnation,
            cluster_id=latest.cluster_id,
            history_id=latest.history_id,
            term=0,
        ),
        clock=SystemClock(),
        views=views,
        journals=storage.journals,
        inline_sync=not settings.sync_delay_ms,
        perform=perform,
        greet_client=lambda connection: shell.network.disconnect(connection, "it is no engine"),
    )
    return shell


def _dial_peers(shell: NodeShell, node: NodeId, view: View) -> None:
    """The primaries, and of each pair of storage nodes the one with the smaller name dials."""
    for peer in view.nodes:
        if peer.role == "sequencer" or (peer.role == "storage" and peer.id > node):
            shell.network.dial(peer.id, peer.address)


def _empty_fold(space: LogSpaceId) -> Fold:
    return Fold(Index(space, MemoryStore()))


def _journal(settings: StorageSettings, space: LogSpace) -> JournalFile | MemoryJournal:
    if space.durability == "memory":
        return MemoryJournal()
    sync = settings.sync if space.durability == "sync" else "none"
    return JournalFile(
        settings.data_dir / f"journal-{space.id}",
        sync=policy(sync, delay_ms=settings.sync_delay_ms if sync != "none" else 0),
        verify=lambda kind, data: kind == ITEM_FRAME and verify_frame(data),
        segment_bytes=settings.segment_bytes,
        headroom_bytes=settings.headroom_bytes,
    )


def _store(settings: StorageSettings, space: LogSpace, *, memory_bytes: int) -> IndexStore:
    if space.durability == "memory":
        return MemoryStore()
    return RocksStore(settings.data_dir / f"index-{space.id}", memory_bytes=memory_bytes)
