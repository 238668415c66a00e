"""The storage node process: reads back what it holds, then serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from bokilog.effects import Checkpoint, CheckpointStored, Effect
from bokilog.errors import NotReady
from bokilog.frame import ITEM_FRAME, decode_frame, verify_frame
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io import network
from bokilog.io.clock import SystemClock
from bokilog.io.directory import Directory, claim
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.node import NodeShell
from bokilog.io.open_views import open_views
from bokilog.io.sync import policy
from bokilog.io.view_store import ViewStore, check_versions
from bokilog.journal import Journal
from bokilog.storage_nodes.checkpoints import Checkpoints
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import IndexStore
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.replica import Identity, Replica
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.storage_nodes.settings import StorageSettings
from bokilog.view import LogSpace, View


async def run(settings: StorageSettings, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """One storage node, from its lock to its graceful stop."""
    views = open_views(settings.views_url or settings.views_dir)
    latest = views.latest()
    if latest is None:
        raise NotReady(f"no view is stored in {views.where}: start the cluster with bokilog up")
    check_versions(latest)
    node = NodeId(settings.node_id)
    with claim(settings.data_dir, latest.cluster_id, node) as directory:
        storage = _Storage(settings, directory, latest)
        checkpoints = Checkpoints()
        shell = _shell(settings, storage, checkpoints, latest=latest, views=views)
        # Term 0 orders nothing: before a sequencer's first view is stored there is none to install.
        for term in range(max(1, min(storage.first_term, latest.term)), latest.term + 1):
            view = views.load(Term(term))
            if view is not None:
                shell.install(view)
        await shell.network.listen(settings.address)
        if settings.bulk_address:
            await shell.network.listen(settings.bulk_address)
        _dial_peers(shell, node, latest)
        ready()
        try:
            await shell.run(stop, poll_s=settings.view_poll_s)
            await shell.drained()
            await checkpoints.store_last(storage.replicas.values())
        finally:
            await shell.aclose()
            checkpoints.cancel()
            storage.close()


class _Storage:
    """What a storage node's cores stand on, read back from its directory."""

    def __init__(self, settings: StorageSettings, directory: Directory, view: View) -> None:
        self.journals: dict[LogSpaceId, Journal] = {}
        self.replicas: dict[LogSpaceId, Replica] = {}
        self.incarnation = directory.next_incarnation()
        self.disk_id = directory.disk_id
        self._stores: list[IndexStore] = []
        node = NodeId(settings.node_id)
        spaces = [space for space in view.spaces if node in space.replicas]
        identities = {
            "sync": Identity(directory.disk_id, 0),
            "flush": Identity(directory.disk_id, directory.boot_incarnation()),
            "memory": Identity(directory.disk_id, self.incarnation),
        }
        for space in spaces:
            journal = self.journals[space.id] = _journal(settings, space)
            store = _store(settings, space, memory_bytes=settings.memory_bytes // 4 // len(spaces))
            self._stores.append(store)
            replica = Replica(
                node=node,
                space=space,
                identity=identities[space.durability],
                journal=journal,
                index=Index(
                    space.id, store, postings_max=settings.checkpoint_postings_count // len(spaces)
                ),
                new_index=partial(_empty_index, space.id),
                cache_bytes_max=settings.cache_bytes,
                pending_bytes_max=settings.pending_bytes,
            )
            for kind, location, data in journal.recover(replica.replay_from):
                if kind == ITEM_FRAME:
                    replica.recover_frame(decode_frame(bytes(data)), location)
            self.replicas[space.id] = replica
        self.first_term = min(replica.index.position.term for replica in self.replicas.values()) + 1

    def close(self) -> None:
        for journal in self.journals.values():
            journal.close()
        for store in self._stores:
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
        assert isinstance(effect, Checkpoint), f"a storage node cannot carry out {effect}"
        index = storage.replicas[LogSpaceId(effect.space)].index
        stored = CheckpointStored(effect.space)
        checkpoints.start(index, lambda: shell.deliver(stored))

    shell = NodeShell(
        StorageCore(
            node=NodeId(settings.node_id),
            replicas=storage.replicas,
            checkpoint_s=settings.checkpoint_s,
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


def _empty_index(space: LogSpaceId) -> Index:
    return Index(space, MemoryStore())


def _journal(settings: StorageSettings, space: LogSpace) -> Journal:
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
