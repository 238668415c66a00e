"""Facts: what is known of a LogBook's order, tag by tag, without asking anybody.

A fact says "exactly these are the seqnums of `(book, tag)` in `[lo, hi)`" (`tag` None: all records
of the LogBook). It is true for ever but for trims, so it needs no invalidation: engines and clients
keep facts, answer from them, and drop the least recently used when the byte budget is met. Losing
one costs time, never truth.

Invariants: no seqnum below a known trim is answered. Only the top interval of a *followed* LogBook
grows: it is open, and reaches up to the tail of its log space, which the stream moves once per tick
for all LogBooks at once.

Does not know: records, positions, nodes, nor how intervals of one tag are merged and cut
(`fact_line.py`). What "none at the tail" needs of a position is decided by the caller, who is told
by `at_tail` that an answer leans on it (P27). Source: DESIGN section 4; differs from Boki, whose
engines hold the whole index of their log space.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum
from typing import Final

from bokilog.fact_line import Line
from bokilog.limits import NO_END
from bokilog.named import NamedTuple

Tags = None | str | list[str]

HALVED_SEQNUMS_MIN: Final = 64
"""A line that must stay is cut in halves to make room, but not below this."""


class Unknown(Enum):
    """Facts do not say: ask the next level."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Tail:
    """First seqnum of a log space that the stream has not brought yet; shared by its followed
    LogBooks.
    """

    __slots__ = ("seqnum",)

    def __init__(self, seqnum: int = 0) -> None:
        self.seqnum = seqnum


class Known(NamedTuple):
    """What facts say of a range, in the asked order; fields as in `messages.ReadReply`."""

    seqnums: Sequence[int]
    next_seqnum: int
    more: bool
    at_tail: bool
    """The answer leans on nothing more being ordered: it holds at the stream's position, not at any
    (P27).
    """


class _Book:
    __slots__ = ("lines", "tag_trims", "tags_trimmed_until", "tail", "trim_until")

    def __init__(self) -> None:
        self.lines: dict[str | None, Line] = {}
        self.tail: Tail | None = None
        """Set while the LogBook is followed."""
        self.trim_until = 0
        self.tags_trimmed_until = 0
        """Past it no tag was trimmed: a record below may be gone from the LogBook as a whole."""
        self.tag_trims: dict[str, int] = {}
        """Of tags that have a line; a tag without one learns its trim with its next reply."""


