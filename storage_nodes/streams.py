"""What engines that follow the index of one log space are told, gathered over a batch.

Invariants: each follower gets one message a batch at most, also when nothing of its LogBooks
changed, so that it knows the position (P27), and one for each time it asked; `entries` of a LogBook
are complete from the position at which it was named in `following`.

Does not know: the fold, or how a follower uses what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bokilog.effects import Address, Effect, Send
from bokilog.errors import BokilogError, to_wire
from bokilog.ids import Position
from bokilog.messages import IndexStream
from bokilog.metalog import Proposer
from bokilog.storage_nodes.fold import FrameOutcome


class Follower:
    """An engine, and what it will be told at the end of the batch."""

    __slots__ = (
        "answers",
        "asked",
        "books",
        "deleted",
        "entries",
        "following",
        "number",
        "sent",
        "trims",
        "verdicts",
    )

    def __init__(self, *, number: int, sent: Position) -> None:
        self.number = number
        """Its shard number: verdicts and answers of its own go to it."""
        self.books: set[int] = set()
        self.sent = sent
        self.asked = True
        """It is told the position even if that has not moved: who asks knows nothing yet (P27)."""
        self.following: list[int] = []
        self.entries: list[list[object]] = []
        self.trims: list[list[object]] = []
        self.verdicts: list[list[object]] = []
        self.answers: list[list[object]] = []
        self.deleted: list[int] = []

    @property
    def has_news(self) -> bool:
        return bool(self.asked or self.verdicts or self.answers or self.following or self.deleted)


class Streams:
    """The followers of one index."""

    __slots__ = ("_followers", "_space")

    def __init__(self, space: int) -> None:
        self._space = space
        self._followers: dict[Address, Follower] = {}

    def follow(
        self, source: Address, *, number: int, books: Iterable[int], position: Position
    ) -> tuple[Follower, set[int]]:
        """The follower, and which LogBooks it follows from here on for the first time."""
        wanted = set(books)
        follower = self._followers.get(source)
        if follower is None or follower.number != number:
            follower = self._followers[source] = Follower(number=number, sent=position)
        new = wanted - follower.books
        follower.books, follower.asked = wanted, True
        follower.following += sorted(new)
        return follower, new

    def follower(self, source: Address) -> Follower | None:
        """What is to be told to an engine, if it follows."""
        return self._followers.get(source)

    def drop(self, source: Address) -> None:
        self._followers.pop(source, None)

    def jump(
        self,
        position: Position,
        *,
        trims_of: Callable[[int], list[list[object]]],
        deleted: list[int],
    ) -> None:
        """The fold goes on from another place: followers see a hole, and begin anew behind it
        (P27)."""
        for follower in self._followers.values():
            books = sorted(follower.books)
            follower.sent, follower.asked, follower.following = position, True, books
            follower.trims = [trim for book in books for trim in trims_of(book)]
            follower.entries, follower.verdicts, follower.answers = [], [], []
            follower.deleted = list(deleted)

    def followers_of(self, number: int) -> list[Address]:
        """Who follows for the engine of this shard number."""
        return [source for source, known in self._followers.items() if known.number == number]

    def frame(self, outcome: FrameOutcome, timestamp_ms: int) -> None:
        """An ordered frame: its verdicts to its engine, its columns to whoever follows one of its
        LogBooks."""
        first_seqnum, frame, verdicts, void_units = outcome
        columns, shard = frame.columns, frame.shard
        books = columns.books
        for follower in self._followers.values():
            if verdicts and shard.number == follower.number:
                row: list[object] = [shard.term, shard.number, frame.first, verdicts]
                follower.verdicts.append(row)
            wanted = follower.books
            if not wanted:
                continue
            if (books in wanted) if isinstance(books, int) else not wanted.isdisjoint(books):
                follower.entries.append(
                    [
                        first_seqnum,
                        books,
                        columns.unit_records,
                        columns.tags,
                        list(void_units),
                        timestamp_ms,
                    ]
                )

    def trim(self, book: int, tag: str | None, until: int) -> None:
        for follower in self._followers.values():
            follower.trims.append([book, tag, until])

    def deleted(self, book: int) -> None:
        for follower in self._followers.values():
            follower.deleted.append(book)

    def answer(self, proposer: Proposer, result: list[object] | BokilogError) -> None:
        """The fold's decision on an entry, to the engine that proposed it."""
        values, error = (
            (None, to_wire(result)) if isinstance(result, BokilogError) else (result, None)
        )
        for follower in self._followers.values():
            if follower.number == proposer.engine:
                follower.answers.append([proposer.request, values, error])

    def messages(self, position: Position, tail: int, effects: list[Effect]) -> None:
        """One message for each follower that is behind, or that there is news for."""
        for source, follower in self._followers.items():
            if follower.sent == position and not follower.has_news:
                continue
            stream = IndexStream(
                self._space,
                follower.sent,
                position,
                tail,
                follower.entries,
                follower.trims,
                follower.verdicts,
                follower.answers,
                follower.following,
                follower.deleted,
            )
            effects.append(Send(source, stream))
            follower.sent, follower.asked = position, False
            follower.entries, follower.trims, follower.verdicts = [], [], []
            follower.answers, follower.following, follower.deleted = [], [], []
