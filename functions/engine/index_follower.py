"""One log space's index, as an engine follows it: from which replica, for which LogBooks, and how
far it has come.

The stream of one replica says in order what was folded; entries of a LogBook are complete from the
position at which the replica named it on. Facts of a followed LogBook grow with it, so they may
only be open while every entry arrives.

Invariants: `position` and `tail` belong together and never go back; `following` is part of `books`,
and empty while another replica has just been chosen; facts of a LogBook outside of it are closed.

A log space of class `memory` may have started over where a term begins (P20): what was known before
it is not served in that term, and nothing new counts until a fold tells of an entry of it, since a
fold of an earlier term may hold what is lost. Of class `flush` entries may be lost where a term
ends (P11): once a later term was heard of nothing is served until its view says where, and what a
fold tells that stands past an end since counts no more.

Does not know: reads, clients, links. Source: P20, P27.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet
from typing import cast

from bokilog.facts import Facts, Tail
from bokilog.functions.engine.cache import Tags
from bokilog.functions.engine.order import Ends, Horizon
from bokilog.functions.engine.published import Published
from bokilog.ids import START, LogSpaceId, NodeId, Position, Term
from bokilog.messages import FollowIndex, IndexStream
from bokilog.named import NamedTuple
from bokilog.view import End

Key = tuple[int, str | None]
"""A line of facts: LogBook and tag."""


class News(NamedTuple):
    """What one message of the stream changed."""

    grown: set[Key]
    """Lines of facts that have new seqnums."""
    changed: set[int]
    """LogBooks that were trimmed or deleted, or whose facts are closed."""


class IndexFollower:
    """What is known of one log space's index, and from whom."""

    __slots__ = (
        "_due",
        "_ends",
        "_facts",
        "_published",
        "_told",
        "_unnamed",
        "books",
        "chosen",
        "follow_due",
        "following",
        "horizon",
        "id",
        "left",
        "lossy",
        "position",
        "replicas",
        "settled",
        "tail",
        "term",
        "verdicts_due",
        "volatile",
    )

    def __init__(
        self,
        space: LogSpaceId,
        *,
        facts: Facts,
        horizon: Horizon,
        published: Published | None = None,
        due: set[int] | None = None,
    ) -> None:
        """Knows nothing yet.

        Args:
            space: the log space.
            facts: those of all log spaces.
            horizon: of this one.
            published: records shared with workers.
            due: where it says that it has something to ask for.
        """
        self._due: set[int] = set() if due is None else due
        self.id = space
        self.horizon = horizon
        self.replicas: tuple[NodeId, ...] = ()
        self.chosen: NodeId | None = None
        """The replica that is followed; None while no storage node is connected."""
        self.left: dict[NodeId, int] = {}
        """Replicas that were given up because they lag; the one left last has the largest number.
        """
        self.position = START
        """Up to here the stream has come, and `tail` with it."""
        self.tail = Tail(1)
        self.lossy = False
        """Whether it is of a class below `sync`; of that one a log space is always settled."""
        self.volatile = False
        """Whether it is of class `memory`."""
        self._ends = Ends()
        self.term = START.term
        """Of class `memory`: the newest term that anything told of."""
        self.settled = True
        """Whether the stream counts; not while its replica may tell of what is lost."""
        self.books: OrderedDict[int, None] = OrderedDict()
        """LogBooks wanted from the stream, the one read longest ago first."""
        self.following: set[int] = set()
        """LogBooks whose entries it brings."""
        self.follow_due = False
        """What is wanted has changed since the replica was told."""
        self.verdicts_due = False
        """The replica is to be asked for verdicts that may have been missed (P23)."""
        self._facts = facts
        self._published = published
        self._told: frozenset[int] = frozenset()
        """LogBooks that the chosen replica was told of last."""
        self._unnamed: dict[int, int] = {}
        """How often each is still to be named: once per request that it was new in. Only the last
        time counts, since it was not streamed between a request without it and the next one."""

    def install(self, term: Term, end: End) -> bool:
        """The view of `term` says where the terms before it ended: whether entries are known that
        were lost there (P11)."""
        self._ends.install(term, end.position.count)
        return self.horizon.end_before(term, end.position.count)

    def begin_term(self, term: Term) -> bool:
        """Something told of this term: whether all that is known may be lost since (P20)."""
        if not self.volatile or term <= self.term:
            return False
        self.term, self.settled = term, False
        return True

    def forget(self) -> None:
        """Nothing that is known of its LogBooks counts any more; of class `memory` they are all
        in `books`."""
        for book in self.books:
            self._facts.drop(book)
            if self._published is not None:
                self._published.leave(book)

    def is_lost(self, position: Position) -> bool:
        """Whether what was folded at this position may be lost by now (P11, P20)."""
        if not self.lossy:
            return False
        if self.volatile and position.term < self.term:
            return True
        return self._ends.is_past(position)

    def may_answer(self, position: Position) -> bool:
        """Whether what is known here counts for a session that has seen this position: it, or
        something else, may have told of a term whose view is not here."""
        if not self.lossy:
            return True
        told = max(position.term, self.horizon.position.term)
        return self.settled and told <= (self.term if self.volatile else self._ends.term)

    # --- what is wanted ---------------------------------------------------------------------------

    def choose(self, replica: NodeId | None) -> None:
        """Another replica, or another link to it: what the last stream would have brought is
        missing.
        """
        self.chosen = replica
        self.horizon.followed = replica is not None
        self.follow_due = True
        self.want_verdicts()
        for book in self.following:
            self._facts.unfollow(book)
            if self._published is not None:
                self._published.leave(book)
        self.following.clear()
        self._told = frozenset()
        self._unnamed.clear()

    def leave(self, number: int) -> FollowIndex | None:
        """The chosen replica lags: another one is to be preferred from now on.

        Returns:
            What it is told, so that it stops streaming entries and names all anew if it is chosen
            again; None if there is none.
        """
        if self.chosen is None:
            return None
        self.left[self.chosen] = 1 + max(self.left.values(), default=0)
        return FollowIndex(self.id, number, [], [])

    def want(self, book: int) -> None:
        """A LogBook that is read is followed from then on."""
        if book in self.books:
            self.books.move_to_end(book)
            return
        self.books[book] = None
        self._want()

    def want_verdicts(self) -> None:
        """Some may have been missed."""
        self.verdicts_due = True
        self._due.add(self.id)

    def _want(self) -> None:
        self.follow_due = True
        self._due.add(self.id)

    def request(
        self, number: int, rows: list[list[int]], *, books_max: int, waited: AbstractSet[int]
    ) -> FollowIndex:
        """What the replica is told; here LogBooks over the bound are dropped, so it hears of each
        change.

        Args:
            waited: LogBooks that somebody waits on; they stay.
        """
        over = len(self.books) - books_max
        for book in [book for book in self.books if book not in waited][: max(0, over)]:
            self._drop(book)
            if self.volatile:
                self._facts.drop(book)
            else:
                self._facts.unfollow(book)
        verdicts = rows if self.verdicts_due else []
        self.follow_due = self.verdicts_due = False
        self._due.discard(self.id)
        books = frozenset(self.books)
        for book in books - self._told:
            self._unnamed[book] = self._unnamed.get(book, 0) + 1
        self._told = books
        return FollowIndex(self.id, number, list(self.books), verdicts)

    def _drop(self, book: int) -> None:
        del self.books[book]
        self.following.discard(book)
        if self._published is not None:
            self._published.leave(book)

    # --- the stream -------------------------------------------------------------------------------

    def advance(self, message: IndexStream) -> None:
        """Takes over how far the index has come, and nothing else."""
        position, tail = message.position, message.tail
        self.horizon.indexed_tail = tail  # also if the replica before it was further
        if position > self.position:
            self.position, self.tail.seqnum = position, tail
            self.horizon.saw(position, tail)

    def apply(self, message: IndexStream) -> News:
        """Takes over what was folded.

        What was folded before the replica named a LogBook is not in the stream: so its facts open
        at the position of the message that names it, not before.
        """
        hole = message.since.count > self.position.count
        grown: set[Key] = set()
        if hole:
            for book in self.following:
                self._facts.close(book)
        else:
            grown = self._extend(message)
        self.advance(message)
        named = self._named(message.following)
        self.following |= named
        for book in self.following if hole else named:
            self._facts.follow(book, self.tail)
        changed = self._forget(message)  # last: the trims of a LogBook come with its naming
        if hole:
            self.want_verdicts()
            changed.update(self.books)
        return News(grown, changed)

    def _named(self, books: list[int]) -> set[int]:
        """Those of them whose entries come from here on, whatever was asked before."""
        named: set[int] = set()
        for book in books:
            left = self._unnamed.pop(book, 1) - 1
            if left:
                self._unnamed[book] = left
            elif book in self.books and book in self._told:
                named.add(book)  # wanted again but not told yet: until then its stream has ended
        return named

    def _extend(self, message: IndexStream) -> set[Key]:
        """Adds what was appended to followed LogBooks to their open facts."""
        grown: set[Key] = set()
        for first, books, unit_records, tags, void, _ in cast(
            list[tuple[int, int | list[int], list[int] | None, list[Tags], list[int], int]],
            message.entries,
        ):
            if first < self.tail.seqnum:
                continue  # known from another replica, which was further
            if isinstance(books, int) and not void:
                if books in self.following:
                    seqnums = range(first, first + len(tags))
                    grown.update((books, tag) for tag in self._facts.extend(books, seqnums, tags))
                    if self._published is not None:
                        self._published.streamed(self.id, books, seqnums)
                continue
            for book, part in _visible_by_book(first, books, unit_records, tags, void).items():
                if book in self.following:
                    grown.update((book, tag) for tag in self._facts.extend(book, *part))
                    if self._published is not None:
                        self._published.streamed(self.id, book, part[0])
        return grown

    def _forget(self, message: IndexStream) -> set[int]:
        """Trims and deletions; returns the LogBooks they are of."""
        changed: set[int] = set()
        for book, tag, until in cast(list[tuple[int, str | None, int]], message.trims):
            self._facts.trim(book, tag, until)
            if self._published is not None:
                self._published.trimmed(book, until)
            changed.add(book)
        for book in message.deleted:
            self._facts.drop(book)
            if self._published is not None:
                self._published.leave(book)
            changed.add(book)
            if book in self.books:
                self._drop(book)
                self._want()
        return changed

    # --- for people -------------------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "index_replica": self.chosen,
            "index_position": list(self.position),
            "index_lag_records": self.horizon.lag_records,
            "tail": self.tail.seqnum,
            "followed_books": len(self.following),
        }

    def check(self) -> None:
        """Asserts the invariants."""
        assert self.following <= set(self.books), "following what nobody wants"
        assert self.position <= self.horizon.position
        assert self.chosen is None or self.chosen in self.replicas


def _visible_by_book(
    first: int,
    books: int | list[int],
    unit_records: list[int] | None,
    tags: list[Tags],
    void: list[int],
) -> dict[int, tuple[list[int], list[Tags]]]:
    """A frame's visible records, as (seqnums, tags) of each LogBook."""
    counts = unit_records or [1] * len(tags)
    void_units = set(void)
    parts: dict[int, tuple[list[int], list[Tags]]] = {}
    start = 0
    for unit, count in enumerate(counts):
        if unit not in void_units:
            book = books if isinstance(books, int) else books[unit]
            seqnums, names = parts.setdefault(book, ([], []))
            seqnums.extend(range(first + start, first + start + count))
            names.extend(tags[start : start + count])
        start += count
    return parts
