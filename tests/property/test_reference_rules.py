"""The specification, rule by rule, where only it knows the time and the seqnums."""

from __future__ import annotations

import pytest

from bokilog.errors import ConditionFailed, KeyReused, TagsEnded, Trimmed, UnknownLogBook
from bokilog.record import Conditions, Entry, Record, Trim, check_unit
from bokilog.reference import ReferenceBook, ReferenceLog


def put(
    book: ReferenceBook,
    data: bytes = b"x",
    tags: str | tuple[str, ...] = (),
    *,
    conditions: Conditions = (),
    key: str | None = None,
    now_ms: int = 0,
    seqnum: int | None = None,
) -> int:
    unit = check_unit([Entry(data, tags)], allow_system=True)
    span = book.append(unit, conditions=conditions, key=key, now_ms=now_ms, seqnum=seqnum)
    return span.start


def seqnums(book: ReferenceBook, tag: str | None = None) -> list[int]:
    return [record.seqnum for record in book.visible(tag, 0, book.tail)]


def test_seqnums_may_have_gaps_but_never_go_back() -> None:
    book = ReferenceBook()
    assert [put(book), put(book, seqnum=10), put(book)] == [1, 10, 11]
    with pytest.raises(AssertionError, match="seqnum 5 is ordered already, the tail is 12"):
        put(book, seqnum=5)


def test_p10_timestamps_never_go_back() -> None:
    book = ReferenceBook()
    for now_ms in (100, 50, 200):
        put(book, now_ms=now_ms)
    assert [record.timestamp_ms for record in book.records] == [100, 100, 200]
    assert [book.seqnum_at(time_ms) for time_ms in (0, 100, 101, 201)] == [1, 1, 3, book.tail]


def test_p22_a_void_unit_has_seqnums_that_nobody_sees() -> None:
    book = ReferenceBook()
    put(book, tags="t")
    with pytest.raises(ConditionFailed, match="seqnum 1 is there"):
        put(book, tags=("t", "u"), conditions=(("t", 0),))
    assert put(book, conditions=(("u", 0), ("t", 1))) == 3
    assert book.last == {None: 3, "t": 1}
    assert book.read(2) is None


def test_p22_a_key_is_decided_before_ends_and_conditions() -> None:
    book = ReferenceBook()
    first = put(book, tags="$w/1", key="k")
    book.end_tags("$w/")
    assert put(book, tags="$w/1", key="k", conditions=((None, 0),)) == first
    with pytest.raises(KeyReused):
        put(book, b"other", "$w/1", key="k")


@pytest.mark.parametrize(
    ("tags", "conditions"), [("$w/1", ()), ("ok", (("$w/2", 0),)), (("ok", "$w/3"), ((None, 0),))]
)
def test_p22_after_tags_ended_whoever_writes_or_tests_them_is_void(
    tags: str, conditions: Conditions
) -> None:
    book = ReferenceBook()
    book.end_tags("$w/")
    with pytest.raises(TagsEnded) as caught:
        put(book, tags=tags, conditions=conditions, key="k")
    assert caught.value.prefix == "$w/"
    assert put(book, tags="$wider", conditions=(("ok", 0),), key="k") == book.tail - 1


def test_p22_keys_are_forgotten_after_their_horizon_and_no_sooner() -> None:
    book = ReferenceBook()
    first = put(book, key="k", now_ms=1_000)
    book.forget_keys(10_999, horizon_s=10)
    assert put(book, key="k") == first
    book.forget_keys(11_000, horizon_s=10)
    assert put(book, key="k") == book.tail - 1 > first


def test_p25_a_hold_ends_by_the_logs_own_time() -> None:
    book = ReferenceBook()
    for _ in range(9):
        put(book)
    book.hold("report", 4, ttl_s=10, now_ms=1_000)
    assert book.trim(8, now_ms=10_999) == Trim(4, "report")
    assert book.trim(8, now_ms=11_000) == Trim(8, None)


def test_p25_time_that_a_record_brought_counts_for_holds() -> None:
    book = ReferenceBook()
    book.hold("report", 1, ttl_s=10, now_ms=0)
    put(book, now_ms=10_000)
    assert book.trim(2, now_ms=5_000) == Trim(2, None)


