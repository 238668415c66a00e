"""The sequencer process: ends its last term, stores the next view, then orders (P12, P13)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bokilog.effects import CeilingRaised, Effect, RaiseCeiling
from bokilog.errors import NotReady
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.clock import SystemClock
from bokilog.io.directory import claim, write_synced
from bokilog.io.journal_file import JournalFile
from bokilog.io.network import Identity
from bokilog.io.node import NodeShell
from bokilog.io.open_views import open_views
from bokilog.io.sync import policy
from bokilog.io.view_store import check_versions
from bokilog.metalog import ITEM_METALOG, verify_run
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.primary import Recovered
from bokilog.sequencer.recovery import recover_metalog
from bokilog.sequencer.settings import SequencerSettings
from bokilog.view import LogSpace, View, first_end

CEILINGS = "ceilings.json"


class Ceilings:
    """Seqnum ceilings of the log spaces whose metalog is not synced (P11), in one synced file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._values: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def of(self, space: LogSpaceId) -> int:
        return self._values.get(str(space), 1)

    def raise_to(self, space: int, seqnum: int) -> None:
        """Synced when this returns."""
        self._values[str(space)] = seqnum
        write_synced(self._file, json.dumps(self._values).encode())


async def run(settings: SequencerSettings, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """One sequencer, from its lock to its graceful stop."""
    views = open_views(settings.views_url or settings.views_dir)
    last = views.latest()
    if last is None:
        raise NotReady(f"no view is stored in {views.where}: start the cluster with bokilog up")
    check_versions(last)
    directory = claim(settings.data_dir, last.cluster_id, settings.node_id)
    node = NodeId(settings.node_id)
    spaces = [space for space in last.spaces if space.primary == node]
    journals = {space.id: _journal(settings, space) for space in spaces}
    ceilings = Ceilings(settings.data_dir / CEILINGS)
    recovered = {
        space.id: recover_metalog(
            journals[space.id], first_end(space.id), ceiling=_start(ceilings, space)
        )
        for space in spaces
    }
    view = _next_view(last, recovered)
    if not views.compare_and_swap(last.term, view):
        raise NotReady(f"another sequencer stored term {view.term} first")
    disk = ThreadPoolExecutor(1, thread_name_prefix="bokilog-disk")
    loop = asyncio.get_running_loop()

    def perform(effect: Effect) -> None:
        assert isinstance(effect, RaiseCeiling), f"a sequencer cannot carry out {effect}"
        disk.submit(raise_ceiling, effect)

    def raise_ceiling(effect: RaiseCeiling) -> None:
        ceilings.raise_to(effect.space, effect.seqnum)
        loop.call_soon_threadsafe(shell.deliver, CeilingRaised(effect.space, effect.seqnum))

    shell = NodeShell(
        SequencerCore(node=node, view=view, recovered=recovered, journals=journals),
        identity=Identity(
            role="sequencer",
            node=node,
            incarnation=directory.next_incarnation(),
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
    ready()
    try:
        await shell.run(stop, poll_s=settings.view_poll_s)
    finally:
        await shell.aclose()
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
    )


def _start(ceilings: Ceilings, space: LogSpace) -> int:
    return ceilings.of(space.id) if space.durability != "sync" else 1


def _next_view(last: View, recovered: dict[LogSpaceId, Recovered]) -> View:
    ends = tuple(known.end for known in recovered.values())
    return replace(last, term=Term(last.term + 1), ends=ends)
