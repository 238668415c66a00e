"""What writers were told, and what must hold of what is found afterwards, whoever was killed.

A writer says every append before it is issued and its outcome as soon as it knows it; both lines
carry the machine's monotonic time, so lines of several writers have one order. A payload names its
append and can be made again from that name, so whatever a reader finds is traced back and compared
byte by byte.

Checked of every LogBook, over all rounds since its directory was made (promises of DESIGN section
3): acknowledged records stand at their seqnums, unaltered, units whole and in order; nothing stands
twice; what failed definitely never appears and what is unknown appears at most once, as a whole;
what was acknowledged before another append was issued stands before it, and so do appends of one
session; conditions had one winner; a key names one unit for ever; trims hold.

A trim that this process made itself archives what it took: of that only keys and the last seqnum of
each tag are remembered, as the log has to.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bokilog.record import Record


class Name(NamedTuple):
    """Of an append: the writer that issued it, and which one of its appends it was."""

    run: int
    number: int


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One append, and what became of it as far as its writer knows."""

    name: Name
    book: str
    session: int
    sizes: list[int]
    tags: list[tuple[str, ...]]
    key: str | None
    unless: dict[str | None, int]
    issued_ns: int
    again: Name | None = None
    """The earlier append that this one repeats: same key, same bytes."""
    repeats_standing: bool = False
    """Whether that one was known to stand when this one was issued."""
    outcome: str = "open"
    """open, acked, void, failed (definitely), unknown"""
    first: int = 0
    settled_ns: int = 0
    why: str = ""
    winner: int = 0

    @property
    def span(self) -> range:
        """Where it was acknowledged, or found."""
        return range(self.first, self.first + len(self.sizes))

    def payload(self, place: int) -> bytes:
        return payload(self.name, place, self.sizes[place])


@dataclass(slots=True)
class Book:
    """One LogBook's appends since the last trim of ours, and what is remembered of older ones."""

    attempts: dict[Name, Attempt] = field(default_factory=dict)
    keys: dict[str, Name] = field(default_factory=dict)
    """The append that holds each key, once it is known to stand."""
    archived: dict[Name, Attempt] = field(default_factory=dict)
    """Holders of keys whose records are trimmed, wholly or in part."""
    last: dict[str | None, int] = field(default_factory=dict)
    """Last visible seqnum per tag, of what is archived."""
    trimmed_until: int = 0
    """Acknowledged."""
    may_be_trimmed_until: int = 0
    """Issued."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the appends of some writers."""

    issued: int
    acked: int
    open: int
    """Neither acknowledged nor failed when the writer ended."""