def test_p25_a_hold_behind_the_trim_at_its_place_fails() -> None:
    book = ReferenceBook()
    put(book)
    book.trim(2)
    with pytest.raises(Trimmed):
        book.hold("report", 1, ttl_s=10)
    book.hold("report", 2, ttl_s=10)


def test_of_two_holds_at_one_place_the_first_by_name_is_named() -> None:
    book = ReferenceBook()
    for _ in range(5):
        put(book)
    for name in ("b", "a", "c"):
        book.hold(name, 3, ttl_s=10)
    assert book.trim(5) == Trim(3, "a")


def test_a_trim_that_has_nothing_to_do_is_held_by_nobody() -> None:
    book = ReferenceBook()
    for _ in range(5):
        put(book)
    book.hold("report", 3, ttl_s=10)
    assert [book.trim(3), book.trim(2)] == [Trim(3, None), Trim(3, None)]


def test_a_page_takes_one_record_however_large() -> None:
    book = ReferenceBook()
    for size in (50, 10, 10, 1):
        put(book, b"x" * size)
    pages = [book.read_range(min_seqnum=n, max_bytes=20) for n in (1, 2, 4)]
    assert [([r.seqnum for r in p.records], p.next_seqnum, p.more) for p in pages] == [
        ([1], 2, True),
        ([2, 3], 4, True),
        ([4], 5, False),
    ]


def test_a_reverse_page_goes_on_below_its_last_record() -> None:
    book = ReferenceBook()
    for _ in range(5):
        put(book, seqnum=book.tail + 3)
    page = book.read_range(limit=2, reverse=True)
    assert ([r.seqnum for r in page.records], page.more) == ([20, 16], True)
    page = book.read_range(until=page.next_seqnum, limit=9, reverse=True)
    assert ([r.seqnum for r in page.records], page.more) == ([12, 8, 4], False)
    assert book.read_range(until=page.next_seqnum, reverse=True).records == []


def test_aux_stands_beside_a_record_until_it_goes() -> None:
    book = ReferenceBook()
    put(book)
    book.set_aux(1, b"view")
    record = book.read(1)
    assert isinstance(record, Record)
    assert record.aux == b"view"
    book.trim(2)
    book.set_aux(1, b"late")
    assert book.records[0].aux == b"view"


def test_p5_a_name_without_a_logbook_reads_as_empty_and_cannot_be_changed() -> None:
    log = ReferenceLog()
    assert log.book("orders").read_next() is None
    with pytest.raises(UnknownLogBook):
        log.existing("orders")
    assert log.books == {}


def test_p5_an_incarnation_is_never_used_again() -> None:
    log = ReferenceLog()
    first = log.create_book("orders").number
    log.delete_book("orders")
    assert log.create_book("orders").number > first


def test_logbooks_of_one_log_share_their_seqnums() -> None:
    log = ReferenceLog()
    unit = check_unit([Entry(b"x"), Entry(b"y")])
    assert [log.append(name, unit).start for name in ("a", "b", "a")] == [1, 3, 5]
    assert seqnums(log.book("a")) == [1, 2, 5, 6]
    assert {info.book: info.tail for info in log.infos()} == {"a": 7, "b": 7}


def test_a_void_unit_moves_the_tail_of_the_log() -> None:
    log = ReferenceLog()
    unit = check_unit([Entry(b"x")])
    log.append("a", unit)
    with pytest.raises(ConditionFailed):
        log.append("a", unit, conditions=((None, 0),))
    assert log.tail == 3


def test_a_copy_does_not_change_any_more() -> None:
    log = ReferenceLog()
    unit = check_unit([Entry(b"x", "t")])
    log.append("a", unit, key="k")
    before = log.copy()
    log.append("a", unit)
    log.existing("a").trim(2)
    log.existing("a").hold("h", 2, ttl_s=1)
    log.delete_book("a")
    book = before.book("a")
    assert (seqnums(book, "t"), book.holds, before.tail) == ([1], {}, 2)
