"""What a read's arguments mean as a span of seqnums."""

from __future__ import annotations

from bokilog.client.spans import Span, bytes_of, first_of, last_of, one, page_of
from bokilog.limits import NO_END, PAGE_BYTES_MAX, RECORD_BYTES_MAX, SEQNUM_MAX


def test_a_span_of_no_words_is_one_whole_record_of_everything() -> None:
    assert Span() == (None, 0, NO_END, 1, PAGE_BYTES_MAX, False, -1, -1)


def test_the_first_record_is_looked_for_from_its_seqnum_on() -> None:
    assert first_of("t", 5) == Span(tag="t", start=5)
    assert first_of(None, 0) == Span()


def test_the_last_record_may_stand_at_its_seqnum() -> None:
    assert last_of("t", 5) == Span(tag="t", until=6, reverse=True)
    assert last_of("t", 0) == Span(tag="t", until=1, reverse=True)
    assert last_of(None, None) == last_of(None, SEQNUM_MAX) == Span(reverse=True)


def test_one_record_is_a_span_of_one_seqnum() -> None:
    assert one(5) == Span(start=5, until=6)


def test_bytes_are_asked_for_within_what_a_record_can_have() -> None:
    assert bytes_of(5, 2, 7) == Span(start=5, until=6, bytes_start=2, bytes_until=7)
    whole = bytes_of(5, 0, None)
    assert (whole.bytes_start, whole.bytes_until) == (0, RECORD_BYTES_MAX)
    beyond = bytes_of(5, RECORD_BYTES_MAX + 1, RECORD_BYTES_MAX + 2)
    assert (beyond.bytes_start, beyond.bytes_until) == (RECORD_BYTES_MAX, RECORD_BYTES_MAX)


def test_no_span_goes_beyond_the_last_seqnum_there_can_be() -> None:
    for span in (
        one(SEQNUM_MAX + 7),
        bytes_of(SEQNUM_MAX + 7, 0, None),
        last_of("t", SEQNUM_MAX + 7),
        page_of("t", 0, None, limit=1, max_bytes=1, reverse=False),
    ):
        assert span.until == NO_END


def test_a_page_is_as_it_was_asked_for() -> None:
    page = page_of("t", 3, 9, limit=50, max_bytes=1_000, reverse=True)
    assert page == Span("t", 3, 9, 50, 1_000, True)
