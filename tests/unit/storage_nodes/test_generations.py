"""What a checkpoint holds, and what of a fold is stored (P19)."""

from __future__ import annotations

import random

import pytest

from bokilog.errors import InvalidSettings
from bokilog.ids import START
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_TAGS_ENDED,
)
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.unit.storage_nodes.folds import (
    BOOK,
    FAR,
    SPACE,
    Fold,
    U,
    finish,
    restarted,
    through,
)


def history(fold: Fold, seed: int, entries: int = 40) -> None:
    """Entries of every kind, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(entries):
        tail = fold.index.tail
        match rng.randrange(8):
            case 0:
                fold.trim(rng.randrange(tail + 1), rng.choice([None, "a", "b"]))
            case 1:
                fold.hold(rng.choice("hi"), rng.randrange(tail + 1), ttl_ms=rng.randrange(20))
            case 2:
                fold.forget_keys(fold.now_ms + rng.randrange(2000))
            case _:
                fold.append(
                    U([rng.choice(["a", "b", None]) for _ in range(rng.randrange(1, 4))]),
                    U(["c"], unless=[(rng.choice("abc"), rng.randrange(tail + 1))]),
                    U(key=rng.choice("klm"), horizon_s=1),
                )


def answers(index: Index) -> list[object]:
    tags = (None, "a", "b", "c")
    return [
        (index.position, index.tail, index.timestamp_ms, index.chained_hash),
        [index.seqnums(BOOK, tag, 0, FAR, limit=999) for tag in tags],
        [index.last(BOOK, tag) for tag in tags],
        index.book_state(BOOK),
        sorted(map(str, index.trims_of(BOOK))),
        index.locate_range(0, FAR),
    ]


def test_p20_a_refolded_index_answers_and_hashes_alike(fold: Fold, store: MemoryStore) -> None:
    history(fold, 1)
    fold.index.checkpoint()
    history(fold, 2)
    before = answers(fold.index)
    twin = Fold(Index(SPACE, MemoryStore()))
    twin.history = fold.history
    twin.refold(twin.index)
    assert answers(twin.index) == before
    fold.refold(restarted(fold, store))
    assert fold.index.generations.stored_position < fold.index.position
    assert answers(fold.index) == before
    fold.index.check()


@pytest.mark.parametrize("crash", ["frozen", "half built", "built", "written", "flushed"])
def test_p19_a_crash_leaves_the_state_of_exactly_one_position(
    fold: Fold, store: MemoryStore, crash: str
) -> None:
    history(fold, 3)
    fold.index.checkpoint()
    old = answers(fold.index)
    history(fold, 4)
    new = answers(fold.index)
    assert fold.index.freeze(replay_hint=b"here")
    assert not fold.index.freeze()
    history(fold, 5)
    if crash != "frozen":
        steps = fold.index.generations.steps()
        next(steps)
        history(fold, 6)
        if crash != "half built":
            through(steps)
            if crash == "written":
                assert fold.index.generations._batch is not None
                store.write(fold.index.generations._batch)
            elif crash == "flushed":
                fold.index.generations.write()
    latest = answers(fold.index)
    index = restarted(fold, store)
    assert answers(index) == (new if crash == "flushed" else old)
    assert index.generations.replay_hint == (b"here" if crash == "flushed" else b"")
    fold.refold(index)
    assert answers(fold.index) == latest


def test_a_checkpoint_whose_write_failed_is_built_again(
    fold: Fold, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(fold, 7)
    expected = answers(fold.index)
    fold.index.freeze()
    through(fold.index.generations.steps())
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", lambda batch: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            fold.index.generations.write()
    assert fold.index.generations.frozen
    assert answers(fold.index) == expected
    finish(fold.index)
    assert answers(restarted(fold, store)) == expected


def test_what_happens_after_a_freeze_does_not_reach_the_store(
    fold: Fold, store: MemoryStore
) -> None:
    """Each of these would make the stored state decide differently from its own position on."""
    fold.append(U(["a"], key="k", horizon_s=1), U(["$w/1"]), at_ms=1000)
    fold.index.checkpoint()
    fold.append(*[U(["a"])] * 3)
    fold.trim(3)
    fold.trim(4, tag="a")
    fold.index.freeze()
    before = answers(fold.index)
    # 1. Everything is trimmed: the postings frozen must be stored all the same.
    fold.trim(FAR)
    fold.trim(FAR, tag="b")
    # 2. The tag is ended: its state, trimmed by now, still decides units before that.
    fold.end_tags("$w/")
    # 3. The key is forgotten: until then it still makes duplicates.
    fold.forget_keys(10_000)
    # 4. The LogBook is held.
    fold.hold("h", FAR)
    finish(fold.index)
    index = restarted(fold, store)
    assert answers(index) == before
    assert index.last(BOOK, "$w/1") == 2
    fold.index, fold.now_ms = index, 1500
    assert fold.append(U(["a"], key="k", unless=[("$w/1", 0)])).verdicts == [
        [0, VERDICT_DUPLICATE, 1, 1]
    ]
    assert fold.append(U(["a"], unless=[("$w/1", 0)])).verdicts == [
        [0, VERDICT_CONDITION_FAILED, "$w/1", 2]
    ]


def test_a_forgotten_key_leaves_the_store_unless_it_was_used_again(
    fold: Fold, store: MemoryStore
) -> None:
    hour_s = 3600
    fold.append(U(key="once", horizon_s=1), U(key="again", horizon_s=1), at_ms=1000)
    fold.index.checkpoint()
    fold.forget_keys(3000)  # what is removed is listed by the hour: not yet
    fold.append(U(key="again", horizon_s=10 * hour_s))
    fold.index.checkpoint()
    fold.forget_keys(2 * hour_s * 1000)
    fold.index.checkpoint()
    stored = [keys.name_of(key) for key in store.keys(keys.KEYS, b"L")]
    assert stored == ["again"]
    assert fold.append(U(key="again")).void_units == (0,)
    assert fold.append(U(key="once")).void_units == ()


def test_trims_and_holds_outlive_a_restart(fold: Fold, store: MemoryStore) -> None:
    fold.append(*[U(["a"])] * 9)
    fold.trim(3)
    fold.trim(5, tag="a")
    fold.hold("h", 7, ttl_ms=10**6)
    fold.end_tags("$w/")
    state = fold.index.book_state(BOOK)
    fold.index.checkpoint()
    index = restarted(fold, store)
    assert index.book_state(BOOK) == state
    assert index.trims_of(BOOK) == [[BOOK, None, 3], [BOOK, "a", 5]]
    assert index.seqnums(BOOK, "a", 0, FAR, limit=2) == [5, 6]
    fold.index = index
    assert fold.append(U(["$w/1"])).verdicts == [[0, VERDICT_TAGS_ENDED, "$w/", None]]
    assert fold.trim(9) == [7, "h"]


def test_nothing_new_is_not_stored_again(fold: Fold) -> None:
    assert not fold.index.freeze()
    fold.append(U())
    assert fold.index.freeze()
    finish(fold.index)
    assert not fold.index.freeze()
    assert fold.index.generations.stored_position == fold.index.position
    assert fold.index.stats().checkpoints == 1


def test_a_large_generation_asks_for_a_checkpoint(store: MemoryStore) -> None:
    fold = Fold(Index(SPACE, store, postings_max=100))
    full = []
    for _ in range(6):
        fold.append(*[U(["a"])] * 10)
        full.append(fold.index.generations.full)
    assert full == [False] * 4 + [True] * 2
    assert fold.index.stats().active_postings == 120
    fold.index.freeze()
    assert fold.index.stats().frozen_postings == 120
    assert fold.index.stats().active_postings == 0


def test_a_store_of_another_log_space_is_refused(fold: Fold, store: MemoryStore) -> None:
    fold.append(U())
    fold.index.checkpoint()
    with pytest.raises(InvalidSettings, match=f"log space {SPACE}"):
        Index(SPACE + 1, store)


def test_p19_a_fold_that_was_loaded_is_not_stored_before_a_checkpoint(
    fold: Fold, store: MemoryStore
) -> None:
    fold.append(U(["a"]))
    fold.index.checkpoint()
    history(fold, 8)
    other = MemoryStore()
    twin = Fold(Index(SPACE, other))
    history(twin, 9)
    twin.index.checkpoint()
    segments = fold.index.segments
    batch = store.batch()
    batch.delete_range(b"", b"\xff")
    for key, value in other.scan(b"", b"\xff"):
        batch.put(key, value)
    fold.index.generations.store_segments(batch)
    store.write(batch)
    fold.index.reload()
    assert answers(fold.index) == answers(twin.index)
    assert fold.index.generations.stored_position == START
    assert fold.index.segments is segments  # of this journal, whatever fold stands on it
    fold.index.checkpoint()
    assert answers(restarted(fold, store)) == answers(twin.index)


def test_rows_without_a_position_are_removed(store: MemoryStore) -> None:
    batch = store.batch()
    batch.put(keys.numbered(keys.ROWS, 1), b"left by a load that never ended")
    store.write(batch)
    assert Index(SPACE, store).generations.is_new
    assert list(store.keys(b"", b"\xff")) == []
