"""The tag index: which seqnums a tag has, from the newest in memory to the oldest in the store.

Postings grow at the end only. What was folded since the last checkpoint lies in RAM, a dict of
tags to arrays per LogBook (LIMITS point 10); a checkpoint freezes it, writes it in chunks, and
forgets it. A read looks at store, frozen and active ones, which follow each other without overlap.
The tag "" stands for every visible record of the LogBook.

Invariants:
- An array and a chunk are sorted, and a chunk never spans two checkpoints.
- Chunks at or past `stored_tail` do not count: they belong to a checkpoint still being written.
- The last posting of a tag is its state, and is never removed by a trim (P20), only with the
  LogBook or once a library has ended the tag.

Does not know trims: who asks gives the bounds. Source: Boki section 4.4 keeps the whole index in
memory; differs because ours outgrows it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from bokilog.columns import Tags
from bokilog.limits import TAG_BYTES_MAX
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index_store import Batch, IndexStore, prefix_end
from bokilog.storage_nodes.keys import CHUNK_POSTINGS_MAX, Numbers
from bokilog.storage_nodes.sweeps import Sweeps

WHOLE_BOOK = ""
STEP_CHUNKS = 200
"""About 1 ms of work between two turns of the loop."""
SWEEP_CHUNKS_MAX = 20_000
"""Chunks looked at for trims per checkpoint; the rest waits for the next one."""

Swept = tuple[int, str | None]
"""A trimmed LogBook, or tag of it."""
_EMPTY: array[int] = array("Q")


class TagPostings(dict[str, "array[int]"]):
    """Arrays by tag, made when first asked for.

    A record's entry in a tag column that is no tag (None: it has none, a list: it has several)
    raises `TypeError`: asking each entry for its type first would cost a fifth of the fold.
    """

    __slots__ = ()

    def __missing__(self, tag: str) -> array[int]:
        if tag is None:
            raise TypeError("a record without tags")
        made = self[tag] = array("Q")
        return made


class Postings:
    """Seqnums by (LogBook, tag)."""

    __slots__ = ("_active", "_frozen", "_store", "_sweeps", "_trims", "count", "stored_tail")

    def __init__(self, store: IndexStore, stored_tail: int) -> None:
        self._store = store
        self._active: defaultdict[int, TagPostings] = defaultdict(TagPostings)
        self._frozen: dict[int, TagPostings] = {}
        self._trims: Mapping[Swept, int] = {}
        """Trims of the frozen generation."""
        self._sweeps: Sweeps[Swept] = Sweeps()
        """Trims whose chunks are still to be removed."""
        self.count = 0
        """Postings added since the last freeze."""
        self.stored_tail = stored_tail

    # --- the fold ---

    def add(self, book: int, first_seqnum: int, tags: list[Tags]) -> None:
        """Visible records of one LogBook, from `first_seqnum` on. The hottest lines of the fold."""
        postings = self._active[book]
        postings[WHOLE_BOOK].extend(range(first_seqnum, first_seqnum + len(tags)))
        self.count += 2 * len(tags)
        seqnum = first_seqnum
        try:
            for seqnum, tag in enumerate(tags, first_seqnum):
                postings[tag].append(seqnum)  # type: ignore[index]  # what is no str raises
        except TypeError:
            self._add_mixed(postings, seqnum, tags[seqnum - first_seqnum :])

    def _add_mixed(self, postings: TagPostings, first_seqnum: int, tags: list[Tags]) -> None:
        """Records of which the first has no tag, or several."""
        for seqnum, several in enumerate(tags, first_seqnum):
            for tag in (several,) if isinstance(several, str) else several or ():
                of_tag = postings[tag]
                if not of_tag or of_tag[-1] != seqnum:  # a tag may stand twice on one record
                    of_tag.append(seqnum)
                    self.count += 1

    def delete_book(self, book: int) -> None:
        """The LogBook was deleted: what is stored of it goes all at once, by a range."""
        self._active.pop(book, None)
        self._sweeps.forget([swept for swept in self._sweeps if swept[0] == book])

    # --- reads ---

    def last(self, book: int, tag: str) -> int:
        """Last seqnum of a tag, 0 if it never had one: what conditions are decided from."""
        for generation in (self._active, self._frozen):
            of_tag = self._in(generation, book, tag)
            if of_tag:
                return of_tag[-1]
        if len(tag) > TAG_BYTES_MAX:
            return 0
        found = self._chunk_before(book, tag, self.stored_tail)
        return found[1][-1] if found is not None else 0

    def seqnums(
        self, book: int, tag: str, start: int, until: int, *, limit: int, reverse: bool
    ) -> list[int]:
        """Up to `limit` seqnums of a tag in `[start, until)`, from its start or from its end."""
        if start >= until or limit <= 0 or len(tag) > TAG_BYTES_MAX:
            return []
        in_ram = [
            of_tag
            for generation in (self._frozen, self._active)
            if (of_tag := self._in(generation, book, tag))
        ]
        if reverse:
            return self._backward(book, tag, start, until, limit=limit, in_ram=in_ram)
        found: list[int] = []
        if start < self.stored_tail and not (in_ram and in_ram[0][0] <= start):
            for chunk in self._chunks_from(book, tag, start, until):
                found += _between(chunk, start, until, limit - len(found))
                if len(found) == limit:
                    return found
        for of_tag in in_ram:
            found += _between(of_tag, start, until, limit - len(found))
        return found

    def contains(self, book: int, seqnum: int) -> bool:
        """Whether a visible record of the LogBook stands at `seqnum`, trimmed or not."""
        return bool(self.seqnums(book, WHOLE_BOOK, seqnum, seqnum + 1, limit=1, reverse=False))

    def count_from(self, book: int, start: int) -> int:
        """How many visible records of the LogBook have a seqnum from `start` on."""
        total = 0
        for generation in (self._active, self._frozen):
            of_book = self._in(generation, book, WHOLE_BOOK)
            total += len(of_book) - bisect_left(of_book, start)
        prefix = keys.postings_prefix(book, WHOLE_BOOK)
        newest = self._stored_before(prefix, self.stored_tail)
        if newest is None or start >= self.stored_tail:
            return total
        return total + _after(newest[1]) - self._stored_below(prefix, start, newest[1])

    def _stored_below(self, prefix: bytes, start: int, newest: bytes) -> int:
        """How many visible records of a LogBook have a seqnum below `start`, which is stored."""
        found = self._stored_before(prefix, start + 1)
        if found is not None:
            chunk = keys.decode_postings(found[1], whole_book=True)
            below = bisect_left(chunk, start)
            if below < len(chunk):
                return keys.ordinal_of(found[1]) + below
        # Past a chunk's end: those in between, if any, were trimmed before they were stored.
        following = self._store.seek_next(keys.postings_key(prefix, start), prefix)
        if following is None or keys.number_of(following[0]) >= self.stored_tail:
            return _after(newest)
        return keys.ordinal_of(following[1])

    def _backward(
        self,
        book: int,
        tag: str,
        start: int,
        until: int,
        *,
        limit: int,
        in_ram: list[array[int]],
    ) -> list[int]:
        found: list[int] = []
        for of_tag in reversed(in_ram):
            found += _between_reversed(of_tag, start, until, limit - len(found))
            if len(found) == limit or of_tag[0] <= start:
                return found
        before = min(until, self.stored_tail)
        while len(found) < limit and before > start:
            stored = self._chunk_before(book, tag, before)
            if stored is None:
                break
            before, chunk = stored
            found += _between_reversed(chunk, start, until, limit - len(found))
        return found

    def _in(self, generation: dict[int, TagPostings], book: int, tag: str) -> array[int]:
        of_book = generation.get(book)
        return _EMPTY if of_book is None else of_book.get(tag, _EMPTY)

    def _stored_before(self, prefix: bytes, before: int) -> tuple[bytes, bytes] | None:
        """The last stored chunk that begins before `before`, which is at most `stored_tail`."""
        if before <= 0:
            return None
        return self._store.seek_prev(keys.postings_key(prefix, before - 1), prefix)

    def _chunk_before(self, book: int, tag: str, before: int) -> tuple[int, Numbers] | None:
        found = self._stored_before(keys.postings_prefix(book, tag), before)
        if found is None:
            return None
        chunk = keys.decode_postings(found[1], whole_book=tag == WHOLE_BOOK)
        return keys.number_of(found[0]), chunk

    def _chunks_from(self, book: int, tag: str, start: int, until: int) -> Iterator[Numbers]:
        """Stored chunks that may hold seqnums in `[start, until)`, in order."""
        prefix = keys.postings_prefix(book, tag)
        whole_book = tag == WHOLE_BOOK
        first = self._stored_before(prefix, start + 1)
        if first is not None:
            yield keys.decode_postings(first[1], whole_book=whole_book)
        end = min(until, self.stored_tail)
        if start + 1 >= end:
            return
        found = self._store.scan(
            keys.postings_key(prefix, start + 1), keys.postings_key(prefix, end)
        )
        for _, value in found:
            yield keys.decode_postings(value, whole_book=whole_book)

    # --- checkpoints ---

    def freeze(self, trims: Mapping[Swept, int]) -> None:
        """Set what was folded since the last checkpoint aside, with the trims applied since.

        Chunks go by these trims only, never by later ones: what the store holds is the state of
        one position (P19).
        """
        self._frozen, self._active = self._active, defaultdict(TagPostings)
        self._trims = trims
        for swept, until in trims.items():
            self._sweeps.add(swept, until)
        self.count = 0

    def steps(self, batch: Batch, *, ended: Callable[[int, str], bool]) -> Iterator[None]:
        """Put the frozen postings, and remove swept chunks, a slice at a time.

        `ended` says of a tag that its library had ended it when this was frozen.
        """
        yield from self._sweep_steps(batch, ended)
        done = 0
        for book, tags in self._frozen.items():
            book_trim = self._trims.get((book, None), 0)
            for tag, postings in tags.items():
                trimmed = max(book_trim, self._trims.get((book, tag), 0))
                done += self._put(batch, book, tag, postings, trimmed)
                if done >= STEP_CHUNKS:
                    done = 0
                    yield

    def done(self, stored_tail: int) -> None:
        """The frozen postings are in the store."""
        self._frozen = {}
        self.stored_tail = stored_tail

    def _put(self, batch: Batch, book: int, tag: str, postings: array[int], trimmed: int) -> int:
        """Write one tag's postings but for those trimmed already; how many chunks that made."""
        start = min(bisect_left(postings, trimmed), len(postings) - 1) if trimmed else 0
        prefix = keys.postings_prefix(book, tag)
        ordinal = self._next_ordinal(prefix) if tag == WHOLE_BOOK else None
        if start == 0 and len(postings) <= CHUNK_POSTINGS_MAX:
            value = keys.encode_postings(postings, ordinal=ordinal)
            batch.put(keys.postings_key(prefix, postings[0]), value)
            return 1
        for at in range(start, len(postings), CHUNK_POSTINGS_MAX):
            before = None if ordinal is None else ordinal + at
            value = keys.encode_postings(postings[at : at + CHUNK_POSTINGS_MAX], ordinal=before)
            batch.put(keys.postings_key(prefix, postings[at]), value)
        return -(-(len(postings) - start) // CHUNK_POSTINGS_MAX)

    def _next_ordinal(self, prefix: bytes) -> int:
        newest = self._stored_before(prefix, self.stored_tail)
        return 0 if newest is None else _after(newest[1])

    def _sweep_steps(self, batch: Batch, ended: Callable[[int, str], bool]) -> Iterator[None]:
        budget = SWEEP_CHUNKS_MAX
        while budget > 0 and (sweep := self._sweeps.current()) is not None:
            (book, tag), until, cursor = sweep
            prefix = keys.numbered(keys.POSTINGS, book)
            if tag is not None:
                prefix = keys.postings_prefix(book, tag)
            previous = b""
            for key in self._store.keys(cursor or prefix, prefix_end(prefix)):
                # A chunk is trimmed whole if the tag's next one begins at or below the trim: so
                # the last chunk, which holds the tag's state, always stays.
                if previous and previous[:-8] == key[:-8]:
                    if keys.number_of(key) <= until:
                        batch.delete(previous)
                elif previous:
                    self._drop_ended(batch, previous, until, ended)
                previous = key
                budget -= 1
                if budget % STEP_CHUNKS == 0:
                    yield
                if budget <= 0:
                    self._sweeps.pause((book, tag), key)
                    return
            if previous:
                self._drop_ended(batch, previous, until, ended)
            self._sweeps.finish((book, tag))

    def _drop_ended(
        self, batch: Batch, key: bytes, until: int, ended: Callable[[int, str], bool]
    ) -> None:
        """The last chunk of a tag whose library has ended it: nobody may test it any more."""
        tag = keys.tag_of(key)
        if keys.number_of(key) >= until or not tag or not ended(keys.book_of(key), tag):
            return
        value = self._store.get(key)
        if value is not None and keys.decode_postings(value, whole_book=False)[-1] < until:
            batch.delete(key)

    # --- self-inspection ---

    @property
    def frozen_count(self) -> int:
        return sum(len(postings) for tags in self._frozen.values() for postings in tags.values())

    def check(self, tail: int) -> None:
        """Every array is sorted, lies above the store, and belongs to records that are there."""
        for generation in (self._frozen, self._active):
            for book, tags in generation.items():
                records = set(tags.get(WHOLE_BOOK, ()))
                for tag, postings in tags.items():
                    assert postings, f"an empty array for {tag!r} of LogBook {book}"
                    assert self.stored_tail <= postings[0] <= postings[-1] < tail, (
                        f"postings of {tag!r} outside [{self.stored_tail}, {tail})"
                    )
                    assert all(a < b for a, b in pairwise(postings)), (
                        f"postings of {tag!r} are not sorted"
                    )
                    assert records.issuperset(postings), f"{tag!r} has postings without a record"


def _after(chunk: bytes) -> int:
    """How many visible records of the LogBook come before the chunk's end."""
    return keys.ordinal_of(chunk) + len(chunk) // 8 - 1


def _between(column: Numbers, start: int, until: int, limit: int) -> list[int]:
    """Up to `limit` numbers of a sorted column in `[start, until)`, ascending."""
    low = bisect_left(column, start)
    high = min(bisect_left(column, until, low), low + limit)
    return list(column[low:high])


def _between_reversed(column: Numbers, start: int, until: int, limit: int) -> list[int]:
    """Up to `limit` numbers of a sorted column in `[start, until)`, descending."""
    high = bisect_left(column, until)
    low = max(bisect_left(column, start, 0, high), high - limit)
    return list(column[low:high])[::-1]
