"""What an engine publishes for its workers: only what may be read, and only while it is told."""

from __future__ import annotations

from mmap import mmap

import pytest

from bokilog.facts import Facts
from bokilog.functions.engine import published as published_module
from bokilog.functions.engine.cache import CachedRecord, RecordCache
from bokilog.functions.engine.published import Published
from bokilog.shared_records import BYTES_MIN, SharedReader, SharedWriter

SPACE, BOOK, OTHER = 0, 9, 8


class Rig:
    """A cache, what is published of it, and a reader."""

    def __init__(self) -> None:
        memory = mmap(-1, BYTES_MIN)
        self.cache = RecordCache(1 << 20)
        self.facts = Facts(1 << 20)
        self.published = Published(SharedWriter(memory, 1), self.cache, self.facts)
        self.reader = SharedReader(memory)

    def cached(self, *seqnums: int, book: int = BOOK, tags: str | None = None) -> None:
        records = [CachedRecord(book, b"%d" % seqnum, tags, 5) for seqnum in seqnums]
        self.cache.add_records(SPACE, seqnums, records)

    def answer(self, seqnum: int, book: int = BOOK) -> None:
        record = self.cache.find_visible(SPACE, book, seqnum)
        assert record is not None
        self.published.answered(SPACE, book, [seqnum], [record])

    def found(self, *seqnums: int, book: int = BOOK) -> list[int]:
        self.published.check()
        return [each for each in seqnums if self.reader.find(SPACE, book, each) is not None]


def test_who_reads_one_by_message_reads_the_next_ones_without() -> None:
    rig = Rig()
    rig.cached(1, 2, 3)
    rig.cached(4, book=OTHER)
    assert rig.found(1, 2, 3) == []
    rig.answer(1)
    assert rig.found(1, 2, 3, 4) == [1, 2, 3]
    assert rig.found(4, book=OTHER) == []


def test_the_stream_adds_to_logbooks_that_were_asked_for() -> None:
    rig = Rig()
    rig.cached(1, 2, 3, 4, tags="t")
    rig.published.streamed(SPACE, BOOK, [1])
    assert rig.found(1) == []
    rig.answer(1)
    rig.published.streamed(SPACE, BOOK, [5, 99])
    assert rig.found(1, 2, 3, 4, 5) == [1, 2, 3, 4]
    rig.cached(5, tags="t")
    rig.published.streamed(SPACE, BOOK, [5])
    assert rig.found(5) == [5]


def test_what_trims_of_tags_may_have_taken_is_not_published() -> None:
    rig = Rig()
    rig.facts.learn(BOOK, "t", 1, 9, [1, 2, 3, 4])
    rig.facts.trim(BOOK, "t", 4)
    rig.cached(1)
    rig.cached(2, 3, 4, tags="t")
    rig.answer(1)
    assert rig.found(1, 2, 3, 4) == [1, 4]


def test_trims_aux_data_and_deletions_take_back() -> None:
    rig = Rig()
    rig.cached(1, 2, 3, 4)
    rig.answer(1)
    rig.published.trimmed(BOOK, 2)
    assert rig.found(1, 2, 3, 4) == [2, 3, 4]
    rig.cache.set_aux(SPACE, BOOK, 3, b"beside")
    rig.published.has_aux(BOOK, 3)
    rig.answer(2)
    assert rig.found(2, 3, 4) == [2, 4], "a record with aux data is not published again"
    rig.published.leave(BOOK)
    assert rig.found(2, 4) == []
    rig.answer(2)
    rig.published.forget()
    assert rig.found(2, 4) == []


def test_what_is_published_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_module, "ENTRIES_MAX", 3)
    rig = Rig()
    for seqnum in range(1, 6):
        rig.cached(seqnum)
        rig.answer(seqnum)
    assert rig.found(1, 2, 3, 4, 5) == [3, 4, 5]


def test_nobody_looks_so_nothing_more_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_module, "UNUSED_MAX", 2)
    rig = Rig()
    rig.cached(1)
    rig.answer(1)
    rig.cached(*range(2, 10))
    for seqnum in range(2, 8):
        rig.published.streamed(SPACE, BOOK, [seqnum])
    assert rig.found(2, 3, 4, 5, 6, 7) == [2, 3]
    rig.published.streamed(SPACE, BOOK, [8])
    assert rig.found(8) == [8], "somebody has looked since"
