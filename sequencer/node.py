"""The sequencer process. The only one of its cluster ends its last term, stores the next view, then
orders (P12, P13); one of several takes part (`member_node.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bokilog.effects import Effect, RaiseCeiling
from bokilog.errors import NotReady
from bokilog.ids import NodeId
from bokilog.io.ceiling_calls import CeilingCalls
from bokilog.io.clock import SystemClock
from bokilog.io.directory import claim
from bokilog.io.journal_file import JournalFile
from bokilog.io.network import Identity
from bokilog.io.node import NodeShell
from bokilog.io.one_identity import check_alone
from bokilog.io.open_views import open_views
from bokilog.io.sync import policy
from bokilog.io.view_store import beginning, check_versions
from bokilog.metalog import ITEM_METALOG, verify_run
from bokilog.sequencer.brought import bring
from bokilog.sequencer.ceilings import CEILINGS, Ceilings
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.letting_go import RELEASE_AFTER_S
from bokilog.sequencer.member_node import run_member
from bokilog.sequencer.next_view import Start, next_view, sequencers_of
from bokilog.sequencer.own_disk import check_own_disk
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.sequencer.settings import SequencerSettings
from bokilog.view import LogSpace


async def run(settings: SequencerSettings, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """One sequencer, from its lock to its graceful stop."""
    views = open_views(settings.views_url or settings.views_dir)
    last = views.latest()
    if last is None:
        raise NotReady(f"no view is stored in {views.where}: start the cluster with bokilog up")
    check_versions(last)
    node = NodeId(settings.node_id)
    check_own_disk(settings.data_dir, last, node)
    directory = claim(settings.data_dir, last.cluster_id, node)
    await check_alone(node, last, addresses=[settings.address])
    spaces = [space for space in last.spaces if node in space.sequencers]
    journals = {space.id: _journal(settings, space) for space in spaces}
    ceilings = Ceilings(settings.data_dir / CEILINGS)
    if len(sequencers_of(last)) > 1:
        try:
            await run_member(
                settings,
                views=views,
                latest=last,
                directory=directory,
                journals=journals,
                ceilings=ceilings,
                ready=ready,
                stop=stop,
            )
        finally:
            for journal in journals.values():
                journal.close()
            directory.close()
        return
    recovered = {
        space.id: recover_metalog(
            journals[space.id],
            beginning(views, space),
            ceiling=max(_start(ceilings, space), last.end(space.id).tail),
            released=True,
            ended=ended_in(views, space.id),
            until=last.term,
            begun=space.begun,
        )
        for space in spaces
    }
    recovered = await bring(
        recovered,
        journals,
        view=last,
        ended={space.id: ended_in(views, space.id) for space in spaces},
    )
    incarnation = views.register_incarnation(node)
    view = next_view(
        last,
        ends=[known.end for known in recovered.values()],
        primary={space.id: node for space in spaces},
        starts={node: Start(incarnation=incarnation, disk_id=directory.disk_id)},
    )
    if not views.compare_and_swap(last.term, view):
        raise NotReady(f"another sequencer stored term {view.term} first")
    disk = ThreadPoolExecutor(1, thread_name_prefix="bokilog-disk")
    raising = CeilingCalls(disk, ceilings.raise_to, deliver=lambda event: shell.deliver(event))

    def perform(effect: Effect) -> None:
        assert isinstance(effect, RaiseCeiling), f"a sequencer cannot carry out {effect}"
        raising.perform(effect)

    shell = NodeShell(
        SequencerCore(
            node=node,
            view=view,
            recovered=recovered,
            journals=journals,
            releases=not settings.keep_metalog,
            release_after_s=RELEASE_AFTER_S,
        ),
        identity=Identity(
            role="sequencer",
            node=node,
            incarnation=incarnation,
            cluster_id=view.cluster_id,
            history_id=view.history_id,
            term=view.term,
        ),
        clock=SystemClock(),
        views=views,
        journals=journals,
        inline_sync=not settings.sync_delay_ms,
        use_headroom=True,
        perform=perform,
        greet_client=lambda connection: shell.network.disconnect(connection, "it is no engine"),
    )
    await shell.network.listen(settings.address)
    await shell.serve_metrics(settings.metrics_address)
    ready()
    try:
        await shell.run(stop, poll_s=settings.view_poll_s)
    finally:
        await shell.aclose()
        raising.close()
        disk.shutdown(wait=True)
        for journal in journals.values():
            journal.close()
        directory.close()


def _journal(settings: SequencerSettings, space: LogSpace) -> JournalFile:
    """The metalog's journal; that of the classes below `sync` outlives the process, not the machine
    (P11)."""
    sync = settings.sync if space.durability == "sync" else "none"
    return JournalFile(
        settings.data_dir / f"metalog-{space.id}",
        sync=policy(sync, delay_ms=settings.sync_delay_ms if sync != "none" else 0),
        verify=lambda kind, data: kind == ITEM_METALOG and verify_run(data),
        segment_bytes=settings.segment_bytes,
        headroom_bytes=settings.headroom_bytes,
        keeps_something=space.durability != "sync",
    )


def _start(ceilings: Ceilings, space: LogSpace) -> int:
    return ceilings.of(space.id) if space.durability != "sync" else 1
