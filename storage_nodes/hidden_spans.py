"""Where a LogBook has only records that trims of all their tags have hidden, as readers found out.

Such records stand in the index of the whole LogBook until their segment goes, and only their frames
say which tags they have. Without this every reader from the start would open the same frames again,
and one who has to wait for bytes from the object store would never get past more of them than are
kept at hand.

Invariant: what is hidden once is hidden for ever, and below the tail nothing is added; so a span is
right for as long as its fold. Of each LogBook one is kept, of the last `BOOKS_MAX` read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

BOOKS_MAX: Final = 1_000


class HiddenSpans:
    """Ranges `[start, until)` of seqnums without a record to read, by LogBook."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def without(self, book: int, start: int, until: int, *, reverse: bool) -> tuple[int, int]:
        """The part of a range that is to be looked at, from the end that a reader begins with."""
        known = self._spans.get(book)
        if known is None:
            return start, until
        low, high = known
        if reverse:
            return start, low if low < until <= high else until
        return high if low <= start < high else start, until

    def add(self, book: int, start: int, until: int) -> None:
        """Nothing in `[start, until)` is to be read; what is known beside it is joined."""
        low, high = self._spans.pop(book, (start, until))
        if start <= high and low <= until:
            start, until = min(start, low), max(until, high)
        self._spans[book] = start, until
        if len(self._spans) > BOOKS_MAX:
            self._spans.popitem(last=False)