class Facts:
    """What is known of many LogBooks, within a byte budget."""

    __slots__ = ("_books", "_lines", "_watched", "bytes_max", "bytes_used", "evicted_count")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes_used = 0
        self.evicted_count = 0
        self._books: dict[int, _Book] = {}
        self._lines: OrderedDict[tuple[int, str | None], Line] = OrderedDict()
        """All lines, least recently used first."""
        self._watched: dict[tuple[int, str | None], int] = {}
        """Lines that somebody waits on, and how many: these are not evicted."""

    def __len__(self) -> int:
        return len(self._lines)

    # --- asking -----------------------------------------------------------------------------------

    def trim_until(self, book: int, tag: str | None) -> int:
        """First kept seqnum, as far as known."""
        known = self._books.get(book)
        if known is None:
            return 0
        if tag is None or not known.tag_trims:
            return known.trim_until
        return max(known.trim_until, known.tag_trims.get(tag, 0))

    def knows_trims(self, book: int, tag: str | None) -> bool:
        """Whether `trim_until` is what it is at the stream's tail, not only as far as known.

        A tag's own trim is kept with its line; of the others one number says how far they go.
        """
        known = self._books.get(book)
        if known is None or known.tail is None:
            return False
        no_further = known.tags_trimmed_until <= known.trim_until
        return tag is None or tag in known.tag_trims or no_further

    def tags_trimmed_until(self, book: int) -> int:
        """Past it no tag of the LogBook was trimmed, as far as known."""
        known = self._books.get(book)
        return known.tags_trimmed_until if known is not None else 0

    def next(
        self, book: int, tag: str | None, start: int, until: int = NO_END
    ) -> int | Unknown | None:
        """First seqnum in `[start, until)`; None: there is none, whatever is ordered later."""
        line = self._use(book, tag)
        if line is None:
            return UNKNOWN
        start = max(start, self.trim_until(book, tag))
        place = bisect_right(line.los, start) - 1
        if place < 0:
            return UNKNOWN
        hi = self._top(book, line, place)
        run = line.runs[place]
        index = bisect_left(run, start)
        if index < len(run) and run[index] < until:
            return run[index]
        return None if until <= hi else UNKNOWN

    def prev(self, book: int, tag: str | None, until: int, start: int = 0) -> int | Unknown | None:
        """Last seqnum in `[start, until)`; None: there is none, whatever is ordered later."""
        line = self._use(book, tag)
        if line is None:
            return UNKNOWN
        start = max(start, self.trim_until(book, tag))
        place = bisect_left(line.los, until) - 1
        if place < 0 or until > self._top(book, line, place):
            return None if until <= start else UNKNOWN
        run = line.runs[place]
        index = bisect_left(run, until) - 1
        if index >= 0 and run[index] >= start:
            return run[index]
        return None if line.los[place] <= start else UNKNOWN

    def range(
        self,
        book: int,
        tag: str | None,
        *,
        start: int,
        until: int,
        limit: int,
        reverse: bool = False,
    ) -> Known | Unknown:
        """Up to `limit` seqnums of `[start, until)`, from its start or in `reverse` from its end.

        `start` 0 means the first kept record. An explicit one behind a trim is the caller's to
        refuse.
        """
        line = self._use(book, tag)
        if line is None:
            return UNKNOWN
        kept = max(start, self.trim_until(book, tag))
        if reverse:
            return self._range_back(book, line, start=start, kept=kept, until=until, limit=limit)
        place = bisect_right(line.los, kept) - 1
        if place < 0:
            return UNKNOWN
        hi = self._top(book, line, place)
        is_top = self._is_top(book, line, place)
        if kept >= hi and not is_top:
            return UNKNOWN
        end = min(until, hi)
        run = line.runs[place]
        first, after = bisect_left(run, kept), bisect_left(run, end)
        if after - first > limit:
            taken = run[first : first + limit]
            return Known(taken, taken[-1] + 1, True, False)
        taken = run[first:after]
        if until <= hi:
            return Known(taken, max(start, end), False, False)
        if is_top:
            return Known(taken, max(start, hi), False, True)
        bound = line.above.get(hi)
        if len(taken) == limit and bound is not None and bound <= until:
            return Known(taken, taken[-1] + 1, True, False)
        return UNKNOWN

    def _range_back(
        self, book: int, line: Line, *, start: int, kept: int, until: int, limit: int
    ) -> Known | Unknown:
        place = bisect_left(line.los, until) - 1
        if place < 0:
            return UNKNOWN
        hi = self._top(book, line, place)
        at_tail = until > hi
        if at_tail and not self._is_top(book, line, place):
            return UNKNOWN
        lo, run = line.los[place], line.runs[place]
        first, after = bisect_left(run, max(kept, lo)), bisect_left(run, min(until, hi))
        if after - first > limit:
            taken = run[after - limit : after]
            taken.reverse()
            return Known(taken, taken[-1], True, at_tail)
        taken = run[first:after]
        taken.reverse()
        if lo <= kept:
            return Known(taken, start, False, at_tail)
        if len(taken) == limit and line.below.get(lo, -1) >= kept:
            return Known(taken, taken[-1], True, at_tail)
        return UNKNOWN

    # --- learning ---------------------------------------------------------------------------------

    def learn(
        self,
        book: int,
        tag: str | None,
        lo: int,
        hi: int,
        seqnums: Sequence[int],
        *,
        above: int | None = None,
        below: int | None = None,
    ) -> None:
        """Exactly `seqnums` (ascending) are those of `(book, tag)` in `[lo, hi)`.

        Args:
            above: a record is known to stand in `[hi, above)`.
            below: a record is known to stand in `[below, lo)`.
        """
        trim_until = self.trim_until(book, tag)
        if lo < trim_until:
            lo, below = trim_until, None
            seqnums = seqnums[bisect_left(seqnums, lo) :]
        if lo >= hi or not self.bytes_max:
            return
        known = self._books.get(book)
        if known is None:
            known = self._books[book] = _Book()
        line = known.lines.get(tag)
        if line is None:
            line = known.lines[tag] = self._lines[book, tag] = Line()
        tail = known.tail
        if tail is not None:
            line.settle(tail.seqnum)
        line.merge(lo, hi, seqnums)
        if tail is not None and line.his[-1] >= tail.seqnum:
            line.is_open = True
        if above is not None and hi in line.his:
            line.above[hi] = above
        if below is not None and lo in line.los:
            line.below[lo] = below
        self._lines.move_to_end((book, tag))
        self.bytes_used += line.count_bytes()
        self._shrink()

    def trim(self, book: int, tag: str | None, until: int) -> None:
        """Records below `until` are gone: of the LogBook, or of one tag of it.

        A tag's trim may take records out of the LogBook as a whole (those whose tags are all
        trimmed), so what is known of all records below it is forgotten too.
        """
        known = self._books.get(book)
        if known is None or until <= self.trim_until(book, tag):
            return
        if tag is not None:
            known.tags_trimmed_until = max(known.tags_trimmed_until, until)
        else:
            known.trim_until = until
            for other in list(known.lines):
                self._cut(book, other, until)
            known.tag_trims = {t: at for t, at in known.tag_trims.items() if at > until}
            return
        if tag in known.lines:
            known.tag_trims[tag] = until
            self._cut(book, tag, until)
        if None in known.lines:
            self._cut(book, None, until)

    def drop(self, book: int) -> None:
        """The LogBook is deleted: nothing is known of it any more."""
        known = self._books.get(book)
        for tag in list(known.lines) if known else ():
            self._remove(book, tag)
        self._books.pop(book, None)

    def clear(self) -> None:
        """Nothing is known any more. Who waits on a line waits on; LogBooks that are followed have
        to be followed anew."""
        self._books.clear()
        self._lines.clear()
        self.bytes_used = 0

    # --- following --------------------------------------------------------------------------------

    def follow(self, book: int, tail: Tail) -> None:
        """From `tail` on the stream brings every record of the LogBook."""
        if not self.bytes_max:
            return
        known = self._books.setdefault(book, _Book())
        known.tail = tail
        for line in known.lines.values():
            line.is_open = line.is_open or line.his[-1] >= tail.seqnum

    def close(self, book: int) -> None:
        """The stream missed something: what is known ends at the tail it had. Call before the tail
        moves.
        """
        known = self._books.get(book)
        if known is None or known.tail is None:
            return
        for tag, line in list(known.lines.items()):
            line.settle(known.tail.seqnum)
            line.is_open = False
            if line.los[-1] == line.his[-1]:  # all of it was trimmed, and it grows no more
                del line.los[-1], line.his[-1], line.runs[-1]
                self.bytes_used += line.count_bytes()
                if not line.los:
                    self._remove(book, tag)

    def unfollow(self, book: int) -> None:
        """The stream brings nothing of the LogBook any more."""
        self.close(book)
        known = self._books.get(book)
        if known is not None:
            known.tail = None
            if not known.lines:
                del self._books[book]

    def extend(self, book: int, seqnums: Sequence[int], tags: Sequence[Tags]) -> set[str | None]:
        """The stream brought visible records of a followed LogBook, in order; returns the tags that
        grew here.

        Only tags that somebody asked for have a line, so most records touch only one.
        """
        known = self._books.get(book)
        if known is None or not known.lines:
            return set()
        lines, grown = known.lines, set[str | None]()
        everything = lines.get(None)
        if everything is not None and everything.is_open:
            hi = everything.his[-1]
            fresh = seqnums if seqnums[0] >= hi else seqnums[bisect_left(seqnums, hi) :]
            everything.runs[-1].extend(fresh)
            self._grew(everything, len(fresh))
            grown.add(None)
        if len(lines) > 1 or everything is None:
            for seqnum, names in zip(seqnums, tags, strict=True):
                for tag in (names,) if type(names) is str else names or ():
                    line = lines.get(tag)
                    if line is not None and line.is_open and seqnum >= line.his[-1]:
                        line.runs[-1].append(seqnum)
                        self._grew(line, 1)
                        grown.add(tag)
        if self.bytes_used > self.bytes_max:
            self._shrink()
        return grown

    def watch(self, book: int, tag: str | None) -> None:
        """Somebody waits for this line to grow: it stays."""
        self._watched[book, tag] = self._watched.get((book, tag), 0) + 1

    def unwatch(self, book: int, tag: str | None) -> None:
        left = self._watched[book, tag] - 1
        if left:
            self._watched[book, tag] = left
        else:
            del self._watched[book, tag]

    # --- parts ------------------------------------------------------------------------------------

    def _use(self, book: int, tag: str | None) -> Line | None:
        line = self._lines.get((book, tag))
        if line is not None:
            self._lines.move_to_end((book, tag))
        return line

    def _top(self, book: int, line: Line, place: int) -> int:
        """Where an interval ends now."""
        hi = line.his[place]
        if line.is_open and place == len(line.his) - 1:
            tail = self._books[book].tail
            assert tail is not None, "an open line of a LogBook that is not followed"
            return max(hi, tail.seqnum)
        return hi

    def _is_top(self, book: int, line: Line, place: int) -> bool:
        """Whether the interval ends at the stream's tail; one that a reply took past it is no
        answer at the tail.
        """
        if not line.is_open or place != len(line.his) - 1:
            return False
        tail = self._books[book].tail
        return tail is not None and line.his[place] <= tail.seqnum

    def _grew(self, line: Line, count: int) -> None:
        line.cost_bytes += 8 * count
        self.bytes_used += 8 * count

    def _cut(self, book: int, tag: str | None, until: int) -> None:
        known = self._books[book]
        line = known.lines[tag]
        if known.tail is not None:
            line.settle(known.tail.seqnum)
        line.cut_below(until)
        self.bytes_used += line.count_bytes()
        if not line.los:
            self._remove(book, tag)

    def _remove(self, book: int, tag: str | None) -> None:
        line = self._lines.pop((book, tag))
        self.bytes_used -= line.cost_bytes
        known = self._books[book]
        del known.lines[tag]
        if tag is not None:
            known.tag_trims.pop(tag, None)
        if not known.lines and known.tail is None:
            del self._books[book]

    def _shrink(self) -> None:
        """Evicts least recently used lines; what somebody waits on, or what was just used, loses
        its older half.
        """
        while self.bytes_used > self.bytes_max:
            newest = next(reversed(self._lines))
            victim = next(
                (key for key in self._lines if key not in self._watched and key != newest), None
            )
            if victim is not None:
                self.evicted_count += 1
                self._remove(*victim)
            elif not self._halve():
                return

    def _halve(self) -> bool:
        """Forgets the older half of the largest line; whether that was possible."""
        key = max(self._lines, key=lambda name: self._lines[name].cost_bytes)
        line = self._lines[key]
        seqnums = [seqnum for run in line.runs for seqnum in run]
        if len(seqnums) < HALVED_SEQNUMS_MIN:
            return False
        self.evicted_count += 1
        self._cut(*key, seqnums[len(seqnums) // 2])
        return True

    def check(self) -> None:
        """Asserts the invariants; for tests and simulations, not for every step."""
        assert self.bytes_used == sum(line.cost_bytes for line in self._lines.values())
        assert set(self._lines) == {(b, t) for b, known in self._books.items() for t in known.lines}
        for (book, tag), line in self._lines.items():
            assert not line.is_open or self._books[book].tail is not None
            line.check(f"{book}, {tag!r}")
            assert line.los[0] >= self.trim_until(book, tag) or tag is None
