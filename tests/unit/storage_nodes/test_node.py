"""A storage process around its core: what it starts with."""

import asyncio
from dataclasses import replace
from pathlib import Path

from bokilog.ids import Term
from bokilog.io.file_views import FileViews
from bokilog.io.settings import read_settings
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.storage_nodes.node import run
from bokilog.storage_nodes.settings import StorageSettings


async def started_and_stopped(layout: Layout) -> None:
    settings = read_settings(
        StorageSettings, section="storage", node="storage-1", file=layout.settings_file
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    process = asyncio.create_task(run(settings, ready.set, stop))
    await ready.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    stop.set()
    await process


def test_a_storage_node_may_start_before_any_sequencer_has_stored_a_view(tmp_path: Path) -> None:
    asyncio.run(started_and_stopped(lay_out(tmp_path / "d")))


def test_a_storage_node_starts_again_in_the_term_its_fold_stands_in(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "d")
    views = FileViews(layout.directory / "views")
    first = views.latest()
    assert first is not None
    assert views.compare_and_swap(Term(0), replace(first, term=Term(1)))
    for _ in range(2):
        asyncio.run(started_and_stopped(layout))
