"""Which records a LogBook's retention lets go: by age and by bytes (P25).

Decides, at one storage node and for one log space, which trims the service proposes. They are trims
like any other: decided in the fold at their place, kept back by holds, repeated without harm.

- *Who*: the first of the log space's replicas; the next one proposes what stayed overdue for a
  while, so that a dead node does not stop it.
- *When*: age is told by cut timestamps (P10), carried on by this node's monotonic clock while
  nothing is ordered; no wall clock, which may be wrong here, ever lets a record go.
- *How far*: the newest records that together have the bytes asked for stay, and at most a 256th
  more. Bytes are the records' data.

Invariants: work per look is bounded, and so are proposals per LogBook; nothing here outlives a
restart but what the fold keeps (`Books.retained`): sizes are read again, from the trim on.

Does not know messages or links: the replica sends what is returned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from bokilog.ids import BookNumber
from bokilog.metalog import Proposer, Trim
from bokilog.named import NamedTuple
from bokilog.storage_nodes.books import Retention

LOOK_S: Final = 0.25
BEHIND_LOOK_S: Final = 0.05
"""While sizes are still to be read: a turn of about 10 ms, then others have theirs."""
BOOKS_MAX: Final = 64
"""LogBooks looked at per look; the rest have their turn at the next ones."""
RECORDS_MAX: Final = 5_000
"""Records whose sizes are read per look."""
GRANULES: Final = 256
"""Sizes are known in steps of this part of `retention_bytes`."""
GAP_MIN_S: Final = 1.0
GAP_MAX_S: Final = 60.0
AGE_PARTS: Final = 100
"""A LogBook is trimmed by age at most once per this part of its retention."""
STAND_IN_S: Final = 5.0
"""So much longer than its turn a trim is overdue before the next replica proposes it."""
SERVICE: Final = Proposer(0, 0)
"""Nobody waits for the answer."""


class Fold(Protocol):
    """What is asked of the fold."""

    tail: int
    timestamp_ms: int

    @property
    def retained(self) -> Mapping[int, Retention]:
        """LogBooks with a bound."""

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum."""

    def trim_reach(self, book: int, until: int, *, now_ms: int) -> int:
        """How far a trim would get."""

    def seqnum_at(self, timestamp_ms: int) -> int:
        """First seqnum ordered at or after that time; the tail without one."""

    def seqnums(
        self,
        book: int,
        tag: str | None,
        start: int,
        until: int,
        *,
        limit: int,
        reverse: bool = False,
    ) -> list[int]:
        """Visible ones."""


class Lengths(Protocol):
    """What is asked of the reader."""

    def lengths(self, seqnums: Sequence[int]) -> list[int]:
        """Bytes of records; fewer than asked for, if that takes too long for one turn."""


class Turn(NamedTuple):
    """At which replica, when, and how far the LogBook is trimmed."""

    rank: int
    now_s: float
    trim_until: int


class Looked(NamedTuple):
    """What a look came to."""

    trims: list[Trim]
    behind: bool
    """There are sizes still to be read: look again soon."""


