"""What the fold of one log space holds, and what can be read of it: which seqnums a tag has, and
where frames lie.

Decides what a reader may see of it: nothing past the tail, nothing that a trim of its LogBook or of
its tag let go, nothing of a LogBook that is deleted; and what a LogBook's state is. Composes the
parts that keep the state (`generations.py` has the list): each answers for itself, here they answer
together.

Invariants:
- All of it is the state of one position; `fold.py` moves it on, entry by entry, and nobody else
  does. Only where frames lie here, and aux data, is not part of the order.
- `chained_hash` says which state that is: replicas that disagree are found by it (P24).

Does not know what entries do, when one may be folded, what is durable, bytes of records: the
replica does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bokilog.ids import Position
from bokilog.journal import Location
from bokilog.named import NamedTuple
from bokilog.storage_nodes.books import Retention
from bokilog.storage_nodes.generations import POSTINGS_MAX, Generations
from bokilog.storage_nodes.index_store import IndexStore
from bokilog.storage_nodes.keys import Meta
from bokilog.storage_nodes.local_ids import OrderedSpan
from bokilog.storage_nodes.locations import ALL_VOID, Row
from bokilog.storage_nodes.postings import WHOLE_BOOK

__all__ = ["Index", "IndexStats", "Row"]


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
    """The fold of one log space, as of its position.

    The parts are changed by `fold.py` and set aside by `generations.py`; others ask here.

    Args:
        space: number of the log space; a store of another one is refused.
        store: where checkpoints go; its state is loaded.
        postings_max: size of a generation that asks for a checkpoint.

    Raises:
        InvalidSettings: the store belongs to another log space.
        FormatTooNew: a later version wrote it.
    """

    __slots__ = (
        "aux",
        "books",
        "chained_hash",
        "empty",
        "generations",
        "hiding_count",
        "key_uses",
        "local_ids",
        "locations",
        "position",
        "postings",
        "segments",
        "shards",
        "space",
        "store",
        "tail",
        "timestamp_ms",
    )

    def __init__(self, space: int, store: IndexStore, *, postings_max: int = POSTINGS_MAX) -> None:
        self.space = space
        self.store = store
        """Where checkpoints go; a peer's fold is read from it, and written to it."""
        self.generations = Generations(space, store, postings_max=postings_max)
        self._stand_as_loaded()

    def _stand_as_loaded(self) -> None:
        generations = self.generations
        loaded = generations.loaded
        self.position = loaded.position
        self.tail = loaded.tail
        """First seqnum not ordered."""
        self.timestamp_ms = loaded.timestamp_ms
        self.chained_hash = loaded.chained_hash
        self.empty = generations.is_new
        """No record was ever folded here."""
        self.hiding_count = 0
        """Entries up to the newest that may have hidden records; 0: none since this was loaded."""
        parts = generations.parts
        self.postings = parts.postings
        self.locations = parts.locations
        self.local_ids = parts.local_ids
        self.key_uses = parts.key_uses
        self.books = parts.books
        self.aux = parts.aux
        self.shards = parts.shards
        self.segments = parts.segments

    # --- a fold from a peer ---

    def places(self) -> Iterator[tuple[int, Location]]:
        """First seqnum and place of every ordered frame, in order."""
        return self.locations.places()

    def spans(self, start: int, until: int) -> Iterator[OrderedSpan]:
        """Of which shards the records in `[start, until)` are, in order."""
        return self.local_ids.spans(start, until)

    def reload(self) -> None:
        """Another fold has been written to the store: go on with that one."""
        self.generations.reload()
        self._stand_as_loaded()

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
        return self.postings.seqnums(book, found, start, until, limit=limit, reverse=reverse)

    def contains(self, book: int, seqnum: int) -> bool:
        """Whether a record of this LogBook stands at `seqnum`: ordered, not void, not trimmed."""
        if not self.trim_until(book) <= seqnum < self.tail:
            return False
        return self.postings.contains(book, seqnum)

    def last(self, book: int, tag: str | None) -> int:
        """Last seqnum a tag ever had, trimmed or not, 0 for none: what conditions test."""
        if book in self.books.deleted:
            return 0
        return self.postings.last(book, tag if tag is not None else WHOLE_BOOK)

    def trim_until(self, book: int, tag: str | None = None) -> int:
        """First kept seqnum for readers of `tag` (None: of every record); deleted: the tail."""
        return self.books.trim_until(book, tag, self.tail)

    def trims_of(self, book: int) -> list[list[object]]:
        """`[book, tag or None, until]` of everything trimmed in a LogBook."""
        return self.books.trims_of(book)

    def has_tag_trims(self, book: int) -> bool:
        """Whether records may be hidden because all their tags are trimmed."""
        found = self.books.get(book)
        return found is not None and found.tag_trims

    def hidden_by_tag_trims(self, book: int, seqnum: int, tags: Sequence[str]) -> bool:
        """Whether every one of a record's tags, and it has some, is trimmed past it."""
        return bool(tags) and all(seqnum < self.books.tag_trim(book, tag) for tag in tags)

    @property
    def deleted_books(self) -> set[int]:
        return self.books.deleted

    @property
    def retained(self) -> Mapping[int, Retention]:
        """LogBooks that keep a bounded time, or bounded bytes."""
        return self.books.retained

    def trim_reach(self, book: int, until: int, *, now_ms: int) -> int:
        """How far a trim of the LogBook would get at that time, by its holds and the tail."""
        return self.books.trim_reach(book, until, tail=self.tail, now_ms=now_ms)

    def book_state(self, book: int) -> tuple[int, int, int, list[list[object]]]:
        """`(trim_until, records, last seqnum, [[hold, seqnum, expiry in ms], ...])`.

        `records` counts those at or past the LogBook's trim, also what trims of tags hide.
        """
        trim_until = self.trim_until(book)
        found = self.books.get(book)
        if found is not None and found.deleted:
            return trim_until, 0, 0, []
        holds: list[list[object]] = []
        if found is not None:
            holds += (
                [name, hold.seqnum, hold.expiry_ms]
                for name, hold in found.holds.items()
                if hold.expiry_ms > self.timestamp_ms
            )
        records = self.postings.count_from(book, trim_until)
        return trim_until, records, self.last(book, None), holds

    def locate(self, seqnum: int) -> Row | None:
        """The ordered frame that holds `seqnum`, void or not."""
        return self.locations.locate(seqnum)

    def is_lost(self, seqnum: int) -> bool:
        """Whether no replica has index data of what was ordered there (P24), or a person has given
        up what may have been (P15)."""
        row = self.locations.locate(seqnum)
        if row is not None and row.void_units == ALL_VOID:
            return True
        return any(start <= seqnum < until for start, until in self.locations.given_up)

    def locate_range(self, start: int, until: int, *, limit: int = 1000) -> list[Row]:
        """Up to `limit` ordered frames that hold a seqnum in `[start, until)`, in order."""
        return self.locations.locate_range(start, until, limit=limit)

    def relocate(
        self, first_seqnum: int, location: Location, *, books: int | list[int] | None = None
    ) -> bool:
        """The frame at `first_seqnum` lies elsewhere now: a failed sync, compaction, repair.

        Without its `books`, all those of the segment it was in count for the new one.
        """
        row = self.locations.locate(first_seqnum)
        if row is None or not self.locations.relocate(first_seqnum, location):
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
        found = self.locations.seqnum_at(timestamp_ms)
        return self.tail if found is None else found

    @property
    def has_aux(self) -> bool:
        return self.aux.any

    def get_aux(self, seqnum: int) -> bytes | None:
        """Aux data beside a record that the caller found visible."""
        return self.aux.get(seqnum)

    def set_aux(self, seqnum: int, aux: bytes) -> None:
        """Keep aux data beside a record that the caller found visible; the last one stays."""
        self.aux.set(seqnum, aux)

    # --- checkpoints ---

    def freeze(self, *, replay_hint: bytes = b"") -> bool:
        """Set the state of this position aside for a checkpoint, and start a new generation.

        False if there is nothing to store, or a checkpoint is under way. `replay_hint` is given
        back by the generations of an index that starts from it.
        """
        return self.generations.freeze(
            Meta(
                space=self.space,
                position=self.position,
                tail=self.tail,
                timestamp_ms=self.timestamp_ms,
                chained_hash=self.chained_hash,
                forgotten_ms=self.key_uses.forgotten_ms,
                replay_hint=replay_hint,
            )
        )

    def checkpoint(self, *, replay_hint: bytes = b"") -> None:
        """A whole checkpoint at once: for tools and tests, where nobody waits."""
        if self.freeze(replay_hint=replay_hint):
            for _ in self.generations.steps():
                pass
            self.generations.write()
            self.generations.done()

    # --- self-inspection ---

    def stats(self) -> IndexStats:
        """A snapshot of what the index holds."""
        return IndexStats(
            position=self.position,
            stored_position=self.generations.stored_position,
            tail=self.tail,
            books=len(self.books),
            active_postings=self.postings.count,
            frozen_postings=self.postings.frozen_count,
            active_frames=self.locations.count,
            frozen_frames=self.locations.frozen_count,
            active_bytes=self.key_uses.size_bytes + self.aux.size_bytes,
            checkpoints=self.generations.checkpoint_count,
            aux_dropped=self.aux.dropped_count,
        )

    def check(self) -> None:
        """Assert every invariant that can be seen without reading the store."""
        self.generations.check(self.position)
        self.postings.check(self.tail)
        self.locations.check(self.tail)
        self.books.check(self.tail)
