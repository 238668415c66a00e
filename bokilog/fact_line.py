"""What is known of one tag of one LogBook: intervals of its order, and the seqnums in each.

Decides how a new interval joins those that it touches, what is left behind a trim, and what all of
it costs. Per interval there is one array of seqnums, so that an answer is a slice of it.

Invariants: intervals are sorted, and neither overlap nor touch; every seqnum lies in its interval.
Does not know: which tag it is, trims, tails but the one it is told, the byte budget (`facts.py`).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

LINE_BYTES: Final = 700
"""What a line costs beside its seqnums: its lists, one interval, two dictionary entries and the
tag.
"""
INTERVAL_BYTES: Final = 160


class Line:
    """Everything known of one `(book, tag)`."""

    __slots__ = ("above", "below", "cost_bytes", "his", "is_open", "los", "runs")

    def __init__(self) -> None:
        self.los: list[int] = []
        self.his: list[int] = []
        self.runs: list[array[int]] = []
        """One array of seqnums per interval `[lo, hi)`."""
        self.is_open = False
        """The last interval reaches up to the tail of the log space, or past it if a reply was
        ahead of the stream.
        """
        self.above: dict[int, int] = {}
        """hi to bound: a record stands in `[hi, bound)`, so a page that ends at hi has more."""
        self.below: dict[int, int] = {}
        """lo to bound: a record stands in `[bound, lo)`."""
        self.cost_bytes = 0

    def count_bytes(self) -> int:
        """Measures itself again, and says by how much it grew."""
        before = self.cost_bytes
        seqnums = sum(map(len, self.runs))
        self.cost_bytes = LINE_BYTES + INTERVAL_BYTES * len(self.los) + 8 * seqnums
        return self.cost_bytes - before

    def settle(self, tail: int) -> None:
        """Writes down where an open interval ends now."""
        if self.is_open and self.his[-1] < tail:
            self.his[-1] = tail

    def merge(self, lo: int, hi: int, seqnums: Iterable[int]) -> None:
        """Adds `[lo, hi)` to the intervals it touches; where they overlap they say the same."""
        first = bisect_left(self.his, lo)
        after = bisect_right(self.los, hi)
        if after - first == 1 and self.his[first] == lo:  # the usual case: the next page of a scan
            self.runs[first].extend(seqnums)
            self.above.pop(lo, None)
            self.his[first] = hi
            return
        merged = array("Q", seqnums)
        for place in (first, after - 1) if first < after else ():
            run = self.runs[place]
            if self.los[place] < lo:
                merged = run[: bisect_left(run, lo)] + merged
            if self.his[place] > hi:
                merged += run[bisect_left(run, hi) :]
            if first == after - 1:
                break
        for place in range(first, after):
            self.above.pop(self.his[place], None)
            self.below.pop(self.los[place], None)
        if first < after:
            lo, hi = min(lo, self.los[first]), max(hi, self.his[after - 1])
        self.los[first:after], self.his[first:after], self.runs[first:after] = [lo], [hi], [merged]

    def cut_below(self, until: int) -> None:
        """Nothing below `until` is known any more, nor that there is something."""
        place = bisect_right(self.his, until)
        del self.los[:place], self.his[:place], self.runs[:place]
        if self.los and self.los[0] < until:
            self.los[0] = until
            run = self.runs[0]
            del run[: bisect_left(run, until)]
        if not self.los and self.is_open:  # whoever waits on it goes on waiting
            self.los, self.his, self.runs = [until], [until], [array("Q")]
        self.above = {hi: bound for hi, bound in self.above.items() if hi >= until}
        self.below = {lo: bound for lo, bound in self.below.items() if bound >= until}

    def check(self, name: str) -> None:
        """Asserts the invariants; an open interval holds what the stream brought in this very tick,
        before the tail has moved.
        """
        assert self.los, f"an empty line of {name}"
        bounds = [at for pair in zip(self.los, self.his, strict=True) for at in pair]
        if self.is_open and bounds[-2] == bounds[-1]:
            bounds.pop()  # all of it is trimmed, and it goes on growing
        assert bounds == sorted(set(bounds)), f"{name}: intervals touch: {bounds}"
        for place, run in enumerate(self.runs):
            assert list(run) == sorted(set(run)), f"{name}: seqnums out of order"
            grows = self.is_open and place == len(self.his) - 1
            inside = not run or (self.los[place] <= run[0] and (grows or run[-1] < self.his[place]))
            assert inside, f"{name}: a seqnum outside of its interval"
