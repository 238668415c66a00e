"""The fold of one log space: metalog entries and frames in, what can be read and decided out.

Decides what every entry does, at its place in the order and alike on every replica: which units of
a cut are void (P22), how far a trim gets (P25), which keys are forgotten. Answers which seqnums a
tag has and where frames lie. Composes the parts that keep the state: `postings`, `locations`,
`key_uses`, `books`, `aux_data`, `retention`.

Invariants:
- Entries are applied once each, in order; `chained_hash` covers them, the frames they order and
  the void units (P24), so replicas that disagree are found.
- What is not in the store is in RAM: an *active* generation, and during a checkpoint a *frozen*
  one. A checkpoint is one atomic batch with everything of the frozen position and nothing later,
  and a crash between two costs only RAM: the journal is folded again from `stored_position` (P19).

Does not know when an entry may be folded, what is durable, bytes of records: the replica does.
Differs from Boki, whose index lives in memory and is rebuilt from the whole metalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Final, cast

from xxhash import xxh3_64_intdigest

from bokilog.codec import pack
from bokilog.conditions import KeyUse, Unit, decide
from bokilog.cut import CutSpan, record_count
from bokilog.errors import BokilogError, InvalidRange, InvalidSettings, InvalidTag
from bokilog.frame import Columns, Frame
from bokilog.ids import START, SYSTEM_BOOK, Position, Term
from bokilog.journal import Location
from bokilog.limits import HOLD_NAME_BYTES_MAX, TAG_BYTES_MAX
from bokilog.messages import VERDICT_MALFORMED, VERDICT_VISIBLE
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
from bokilog.record import SYSTEM_TAG_PREFIX
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.aux_data import AuxData
from bokilog.storage_nodes.books import Books, Retention
from bokilog.storage_nodes.index_store import Batch, IndexStore, prefix_end
from bokilog.storage_nodes.key_uses import KeyUses, expiry_ms
from bokilog.storage_nodes.keys import Lacking, Meta, StoredShard
from bokilog.storage_nodes.local_ids import LocalIds, OrderedSpan
from bokilog.storage_nodes.locations import ALL_VOID, LOST, Locations, Row
from bokilog.storage_nodes.postings import WHOLE_BOOK, Postings
from bokilog.storage_nodes.retention import SegmentBooks

__all__ = ["FrameOutcome", "Index", "IndexStats", "OpenedShard", "Row"]

FIRST_SEQNUM = 1
_CHAIN: Final = Struct("<QI")
_COUNT: Final = Struct("<I")
_NO_VOIDS: Final = pack([])
POSTINGS_MAX = 200_000
GENERATION_BYTES_MAX = 64 << 20
"""Size of a generation that asks for a checkpoint before its time (P19)."""
ROW_POSTINGS = 4
"""A row of a frame takes about as much as so many postings."""


class FrameOutcome(NamedTuple):
    """What became of an ordered frame.

    `verdicts` has `[unit, VERDICT_*, a, b]` of each unit that has a condition, a key or a library's
    tag, or is void.
    """

    first_seqnum: int
    frame: Frame
    verdicts: list[list[object]]
    void_units: tuple[int, ...]


class OpenedShard:
    """A shard that is open in the current term."""

    __slots__ = ("engine", "ordered", "replicas")

    def __init__(self, engine: str, replicas: tuple[str, ...], ordered: int = 0) -> None:
        self.engine = engine
        self.replicas = replicas
        self.ordered = ordered
        """Its records below this count are ordered."""


class IndexStats(NamedTuple):
    """What an index holds, for `status` and for tests."""

    position: Position
    stored_position: Position
    tail: int
    books: int
    """LogBooks that were trimmed, held, deleted or had tags ended."""
    active_postings: int
    frozen_postings: int
    active_frames: int
    frozen_frames: int
    active_bytes: int
    """Estimate for keys, verdicts and aux data."""
    checkpoints: int
    aux_dropped: int


class Index:
    """The fold of one log space.

    Args:
        space: number of the log space; a store of another one is refused.
        store: where checkpoints go; its state is loaded.
        postings_max: size of a generation that asks for a checkpoint (`full`).

    Raises:
        InvalidSettings: the store belongs to another log space.
        FormatTooNew: a later version wrote it.
    """

    __slots__ = (
        "_aux",
        "_batch",
        "_books",
        "_checkpoints",
        "_frozen",
        "_frozen_closed",
        "_frozen_lacking",
        "_frozen_shards",
        "_key_uses",
        "_local_ids",
        "_locations",
        "_postings",
        "_postings_max",
        "_store",
        "chained_hash",
        "closed_shards",
        "empty",
        "lacking",
        "open_shards",
        "position",
        "replay_hint",
        "segments",
        "space",
        "stored_position",
        "tail",
        "timestamp_ms",
    )

    def __init__(self, space: int, store: IndexStore, *, postings_max: int = POSTINGS_MAX) -> None:
        self._store = store
        self._postings_max = postings_max
        self._checkpoints = 0
        self.segments = _stored_segments(store)
        self._load(space)

    def _load(self, space: int) -> None:
        store = self._store
        found = store.get(keys.META)
        if found is None:
            _discard_rows(store)
        meta = Meta(space, START, FIRST_SEQNUM, 0, 0, 0, b"")
        if found is not None:
            meta = keys.decode_meta(found)
        if meta.space != space:
            problem = f"does not fit: the index store holds log space {meta.space}"
            raise InvalidSettings("space", str(space), problem)
        self.space = space
        self.position = self.stored_position = meta.position
        self.tail = meta.tail
        """First seqnum not ordered."""
        self.empty = found is None
        """No record was ever folded here."""
        self.timestamp_ms = meta.timestamp_ms
        self.chained_hash = meta.chained_hash
        self.replay_hint = meta.replay_hint
        """What `freeze` was given for the stored position."""
        self.open_shards = _stored_shards(store)
        self.closed_shards = _stored_closed(store)
        """Of the position's term: a frame of one that is not ordered never will be (P2)."""
        self._postings = Postings(store, meta.tail if found is not None else 0)
        self._locations = Locations(store, meta.tail if found is not None else 0)
        self._local_ids = LocalIds(store)
        self._key_uses = KeyUses(store, meta.forgotten_ms)
        self._books = Books(store)
        self._aux = AuxData(store)
        value = store.get(keys.LACKING)
        self.lacking: Lacking | None = None if value is None else keys.decode_lacking(value)
        """Frames that are still to be copied here, after a load from a peer."""
        self._frozen_lacking = self.lacking
        self._frozen: Meta | None = None
        """Where the checkpoint under way stands."""
        self._frozen_shards: dict[int, StoredShard] = {}
        self._frozen_closed: frozenset[int] = frozenset()
        self._batch: Batch | None = None

    # --- a fold from a peer ---

    @property
    def store(self) -> IndexStore:
        """Where checkpoints go; a peer's fold is read from it, and written to it."""
        return self._store

    def places(self) -> Iterator[tuple[int, Location]]:
        """First seqnum and place of every ordered frame, in order."""
        return self._locations.places()

    def spans(self, start: int, until: int) -> Iterator[OrderedSpan]:
        """Of which shards the records in `[start, until)` are, in order."""
        return self._local_ids.spans(start, until)

    def store_segments(self, batch: Batch) -> None:
        """Put what is known of this journal's segments, which outlives the fold it came from."""
        self.segments.freeze()
        for _ in self.segments.steps(batch):
            pass

    def reload(self) -> None:
        """Another fold has been written to the store: go on with that one.

        It may not be flushed yet, so it counts as stored only once a checkpoint is through (P19).
        """
        self.segments.done()
        self._load(self.space)
        self.stored_position = START

    # --- the fold: cuts ---

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
        timestamp_ms, tail, spans = cut
        assert tail >= self.tail, f"the cut at {tail} orders again"
        self._enter(position, timestamp_ms)
        self._advance_shards(spans)
        self._local_ids.add(position[0], tail, spans)
        end = tail + record_count(spans)
        outcomes = []
        lost = iter(gaps)
        gap = next(lost, None)
        for first_seqnum, frame, location in frames:
            while gap is not None and gap[0] < first_seqnum:
                tail = self._apply_gap(tail, *gap)
                gap = next(lost, None)
            assert first_seqnum == tail, f"the frame at {first_seqnum} leaves a gap from {tail}"
            tail += frame.records
            outcomes.append(self._apply_frame(first_seqnum, frame, location))
        while gap is not None:
            tail = self._apply_gap(tail, *gap)
            gap = next(lost, None)
        assert tail == end, "a cut without all its frames"
        self.tail = tail
        self.empty = False
        self._chain(cut, outcomes, gaps)
        return outcomes

    def _apply_gap(self, tail: int, first_seqnum: int, records: int) -> int:
        """Records that keep their seqnums, and of which nothing else is known."""
        assert first_seqnum == tail, f"the loss at {first_seqnum} leaves a gap from {tail}"
        self._locations.add(Row(first_seqnum, records, LOST, self.timestamp_ms, ALL_VOID))
        return tail + records

    def _apply_frame(self, first_seqnum: int, frame: Frame, location: Location) -> FrameOutcome:
        columns = frame.columns
        books = columns.books
        verdicts: list[list[object]] = []
        void_units: tuple[int, ...] = ()
        if (
            isinstance(books, int)
            and not columns.needs_verdict
            and books not in self._books.deleted
        ):
            self._postings.add(books, first_seqnum, columns.tags)
        else:
            verdicts, void_units = self._decide_units(first_seqnum, columns)
            kept = _not_derived(columns, verdicts)
            if kept:
                self._key_uses.add_verdicts(first_seqnum, kept, self.timestamp_ms)
        row = Row(first_seqnum, frame.records, location, self.timestamp_ms, void_units)
        self._locations.add(row)
        self.segments.ordered(
            location[0],
            books,
            first_seqnum + frame.records - 1,
            first_seqnum=first_seqnum,
            size_bytes=location[2],
        )
        return FrameOutcome(first_seqnum, frame, verdicts, void_units)

    def _decide_units(
        self, frame_seqnum: int, columns: Columns
    ) -> tuple[list[list[object]], tuple[int, ...]]:
        """Decide and index unit by unit, each against the state that the ones before it left."""
        if columns.problem:  # void as a whole, on every replica (P34)
            malformed = range(columns.units)
            return [[n, VERDICT_MALFORMED, None, None] for n in malformed], tuple(malformed)
        tests = dict(columns.unless)
        uses = {unit: (key, digest, horizon_s) for unit, key, digest, horizon_s in columns.keys}
        system_units = set(columns.system_units)
        views: dict[int, _View] = {}
        verdicts: list[list[object]] = []
        void: list[int] = []
        for number, (start, until) in enumerate(columns.unit_bounds()):
            book = columns.book_of(number)
            view = views.get(book)
            if view is None:
                view = views[book] = _View(book, self._books, self._key_uses, self._postings)
            first_seqnum = frame_seqnum + start
            tags = columns.tags[start:until]
            key, digest, horizon_s = uses.get(number, (None, b"", 0))
            unit = Unit(number, first_seqnum, tags, tests.get(number, ()), key, digest)
            verdict = decide(unit, view)
            visible = verdict[1] == VERDICT_VISIBLE
            if visible:
                self._postings.add(book, first_seqnum, tags)
                if key is not None:
                    expires_ms = expiry_ms(self.timestamp_ms, horizon_s)
                    use = KeyUse(first_seqnum, until - start, digest, expires_ms)
                    self._key_uses.add(book, key, use)
            else:
                void.append(number)
            if not visible or key is not None or number in tests or number in system_units:
                verdicts.append(verdict)
        return verdicts, tuple(void)

    def _advance_shards(self, spans: Sequence[CutSpan]) -> None:
        for number, start, until in spans:
            shard = self.open_shards.get(number)
            assert shard is not None, f"a cut of shard {number}, which is not open (P1)"
            assert shard.ordered == start, (
                f"a cut of shard {number} from {start}, ordered are {shard.ordered}"
            )
            shard.ordered = until

    # --- the fold: other entries ---

    def apply(self, position: Position, entry: Entry) -> list[object] | BokilogError:
        """Apply an entry that is no cut.

        Returns:
            The answer to its proposer: of a trim `[until, held_by or None]`, else `[]`; or the
            error that says why it did nothing. An error is applied, too: the position moves on.
        """
        self._enter(position, entry.timestamp_ms)
        answer = self._apply(entry)
        self._chain(entry, ())
        return answer

    def _apply(self, entry: Entry) -> list[object] | BokilogError:
        now_ms = self.timestamp_ms
        problem = _problem(entry)
        if problem is not None:
            return problem
        match entry:
            case Trim():
                return self._books.trim(entry, tail=self.tail, now_ms=now_ms)
            case Hold():
                return self._books.hold(entry, tail=self.tail, now_ms=now_ms)
            case Release():
                self._books.release(entry.book, entry.name)
            case DeleteBook():
                self._delete_book(entry.book)
            case EndTags():
                self._books.end_tags(entry.book, entry.prefix)
            case Retain():
                self._books.retain(entry)
            case ForgetKeys():
                self._key_uses.forget(entry.timestamp_ms)
            case OpenShard():
                opened = OpenedShard(entry.engine, entry.replicas)
                self.open_shards.setdefault(entry.number, opened)  # asked for twice: still one
            case CloseShard():
                self.open_shards.pop(entry.number, None)
                self.closed_shards.add(entry.number)
            case Lost():
                pass  # the replica heeded it at the cut
            case StartOver():
                pass  # told by the replica, before it is applied
            case Cut():
                raise AssertionError("a cut is applied with its frames, by apply_cut")
        return []

    def _delete_book(self, book: int) -> None:
        if book not in self._books.deleted:
            self._books.delete(book)
            self._postings.delete_book(book)
            self._key_uses.delete_book(book)

    def begin_term(self, term: Term, *, tail: int) -> None:
        """A stored view ended the term before at this position; its shards are closed (P13)."""
        assert term > self.position.term and tail >= self.tail, "terms and tails only grow"
        self.position = Position(term, self.position.count)
        self.tail = tail
        self._close_all()

    def start_over(self, position: Position, *, tail: int) -> None:
        """What came before is lost on every replica: an empty fold begins here (P20)."""
        assert not self.position.count, "a fold that applied something cannot start over"
        self.position = self.stored_position = position
        self.tail = tail

    def _enter(self, position: Position, timestamp_ms: int) -> None:
        term, count = position
        last_term, last_count = self.position
        assert count == last_count + 1, (
            f"the entry that leads to {position} does not follow {self.position}"
        )
        assert term >= last_term, f"{position} is of an earlier term"
        if term > last_term:
            self._close_all()
        self.position = position
        if timestamp_ms > self.timestamp_ms:
            self.timestamp_ms = timestamp_ms

    def _close_all(self) -> None:
        """A term is over: its shards are named by it, and the next one's are others (P1)."""
        self.open_shards.clear()
        self.closed_shards.clear()

    def _chain(
        self,
        entry: Entry,
        outcomes: Sequence[FrameOutcome],
        gaps: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Once per entry: over the entry, its frames' identities and what is void in them."""
        encoded = pack(entry_to_plain(entry))
        parts = [_CHAIN.pack(self.chained_hash, len(encoded)), encoded, _COUNT.pack(len(outcomes))]
        voids = []
        for first_seqnum, frame, _, void_units in outcomes:
            parts.append(frame.header[-8:])
            if void_units:
                voids.append((first_seqnum, void_units))
        parts.append(pack(voids) if voids else _NO_VOIDS)
        if gaps:
            parts.append(pack([list(gap) for gap in gaps]))
        self.chained_hash = xxh3_64_intdigest(b"".join(parts))

    # --- reads ---

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
        """Visible seqnums in `[start, until)`, up to `limit`, from the start or from the end.

        Trims of the LogBook and of `tag` are applied. For `tag=None` the reader leaves out records
        all of whose tags are trimmed past them (`has_tag_trims`, `hidden_by_tag_trims`).
        """
        start = max(start, self.trim_until(book, tag))
        until = min(until, self.tail)
        found = tag if tag is not None else WHOLE_BOOK
        return self._postings.seqnums(book, found, start, until, limit=limit, reverse=reverse)

    def contains(self, book: int, seqnum: int) -> bool:
        """Whether a record of this LogBook stands at `seqnum`: ordered, not void, not trimmed."""
        if not self.trim_until(book) <= seqnum < self.tail:
            return False
        return self._postings.contains(book, seqnum)

    def last(self, book: int, tag: str | None) -> int:
        """Last seqnum a tag ever had, trimmed or not, 0 for none: what conditions test."""
        if book in self._books.deleted:
            return 0
        return self._postings.last(book, tag if tag is not None else WHOLE_BOOK)

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum for readers of `tag` (None: of every record); deleted: the tail."""
        return self._books.trim_until(book, tag, self.tail)

    def trims_of(self, book: int) -> list[list[object]]:
        """`[book, tag or None, until]` of everything trimmed in a LogBook."""
        return self._books.trims_of(book)

    def has_tag_trims(self, book: int) -> bool:
        """Whether records may be hidden because all their tags are trimmed."""
        found = self._books.get(book)
        return found is not None and found.tag_trims

    def hidden_by_tag_trims(self, book: int, seqnum: int, tags: Sequence[str]) -> bool:
        """Whether every one of a record's tags, and it has some, is trimmed past it."""
        return bool(tags) and all(seqnum < self._books.tag_trim(book, tag) for tag in tags)

    @property
    def deleted_books(self) -> set[int]:
        return self._books.deleted

    @property
    def retained(self) -> Mapping[int, Retention]:
        """LogBooks that keep a bounded time, or bounded bytes."""
        return self._books.retained

    def trim_reach(self, book: int, until: int, *, now_ms: int) -> int:
        """How far a trim of the LogBook would get at that time, by its holds and the tail."""
        return self._books.trim_reach(book, until, tail=self.tail, now_ms=now_ms)

    def book_state(self, book: int) -> tuple[int, int, int, list[list[object]]]:
        """`(trim_until, records, last seqnum, [[hold, seqnum, expiry in ms], ...])`.

        `records` counts those at or past the LogBook's trim, also what trims of tags hide.
        """
        trim_until = self.trim_until(book)
        found = self._books.get(book)
        if found is not None and found.deleted:
            return trim_until, 0, 0, []
        holds: list[list[object]] = []
        if found is not None:
            holds += (
                [name, hold.seqnum, hold.expiry_ms]
                for name, hold in found.holds.items()
                if hold.expiry_ms > self.timestamp_ms
            )
        records = self._postings.count_from(book, trim_until)
        return trim_until, records, self.last(book, None), holds

    def locate(self, seqnum: int) -> Row | None:
        """The ordered frame that holds `seqnum`, void or not."""
        return self._locations.locate(seqnum)

    def is_lost(self, seqnum: int) -> bool:
        """Whether no replica has index data of what was ordered there (P24)."""
        row = self._locations.locate(seqnum)
        return row is not None and row.void_units == ALL_VOID

    def locate_range(self, start: int, until: int, *, limit: int = 1000) -> list[Row]:
        """Up to `limit` ordered frames that hold a seqnum in `[start, until)`, in order."""
        return self._locations.locate_range(start, until, limit=limit)

    def relocate(
        self, first_seqnum: int, location: Location, *, books: int | list[int] | None = None
    ) -> bool:
        """The frame at `first_seqnum` lies elsewhere now: a failed sync, compaction, repair.

        Without its `books`, all those of the segment it was in count for the new one.
        """
        row = self._locations.locate(first_seqnum)
        if row is None or not self._locations.relocate(first_seqnum, location):
            return False
        if books is not None:
            self.segments.ordered(
                location[0],
                books,
                first_seqnum + row.records - 1,
                first_seqnum=first_seqnum,
                size_bytes=location[2],
            )
            return True
        for book, seqnum in self.segments.books_of(row.location[0]).items():
            self.segments.ordered(location[0], book, seqnum)  # too much rather than too little
        return True

    def seqnum_at(self, timestamp_ms: int) -> int:
        """First seqnum whose cut is at or after that time; the tail when there is none."""
        found = self._locations.seqnum_at(timestamp_ms)
        return self.tail if found is None else found

    def verdicts_of(self, frame: Frame, first_seqnum: int) -> list[list[object]]:
        """Verdicts on an ordered frame's units, as when it was folded (P23).

        Empty when no unit needed one and none is void, or after the longest key horizon.
        """
        assert first_seqnum + frame.records <= self.tail, "the frame is not folded yet"
        found = self._key_uses.verdicts(first_seqnum)
        columns = frame.columns
        if not columns.system_units:
            return found
        row = self._locations.locate(first_seqnum)
        decided = {*(each[0] for each in found), *(row.void_units if row is not None else ())}
        bounds = columns.unit_bounds()
        visible: list[list[object]] = [
            [unit, VERDICT_VISIBLE, first_seqnum + bounds[unit][0], None]
            for unit in columns.system_units
            if unit not in decided
        ]
        return sorted([*found, *visible], key=_unit_of)

    @property
    def has_aux(self) -> bool:
        return self._aux.any

    def get_aux(self, seqnum: int) -> bytes | None:
        """Aux data beside a record that the caller found visible."""
        return self._aux.get(seqnum)

    def set_aux(self, seqnum: int, aux: bytes) -> None:
        """Keep aux data beside a record that the caller found visible; the last one stays."""
        self._aux.set(seqnum, aux)

    # --- checkpoints ---

    @property
    def full(self) -> bool:
        """Whether the active generation is large enough for a checkpoint before its time."""
        size = self._postings.count + ROW_POSTINGS * self._locations.count
        in_bytes = self._key_uses.size_bytes + self._aux.size_bytes
        return size >= self._postings_max or in_bytes >= GENERATION_BYTES_MAX

    @property
    def frozen(self) -> bool:
        """Whether a checkpoint is under way: frozen, and not yet done."""
        return self._frozen is not None

    def freeze(self, *, replay_hint: bytes = b"") -> bool:
        """Set the state of this position aside for a checkpoint, and start a new generation.

        False if there is nothing to store, or a checkpoint is under way. `replay_hint` is given
        back by an index that starts from it.
        """
        if self.frozen or not self._changed(replay_hint):
            return False
        self._frozen = Meta(
            space=self.space,
            position=self.position,
            tail=self.tail,
            timestamp_ms=self.timestamp_ms,
            chained_hash=self.chained_hash,
            forgotten_ms=self._key_uses.forgotten_ms,
            replay_hint=replay_hint,
        )
        self._frozen_shards = {
            number: StoredShard(shard.engine, shard.replicas, shard.ordered)
            for number, shard in self.open_shards.items()
        }
        self._frozen_closed = frozenset(self.closed_shards)
        self._frozen_lacking = self.lacking
        self._postings.freeze(self._books.freeze())
        self._locations.freeze()
        self._local_ids.freeze()
        self._key_uses.freeze()
        self._aux.freeze()
        self.segments.freeze()
        return True

    def checkpoint_steps(self) -> Iterator[None]:
        """Build the frozen generation's batch, about 1 ms of work between two yields.

        May be started again when a write failed. The fold goes on between steps.
        """
        frozen = self._frozen
        assert frozen is not None, "nothing is frozen"
        batch = self._store.batch()
        self._batch = None
        yield from self._books.steps(batch)
        yield from self._postings.steps(batch, ended=self._books.frozen_ended)
        yield from self._locations.steps(batch, known=self._is_kept)
        yield from self._local_ids.steps(batch, forgotten_below=self._locations.forgotten_below)
        yield from self._key_uses.steps(batch, count=frozen.position.count)
        yield from self._aux.steps(batch, forgotten_below=self._locations.forgotten_below)
        yield from self.segments.steps(batch)
        batch.put(keys.SHARDS, keys.encode_shards(self._frozen_shards))
        batch.put(keys.CLOSED, keys.encode_closed(self._frozen_closed))
        if self._frozen_lacking is None:
            batch.delete(keys.LACKING)
        else:
            batch.put(keys.LACKING, keys.encode_lacking(self._frozen_lacking))
        batch.put(keys.META, keys.encode_meta(frozen))
        self._batch = batch

    def write_checkpoint(self) -> None:
        """Write what `checkpoint_steps` built, and flush; may run in a thread.

        After an exception start again with `checkpoint_steps`; nothing is lost but time.
        """
        batch, self._batch = self._batch, None
        assert batch is not None, "the checkpoint's steps are not through"
        self._store.write(batch)
        self._store.flush()

    def checkpoint_done(self) -> None:
        """The flush is over: the frozen generation is read from the store from here on."""
        frozen = self._frozen
        assert frozen is not None, "nothing is frozen"
        self._postings.done(frozen.tail)
        self._locations.done(frozen.tail)
        self._local_ids.done()
        self._key_uses.done()
        self._books.done()
        self._aux.done()
        self.segments.done()
        self.stored_position = frozen.position
        self.replay_hint = frozen.replay_hint
        self._frozen = None
        self._checkpoints += 1

    def checkpoint(self, *, replay_hint: bytes = b"") -> None:
        """A whole checkpoint at once: for tools and tests, where nobody waits."""
        if self.freeze(replay_hint=replay_hint):
            for _ in self.checkpoint_steps():
                pass
            self.write_checkpoint()
            self.checkpoint_done()

    def _is_kept(self, segment: int) -> bool:
        """Whether frames of a segment may be read still; those that lie in none may come."""
        return segment in self.segments or (not segment and self.lacking is not None)

    def _changed(self, replay_hint: bytes) -> bool:
        """Whether the store would say anything else after a checkpoint."""
        return (
            self.position != self.stored_position
            or replay_hint != self.replay_hint
            or len(self._aux) > 0
            or self._locations.dirty
            or self.segments.dirty
            or self.lacking != self._frozen_lacking
        )

    # --- self-inspection ---

    def stats(self) -> IndexStats:
        """A snapshot of what the index holds."""
        return IndexStats(
            position=self.position,
            stored_position=self.stored_position,
            tail=self.tail,
            books=len(self._books),
            active_postings=self._postings.count,
            frozen_postings=self._postings.frozen_count,
            active_frames=self._locations.count,
            frozen_frames=self._locations.frozen_count,
            active_bytes=self._key_uses.size_bytes + self._aux.size_bytes,
            checkpoints=self._checkpoints,
            aux_dropped=self._aux.dropped_count,
        )

    def check(self) -> None:
        """Assert every invariant that can be seen without reading the store."""
        assert self.stored_position <= self.position
        assert self._frozen is None or (
            self.stored_position <= self._frozen.position <= self.position
        )
        self._postings.check(self.tail)
        self._locations.check(self.tail)
        self._books.check(self.tail)


class _View:
    """A LogBook as `conditions.decide` looks at it."""

    __slots__ = ("_book", "_key_uses", "_number", "_postings")

    def __init__(self, number: int, books: Books, key_uses: KeyUses, postings: Postings) -> None:
        self._number = number
        self._book = books.get(number)
        self._key_uses = key_uses
        self._postings = postings

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


def _not_derived(columns: Columns, verdicts: list[list[object]]) -> list[list[object]]:
    """Verdicts that have to be kept: that a unit without condition or key is visible follows from
    its frame, and from what is void in it.
    """
    if not columns.system_units:
        return verdicts
    decided = {unit for unit, _ in columns.unless} | {unit for unit, *_ in columns.keys}
    return [each for each in verdicts if each[1] != VERDICT_VISIBLE or each[0] in decided]


def _problem(entry: Entry) -> BokilogError | None:
    """Why a proposal cannot be applied: what a peer sent must not trip the fold up (P34)."""
    if not isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags | Retain):
        return None
    if type(entry.book) is not int or not 0 <= entry.book < 2**64:
        return InvalidRange("book", repr(entry.book), "is not a LogBook's number")
    match entry:
        case Trim(tag=tag, until=until):
            if tag is not None and not _is_text(tag, TAG_BYTES_MAX):
                return InvalidTag(repr(tag), f"is not text of 1 to {TAG_BYTES_MAX} bytes")
            if type(until) is not int:
                return InvalidRange("until", repr(until), "is not a seqnum")
        case Hold(name=name, seqnum=seqnum, ttl_ms=ttl_ms):
            if not _is_text(name, HOLD_NAME_BYTES_MAX):
                return InvalidRange("name", repr(name), "is not the name of a hold")
            if type(seqnum) is not int or type(ttl_ms) is not int:
                return InvalidRange("seqnum", repr(seqnum), f"with ttl_ms={ttl_ms!r} is no hold")
        case DeleteBook(book=book):
            if book == SYSTEM_BOOK:
                return InvalidRange("book", str(book), "is the system LogBook, which stays")
        case EndTags(prefix=prefix):
            if not _is_text(prefix, TAG_BYTES_MAX) or prefix[0] != SYSTEM_TAG_PREFIX:
                return InvalidTag(
                    repr(prefix), "is no prefix of the libraries' tags, which is $..."
                )
        case Retain(retention_ms=retention_ms, retention_bytes=retention_bytes):
            if type(retention_ms) is not int or type(retention_bytes) is not int:
                return InvalidRange("retention_ms", repr(retention_ms), "is no retention")
        case Release():
            pass
    return None


