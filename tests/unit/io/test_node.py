"""A node's shell: what becomes of a sync that nobody's append waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bokilog.effects import BatchEnded, Effect, Event, SyncWritten, WrittenSynced
from bokilog.errors import NotReady
from bokilog.ids import LogSpaceId, Term
from bokilog.io.clock import SystemClock
from bokilog.io.file_views import FileViews
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.network import Identity
from bokilog.io.node import NodeShell
from bokilog.journal import Journal

SPACE = LogSpaceId(0)
ASKED = SyncWritten(SPACE, Term(1), 5)


class Recorder:
    """A core that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        if type(event) is not BatchEnded:
            self.told.append(event)
        return []

    def facts(self) -> dict[str, object]:
        return {}


def shell(core: Recorder, journal: Journal, folder: Path) -> NodeShell:
    return NodeShell(
        core,
        identity=Identity(
            role="sequencer",
            node="sequencer-1",
            incarnation=0,
            cluster_id="c",
            history_id="h",
            term=1,
        ),
        clock=SystemClock(),
        views=FileViews(folder),
        journals={SPACE: journal},
        inline_sync=True,
        perform=lambda effect: None,
        greet_client=lambda source: None,
    )


class Broken(MemoryJournal):
    """Its disk fails."""

    def sync_written(self, on_done: Callable[[str], None]) -> None:
        on_done("the disk is broken")


@pytest.mark.asyncio
async def test_what_was_written_is_synced_and_told(tmp_path: Path) -> None:
    core = Recorder()
    node = shell(core, MemoryJournal(), tmp_path)
    node._perform(ASKED)
    for _ in range(3):
        await asyncio.sleep(0)
    assert core.told == [WrittenSynced(SPACE, Term(1), 5)]
    await node.aclose()


@pytest.mark.asyncio
async def test_p07_after_a_sync_that_failed_the_process_ends_and_says_why(tmp_path: Path) -> None:
    core = Recorder()
    node = shell(core, Broken(), tmp_path)
    node._perform(ASKED)
    with pytest.raises(NotReady, match="log space 0: the disk is broken"):
        await node.run(asyncio.Event(), poll_s=60)
    assert core.told == []
    await node.aclose()
