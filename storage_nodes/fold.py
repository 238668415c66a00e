"""What every entry of the metalog does to the index, at its place in the order.

Decides what follows from an entry, alike on every replica: which frames get which seqnums and rows,
which units of a cut are void (P22, `unit_verdicts.py`), how far a trim gets (P25, `books.py`),
which keys are forgotten, which shards are open. An entry that makes no sense does nothing, at its
place (P34, `proposals.py`).

Invariants:
- Entries are applied once each, in order; a cut comes with exactly the frames that it orders, and
  with what of them no replica has (P24).
- `Index.chained_hash` covers the entries, the frames they order and the void units (P24), so
  replicas that disagree are found.

It keeps nothing itself: all state is the index's. Does not know when an entry may be folded
(`folding.py`), what is durable, who is answered, nor bytes of records.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from xxhash import xxh3_64_intdigest

from bokilog.codec import pack
from bokilog.cut import record_count
from bokilog.errors import BokilogError
from bokilog.frame import Frame
from bokilog.ids import Position, Term
from bokilog.journal import Location
from bokilog.limits import SEQNUM_FIRST
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    ForgetKeys,
    Hold,
    Lost,
    OpenShard,
    Release,
    Retain,
    StartOver,
    Trim,
    entry_to_plain,
)
from bokilog.named import NamedTuple
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.locations import ALL_VOID, LOST, Row
from bokilog.storage_nodes.proposals import problem_of
from bokilog.storage_nodes.unit_verdicts import decide_units, not_derived

_CHAIN: Final = Struct("<QI")
_COUNT: Final = Struct("<I")
_NO_VOIDS: Final = pack([])


class FrameOutcome(NamedTuple):
    """What became of an ordered frame.

    `verdicts` has `[unit, VERDICT_*, a, b]` of each unit that has a condition, a key or a library's
    tag, or is void.
    """

    first_seqnum: int
    frame: Frame
    verdicts: list[list[object]]
    void_units: tuple[int, ...]


class Fold:
    """Moves an index on, entry by entry."""

    __slots__ = ("index",)

    def __init__(self, index: Index) -> None:
        self.index = index

    # --- cuts ---

    def apply_cut(
        self,
        position: Position,
        cut: Cut,
        frames: Sequence[tuple[int, Frame, Location]],
        *,
        gaps: Sequence[tuple[int, int]] = (),
    ) -> list[FrameOutcome]:
        """Order the records of a cut and decide their units.

        Args:
            position: the position that this entry leads to.
            cut: its spans cover exactly the frames' records.
            frames: every frame of the cut, in order, with the seqnum of its first record and its
                place in the journal.
            gaps: first seqnum and number of records that no replica has, in order (P24).
        """
        index = self.index
        timestamp_ms, tail, spans = cut
        assert tail >= index.tail, f"the cut at {tail} orders again"
        _enter(index, position, timestamp_ms)
        index.shards.advance(spans)
        index.local_ids.add(position[0], tail, spans)
        end = tail + record_count(spans)
        outcomes = []
        lost = iter(gaps)
        gap = next(lost, None) if gaps else None
        for first_seqnum, frame, location in frames:
            while gap is not None and gap[0] < first_seqnum:
                tail = _apply_gap(index, tail, gap)
                gap = next(lost, None)
            assert first_seqnum == tail, f"the frame at {first_seqnum} leaves a gap from {tail}"
            tail += frame.records
            outcomes.append(self._apply_frame(first_seqnum, frame, location))
        while gap is not None:
            tail = _apply_gap(index, tail, gap)
            gap = next(lost, None)
        assert tail == end, "a cut without all its frames"
        index.tail = tail
        index.empty = False
        _chain(index, cut, outcomes, gaps)
        return outcomes

    def _apply_frame(self, first_seqnum: int, frame: Frame, location: Location) -> FrameOutcome:
        index = self.index
        columns = frame.columns
        books = columns.books
        verdicts: list[list[object]] = []
        void_units: tuple[int, ...] = ()
        if (
            isinstance(books, int)
            and not columns.needs_verdict
            and books not in index.books.deleted
        ):
            index.postings.add(books, first_seqnum, columns.tags)
        else:
            verdicts, void_units = decide_units(index, first_seqnum, columns)
            kept = not_derived(columns, verdicts)
            if kept:
                index.key_uses.add_verdicts(first_seqnum, kept, index.timestamp_ms)
        row = Row(first_seqnum, frame.records, location, index.timestamp_ms, void_units)
        index.locations.add(row)
        index.segments.ordered(
            location[0],
            books,
            first_seqnum + frame.records - 1,
            first_seqnum=first_seqnum,
            size_bytes=location[2],
        )
        return FrameOutcome(first_seqnum, frame, verdicts, void_units)

    # --- other entries ---

    def apply(self, position: Position, entry: Entry) -> list[object] | BokilogError:
        """Apply an entry that is no cut.

        Returns:
            The answer to its proposer: of a trim `[until, held_by or None]`, else `[]`; or the
            error that says why it did nothing. An error is applied, too: the position moves on.
        """
        _enter(self.index, position, entry.timestamp_ms)
        self.index.hiding_count = position.count
        answer = _apply(self.index, entry)
        _chain(self.index, entry, ())
        return answer

    # --- terms ---

    def begin_term(self, term: Term, *, tail: int, given_up: bool = False) -> None:
        """A stored view ended the term before at this position; its shards are closed (P13).

        Args:
            term: of the view.
            tail: first seqnum of the term.
            given_up: whether records are lost that had seqnums below it (P15): they are not absent.
        """
        index = self.index
        assert term > index.position.term and tail >= index.tail, "terms and tails only grow"
        index.position = Position(term, index.position.count)
        if given_up and index.tail < tail:
            index.locations.given_up += ((index.tail, tail),)
        index.tail = tail
        index.shards.end_term()

    def start_over(self, position: Position, *, tail: int) -> None:
        """What came before is lost on every replica: an empty fold begins here (P20)."""
        index = self.index
        assert not index.position.count, "a fold that applied something cannot start over"
        index.position = index.generations.stored_position = position
        index.locations.given_up = ((SEQNUM_FIRST, tail),)
        index.tail = tail


def _enter(index: Index, position: Position, timestamp_ms: int) -> None:
    term, count = position
    last_term, last_count = index.position
    assert count == last_count + 1, (
        f"the entry that leads to {position} does not follow {index.position}"
    )
    assert term >= last_term, f"{position} is of an earlier term"
    if term > last_term:
        index.shards.end_term()
    index.position = position
    if timestamp_ms > index.timestamp_ms:
        index.timestamp_ms = timestamp_ms


def _apply_gap(index: Index, tail: int, gap: tuple[int, int]) -> int:
    """Records that keep their seqnums, and of which nothing else is known."""
    first_seqnum, records = gap
    assert first_seqnum == tail, f"the loss at {first_seqnum} leaves a gap from {tail}"
    index.locations.add(Row(first_seqnum, records, LOST, index.timestamp_ms, ALL_VOID))
    return tail + records


def _apply(index: Index, entry: Entry) -> list[object] | BokilogError:
    now_ms = index.timestamp_ms
    problem = problem_of(entry)
    if problem is not None:
        return problem
    match entry:
        case Trim():
            return index.books.trim(entry, tail=index.tail, now_ms=now_ms)
        case Hold():
            return index.books.hold(entry, tail=index.tail, now_ms=now_ms)
        case Release():
            index.books.release(entry.book, entry.name)
        case DeleteBook():
            _delete_book(index, entry.book)
        case EndTags():
            index.books.end_tags(entry.book, entry.prefix)
        case Retain():
            index.books.retain(entry)
        case ForgetKeys():
            index.key_uses.forget(entry.timestamp_ms)
        case OpenShard():
            index.shards.open(entry)
        case CloseShard():
            index.shards.close(entry.number)
        case Lost():
            pass  # the replica heeded it at the cut
        case StartOver():
            pass  # told by the replica, before it is applied
        case Cut():
            raise AssertionError("a cut is applied with its frames, by apply_cut")
    return []


def _delete_book(index: Index, book: int) -> None:
    if book not in index.books.deleted:
        index.books.delete(book)
        index.postings.delete_book(book)
        index.key_uses.delete_book(book)


def _chain(
    index: Index,
    entry: Entry,
    outcomes: Sequence[FrameOutcome],
    gaps: Sequence[tuple[int, int]] = (),
) -> None:
    """Once per entry: over the entry, its frames' identities and what is void in them."""
    encoded = pack(entry_to_plain(entry))
    parts = [_CHAIN.pack(index.chained_hash, len(encoded)), encoded, _COUNT.pack(len(outcomes))]
    voids = []
    for first_seqnum, frame, _, void_units in outcomes:
        parts.append(frame.header[-8:])
        if void_units:
            voids.append((first_seqnum, void_units))
    parts.append(pack(voids) if voids else _NO_VOIDS)
    if gaps:
        parts.append(pack([list(gap) for gap in gaps]))
    index.chained_hash = xxh3_64_intdigest(b"".join(parts))
