"""P25: a view says which fold and which protocol count: two never run on one log space.

1. A cluster was upgraded, and its view says so.
2. A process of the version before starts, or is still running.

Were it to go on, it would decide conditions by other rules than its peers, for the same records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

import bokilog
from bokilog.errors import BokilogError, FormatTooNew
from bokilog.functions.engine import node as engine_node
from bokilog.functions.engine.process_settings import EngineProcessSettings
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.io.file_views import FileViews
from bokilog.io.process import readable
from bokilog.sequencer import node as sequencer_node
from bokilog.sequencer.settings import SequencerSettings
from bokilog.storage_nodes import node as storage_node
from bokilog.storage_nodes.settings import StorageSettings
from bokilog.view import LogSpace, Node, View, first_end

Start = Callable[[Path, Callable[[], None], asyncio.Event], Coroutine[object, object, None]]
SPACE = LogSpaceId(0)


def view(directory: Path) -> View:
    names = {"sequencer": "sequencer-1", "storage": "storage-1", "engine": "engine-1"}
    return View(
        cluster_id="c",
        history_id="h",
        term=Term(0),
        nodes=tuple(
            Node(id=NodeId(name), role=role, address=f"unix:{directory}/{name}")  # type: ignore[arg-type]  # one of the three
            for role, name in names.items()
        ),
        spaces=(
            LogSpace(
                id=SPACE,
                durability="sync",
                primary=NodeId("sequencer-1"),
                replicas=(NodeId("storage-1"),),
                write_quorum=1,
            ),
        ),
        ends=(first_end(SPACE),),
    )


def sequencer(
    path: Path, ready: Callable[[], None], stop: asyncio.Event
) -> Coroutine[object, object, None]:
    settings = SequencerSettings(
        node_id="sequencer-1",
        views_dir=path / "views",
        data_dir=path / "sequencer",
        address=f"unix:{path}/sequencer-1",
    )
    return sequencer_node.run(settings, ready, stop)


def storage(
    path: Path, ready: Callable[[], None], stop: asyncio.Event
) -> Coroutine[object, object, None]:
    settings = StorageSettings(
        node_id="storage-1",
        views_dir=path / "views",
        data_dir=path / "storage",
        address=f"unix:{path}/storage-1",
        view_poll_s=0.01,
    )
    return storage_node.run(settings, ready, stop)


def engine(
    path: Path, ready: Callable[[], None], stop: asyncio.Event
) -> Coroutine[object, object, None]:
    settings = EngineProcessSettings(
        node_id="engine-1",
        views_dir=path / "views",
        addresses=(f"unix:{path}/engine-1",),
        view_poll_s=0.01,
    )
    return engine_node.run(settings, ready, stop)


@pytest.mark.asyncio
@pytest.mark.parametrize("start", [sequencer, storage, engine])
@pytest.mark.parametrize("newer", ["protocol", "fold"])
async def test_p25_no_node_starts_in_a_view_of_a_newer_version(
    tmp_path: Path, start: Start, newer: str
) -> None:
    first = view(tmp_path)
    if newer == "protocol":
        first = replace(first, protocol_version=first.protocol_version + 1)
    else:
        first = replace(first, fold_version=first.fold_version + 1)
    FileViews(tmp_path / "views").compare_and_swap(None, first)
    with pytest.raises(FormatTooNew, match=f"the cluster's {newer}") as caught:
        await start(tmp_path, lambda: pytest.fail("it must not serve"), asyncio.Event())
    assert readable(caught.value) == str(caught.value), "one line, not a traceback"


@pytest.mark.asyncio
@pytest.mark.parametrize("start", [storage, engine])
async def test_p25_a_node_ends_when_the_cluster_goes_on_in_a_newer_version(
    tmp_path: Path, start: Start
) -> None:
    views, first = FileViews(tmp_path / "views"), view(tmp_path)
    views.compare_and_swap(None, first)
    serving = asyncio.Event()
    run = asyncio.ensure_future(start(tmp_path, serving.set, asyncio.Event()))
    await asyncio.wait({run, asyncio.ensure_future(serving.wait())}, return_when="FIRST_COMPLETED")
    newer = replace(first, term=Term(1), protocol_version=first.protocol_version + 1)
    views.compare_and_swap(first.term, newer)
    with pytest.raises(FormatTooNew, match="the cluster's protocol"):
        await run


@pytest.mark.asyncio
async def test_p25_an_embedded_log_of_a_newer_fold_is_not_opened(tmp_path: Path) -> None:
    async with bokilog.open(tmp_path) as log:
        await log.book("orders").append(b"one")
    views = FileViews(tmp_path / "views")
    last = views.latest()
    assert last is not None
    newer = replace(last, term=Term(last.term + 1), fold_version=last.fold_version + 1)
    assert views.compare_and_swap(last.term, newer)
    for _ in range(2):  # the first one has let go of the directory
        with pytest.raises(BokilogError, match="the cluster's fold"):
            await bokilog.open(tmp_path)
