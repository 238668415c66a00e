"""What the fold keeps of each LogBook beside its records: trims, holds, ended tags, retention, its
deletion.

Decides how far a trim gets: to min(until, tail, lowest live hold), never back (P25), at its place
in the order, by cut timestamps; so every replica answers the caller alike.

Invariants: a trim lies at or below the tail; a hold was at or above the LogBook's trim when it was
placed; a deleted LogBook stays deleted. LogBooks without any of this take no memory here. Trims of
tags are many, so they live in the store, with a bounded cache; the rest is in RAM.

Does not know postings. What is frozen is the state of one position (P19): a LogBook that changes
while a checkpoint is being built is encoded first.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.errors import BokilogError, Trimmed
from bokilog.metalog import Hold, Retain, Trim
from bokilog.named import NamedTuple
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore, prefix_end
from bokilog.storage_nodes.keys import StoredBook
from bokilog.storage_nodes.postings import Swept
from bokilog.storage_nodes.sweeps import Sweeps

CACHED_TAG_TRIMS_MAX = 65_536
STEP_ROWS = 500
"""About 1 ms of work between two turns of the loop."""
SWEEP_ROWS_MAX = 20_000
"""Trims of tags looked at per checkpoint; the rest waits for the next one."""
EXPIRY_MS_MAX = 2**63 - 1


class HeldSeqnum(NamedTuple):
    """A hold: trims stop at `seqnum` while the log's time is below `expiry_ms`."""

    seqnum: int
    expiry_ms: int


class Retention(NamedTuple):
    """What a LogBook keeps at most; 0: no bound."""

    retention_ms: int = 0
    retention_bytes: int = 0


class Book:
    """A LogBook that was trimmed, held, or otherwise acted on."""

    __slots__ = ("_ended", "deleted", "holds", "retention", "tag_trims", "trim_until")

    def __init__(self, stored: StoredBook | None = None) -> None:
        self.trim_until = stored.trim_until if stored else 0
        self.deleted = stored.deleted if stored else False
        self.tag_trims = stored.tag_trims if stored else False
        """Some tag of it was trimmed."""
        self.holds = (
            {name: HeldSeqnum(*hold) for name, hold in stored.holds.items()} if stored else {}
        )
        self.retention = Retention(*stored[4:]) if stored else Retention()
        self._ended: dict[int, dict[str, int]] = {}
        """Ended prefixes by length, shortest first, each with the generation that ended it."""

    @property
    def has_ended_tags(self) -> bool:
        return bool(self._ended)

    def end_tags(self, prefix: str, generation: int) -> bool:
        """False if a shorter prefix had ended these tags already."""
        if self.ended_prefix(prefix) is not None:
            return False
        self._ended.setdefault(len(prefix), {})[prefix] = generation
        self._ended = dict(sorted(self._ended.items()))  # so that all replicas name the same one
        return True

    def ended_prefix(self, tag: str, *, generation: int | None = None) -> str | None:
        """The shortest ended prefix of `tag`; of those ended up to `generation`, if given."""
        for length, prefixes in self._ended.items():
            ended_in = prefixes.get(tag[:length])
            if ended_in is not None and (generation is None or ended_in <= generation):
                return tag[:length]
        return None

    def delete(self) -> None:
        """Nothing of it counts any more but that."""
        self.deleted, self.trim_until, self.tag_trims = True, 0, False
        self.holds, self._ended, self.retention = {}, {}, Retention()

    def lowest_hold(self, now_ms: int) -> tuple[int, str] | None:
        """Seqnum and name of the live hold that a trim meets first."""
        live = [(h.seqnum, name) for name, h in self.holds.items() if h.expiry_ms > now_ms]
        return min(live, default=None)

    def stored(self) -> StoredBook:
        """What is written of it; ended prefixes have rows of their own."""
        holds = dict(self.holds)
        return StoredBook(self.trim_until, self.deleted, self.tag_trims, holds, *self.retention)


