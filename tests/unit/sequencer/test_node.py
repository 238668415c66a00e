"""The process of a lone sequencer around its core: where it says that the term before it ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from bokilog.cut import CutSpan
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.io.file_views import FileViews
from bokilog.io.journal_file import JournalFile
from bokilog.io.settings import read_settings
from bokilog.io.sync import NoSync
from bokilog.metalog import ITEM_METALOG, Cut, Run, encode_run
from bokilog.sequencer.node import run
from bokilog.sequencer.settings import SequencerSettings
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.view import View

SYSTEM = LogSpaceId(0)


async def started_and_stopped(layout: Layout) -> None:
    settings = read_settings(
        SequencerSettings, section="sequencer", node="sequencer-1", file=layout.settings_file
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    process = asyncio.create_task(run(settings, ready.set, stop))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({process, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    stop.set()
    await process


def write(layout: Layout, *runs: Run) -> None:
    """What the sequencer holds, behind what is there."""
    journal = JournalFile(
        layout.data_dir / "sequencer-1" / f"metalog-{SYSTEM}",
        sync=NoSync(),
        verify=lambda kind, data: True,
    )
    list(journal.recover())
    for each in runs:
        journal.append(ITEM_METALOG, [encode_run(each)])
        journal.commit()
    journal.sync_now()
    journal.close()


def latest(views: FileViews) -> View:
    found = views.latest()
    assert found is not None
    return found


def test_p13_a_lone_sequencer_starts_from_the_ends_that_are_stored(tmp_path: Path) -> None:
    """It was one of several and behind a partition: the others ended term 1 without its last entry,
    and left it alone. What they left out, it must not bring back."""
    layout = lay_out(tmp_path / "d")
    views = FileViews(layout.directory / "views")
    asyncio.run(started_and_stopped(layout))
    first = latest(views)
    assert first.term == 1
    cuts = [Cut(9, seqnum, (CutSpan(1, seqnum - 1, seqnum),)) for seqnum in (1, 2, 3)]
    runs = [Run(SYSTEM, Term(1), count, (entry,)) for count, entry in enumerate(cuts)]
    for each in runs:
        write(layout, each)
    ended = replace(first.end(SYSTEM), position=Position(Term(1), 2), tail=3, timestamp_ms=9)
    ends = tuple(ended if each.space == SYSTEM else each for each in first.ends)
    assert views.compare_and_swap(Term(1), replace(first, term=Term(2), ends=ends))
    asyncio.run(started_and_stopped(layout))
    assert latest(views).term == 3
    assert latest(views).end(SYSTEM).position.count == 2
    assert latest(views).end(SYSTEM).tail == 3
