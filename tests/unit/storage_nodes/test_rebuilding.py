"""P11 on real files: a storage node's journal is read once more, and its RocksDB cleared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.effects import BatchEnded, Commit, Effect, Event, Persisted, Received, ViewInstalled
from bokilog.errors import NotReady
from bokilog.ids import START, NodeId, Position, Term
from bokilog.io.directory import claim
from bokilog.io.file_views import FileViews
from bokilog.messages import MetalogSynced, Replicate
from bokilog.storage_nodes.checkpoints import Checkpoints
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.node import _Storage
from bokilog.storage_nodes.settings import StorageSettings
from bokilog.view import Node as ViewNode, View
from tests.protocol.storage_rig import (
    ENGINE,
    NODE,
    PRIMARY,
    SPACE,
    at,
    cut,
    frame,
    opening,
    run,
    view,
)

CEILING = 1000


def flush_view(term: int, *, end: Position = START, tail: int = 1) -> View:
    made = view(term, end=end, tail=tail)
    space = replace(made.spaces[0], durability="flush")
    sequencers = (ViewNode(id=each, role="sequencer", address="") for each in space.sequencers)
    storage = (ViewNode(id=each, role="storage", address="") for each in space.replicas)
    return replace(made, nodes=(*sequencers, *storage), spaces=(space,))


class Node:
    """A storage node's core over what its process stands on."""

    def __init__(self, storage: _Storage, views: FileViews) -> None:
        self.storage, self.views = storage, views
        self.core = StorageCore(
            node=NODE, replicas=storage.replicas, checkpoint_s=10, rebuild=storage.rebuild
        )
        latest = views.latest()
        assert latest is not None
        for term in range(max(storage.first_term, 1), latest.term + 1):
            known = views.load(Term(term))
            assert known is not None
            self.do(ViewInstalled(known))

    def do(self, event: Event) -> list[Effect]:
        effects = [*self.core.handle(event, 0.0), *self.core.handle(BatchEnded(0), 0.0)]
        journal = self.storage.journals[SPACE]
        for effect in effects:
            if isinstance(effect, Commit):
                journal.commit()
                journal.sync_now()
                self.do(Persisted(effect.token))
        return effects

    def order(self, first: int, until: int, *, term: int = 1) -> None:
        """Entry 0 opens the shard, the next ones order a record each."""
        entries = [opening() if n == 0 else cut(n, n - 1, n) for n in range(first, until)]
        self.do(Received(PRIMARY, run(first, *entries, term=term)))

    def install(self, new: View) -> None:
        assert self.views.compare_and_swap(Term(new.term - 1), new)
        self.do(ViewInstalled(new))

    @property
    def seqnums(self) -> list[int]:
        return self.core.replicas[SPACE].index.seqnums(7, None, 0, 2**53, limit=1000)

    @property
    def position(self) -> Position:
        return self.core.replicas[SPACE].index.position

    def store_fold(self) -> None:
        """As if its entries were synced; an end that lies before them all the same is damage, or
        the fold was stored by a version that did not ask."""
        self.do(Received(PRIMARY, MetalogSynced(SPACE, self.position.term, self.position.count)))
        asyncio.run(Checkpoints().store_last([self.core.replicas[SPACE]]))


@contextmanager
def started(path: Path) -> Iterator[Node]:
    views = FileViews(path / "views")
    if views.latest() is None:
        views.compare_and_swap(None, flush_view(0))
        views.compare_and_swap(Term(0), flush_view(1))
    latest = views.latest()
    assert latest is not None
    settings = StorageSettings(
        node_id=str(NODE),
        views_dir=path / "views",
        data_dir=path / "data",
        address=f"unix:{path}/socket",
        segment_bytes=1 << 20,
    )
    with claim(settings.data_dir, "c", NodeId(NODE)) as directory:
        storage = _Storage(settings, directory, latest, views=views)
        try:
            yield Node(storage, views)
        finally:
            storage.close()


def folded(node: Node, count: int) -> None:
    for place in range(count):
        node.do(Received(ENGINE, Replicate(frame(place, b"x" * 1000))))
    node.order(0, count + 1)
    assert node.seqnums == list(range(1, count + 1))


def test_what_came_in_the_batch_of_the_view_is_committed(tmp_path: Path) -> None:
    """Whatever a batch stages, a commit follows in it: nothing else need come that would do it."""
    with started(tmp_path) as node:
        folded(node, 6)
        events: list[Event] = [
            Received(ENGINE, Replicate(frame(6))),
            ViewInstalled(flush_view(2, end=at(4), tail=CEILING)),
            BatchEnded(0),
        ]
        effects = [effect for event in events for effect in node.core.handle(event, 0.0)]
        assert [each.space for each in effects if isinstance(each, Commit)] == [SPACE]


@pytest.mark.parametrize("stored", [False, True])
def test_p11_in_the_running_process(tmp_path: Path, stored: bool) -> None:
    with started(tmp_path) as node:
        folded(node, 6)
        if stored:
            node.store_fold()
        node.install(flush_view(2, end=at(4), tail=CEILING))
        assert (node.position, node.seqnums) == (at(0), [])
        assert node.storage.replicas[SPACE] is node.core.replicas[SPACE], "checkpoints are of it"
        node.order(0, 4)
        assert (node.position, node.seqnums) == (at(4, 2), [1, 2, 3])
        node.store_fold()
    with started(tmp_path) as node:
        assert (node.position, node.seqnums) == (at(4, 2), [1, 2, 3])


def test_p11_at_the_start_of_one_that_was_away(tmp_path: Path) -> None:
    with started(tmp_path) as node:
        folded(node, 6)
        node.store_fold()
    FileViews(tmp_path / "views").compare_and_swap(Term(1), flush_view(2, end=at(3), tail=CEILING))
    with started(tmp_path) as node:
        node.order(0, 3)
        assert (node.position, node.seqnums) == (at(3, 2), [1, 2])


def test_p11_the_stored_fold_is_gone_on_from_if_it_is_not_past_the_end(tmp_path: Path) -> None:
    with started(tmp_path) as node:
        folded(node, 3)
        node.store_fold()
        node.do(Received(ENGINE, Replicate(frame(3))))
        node.order(4, 5)
        node.install(flush_view(2, end=at(4), tail=CEILING))
        assert (node.position, node.seqnums) == (at(4, 2), [1, 2, 3])


def test_p20_nothing_is_cleared_when_it_could_not_be_folded_again(tmp_path: Path) -> None:
    with started(tmp_path) as node:
        for place in range(1100):
            node.do(Received(ENGINE, Replicate(frame(place, b"x" * 1000))))
        node.order(0, 1101)
        node.store_fold()
        journal = node.storage.journals[SPACE]
        journal.release(journal.segments()[0].number)
        with pytest.raises(NotReady, match="other's fold"):
            node.install(flush_view(2, end=at(1000), tail=CEILING))
    with pytest.raises(NotReady, match="other's fold"), started(tmp_path):
        pytest.fail("the next start finds the same")