def _is_text(value: object, limit_bytes: int) -> bool:
    return isinstance(value, str) and 0 < len(value.encode()) <= limit_bytes


def _discard_rows(store: IndexStore) -> None:
    """A store without a position holds nothing: what a load left that never ended is removed."""
    if next(iter(store.keys(b"", b"\xff")), None) is not None:
        batch = store.batch()
        batch.delete_range(b"", b"\xff")
        store.write(batch)


def _stored_shards(store: IndexStore) -> dict[int, OpenedShard]:
    value = store.get(keys.SHARDS)
    stored: Mapping[int, StoredShard] = {} if value is None else keys.decode_shards(value)
    return {number: OpenedShard(*shard) for number, shard in stored.items()}


def _stored_closed(store: IndexStore) -> set[int]:
    value = store.get(keys.CLOSED)
    return set() if value is None else keys.decode_closed(value)


def _stored_segments(store: IndexStore) -> SegmentBooks:
    def load(segment: int) -> Mapping[int, int]:
        value = store.get(keys.numbered(keys.SEGMENTS, segment))
        return {} if value is None else keys.decode_segment(value)

    def load_spans(segment: int) -> Mapping[int, tuple[int, int]]:
        value = store.get(keys.numbered(keys.SPANS, segment))
        return {} if value is None else keys.decode_spans(value)

    stored = store.keys(keys.SEGMENTS, prefix_end(keys.SEGMENTS))
    return SegmentBooks(load, map(keys.number_of, stored), load_spans)
