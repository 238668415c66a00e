"""Which LogBooks of a log space are deleted, as far as an engine has heard.

Decides which units of a frame are void because their LogBook was deleted before them (P5), and
whether a deletion may be missing still. The primary tells of deletions in entries that it has; of
those in entries that it let go of only an index replica does (P16). No frame may leave before they
are all known: its units would be acknowledged, and void.

Invariants: a deletion is known by the count of its entry, or of a bound of it that is not before
it; what is ordered before that entry is not void, however early this engine hears of it.

Does not know: frames on their way, clients.
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.columns import Columns


class Deletions:
    """Deleted LogBooks of one log space."""

    __slots__ = ("_before", "_indexed_count", "books")

    def __init__(self) -> None:
        self.books: dict[int, int] = {}
        """With the count of the entry that deleted each, or a bound of it."""
        self._before = 0
        """Those before that entry only an index replica tells of (P16)."""
        self._indexed_count = 0
        """The furthest entry that one has told them up to."""

    def add(self, book: int, count: int) -> None:
        """The entry of this count deletes it, or one before does."""
        self.books[book] = min(count, self.books.get(book, count))

    def indexed(self, books: Iterable[int], count: int) -> None:
        """What an index replica says of deletions up to its position (P5).

        Those up to there that come after an entry of the primary's, it sends after that entry.
        """
        for book in books:
            self.add(book, count)
        if count > self._indexed_count:
            self._indexed_count = count

    def end_term(self, count: int) -> None:
        """The terms before ended after `count` entries: what an index replica told past them says
        nothing of those that come instead (P11)."""
        self._indexed_count = min(self._indexed_count, count)

    def metalog_begins(self, count: int) -> None:
        """The primary may not know of LogBooks that were deleted before that entry (P16)."""
        self._before = max(self._before, count)

    @property
    def all_known(self) -> bool:
        """Whether none is missing that the order will not tell of."""
        return self._indexed_count >= self._before

    @property
    def some_told(self) -> bool:
        """Whether an index replica has told anything: if not all, then it is behind."""
        return self._indexed_count > 0

    def void_units(self, columns: Columns, count: int) -> list[int]:
        """Units of a frame that the entry of this count orders after their LogBook's deletion."""
        if columns.problem:
            return []  # void for that, wherever it is ordered (P34)
        known = self.books.get
        if isinstance(columns.books, int):
            return list(range(columns.units)) if known(columns.books, count) < count else []
        return [unit for unit, book in enumerate(columns.books) if known(book, count) < count]