def payload(name: Name, place: int, size: int) -> bytes:
    """At least its name; then filler that only this record has."""
    head = b"%d.%d.%d " % (*name, place)
    filler = hashlib.sha256(head).digest()
    return (head + filler * (size // len(filler) + 1))[: max(size, len(head))]


def name_in(data: bytes) -> tuple[Name, int]:
    run, number, place = data[:64].split(b" ")[0].split(b".")
    return Name(int(run), int(number)), int(place)


class History:
    """Everything that writers said, in any number of rounds on one directory."""

    def __init__(self) -> None:
        self.books: defaultdict[str, Book] = defaultdict(Book)
        self.acked_count = 0
        self.errors: list[str] = []
        """What writers met that no append may raise."""
        self._book_of: dict[Name, str] = {}
        self._trims: dict[Name, tuple[str, int]] = {}

    # --- what writers say -------------------------------------------------------------------------

    def said(self, run: int, line: bytes) -> str:
        """Take one line of a writer; returns what it is about."""
        kind, number, time_ns, *rest = json.loads(line)
        name = Name(run, number)
        if kind == "issue":
            self._issued(name, time_ns, *rest)
        elif kind == "error":
            self.errors.append(f"writer {run}: {rest[0]}")
        elif kind == "trim":
            self._trims[name] = (rest[0], rest[1])
            book = self.books[rest[0]]
            book.may_be_trimmed_until = max(book.may_be_trimmed_until, rest[1])
        elif kind == "trimmed":
            book = self.books[self._trims.pop(name)[0]]
            book.trimmed_until = max(book.trimmed_until, rest[0])
        elif kind in ("acked", "void", "failed", "unknown"):
            self._settled(self.attempt(name), kind, time_ns, *rest)
        return str(kind)

    def attempt(self, name: Name) -> Attempt:
        return self.books[self._book_of[name]].attempts[name]

    def ended(self, run: int) -> Counts:
        """A writer is dead: what it still waited for is unknown."""
        ours = [each for book in self.books.values() for each in book.attempts.values()]
        ours = [each for each in ours if each.name.run == run]
        open_now = [each for each in ours if each.outcome == "open"]
        for attempt in open_now:
            attempt.outcome = "unknown"
        return Counts(len(ours), sum(each.outcome == "acked" for each in ours), len(open_now))

    def under_way(self, time_ns: int) -> int:
        """How many appends were issued and not settled at that time."""
        return sum(
            each.issued_ns < time_ns and not 0 < each.settled_ns < time_ns
            for book in self.books.values()
            for each in book.attempts.values()
        )

    def _issued(
        self,
        name: Name,
        time_ns: int,
        book: str,
        session: int,
        entries: list[list[object]],
        key: str | None,
        unless: list[list[object]],
        again: list[int] | None,
    ) -> None:
        original = None if again is None else self._holder(self.books[book], Name(*again))
        self._book_of[name] = book
        self.books[book].attempts[name] = Attempt(
            name=name,
            book=book,
            session=session,
            sizes=[int(str(size)) for size, *_ in entries],
            tags=[tuple(str(tag) for tag in tags) for _, *tags in entries],
            key=key,
            unless={None if tag is None else str(tag): int(str(at)) for tag, at in unless},
            issued_ns=time_ns,
            again=None if original is None else original.name,
            repeats_standing=original is not None and original.first > 0,
        )

    def _settled(
        self, attempt: Attempt, outcome: str, time_ns: int, where: int = 0, why: str = ""
    ) -> None:
        assert attempt.outcome == "open", f"{attempt} settled twice, now as {outcome}"
        attempt.outcome, attempt.settled_ns, attempt.why = outcome, time_ns, why
        if outcome == "acked":
            attempt.first = where
            self.acked_count += 1
        attempt.winner = where if outcome == "void" else 0

    # --- what is found ----------------------------------------------------------------------------

    def check(self, name: str, found: Sequence[Record]) -> None:
        """`found` is all of the LogBook, in order, read when no writer lived."""
        assert not self.errors, self.errors
        book = self.books[name]
        places = _places(book, name, found)
        for attempt in book.attempts.values():
            if attempt.again is None:
                _check_place(book, attempt, places.get(attempt.name, {}))
        self._check_keys(book)
        attempts = list(book.attempts.values())
        _check_real_time(attempts)
        _check_sessions(attempts)
        _check_conditions(book, name)

    def _check_keys(self, book: Book) -> None:
        for attempt in book.attempts.values():
            if attempt.again is not None:
                self._check_again(book, attempt)
        for attempt in book.attempts.values():
            if attempt.key is not None and attempt.again is None and attempt.first:
                holder = book.keys.setdefault(attempt.key, attempt.name)
                assert holder == attempt.name, f"key {attempt.key!r} stands for two units"

    def _check_again(self, book: Book, attempt: Attempt) -> None:
        """An append under a key that an earlier one used."""
        assert attempt.again is not None
        original = self._holder(book, attempt.again)
        if attempt.outcome == "acked":
            if not original.first and attempt.first < book.may_be_trimmed_until:
                original.first = attempt.first  # trimmed before anybody saw it stand
            assert attempt.first == original.first, f"{attempt} repeats {original}"
        elif attempt.outcome == "void":
            assert not attempt.repeats_standing, f"{attempt} is void although {original} stands"
        assert attempt.why != "KeyReused", f"{attempt} has the bytes of {original}"

    def _holder(self, book: Book, name: Name) -> Attempt:
        attempt = book.attempts.get(name) or book.archived.get(name)
        assert attempt is not None, f"nothing is known of {name}"
        return attempt

    # --- what writers need, and trims -------------------------------------------------------------

    def keyed(self, name: str) -> list[Attempt]:
        """Appends with a key whose writer is dead: to be repeated."""
        book = self.books[name]
        both = [*book.attempts.values(), *book.archived.values()]
        return [
            attempt
            for attempt in both
            if attempt.key is not None
            and attempt.again is None
            and attempt.outcome in ("acked", "unknown")
            and (book.keys.get(attempt.key, attempt.name) == attempt.name)
        ]

    def trimmed(self, name: str, until: int) -> None:
        """This process trimmed a LogBook that was just checked: what lay below is archived."""
        book = self.books[name]
        book.trimmed_until = book.may_be_trimmed_until = until
        for attempt in list(book.attempts.values()):
            if attempt.first >= until:
                continue
            if attempt.first:
                _remember(book.last, attempt)
                if attempt.key is not None and attempt.again is None:
                    book.archived[attempt.name] = attempt
            if attempt.first + len(attempt.sizes) <= until:
                del book.attempts[attempt.name]


# --- the rules ------------------------------------------------------------------------------------


def _places(book: Book, name: str, found: Sequence[Record]) -> dict[Name, dict[int, int]]:
    """Seqnum by place of every unit found; each record is what its append gave."""
    places: defaultdict[Name, dict[int, int]] = defaultdict(dict)
    last = 0
    for record in found:
        assert record.seqnum > last, f"{name}: seqnum {record.seqnum} comes behind {last}"
        last = record.seqnum
        whose, place = name_in(record.data)
        attempt = book.attempts.get(whose)
        assert attempt is not None, f"{name} {record.seqnum}: nobody appended {record.data[:40]!r}"
        assert record.data == attempt.payload(place), (
            f"{name} {record.seqnum} is altered: {attempt}"
        )
        assert record.tags == attempt.tags[place], (
            f"{name} {record.seqnum}: {record.tags}, {attempt}"
        )
        seen = places[whose].setdefault(place, record.seqnum)
        assert seen == record.seqnum, f"{name}: {attempt} stands at {seen} and {record.seqnum}"
    assert not found or found[0].seqnum >= book.trimmed_until, f"{name}: {found[0]} was trimmed"
    return places


def _check_place(book: Book, attempt: Attempt, places: Mapping[int, int]) -> None:
    """Whether a unit stands where it must; what is unknown and stands gets its place here."""
    if attempt.outcome in ("void", "failed"):
        assert not places, f"{attempt} is {attempt.outcome} and stands at {places}"
        return
    if places:
        first = {seqnum - place for place, seqnum in places.items()}
        assert len(first) == 1, f"{attempt} is torn: {places}"
        assert not attempt.first or {attempt.first} == first, f"{attempt} stands at {places}"
        attempt.first = first.pop()
    elif attempt.outcome == "unknown" and not attempt.first:
        return
    lost = [
        seqnum
        for place, seqnum in enumerate(attempt.span)
        if place not in places and seqnum >= book.may_be_trimmed_until
    ]
    assert not lost, f"{attempt} lost {lost}"


def _check_real_time(attempts: Iterable[Attempt]) -> None:
    """Acknowledged before another was issued: ordered before it."""
    stands = [each for each in attempts if each.first and each.again is None]
    acks = sorted((each.settled_ns, each.first) for each in stands if each.outcome == "acked")
    largest = place = 0
    for each in sorted(stands, key=lambda each: each.issued_ns):
        while place < len(acks) and acks[place][0] < each.issued_ns:
            largest = max(largest, acks[place][1])
            place += 1
        assert each.first > largest, f"{each} was issued after {largest} was acknowledged"


def _check_sessions(attempts: Iterable[Attempt]) -> None:
    """Acknowledged appends of one session keep the order in which they were issued."""
    last: dict[tuple[int, int], int] = {}
    for each in attempts:  # dicts keep the order of issue
        if each.outcome == "acked" and each.again is None:
            session = (each.name.run, each.session)
            assert each.first > last.get(session, 0), f"{each} overtook {last[session]}"
            last[session] = each.first


def _check_conditions(book: Book, name: str) -> None:
    """A unit is visible iff nothing of its tags stood past its `after`s before it."""
    stands = sorted((each for each in book.attempts.values() if each.first), key=_first)
    stands = [each for each in stands if each.again is None]
    last = dict(book.last)
    tagged: defaultdict[str | None, set[int]] = defaultdict(set)
    for each in stands:
        for tag, after in each.unless.items():
            before = last.get(tag, 0)
            assert before <= after, f"{name}: {each} won although {tag!r} stood at {before}"
        _remember(last, each)
        for tags, seqnum in zip(each.tags, each.span, strict=True):
            for tag in (None, *tags):
                tagged[tag].add(seqnum)
    for each in book.attempts.values():
        if each.outcome != "void":
            continue
        assert any(
            each.winner > after
            and (each.winner in tagged[tag] or each.winner == book.last.get(tag))
            for tag, after in each.unless.items()
        ), f"{name}: {each} lost to a record that is not there"


def _first(attempt: Attempt) -> int:
    return attempt.first


def _remember(last: dict[str | None, int], attempt: Attempt) -> None:
    for tags, seqnum in zip(attempt.tags, attempt.span, strict=True):
        for tag in (None, *tags):
            last[tag] = max(last.get(tag, 0), seqnum)
