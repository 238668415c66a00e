"""Requests that wait at an index: for a position, or for a record of a LogBook or of a tag.

Decides who is asked again after a batch: those whose tag got a record, so that an append costs the
same however many wait for others; all of a LogBook that was trimmed or deleted.

Invariants: bounded by `WAITING_MAX` and named when full; a request waits in exactly one place; one
that waits for a record has a timer, one that waits for a position waits as long as its asker's
connection stands.

Does not know: what an answer is; it hands requests back when they may have one.
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.columns import Columns
from bokilog.effects import Address, CancelTimer
from bokilog.ids import LogSpaceId, Position
from bokilog.messages import BookState, Read, ReadTag, SeqnumAt
from bokilog.named import NamedTuple

WAITING_MAX = 10_000

Request = Read | SeqnumAt | BookState


class Waiting(NamedTuple):
    """A request and who asked; reads that wait for a record have a timer."""

    source: Address
    request: Request
    timer: tuple[str, int, int] | None


class Touched:
    """What the fold changed since the last batch ended."""

    __slots__ = ("books", "frames", "lost")

    def __init__(self) -> None:
        self.frames: list[Columns] = []
        """Records that were ordered."""
        self.books: set[int] = set()
        """LogBooks that were trimmed or deleted."""
        self.lost = False
        """Whether records were ordered of which nobody knows the LogBook (P24)."""

    def clear(self) -> None:
        """The batch has ended."""
        if self.frames:
            self.frames.clear()
        if self.books:
            self.books.clear()
        self.lost = False


class WaitingRoom:
    """All waiting requests of one index."""

    __slots__ = ("_by_asker", "_by_book", "_for_position", "_next", "_space", "_waiting")

    def __init__(self, space: LogSpaceId) -> None:
        self._space = space
        self._next = 0
        self._waiting: dict[int, Waiting] = {}
        self._by_book: dict[int, dict[ReadTag, set[int]]] = {}
        """Reads that wait for a record, by what they wait on."""
        self._for_position: dict[int, Position] = {}
        self._by_asker: dict[tuple[Address, int], int] = {}
        """By who asked and the number it gave the request."""

    @property
    def full(self) -> bool:
        return len(self._waiting) >= WAITING_MAX

    def __len__(self) -> int:
        return len(self._waiting)

    def for_position(self, source: Address, request: Request) -> None:
        self._next += 1
        self._waiting[self._next] = Waiting(source, request, None)
        self._by_asker[source, request.request] = self._next
        self._for_position[self._next] = request.position

    def for_record(self, source: Address, read: Read) -> tuple[str, int, int]:
        """The name of the timer to set for `read.wait_ms`."""
        self._next += 1
        timer = ("read", int(self._space), self._next)
        self._waiting[self._next] = Waiting(source, read, timer)
        self._by_asker[source, read.request] = self._next
        self._by_book.setdefault(read.book, {}).setdefault(read.tag, set()).add(self._next)
        return timer

    def reached(self, position: Position) -> list[Waiting]:
        """Takes out those whose position has come."""
        ready = [key for key, wanted in self._for_position.items() if wanted <= position]
        return [self._take(key) for key in ready]

    def touched(self, by: Touched) -> list[tuple[int, Waiting]]:
        """Those whose read may find something now, the longest waiting first; they stay until
        `take`."""
        if not self._by_book:
            return []
        keys: set[int] = set()
        for book in self._by_book if by.lost else by.books & self._by_book.keys():
            keys.update(*self._by_book[book].values())
        for columns in by.frames:
            books = (columns.books,) if isinstance(columns.books, int) else set(columns.books)
            for book in books:
                of_book = self._by_book.get(book)
                if of_book is not None:
                    keys.update(*_on(of_book, columns))
        return [(key, self._waiting[key]) for key in sorted(keys)]

    def take(self, key: int) -> Waiting | None:
        return self._take(key) if key in self._waiting else None

    def cancel(self, source: Address, request: int) -> list[CancelTimer]:
        """One request is not wanted any more."""
        key = self._by_asker.get((source, request))
        timer = self._take(key).timer if key is not None else None
        return [CancelTimer(timer)] if timer is not None else []

    def drop(self, source: Address) -> list[CancelTimer]:
        """The asker is gone."""
        gone = [key for key, waiting in self._waiting.items() if waiting.source == source]
        timers = [self._take(key).timer for key in gone]
        return [CancelTimer(timer) for timer in timers if timer is not None]

    def drop_all(self) -> list[Waiting]:
        """Takes out everybody."""
        return [self._take(key) for key in list(self._waiting)]

    def _take(self, key: int) -> Waiting:
        waiting = self._waiting.pop(key)
        self._for_position.pop(key, None)
        asker = waiting.source, waiting.request.request
        if self._by_asker.get(asker) == key:  # else it has asked twice by one number
            del self._by_asker[asker]
        if waiting.timer is not None and isinstance(waiting.request, Read):
            read = waiting.request
            of_book = self._by_book[read.book]
            of_book[read.tag].discard(key)
            if not of_book[read.tag]:
                del of_book[read.tag]
                if not of_book:
                    del self._by_book[read.book]
        return waiting


def _on(of_book: dict[ReadTag, set[int]], columns: Columns) -> Iterable[set[int]]:
    """Who waits on a LogBook, or on a tag of these records.

    Of a frame for several LogBooks, each may have any of its tags: a read too many is asked again.
    """
    if None in of_book:
        yield of_book[None]
        if len(of_book) == 1:
            return
    for tags in columns.tags:
        for tag in (tags,) if isinstance(tags, str) else tags or ():
            if tag in of_book:
                yield of_book[tag]
