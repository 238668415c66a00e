"""Which shards are open, and how far they are ordered."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.metalog import CloseShard, OpenShard
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.term_shards import TermShards
from tests.unit.storage_nodes.folds import (
    SHARD,
    Fold,
    U,
    restarted,
)


def test_p1_a_cut_of_a_shard_that_is_not_open_is_a_bug(fold: Fold) -> None:
    fold.append(U())
    fold.apply(CloseShard(fold.now_ms, SHARD, 1))
    with pytest.raises(AssertionError, match="not open"):
        fold.append(U())


def test_open_shards_count_what_is_ordered(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U(["a", "b"]))
    fold.apply(OpenShard(fold.now_ms, 8, "engine-8", ("s-1", "s-2")))
    fold.index.checkpoint()
    shards = restarted(fold, store).shards.opened
    assert {n: (s.engine, s.replicas, s.ordered) for n, s in shards.items()} == {
        SHARD: ("engine-7", ("s-1",), 3),
        8: ("engine-8", ("s-1", "s-2"), 0),
    }
    fold.apply(OpenShard(fold.now_ms, SHARD, "engine-7", ("s-1",)))
    assert fold.index.shards.opened[SHARD].ordered == 3  # asked for twice


def test_a_cut_goes_on_where_the_one_before_ended() -> None:
    shards = TermShards(MemoryStore())
    shards.open(OpenShard(1, SHARD, "engine-7", ("s-1",)))
    shards.advance([CutSpan(SHARD, 0, 3)])
    with pytest.raises(AssertionError, match="ordered are 3"):
        shards.advance([CutSpan(SHARD, 2, 4)])
    assert shards.opened[SHARD].ordered == 3


def test_p1_a_term_ends_with_all_its_shards() -> None:
    shards = TermShards(MemoryStore())
    shards.open(OpenShard(1, SHARD, "engine-7", ("s-1",)))
    shards.open(OpenShard(1, 8, "engine-8", ("s-1",)))
    shards.close(8)
    assert (list(shards.opened), shards.closed) == ([SHARD], {8})
    shards.end_term()
    assert (shards.opened, shards.closed) == ({}, set())


def test_p19_what_happens_after_a_freeze_is_not_stored() -> None:
    store = MemoryStore()
    shards = TermShards(store)
    shards.open(OpenShard(1, SHARD, "engine-7", ("s-1",)))
    shards.close(6)
    shards.freeze()
    shards.advance([CutSpan(SHARD, 0, 3)])
    shards.close(SHARD)
    batch = store.batch()
    shards.put(batch)
    store.write(batch)
    again = TermShards(store)
    assert {number: each.ordered for number, each in again.opened.items()} == {SHARD: 0}
    assert again.closed == {6}
