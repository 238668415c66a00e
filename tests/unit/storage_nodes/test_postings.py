"""Chunks, bounds and levels; what trims and conditions make of them is in test_index."""

from __future__ import annotations

import pytest

from bokilog.columns import Tags
from bokilog.storage_nodes import keys, postings
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.postings import WHOLE_BOOK, Postings, Swept

BOOK = 5


class Levels:
    """Postings whose generations are moved by hand."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.postings = Postings(self.store, 0)
        self.tail = 1

    def add(self, *tags: Tags, book: int = BOOK) -> None:
        self.postings.add(book, self.tail, list(tags))
        self.tail += len(tags)

    def freeze(self, trims: dict[Swept, int] | None = None) -> None:
        self.postings.freeze(trims or {})
        self.frozen_tail = self.tail

    def write(self, ended: frozenset[str] = frozenset()) -> None:
        batch = self.store.batch()
        for _ in self.postings.steps(batch, ended=lambda _, tag: tag in ended):
            pass
        self.store.write(batch)

    def done(self) -> None:
        self.postings.done(self.frozen_tail)

    def store_all(self, trims: dict[Swept, int] | None = None) -> None:
        self.freeze(trims)
        self.write()
        self.done()

    def seqnums(
        self, tag: str, start: int = 0, until: int = 10**9, *, limit: int = 99, back: bool = False
    ) -> list[int]:
        return self.postings.seqnums(BOOK, tag, start, until, limit=limit, reverse=back)

    def chunks(self, tag: str) -> list[list[int]]:
        prefix = keys.postings_prefix(BOOK, tag)
        return [
            list(keys.decode_postings(value, whole_book=tag == WHOLE_BOOK))
            for _, value in self.store.scan(prefix, prefix + b"\xff" * 9)
        ]


@pytest.fixture
def levels() -> Levels:
    """Store: 1 a, 2 b, 3 a; frozen: 4 a, 5 none; active: 6 a and b, 7 b."""
    made = Levels()
    made.add("a", "b", "a")
    made.store_all()
    made.add("a", None)
    made.freeze()
    made.add(["a", "b"], "b")
    return made


def test_reads_go_through_store_frozen_and_active(levels: Levels) -> None:
    assert levels.seqnums("a") == [1, 3, 4, 6]
    assert levels.seqnums("b") == [2, 6, 7]
    assert levels.seqnums(WHOLE_BOOK) == [1, 2, 3, 4, 5, 6, 7]
    assert levels.seqnums("a", back=True) == [6, 4, 3, 1]
    assert levels.seqnums("c") == []
    assert levels.postings.seqnums(6, "a", 0, 99, limit=9, reverse=False) == []


@pytest.mark.parametrize("start", range(9))
@pytest.mark.parametrize("until", range(9))
def test_every_bound_and_limit_is_kept(levels: Levels, start: int, until: int) -> None:
    expected = [seqnum for seqnum in (1, 3, 4, 6) if start <= seqnum < until]
    for limit in range(4):
        assert levels.seqnums("a", start, until, limit=limit) == expected[:limit]
        backward = levels.seqnums("a", start, until, limit=limit, back=True)
        assert backward == expected[::-1][:limit]


def test_a_batch_that_is_written_but_not_done_is_seen_once(levels: Levels) -> None:
    levels.write()
    for tag, expected in (("a", [1, 3, 4, 6]), ("b", [2, 6, 7])):
        assert levels.seqnums(tag) == expected
        assert levels.seqnums(tag, back=True) == expected[::-1]
    assert levels.postings.count_from(BOOK, 2) == 6
    levels.done()
    assert levels.seqnums("a") == [1, 3, 4, 6]
    assert levels.postings.count_from(BOOK, 2) == 6


def test_last_is_the_newest_of_all_levels(levels: Levels) -> None:
    levels.add("c")
    assert [levels.postings.last(BOOK, tag) for tag in ("a", "b", "c", "d", "")] == [6, 7, 8, 0, 8]
    assert levels.postings.last(6, "a") == 0
    assert levels.postings.last(BOOK, "x" * 100_000) == 0
    assert levels.seqnums("x" * 100_000) == []


def test_counts_are_exact_from_any_seqnum(levels: Levels) -> None:
    assert [levels.postings.count_from(BOOK, start) for start in range(10)] == [
        *(7, 7, 6, 5, 4, 3, 2, 1, 0, 0)
    ]
    assert levels.postings.count_from(6, 0) == 0


def test_a_tag_that_stands_twice_on_a_record_counts_once() -> None:
    levels = Levels()
    levels.add(["a", "a", "b"], "a", None, ["b"])
    assert levels.seqnums("a") == [1, 2]
    assert levels.seqnums("b") == [1, 4]
    assert levels.seqnums(WHOLE_BOOK) == [1, 2, 3, 4]


def test_large_arrays_are_split_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "CHUNK_POSTINGS_MAX", 3)
    levels = Levels()
    levels.add(*["a"] * 7)
    levels.store_all()
    assert levels.chunks("a") == [[1, 2, 3], [4, 5, 6], [7]]
    assert levels.seqnums("a", 3, 7) == [3, 4, 5, 6]
    assert levels.seqnums("a", 2, 7, limit=3, back=True) == [6, 5, 4]
    assert levels.postings.count_from(BOOK, 5) == 3


def test_p20_a_trim_removes_chunks_but_never_a_tags_last_posting() -> None:
    levels = Levels()
    for _ in range(3):
        levels.add("a", "a", "b")
        levels.store_all()
    levels.add("c")
    levels.store_all({(BOOK, None): levels.tail})
    assert levels.chunks("a") == [[7, 8]]
    assert levels.chunks("b") == [[9]]
    assert levels.chunks("c") == [[10]]
    assert [levels.postings.last(BOOK, tag) for tag in "abc"] == [8, 9, 10]
    assert levels.postings.count_from(BOOK, levels.tail) == 0


def test_a_trim_of_a_tag_leaves_other_tags_alone() -> None:
    levels = Levels()
    for _ in range(3):
        levels.add("a", "b")
        levels.store_all()
    levels.store_all({(BOOK, "a"): 4})
    assert levels.chunks("a") == [[3], [5]]  # the chunk at 3 goes once the next begins in the trim
    assert levels.chunks("b") == [[2], [4], [6]]


def test_what_was_trimmed_before_it_was_stored_is_not_stored() -> None:
    levels = Levels()
    levels.add("a", "b", "a", "a")
    levels.store_all({(BOOK, None): 4, (BOOK, "a"): 3})
    assert levels.chunks("a") == [[4]]
    assert levels.chunks("b") == [[2]]
    assert levels.chunks(WHOLE_BOOK) == [[4]]
    levels.add("b")
    levels.store_all()
    assert [levels.postings.count_from(BOOK, start) for start in (4, 5, 6)] == [2, 1, 0]


def test_sweeps_are_bounded_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "SWEEP_CHUNKS_MAX", 4)
    levels = Levels()
    for _ in range(6):
        levels.add("a", "b")
        levels.store_all()
    levels.store_all({(BOOK, None): levels.tail})
    assert len(levels.chunks("a")) + len(levels.chunks("b")) > 2
    for _ in range(6):
        levels.store_all()
    assert levels.chunks("a") == [[11]]
    assert levels.chunks("b") == [[12]]


def test_p22_the_state_of_an_ended_tag_goes_once_it_is_trimmed() -> None:
    levels = Levels()
    levels.add("$w/1", "$w/2", "a")
    levels.store_all()
    levels.freeze({(BOOK, None): 2})
    levels.write(ended=frozenset({"$w/1", "$w/2"}))
    levels.done()
    assert levels.chunks("$w/1") == []
    assert levels.chunks("$w/2") == [[2]]  # its record is still there
    assert levels.chunks("a") == [[3]]
