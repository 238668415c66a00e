"""Requests that wait at an index: for a position, or for a record of a LogBook.

Invariants: bounded by `WAITING_MAX` and named when full; a request waits in exactly one place; one
that waits for a record has a timer, one that waits for a position waits as long as its asker's
connection stands.

Does not know: what an answer is; it hands requests back when they may have one.
"""

from __future__ import annotations

from bokilog.effects import Address, CancelTimer
from bokilog.ids import LogSpaceId, Position
from bokilog.messages import BookState, Read, SeqnumAt
from bokilog.named import NamedTuple

WAITING_MAX = 10_000

Request = Read | SeqnumAt | BookState


class Waiting(NamedTuple):
    """A request and who asked; reads that wait for a record have a timer."""

    source: Address
    request: Request
    timer: tuple[str, int, int] | None


class WaitingRoom:
    """All waiting requests of one index."""

    __slots__ = ("_by_book", "_for_position", "_next", "_space", "_waiting")

    def __init__(self, space: LogSpaceId) -> None:
        self._space = space
        self._next = 0
        self._waiting: dict[int, Waiting] = {}
        self._by_book: dict[int, set[int]] = {}
        self._for_position: dict[int, Position] = {}

    @property
    def full(self) -> bool:
        return len(self._waiting) >= WAITING_MAX

    def __len__(self) -> int:
        return len(self._waiting)

    def for_position(self, source: Address, request: Request) -> None:
        self._next += 1
        self._waiting[self._next] = Waiting(source, request, None)
        self._for_position[self._next] = request.position

    def for_record(self, source: Address, read: Read) -> tuple[str, int, int]:
        """The name of the timer to set for `read.wait_ms`."""
        self._next += 1
        timer = ("read", int(self._space), self._next)
        self._waiting[self._next] = Waiting(source, read, timer)
        self._by_book.setdefault(read.book, set()).add(self._next)
        return timer

    def reached(self, position: Position) -> list[Waiting]:
        """Takes out those whose position has come."""
        ready = [key for key, wanted in self._for_position.items() if wanted <= position]
        return [self._take(key) for key in ready]

    def touched(self, books: set[int]) -> list[tuple[int, Waiting]]:
        """Those who wait for a record of these LogBooks; they stay until `take`."""
        return [
            (key, self._waiting[key])
            for book in books
            for key in sorted(self._by_book.get(book, ()))
        ]

    def take(self, key: int) -> Waiting | None:
        return self._take(key) if key in self._waiting else None

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
        if waiting.timer is not None and isinstance(waiting.request, Read):
            room = self._by_book[waiting.request.book]
            room.discard(key)
            if not room:
                del self._by_book[waiting.request.book]
        return waiting
