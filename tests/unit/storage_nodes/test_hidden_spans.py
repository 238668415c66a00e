"""Which seqnums of a LogBook nobody needs to look at again."""

from __future__ import annotations

from bokilog.storage_nodes.hidden_spans import BOOKS_MAX, HiddenSpans

BOOK = 7


def test_a_range_is_looked_at_from_where_a_span_ends() -> None:
    spans = HiddenSpans()
    spans.add(BOOK, 0, 20)
    assert spans.without(BOOK, 5, 100, reverse=False) == (20, 100)
    assert spans.without(BOOK, 20, 100, reverse=False) == (20, 100)
    assert spans.without(BOOK + 1, 5, 100, reverse=False) == (5, 100)


def test_a_range_is_looked_at_backwards_from_where_a_span_begins() -> None:
    spans = HiddenSpans()
    spans.add(BOOK, 10, 20)
    assert spans.without(BOOK, 5, 20, reverse=True) == (5, 10)
    assert spans.without(BOOK, 5, 21, reverse=True) == (5, 21), "20 may be there"
    assert spans.without(BOOK, 5, 10, reverse=True) == (5, 10)


def test_spans_that_touch_are_joined_and_others_replaced() -> None:
    spans = HiddenSpans()
    spans.add(BOOK, 0, 10)
    spans.add(BOOK, 10, 20)
    assert spans.without(BOOK, 0, 100, reverse=False) == (20, 100)
    spans.add(BOOK, 50, 60)
    assert spans.without(BOOK, 0, 100, reverse=False) == (0, 100)
    assert spans.without(BOOK, 55, 100, reverse=False) == (60, 100)


def test_of_many_logbooks_the_last_ones_are_kept() -> None:
    spans = HiddenSpans()
    for book in range(BOOKS_MAX + 1):
        spans.add(book, 0, 10)
    assert spans.without(0, 0, 100, reverse=False) == (0, 100)
    assert spans.without(BOOKS_MAX, 0, 100, reverse=False) == (10, 100)
