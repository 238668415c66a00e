"""Which units of an ordered frame are void, and which verdicts on them are kept.

Decides unit by unit, as `bokilog/conditions.py` says, each against the state that the ones before
it left; so what a visible unit leaves behind, postings and the use of its key, is noted here before
the next unit is looked at (P22). A frame whose columns do not fit is void as a whole (P34).

Verdicts are told of each unit that has a condition, a key or a library's tag, or is void. Not all
of them are kept: that a unit without condition or key is visible follows from its frame, and from
what is void in it. So two sides of one decision stand here: what is left out when a frame is
folded, and how that is derived when an engine asks again (P23).

Invariant: every replica decides alike, from what was ordered before the unit, and nothing else.

Does not know: how a unit is decided, how its state is kept (`books.py`, `key_uses.py`,
`postings.py`), or who is told.
"""

from __future__ import annotations

from typing import cast

from bokilog.columns import Columns
from bokilog.conditions import KeyUse, Unit, decide
from bokilog.frame import Frame
from bokilog.messages import VERDICT_MALFORMED, VERDICT_VISIBLE
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.key_uses import expiry_ms
from bokilog.storage_nodes.postings import WHOLE_BOOK

Verdicts = list[list[object]]
"""`[unit, VERDICT_*, a, b]` each, as `bokilog/messages.py` says."""


def decide_units(
    index: Index, frame_seqnum: int, columns: Columns
) -> tuple[Verdicts, tuple[int, ...]]:
    """Decide and index the units of the frame at `frame_seqnum`: verdicts, void units."""
    if columns.problem:
        malformed = range(columns.units)
        return [[n, VERDICT_MALFORMED, None, None] for n in malformed], tuple(malformed)
    tests = dict(columns.unless)
    uses = {unit: (key, digest, horizon_s) for unit, key, digest, horizon_s in columns.keys}
    system_units = set(columns.system_units)
    views: dict[int, _View] = {}
    verdicts: Verdicts = []
    void: list[int] = []
    for number, (start, until) in enumerate(columns.unit_bounds()):
        book = columns.book_of(number)
        view = views.get(book)
        if view is None:
            view = views[book] = _View(book, index)
        first_seqnum = frame_seqnum + start
        tags = columns.tags[start:until]
        key, digest, horizon_s = uses.get(number, (None, b"", 0))
        unit = Unit(number, first_seqnum, tags, tests.get(number, ()), key, digest)
        verdict = decide(unit, view)
        visible = verdict[1] == VERDICT_VISIBLE
        if visible:
            index.postings.add(book, first_seqnum, tags)
            if key is not None:
                expires_ms = expiry_ms(index.timestamp_ms, horizon_s)
                use = KeyUse(first_seqnum, until - start, digest, expires_ms)
                index.key_uses.add(book, key, use)
        else:
            void.append(number)
        if not visible or key is not None or number in tests or number in system_units:
            verdicts.append(verdict)
    return verdicts, tuple(void)


def not_derived(columns: Columns, verdicts: Verdicts) -> Verdicts:
    """Verdicts that have to be kept: `verdicts_of` cannot tell them from the frame."""
    if not columns.system_units:
        return verdicts
    decided = {unit for unit, _ in columns.unless} | {unit for unit, *_ in columns.keys}
    return [each for each in verdicts if each[1] != VERDICT_VISIBLE or each[0] in decided]


def verdicts_of(index: Index, frame: Frame, first_seqnum: int) -> Verdicts:
    """Verdicts on an ordered frame's units, as when it was folded (P23).

    Empty when no unit needed one and none is void, or after the longest key horizon.
    """
    assert first_seqnum + frame.records <= index.tail, "the frame is not folded yet"
    found = index.key_uses.verdicts(first_seqnum)
    columns = frame.columns
    if not columns.system_units:
        return found
    row = index.locate(first_seqnum)
    decided = {*(each[0] for each in found), *(row.void_units if row is not None else ())}
    bounds = columns.unit_bounds()
    visible: Verdicts = [
        [unit, VERDICT_VISIBLE, first_seqnum + bounds[unit][0], None]
        for unit in columns.system_units
        if unit not in decided
    ]
    return sorted([*found, *visible], key=_unit_of)


class _View:
    """A LogBook as `conditions.decide` looks at it."""

    __slots__ = ("_book", "_key_uses", "_number", "_postings")

    def __init__(self, number: int, index: Index) -> None:
        self._number = number
        self._book = index.books.get(number)
        self._key_uses = index.key_uses
        self._postings = index.postings

    @property
    def deleted(self) -> bool:
        return self._book is not None and self._book.deleted

    def key_use(self, key: str) -> KeyUse | None:
        return self._key_uses.use(self._number, key)

    def ended_prefix(self, tag: str) -> str | None:
        return None if self._book is None else self._book.ended_prefix(tag)

    def last(self, tag: str | None) -> int:
        if tag == "":
            return 0  # no record has it; in the postings it stands for the whole LogBook
        return self._postings.last(self._number, WHOLE_BOOK if tag is None else tag)


def _unit_of(verdict: list[object]) -> int:
    return cast(int, verdict[0])