class Books:
    """LogBooks that were acted on, by number."""

    __slots__ = (
        "_books",
        "_cached_tag_trims",
        "_dirty",
        "_ended",
        "_frozen_deleted",
        "_frozen_ended",
        "_frozen_rows",
        "_frozen_tag_trims",
        "_pending",
        "_store",
        "_sweeps",
        "_tag_trims",
        "_trims",
        "deleted",
        "generation",
        "retained",
    )

    def __init__(self, store: IndexStore) -> None:
        self._store = store
        self._books: dict[int, Book] = {}
        self.deleted: set[int] = set()
        self.retained: dict[int, Retention] = {}
        """LogBooks that keep a bounded time, or bounded bytes."""
        self.generation = 1
        """Counts freezes; what was stored before this start belongs to generation 0."""
        self._dirty: set[int] = set()
        self._ended: list[tuple[int, str]] = []
        self._tag_trims: dict[tuple[int, str], int] = {}
        self._trims: dict[Swept, int] = {}
        """Trims that moved since the last freeze."""
        self._pending: set[int] = set()
        """LogBooks of the frozen generation that are not encoded yet."""
        self._frozen_rows: dict[int, bytes] = {}
        self._frozen_ended: list[tuple[int, str]] = []
        self._frozen_tag_trims: dict[tuple[int, str], int] = {}
        self._frozen_deleted: set[int] = set()
        self._cached_tag_trims: dict[tuple[int, str], int] = {}
        self._sweeps: Sweeps[int] = Sweeps()
        """LogBooks whose trim may cover trims of their tags."""
        self._load()

    def _load(self) -> None:
        for key, value in self._store.scan(keys.BOOKS, prefix_end(keys.BOOKS)):
            number = keys.number_of(key)
            self._books[number] = book = Book(keys.decode_book(value))
            if book.deleted:
                self.deleted.add(number)
            if any(book.retention):
                self.retained[number] = book.retention
        for key, _ in self._store.scan(keys.ENDED, prefix_end(keys.ENDED)):
            self._books.setdefault(keys.book_of(key), Book()).end_tags(keys.name_of(key), 0)

    def __len__(self) -> int:
        return len(self._books)

    # --- reads ---

    def get(self, number: int) -> Book | None:
        """The LogBook, if it was ever acted on."""
        return self._books.get(number)

    def trim_until(self, number: int, tag: str | None, tail: int) -> int:
        """First kept seqnum for readers of `tag` (None: of every record)."""
        book = self._books.get(number)
        if book is None:
            return 0
        if book.deleted:
            return tail
        if tag is None or not book.tag_trims:
            return book.trim_until
        return max(book.trim_until, self.tag_trim(number, tag))

    def tag_trim(self, number: int, tag: str) -> int:
        """How far a tag itself is trimmed."""
        swept = (number, tag)
        cached = self._cached_tag_trims.get(swept)
        if cached is not None:
            return cached
        until = self._tag_trims.get(swept) or self._frozen_tag_trims.get(swept)
        if until is None:
            value = self._store.get(keys.named(keys.TAG_TRIMS, number, tag))
            until = 0 if value is None else keys.decode_number(value)
        if len(self._cached_tag_trims) >= CACHED_TAG_TRIMS_MAX:
            self._cached_tag_trims.clear()
        self._cached_tag_trims[swept] = until
        return until

    def trims_of(self, number: int) -> list[list[object]]:
        """`[book, tag or None, until]` of a LogBook and of each tag that is trimmed further."""
        book = self._books.get(number)
        if book is None or book.deleted:
            return []
        by_tag: dict[str | None, int] = {None: book.trim_until} if book.trim_until else {}
        if book.tag_trims:
            prefix = keys.numbered(keys.TAG_TRIMS, number)
            for key, value in self._store.scan(prefix, prefix_end(prefix)):
                by_tag[keys.name_of(key)] = keys.decode_number(value)
            for generation in (self._frozen_tag_trims, self._tag_trims):
                by_tag.update((tag, u) for (of, tag), u in generation.items() if of == number)
        return [
            [number, tag, until]
            for tag, until in by_tag.items()
            if tag is None or until > book.trim_until
        ]

    # --- the fold ---

    def trim(self, entry: Trim, *, tail: int, now_ms: int) -> list[object]:
        """Move a trim; `[first kept seqnum now, name of the hold that stopped it or None]`."""
        current = self.trim_until(entry.book, entry.tag, tail)
        until = min(entry.until, tail)
        if until <= current:
            return [current, None]
        book = self._changing(entry.book)
        held_by = None
        lowest = book.lowest_hold(now_ms)
        if lowest is not None and lowest[0] < until:
            until, held_by = lowest
        if until > current:
            self._move_trim(book, entry.book, entry.tag, until)
        return [max(until, current), held_by]

    def hold(self, entry: Hold, *, tail: int, now_ms: int) -> list[object] | BokilogError:
        """Place, move or renew a hold."""
        trim_until = self.trim_until(entry.book, None, tail)
        if entry.seqnum < trim_until:
            return Trimmed(trim_until)
        book = self._changing(entry.book)
        for name in [name for name, hold in book.holds.items() if hold.expiry_ms <= now_ms]:
            del book.holds[name]
        expiry_ms = min(now_ms + max(0, entry.ttl_ms), EXPIRY_MS_MAX)
        book.holds[entry.name] = HeldSeqnum(entry.seqnum, expiry_ms)
        return []

    def retain(self, entry: Retain) -> None:
        """Bound what a LogBook keeps."""
        wanted = Retention(entry.retention_ms, entry.retention_bytes)
        known = self._books.get(entry.book)
        if entry.book in self.deleted or wanted == (known.retention if known else Retention()):
            return
        self._changing(entry.book).retention = wanted
        if any(wanted):
            self.retained[entry.book] = wanted
        else:
            self.retained.pop(entry.book, None)

    def trim_reach(self, number: int, until: int, *, tail: int, now_ms: int) -> int:
        """How far a trim of the LogBook would get at that time."""
        book = self._books.get(number)
        lowest = book.lowest_hold(now_ms) if book is not None else None
        reach = min(until, tail, lowest[0] if lowest is not None else tail)
        return max(reach, self.trim_until(number, None, tail))

    def release(self, number: int, name: str) -> None:
        book = self._books.get(number)
        if book is not None and name in book.holds:
            del self._changing(number).holds[name]

    def delete(self, number: int) -> None:
        book = self._changing(number)
        book.delete()
        self.deleted.add(number)
        self.retained.pop(number, None)
        for swept in [swept for swept in self._trims if swept[0] == number]:
            del self._trims[swept]
        for of_tag in [of_tag for of_tag in self._tag_trims if of_tag[0] == number]:
            del self._tag_trims[of_tag]
        self._sweeps.forget([number])

    def end_tags(self, number: int, prefix: str) -> None:
        book = self._changing(number)
        if not book.deleted and book.end_tags(prefix, self.generation):
            self._ended.append((number, prefix))
            # Their chunks may go as far as they are trimmed: let the LogBook be swept again.
            self._trims.setdefault((number, None), book.trim_until)

    def _move_trim(self, book: Book, number: int, tag: str | None, until: int) -> None:
        self._trims[number, tag] = until
        if tag is None:
            book.trim_until = until
            return
        book.tag_trims = True
        self._tag_trims[number, tag] = until
        self._cached_tag_trims.pop((number, tag), None)

    def _changing(self, number: int) -> Book:
        """The LogBook, about to be changed: first what a checkpoint still needs of it is kept."""
        if number in self._pending:
            self._encode(number)
        self._dirty.add(number)
        book = self._books.get(number)
        if book is None:
            book = self._books[number] = Book()
        return book

    # --- checkpoints ---

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    def freeze(self) -> dict[Swept, int]:
        """Set aside what changed; the trims that moved, for postings to go by."""
        self._pending, self._dirty = self._dirty, set()
        self._frozen_ended, self._ended = self._ended, []
        self._frozen_tag_trims, self._tag_trims = self._tag_trims, {}
        self._frozen_deleted = {n for n in self._pending if n in self.deleted}
        self._frozen_rows = {}
        self.generation += 1
        trims, self._trims = self._trims, {}
        for (number, tag), until in trims.items():
            if tag is None and self._books[number].tag_trims:
                self._sweeps.add(number, until)
        return trims

    def frozen_ended(self, number: int, tag: str) -> bool:
        """Whether the tag was ended when the checkpoint in hand was frozen."""
        book = self._books.get(number)
        return (
            book is not None and book.ended_prefix(tag, generation=self.generation - 1) is not None
        )

    def steps(self, batch: Batch) -> Iterator[None]:
        """Put what changed, after removing all of deleted LogBooks: so the first of all steps."""
        for number in self._frozen_deleted:
            for kind in (keys.POSTINGS, keys.KEYS, keys.TAG_TRIMS, keys.ENDED):
                prefix = keys.numbered(kind, number)
                batch.delete_range(prefix, prefix_end(prefix))
            yield
        yield from self._sweep_steps(batch)
        while self._pending:
            self._encode(next(iter(self._pending)))
            if len(self._pending) % STEP_ROWS == 0:
                yield
        for done, (number, row) in enumerate(self._frozen_rows.items(), 1):
            batch.put(keys.numbered(keys.BOOKS, number), row)
            if done % STEP_ROWS == 0:
                yield
        for number, prefix_text in self._frozen_ended:
            if number not in self._frozen_deleted:
                batch.put(keys.named(keys.ENDED, number, prefix_text), b"")
        yield
        for done, ((number, tag), until) in enumerate(self._frozen_tag_trims.items(), 1):
            batch.put(keys.named(keys.TAG_TRIMS, number, tag), keys.encode_number(until))
            if done % STEP_ROWS == 0:
                yield

    def done(self) -> None:
        """What was frozen is in the store."""
        self._frozen_rows, self._frozen_ended, self._frozen_tag_trims = {}, [], {}
        self._frozen_deleted = set()

    def _encode(self, number: int) -> None:
        self._pending.discard(number)
        self._frozen_rows[number] = keys.encode_book(self._books[number].stored())

    def _sweep_steps(self, batch: Batch) -> Iterator[None]:
        """Remove trims of tags that the LogBook's own trim covers."""
        budget = SWEEP_ROWS_MAX
        while budget > 0 and (sweep := self._sweeps.current()) is not None:
            number, until, cursor = sweep
            prefix = keys.numbered(keys.TAG_TRIMS, number)
            for key, value in self._store.scan(cursor or prefix, prefix_end(prefix)):
                if keys.decode_number(value) <= until:
                    batch.delete(key)
                budget -= 1
                if budget % STEP_ROWS == 0:
                    yield
                if budget <= 0:
                    self._sweeps.pause(number, key)
                    return
            self._sweeps.finish(number)

    # --- self-inspection ---

    def check(self, tail: int) -> None:
        for number, book in self._books.items():
            assert book.trim_until <= tail, f"LogBook {number} is trimmed past the tail {tail}"
            assert book.deleted == (number in self.deleted)
            assert any(book.retention) == (number in self.retained)
        assert all(until <= tail for until in self._tag_trims.values()), "a tag past the tail"
