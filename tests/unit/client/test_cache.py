"""What was read before: bounded, and never below a trim."""

from __future__ import annotations

from bokilog.client.cache import RECORD_COST_BYTES, Cache
from bokilog.client.replies import records_of
from bokilog.ids import START, Position, Term
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import Read, ReadReply

BOOK = 7


def read(
    start: int = 0, until: int = SEQNUM_MAX + 1, *, tag: str | None = "t", reverse: bool = False
) -> Read:
    return Read(1, 0, BOOK, tag, start, until, 10, 100, reverse, START, 0, False, -1, -1)


def reply(
    seqnums: list[int], next_seqnum: int, *, tail: int = 100, trim_until: int = 0
) -> ReadReply:
    count = len(seqnums)
    return ReadReply(
        request=1,
        position=START,
        tail=tail,
        trim_until=trim_until,
        next_seqnum=next_seqnum,
        more=False,
        seqnums=seqnums,
        tags=["t"] * count,
        timestamps_ms=[1] * count,
        auxes=None,
        payload=[b"%d" % seqnum for seqnum in seqnums],
    )


def learn(cache: Cache, asked: Read, answer: ReadReply) -> None:
    cache.keep(asked, answer, records_of(answer))


def seqnum_of(
    cache: Cache, start: int, *, trim_until: int = 0, tag: str | None = "t"
) -> int | None:
    found = cache.next(BOOK, tag, start, trim_until)
    return None if found is None else found.seqnum


def test_a_record_inside_a_known_range_is_answered_and_nothing_outside_of_it() -> None:
    cache = Cache()
    learn(cache, read(start=10), reply([12, 20], 30))
    assert [seqnum_of(cache, start) for start in (9, 10, 12, 13, 20, 21, 30)] == [
        *(None, 12, 12, 20, 20, None, None)
    ]
    assert seqnum_of(cache, 10, tag=None) is None
    found = cache.record(BOOK, 20, 0)
    assert found is not None and found.data == b"20"


def test_a_page_in_reverse_teaches_what_lies_between_its_ends() -> None:
    cache = Cache()
    learn(cache, read(start=5, until=50, reverse=True), reply([40, 30], 30, tail=45))
    assert [seqnum_of(cache, start) for start in (29, 30, 31, 41)] == [None, 30, 40, None]


def test_a_part_of_a_record_is_not_kept_as_the_record() -> None:
    cache = Cache()
    learn(cache, read(start=10)._replace(bytes_start=0, bytes_until=1), reply([10], 11))
    assert cache.record(BOOK, 10, 0) is None


def test_trims_hide_what_is_behind_them() -> None:
    cache = Cache()
    learn(cache, read(start=10), reply([12, 20], 30))
    assert seqnum_of(cache, 12, trim_until=15) is None  # explicit: the engine says `Trimmed`
    assert seqnum_of(cache, 0, trim_until=15) == 20
    assert cache.record(BOOK, 12, 15) is None
    cache.trimmed(BOOK, "other", 15)
    assert cache.record(BOOK, 12, 0) is None  # perhaps that was its last tag
    cache.trimmed(BOOK, None, 25)
    assert cache.record(BOOK, 20, 0) is None
    assert seqnum_of(cache, 0) is None


def test_a_reply_tells_of_trims_too() -> None:
    cache = Cache()
    learn(cache, read(start=10), reply([12, 20], 30))
    learn(cache, read(start=40), reply([], 50, trim_until=25))
    assert seqnum_of(cache, 12) is None


def test_records_are_bounded_in_bytes_and_the_oldest_page_goes_first() -> None:
    cache = Cache(records_bytes_max=3 * (RECORD_COST_BYTES + 10))
    for start in range(10, 60, 10):
        learn(cache, read(start=start), reply([start], start + 10))
    assert [cache.record(BOOK, seqnum, 0) is None for seqnum in (10, 20, 30, 40, 50)] == [
        *(True, True, False, False, False)
    ]
    assert cache.stats().records == 3
    assert seqnum_of(cache, 10) is None  # the fact is known, the record has gone


def test_a_page_larger_than_the_cache_is_not_kept() -> None:
    cache = Cache(records_bytes_max=10)
    learn(cache, read(start=10), reply([12], 30))
    assert cache.stats().records == 0


def test_forgetting() -> None:
    cache = Cache()
    learn(cache, read(start=10), reply([12, 20], 30))
    cache.forget(BOOK, 12)
    assert cache.record(BOOK, 12, 0) is None
    cache.drop(BOOK)
    assert cache.record(BOOK, 20, 0) is None
    learn(cache, read(start=10), reply([12, 20], 30))
    cache.clear()
    assert cache.stats().records == 0
    assert seqnum_of(cache, 10) is None


def in_term(term: int, answer: ReadReply) -> ReadReply:
    return answer._replace(position=Position(Term(term), 9))


def test_p20_what_was_told_before_a_term_does_not_count_for_a_session_of_it() -> None:
    """Its log space may have lost that; the session may have met the term elsewhere."""
    cache = Cache()
    cache.engine_stands(0, 1)
    assert cache.counts(0, 1)
    learn(cache, read(start=10), in_term(1, reply([12, 20], 30)))
    assert cache.counts(0, 1) and cache.record(BOOK, 20, 0) is not None
    assert not cache.counts(0, 2), "and its engine has not said that it heard of term 2"
    learn(cache, read(start=40), in_term(2, reply([50], 60)))
    assert cache.counts(0, 2)
    assert cache.record(BOOK, 20, 0) is None
    learn(cache, read(start=10), in_term(1, reply([12, 20], 30)))
    assert cache.record(BOOK, 20, 0) is None, "an answer that was late"
    learn(cache, read(start=40), in_term(2, reply([50], 60)))
    assert cache.counts(0, 1) and seqnum_of(cache, 40) == 50


def test_p20_another_engine_may_not_have_heard_of_a_term_yet() -> None:
    """What it shares of its memory is not looked at until then."""
    cache = Cache()
    cache.engine_stands(0, 2)
    assert cache.counts(0, 2)
    cache.engine_stands(0, 1)
    assert not cache.counts(0, 2)
    assert cache.counts(0, 1)
