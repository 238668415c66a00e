"""A storage process around its core: what it starts with."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.cold import LIST_FILE, ColdSegment, ColdState, encode_list
from bokilog.errors import InvalidSettings
from bokilog.ids import Term
from bokilog.io.file_views import FileViews
from bokilog.io.settings import read_settings
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.storage_nodes.cold_store import ColdSpace, ColdStore
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


@pytest.mark.parametrize("url", ["", "file:///elsewhere"])
def test_a_node_whose_segments_lie_in_another_store_does_not_start(
    tmp_path: Path, url: str
) -> None:
    layout = lay_out(tmp_path / "d")
    if url:
        file = layout.settings_file
        file.write_text(f'[storage]\ncold_url = "{url}"\n{file.read_text()}')
    journal = layout.data_dir / "storage-1" / "journal-0"
    asyncio.run(started_and_stopped(layout))
    listed = [ColdSegment(1, 1, ColdState.COLD, 4096, 0)]
    (journal / LIST_FILE).write_bytes(encode_list("s3://bucket/cold", listed))
    settings = read_settings(
        StorageSettings, section="storage", node="storage-1", file=layout.settings_file
    )
    with pytest.raises(InvalidSettings, match=r"cold_url.*s3://bucket/cold"):
        asyncio.run(run(settings, lambda: None, asyncio.Event()))


@pytest.mark.parametrize(
    ("state", "known"),
    [(ColdState.UPLOADING, False), (ColdState.DELETING, False), (ColdState.COLD, True)],
)
def test_a_start_knows_of_objects_only_where_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: ColdState, known: bool
) -> None:
    """P31: a list that notes an upload is synced before anything is put into the store. If nothing
    was put before the node ended, the start must not wait for what says that the store is its."""
    layout, url = lay_out(tmp_path / "d"), f"file://{tmp_path}/cold"
    file = layout.settings_file
    file.write_text(f'[storage]\ncold_url = "{url}"\n{file.read_text()}')
    asyncio.run(started_and_stopped(layout))
    journal = layout.data_dir / "storage-1" / "journal-0"
    (journal / LIST_FILE).write_bytes(encode_list(url, [ColdSegment(1, 1, state)]))
    told: list[bool] = []

    class Store(ColdStore):
        def __init__(
            self, url: str, *, prefix: str, spaces: Mapping[int, ColdSpace], known: bool
        ) -> None:
            told.append(known)
            super().__init__(url, prefix=prefix, spaces=spaces, known=known)

    monkeypatch.setattr("bokilog.storage_nodes.node.ColdStore", Store)
    asyncio.run(started_and_stopped(layout))
    assert told == [known]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ('cold_url = "ftp://host"', "ftp://host"),
        ('cold_url = "some/folder"', "cold_url"),
        ("hot_bytes = 1000", "hot_bytes"),
        ('cold_url = "s3://bucket"\ncold_after_s = -1', "cold_after_s"),
    ],
)
def test_settings_of_cold_segments_are_refused_by_name(
    tmp_path: Path, lines: str, named: str
) -> None:
    layout = lay_out(tmp_path / "d")
    file = layout.settings_file
    file.write_text(f"[storage]\n{lines}\n{file.read_text()}")
    with pytest.raises(InvalidSettings, match=named):
        read_settings(StorageSettings, section="storage", node="storage-1", file=file)
