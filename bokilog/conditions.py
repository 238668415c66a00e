"""Void or visible: the decision of one unit, from the state just before its first record (P22).

Every replica decides alike because a decision reads nothing but the unit and four answers about
its LogBook: is it deleted, what is known of the key, has a library ended a prefix, what is the
last visible seqnum of a tag. The order is fixed: a deleted LogBook, then the key (a known one
gives the first outcome whatever else holds), then ended tags, then the conditions in the client's
order.

Invariants: a decision changes nothing; whoever asked indexes a visible unit and remembers its key
before the next unit is decided; a void unit does not use up its key.

Does not know: frames, cuts, how the state is kept. Differs from Boki, whose conditional append
(`logBook.cond`) lives in user code and reads the log back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from bokilog.named import NamedTuple


class KeyUse(NamedTuple):
    """What a key's verdict stores: where its unit stands and what it was."""

    first_seqnum: int
    records: int
    digest: bytes
    """The client's 128-bit hash over tags and bytes, not over conditions."""
    expiry_ms: int
    """By cut timestamps; forgotten once a `ForgetKeys` entry at or after it was applied."""


class BookView(Protocol):
    """A LogBook as it is before the unit."""

    @property
    def deleted(self) -> bool: ...

    def key_use(self, key: str) -> KeyUse | None:
        """What is remembered of a key that was not forgotten."""
        ...

    def ended_prefix(self, tag: str) -> str | None:
        """The ended prefix that `tag` is under, if any."""
        ...

    def last(self, tag: str | None) -> int:
        """Last visible seqnum of a tag (None: of the LogBook), trimmed ones too; 0: never any."""
        ...


Test = tuple[str | None, int]
"""`(tag or None, after)`: no visible record of the tag has a seqnum greater than `after`."""


class Unit(NamedTuple):
    """What a decision needs to know of a unit."""

    number: int
    """Inside its frame."""
    first_seqnum: int
    tags: Iterable[str | list[str] | None]
    """One per record, as in the frame's column."""
    tests: Sequence[Test] = ()
    key: str | None = None
    digest: bytes = b""


def decide(unit: Unit, book: BookView) -> list[object]:
    """The verdict on a unit: `[unit, VERDICT_*, a, b]` as in messages.py."""
    if book.deleted:
        return [unit.number, VERDICT_BOOK_DELETED, None, None]
    if unit.key is not None:
        use = book.key_use(unit.key)
        if use is not None and use.digest == unit.digest:
            return [unit.number, VERDICT_DUPLICATE, use.first_seqnum, use.records]
        if use is not None:
            return [unit.number, VERDICT_KEY_REUSED, use.first_seqnum, unit.key]
    ended = first_ended(unit, book)
    if ended is not None:
        return [unit.number, VERDICT_TAGS_ENDED, ended, None]
    for tag, after in unit.tests:
        winner = book.last(tag)
        if winner > max(after, 0):  # 0 is no record, whatever a peer tests for
            return [unit.number, VERDICT_CONDITION_FAILED, tag, winner]
    return [unit.number, VERDICT_VISIBLE, unit.first_seqnum, None]


def first_ended(unit: Unit, book: BookView) -> str | None:
    """The first ended prefix that the unit writes or tests a tag under."""
    for tags in unit.tags:
        for tag in (tags,) if isinstance(tags, str) else tags or ():
            if (prefix := book.ended_prefix(tag)) is not None:
                return prefix
    for tested, _ in unit.tests:
        if tested is not None and (prefix := book.ended_prefix(tested)) is not None:
            return prefix
    return None