class Sizes:
    """How many bytes lie in a LogBook from which seqnum on, in steps.

    Invariant: marks are in order, each with the bytes from its seqnum to the next one's.
    """

    __slots__ = ("_granule", "_marks", "cursor", "due", "retention_bytes", "total")

    def __init__(self, retention_bytes: int, start: int) -> None:
        self.retention_bytes = retention_bytes
        self._granule = max(1, retention_bytes // GRANULES)
        self._marks: deque[list[int]] = deque()
        self.cursor = start
        """Records below it are counted."""
        self.due = 0
        """First seqnum to keep."""
        self.total = 0

    def forget_below(self, trim_until: int) -> None:
        """What is trimmed counts no more."""
        self.cursor = max(self.cursor, trim_until)
        marks = self._marks
        while marks and (marks[1][0] if len(marks) > 1 else self.cursor) <= trim_until:
            self.total -= marks.popleft()[1]

    def add(self, seqnums: Sequence[int], lengths: Sequence[int]) -> None:
        """The next records of the LogBook."""
        marks, granule = self._marks, self._granule
        for seqnum, length in zip(seqnums, lengths, strict=True):
            if not marks or marks[-1][1] >= granule:
                marks.append([seqnum, 0])
            marks[-1][1] += length
            self.total += length
        while len(marks) > 1 and self.total - marks[0][1] >= self.retention_bytes:
            self.total -= marks.popleft()[1]
            self.due = marks[0][0]


class Expiry:
    """Retention of one log space at one replica."""

    __slots__ = ("_last_ms", "_next_s", "_overdue", "_seen_s", "_sizes", "_turn")

    def __init__(self) -> None:
        self._last_ms = 0
        self._seen_s = 0.0
        self._turn: list[int] = []
        """LogBooks still to be looked at in this round."""
        self._sizes: dict[int, Sizes] = {}
        self._overdue: dict[int, tuple[int, float]] = {}
        """How far a LogBook may be trimmed, and since when; a busy one always has more to go."""
        self._next_s: dict[int, float] = {}

    def look(self, fold: Fold, lengths: Lengths, *, rank: int, now_s: float) -> Looked:
        """Trims to propose now.

        Args:
            fold: of the log space.
            lengths: reads sizes of records.
            rank: place among the replicas; 0 proposes at once.
            now_s: monotonic.
        """
        retained = fold.retained
        if not retained:
            self._forget_all()
            return Looked([], False)
        now_ms = self._log_time_ms(fold.timestamp_ms, now_s)
        trims: list[Trim] = []
        behind = False
        for book in self._next_books(retained):
            retention = retained[book]
            due = 0
            if retention.retention_ms:
                due = fold.seqnum_at(now_ms - retention.retention_ms)
            if retention.retention_bytes:
                sizes = self._sizes_of(book, retention.retention_bytes, fold)
                behind |= _count(sizes, book, fold, lengths)
                due = max(due, sizes.due)
            turn = Turn(rank, now_s, fold.trim_until(book))
            reach = fold.trim_reach(book, due, now_ms=now_ms)
            if reach <= turn.trim_until:
                self._overdue.pop(book, None)
            elif self._is_mine(book, reach, retention=retention, turn=turn):
                trims.append(Trim(0, book, None, reach, SERVICE))
        return Looked(trims, behind)

    def _log_time_ms(self, timestamp_ms: int, now_s: float) -> int:
        """The log's time goes on while nothing is ordered; never faster than this node's clock."""
        if timestamp_ms != self._last_ms:
            self._last_ms, self._seen_s = timestamp_ms, now_s
        return timestamp_ms + int((now_s - self._seen_s) * 1000)

    def _next_books(self, retained: Mapping[int, Retention]) -> list[int]:
        if not self._turn:
            self._turn = sorted(retained, reverse=True)
            self._sizes = {b: known for b, known in self._sizes.items() if b in retained}
            self._overdue = {b: known for b, known in self._overdue.items() if b in retained}
            self._next_s = {b: at_s for b, at_s in self._next_s.items() if b in retained}
        taken = [self._turn.pop() for _ in range(min(BOOKS_MAX, len(self._turn)))]
        return [book for book in taken if book in retained]

    def _sizes_of(self, book: int, retention_bytes: int, fold: Fold) -> Sizes:
        trim_until = fold.trim_until(book)
        sizes = self._sizes.get(book)
        if sizes is None or sizes.retention_bytes != retention_bytes:
            sizes = self._sizes[book] = Sizes(retention_bytes, trim_until)
        sizes.forget_below(trim_until)
        return sizes

    def _is_mine(self, book: int, reach: int, *, retention: Retention, turn: Turn) -> bool:
        """Whether it is this replica's turn to propose, and it did not do so just now."""
        until, since_s = self._overdue.get(book, (0, 0.0))
        if until <= turn.trim_until:
            until, since_s = self._overdue[book] = reach, turn.now_s
        gap_s = min(max(GAP_MIN_S, retention.retention_ms / 1000 / AGE_PARTS), GAP_MAX_S)
        if turn.now_s < max(since_s + turn.rank * (gap_s + STAND_IN_S), self._next_s.get(book, 0)):
            return False
        self._next_s[book] = turn.now_s + gap_s
        return True

    def _forget_all(self) -> None:
        if self._sizes or self._overdue or self._next_s:
            self._sizes, self._overdue, self._next_s = {}, {}, {}


def _count(sizes: Sizes, book: int, fold: Fold, lengths: Lengths) -> bool:
    """Read the sizes of the next records; whether there are more."""
    if sizes.cursor >= fold.tail:
        return False
    number = BookNumber(book)
    found = fold.seqnums(number, None, sizes.cursor, fold.tail, limit=RECORDS_MAX)
    read = lengths.lengths(found)
    sizes.add(found[: len(read)], read)
    if len(read) < len(found) or len(found) == RECORDS_MAX:
        sizes.cursor = found[len(read) - 1] + 1
        return True
    sizes.cursor = fold.tail
    return False
