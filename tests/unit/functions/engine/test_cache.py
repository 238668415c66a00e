"""Record bytes kept by an engine."""

import pytest

from bokilog.columns import Columns
from bokilog.frame import Frame
from bokilog.functions.engine.cache import CachedRecord, RecordCache
from bokilog.ids import LogSpaceId, Shard, Term
from tests.unit.functions.engine.world import BOOK, columns

SPACE = 1


def frame(cols: Columns, *, one_buffer: bool = False) -> Frame:
    parts: list[bytes] = [b"x" * length for length in cols.lengths]
    payload = [b"".join(parts)] if one_buffer else parts
    return Frame(shard=Shard(LogSpaceId(1), Term(1), 1), first=0, columns=cols, payload=payload)


def record(data: bytes = b"data", book: int = BOOK) -> CachedRecord:
    return CachedRecord(book, data, "t", 1000)


@pytest.fixture
def cache() -> RecordCache:
    return RecordCache(64_000)


@pytest.mark.parametrize("one_buffer", [True, False])
def test_records_of_an_own_frame_are_found_by_seqnum(cache: RecordCache, one_buffer: bool) -> None:
    cols = columns("a", ["b", "c"], None, data=[b"x", b"xxx", b"xx"])
    cache.add_frame(SPACE, 10, frame(cols, one_buffer=one_buffer), 1000)
    found = [cache.find(SPACE, seqnum) for seqnum in range(9, 14)]
    assert [each and (each.tags, bytes(each.data)) for each in found] == [
        *(None, ("a", b"x"), (["b", "c"], b"xxx"), (None, b"xx"), None)
    ]
    assert found[1] is not None and found[1].book == BOOK
    assert (cache.hit_count, cache.miss_count) == (3, 2)


def test_a_plain_frame_is_visible_once_ordered(cache: RecordCache) -> None:
    cache.add_frame(SPACE, 10, frame(columns("a", "b")), 1000)
    assert cache.find_visible(SPACE, BOOK, 11) == CachedRecord(BOOK, b"x", "b", 1000)
    assert cache.find_visible(SPACE, BOOK + 1, 11) is None
    assert cache.find_visible(SPACE + 1, BOOK, 11) is None


def test_a_conditional_frame_is_visible_once_decided_and_void_units_never(
    cache: RecordCache,
) -> None:
    cols = columns("a", "b", "c", unit_records=[2, 1], unless={0: [("a", 0)]})
    cache.add_frame(SPACE, 10, frame(cols), 1000)
    assert cache.find_visible(SPACE, BOOK, 12) is None
    cache.decide(SPACE, 10, {0})
    assert cache.find_visible(SPACE, BOOK, 10) is None
    assert cache.find_visible(SPACE, BOOK, 11) is None
    assert cache.find_visible(SPACE, BOOK, 12) is not None


def test_units_of_several_books_are_told_apart(cache: RecordCache) -> None:
    cols = columns("a", "b", "c", unit_records=[2, 1], books=[BOOK, 8])
    cache.add_frame(SPACE, 10, frame(cols), 1000)
    assert cache.find_visible(SPACE, BOOK, 12) is None
    assert cache.find_visible(SPACE, 8, 12) is not None
    assert cache.find_visible(SPACE, BOOK, 11) is not None


def test_p22_what_a_library_tagged_is_visible_once_its_verdict_says_so(cache: RecordCache) -> None:
    cache.add_frame(SPACE, 10, frame(columns("$w:1", ["a", "$w:2"], "a")), 1000)
    assert cache.find_visible(SPACE, BOOK, 10) is None
    cache.decide(SPACE, 10, {1})
    assert [cache.find_visible(SPACE, BOOK, 10 + i) is not None for i in range(3)] == [
        *(True, False, True)
    ]


def test_the_oldest_own_frames_go_first(cache: RecordCache) -> None:
    for first in range(0, 4000, 10):
        cache.add_frame(SPACE, first, frame(columns("a", data=[b"x" * 400])), 1000)
        cache.check()
    assert cache.find(SPACE, 3990) is not None
    assert cache.find(SPACE, 0) is None
    assert 20_000 < cache.bytes_used <= 32_000


def test_the_record_used_longest_ago_goes_first(cache: RecordCache) -> None:
    for seqnum in range(6):
        cache.add_records(SPACE, [seqnum], [record(b"x" * 4000)])
    cache.find(SPACE, 0)
    cache.add_records(SPACE, [6], [record(b"x" * 4000)])
    cache.check()
    assert cache.find(SPACE, 0) is not None
    assert cache.find(SPACE, 1) is None


def test_a_page_is_kept_whatever_of_it_is_known_or_too_large(cache: RecordCache) -> None:
    page = [record(b"1"), record(b"2" * 100_000), record(b"3")]
    cache.add_records(SPACE, [1, 2, 3], page)
    cache.check()
    assert [cache.find(SPACE, seqnum) for seqnum in (1, 2, 3)] == [page[0], None, page[2]]
    cache.add_records(SPACE, [3, 4], [page[2], record(b"4")])
    cache.check()
    assert cache.find(SPACE, 4) == record(b"4")


def test_a_record_over_the_budget_is_not_kept(cache: RecordCache) -> None:
    cache.add_records(SPACE, [1], [record(b"x" * 100_000)])
    assert cache.find(SPACE, 1) is None
    cache.add_frame(SPACE, 1, frame(columns("a", data=[b"x" * 100_000])), 1000)
    assert cache.find(SPACE, 1) is None
    cache.check()


def test_a_record_read_for_one_book_is_not_answered_for_another(cache: RecordCache) -> None:
    cache.add_records(SPACE, [1], [record()])
    assert cache.find_visible(SPACE, BOOK, 1) == record()
    assert cache.find_visible(SPACE, BOOK + 1, 1) is None


def test_aux_data_is_kept_beside_any_record_within_its_share(cache: RecordCache) -> None:
    assert cache.auxes(SPACE, BOOK, [1]) is None
    cache.set_aux(SPACE, BOOK, 1, b"one")
    cache.set_aux(SPACE, BOOK, 1, b"two")
    assert cache.auxes(SPACE, BOOK, [1, 2]) == [b"two", None]
    assert cache.auxes(SPACE, BOOK, [2]) is None
    for seqnum in range(100):
        cache.set_aux(SPACE, BOOK, seqnum, b"x" * 500)
        cache.check()


def test_without_a_budget_nothing_is_kept() -> None:
    cache = RecordCache(0)
    cache.add_frame(SPACE, 10, frame(columns("a")), 1000)
    cache.add_records(SPACE, [1], [record()])
    cache.set_aux(SPACE, BOOK, 1, b"aux")
    assert cache.bytes_used == 0
    assert cache.find(SPACE, 10) is None and cache.find(SPACE, 1) is None
